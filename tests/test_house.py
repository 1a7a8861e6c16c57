"""The house holds: imports run downwards, importing is light, the public surface is what it says it is."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A room may import the rooms of the lines before its own, and itself.
ROOMS = (
    ("core",),
    ("tasks", "kernels"),
    ("planners", "models"),
    ("control", "learning"),
    ("agents",),
    ("experiments",),
    ("cli",),
)
LINE = {room: line for line, rooms in enumerate(ROOMS) for room in rooms}

# What an installation without extras does not have.
OPTIONAL = (
    *("torch", "gpytorch", "tensorboard", "dask", "distributed", "ray"),
    *("mujoco", "gymnasium", "gymnasium_robotics", "dm_control", "shimmy"),
    *("tyro", "rich", "matplotlib", "mediapy", "imageio", "imageio_ffmpeg", "PIL"),
    *("mjviser", "viser"),
    *("minari", "h5py"),
)


# Imports run downwards.


def module_name(path: Path, root: Path) -> str:
    """`mpcrl/core/seeds.py` -> `mpcrl.core.seeds`; a package is named without `__init__`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything of mpcrl that a file imports, at any depth of its code."""
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "mpcrl")


def breaches(root: Path) -> list[str]:
    """Every import under `root`/mpcrl that does not run downwards, and every circle of files inside a room."""
    found = []
    files = {module_name(path, root): path for path in sorted((root / "mpcrl").rglob("*.py"))}
    depends: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        if name == "mpcrl":
            continue  # the public surface names everything, and loads it on first use
        room = name.split(".")[1].replace("__main__", "cli")
        if room not in LINE:
            found.append(f"{path.relative_to(root)}: {room!r} is no room of the house")
            continue
        for line, target in imports(path, root):
            where = f"{path.relative_to(root)}:{line}"
            parts = target.split(".")
            if target == "mpcrl.__version__":
                continue
            if len(parts) < 2 or parts[1] not in LINE:
                found.append(f"{where}: imports {target!r}; import from the room that defines it")
            elif parts[1] != room and LINE[parts[1]] >= LINE[room]:
                found.append(f"{where}: {room} may not import {parts[1]}")
            elif (module := target if target in files else ".".join(parts[:-1])) in files and module != name:
                depends[name].add(module)
    try:
        TopologicalSorter(depends).prepare()
    except CycleError as error:
        found.append("a circle of imports: " + " -> ".join(error.args[1]))
    return found


def test_imports_run_downwards() -> None:
    assert breaches(ROOT) == []


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("core/a.py", "from mpcrl.tasks.task import Task", "core may not import tasks"),
        ("tasks/a.py", "import mpcrl.kernels.noise", "tasks may not import kernels"),
        ("planners/a.py", "from mpcrl import models", "planners may not import models"),
        ("planners/a.py", "from ..models.model import Model", "planners may not import models"),
        ("models/a.py", "def f():\n    from mpcrl.control import Controller", "models may not import control"),
        ("core/a.py", "import importlib\nimportlib.import_module('mpcrl.cli')", "core may not import cli"),
        ("agents/a.py", "from mpcrl import Controller", "import from the room that defines it"),
        ("agents/a.py", "import mpcrl", "import from the room that defines it"),
        ("utils/a.py", "", "'utils' is no room of the house"),
        ("core/a.py", "from mpcrl.core import b", "a circle of imports"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, path: str, code: str, message: str) -> None:
    for name, text in {"core/b.py": "from mpcrl.core.a import x", path: code}.items():
        file = tmp_path / "mpcrl" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (found,) = breaches(tmp_path)
    assert message in found


def test_what_the_house_allows_is_no_breach(tmp_path: Path) -> None:
    files = {
        "mpcrl/__init__.py": "from mpcrl.cli import main",
        "mpcrl/core/errors.py": "",
        "mpcrl/core/seeds.py": "import numpy as np\nfrom mpcrl.core.errors import InvalidInput",
        "mpcrl/core/__init__.py": "from mpcrl.core.seeds import key",
        "mpcrl/experiments/run.py": "from mpcrl import __version__\nfrom mpcrl.core import seeds",
        "mpcrl/cli.py": "from mpcrl.experiments.run import run_task",
        "mpcrl/__main__.py": "from mpcrl.core.errors import MpcrlError",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert breaches(tmp_path) == []


# Importing is light.


def child(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that has not read this test session's modules."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=300)


def answer(code: str) -> object:
    """What `code` prints as JSON in a fresh interpreter."""
    done = child(code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# An import of an optional package then fails as if it were not installed.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"


def test_import_loads_numpy_and_numba_only() -> None:
    loaded = answer(
        """
import sys, json, numpy, numba
before = set(sys.modules)
import mpcrl
tops = {name.split(".")[0] for name in set(sys.modules) - before} - {name.split(".")[0] for name in before}
print(json.dumps(sorted(tops - sys.stdlib_module_names)))
"""
    )
    assert isinstance(loaded, list)
    # The last two are small, and say where the cache is and how many threads BLAS has.
    assert set(loaded) <= {"mpcrl", "platformdirs", "threadpoolctl"}


def test_import_takes_little_longer_than_numba_itself() -> None:
    def seconds(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        return min(float(str(answer(code))) for _ in range(3))

    seconds("mpcrl")  # the first import writes the byte code
    assert seconds("mpcrl") < 2 * seconds("numba")


def test_a_plan_from_the_cache_loads_nothing_that_compiles() -> None:
    code = """
import json, sys, mpcrl
planner = mpcrl.planners.mppi(budget=1000, horizon=30)
mpcrl.Controller(mpcrl.make_task("pendulum-swingup"), planner, threads=1).act([3.0, 0.0])
print(json.dumps(sorted({"numba.np.arraymath", "scipy.linalg"} & set(sys.modules))))
"""
    answer(code)  # fills the cache
    assert answer(code) == []


# The public surface.

SURFACE = """
import json, types, mpcrl
found = {name for name, value in vars(mpcrl).items() if name[0] != "_" and not isinstance(value, types.ModuleType)}
problems = []
for name in mpcrl.__all__:
    try:
        getattr(mpcrl, name)
    except Exception as error:
        problems.append([name, type(error).__name__, str(error)])
print(json.dumps(dict(all=mpcrl.__all__, dir=dir(mpcrl), public=sorted(found - {"annotations"}), problems=problems)))
"""


def test_all_is_the_public_surface() -> None:
    surface = answer(SURFACE)
    assert isinstance(surface, dict)
    assert surface["all"], "the public surface is empty"
    assert len(surface["all"]) == len(set(surface["all"]))
    assert set(surface["public"]) <= set(surface["all"]), "public, but not in __all__"
    assert set(surface["all"]) <= set(surface["dir"]), "in __all__, but not in dir(mpcrl)"
    assert surface["problems"] == []


def test_without_extras_the_surface_works_or_names_the_extra() -> None:
    surface = answer(BLOCK + SURFACE)
    assert isinstance(surface, dict)
    for name, kind, message in surface["problems"]:
        assert kind == "MissingDependency", f"mpcrl.{name}: {kind}: {message}"
        assert "pip install 'mpcrl[" in message


def test_an_unknown_name_is_an_attribute_error() -> None:
    done = child("import mpcrl; mpcrl.no_such_name")
    assert "AttributeError" in done.stderr
    assert "no_such_name" in done.stderr


def test_the_command_without_its_extra_says_how_to_get_it() -> None:
    done = child(BLOCK + "sys.argv = ['mpcrl', 'list']\nfrom mpcrl.cli import main\nsys.exit(main())")
    assert done.returncode not in (0, None)
    assert "pip install 'mpcrl[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


# Packaging.


def test_all_and_the_constraints_cover_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("mpcrl[").removesuffix("]").split(",")) == set(extras) - {"all", "dev"}

    def plain(requirement: str) -> str:
        return requirement.split(">")[0].split("=")[0].strip().lower().replace("_", "-")

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {plain(line) for line in lines if line and line[0] != "#"}
    wanted = {plain(r) for group in (project["dependencies"], *extras.values()) for r in group if "mpcrl[" not in r}
    assert wanted <= pinned


def test_errors_about_missing_packages_name_an_extra_that_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    # Spelt exactly so: before 23.3 pip does not know that dm_control means dm-control.
    calls = [
        (path.relative_to(ROOT), node.lineno, node.args[1].value)
        for path in sorted((ROOT / "mpcrl").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "missing"
        if len(node.args) == 2 and isinstance(node.args[1], ast.Constant)
    ]
    assert [call for call in calls if call[2] not in extras] == []


@pytest.mark.skipif(os.name != "posix", reason="runs a POSIX make")
def test_every_make_target_is_explained() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    for target in ("demo", "test", "lint", "bench", "bench-peers", "acceptance", "clean"):
        assert f"make {target} " in shown
