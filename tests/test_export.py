"""Exported controllers: what is loaded acts alike, and nothing of a damaged folder is loaded, let alone run."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpcrl
from mpcrl.cli import main
from mpcrl.control.export import FORMAT
from mpcrl.core import compile as compiling
from mpcrl.core.bundle import from_json, from_safetensors, read_bundle, to_safetensors, write_bundle
from mpcrl.core.compile import CacheWarning
from mpcrl.core.configuration import configuration, rebuilt
from mpcrl.core.errors import DamagedExport, InvalidInput, WrongSource
from mpcrl.planners import PLANNERS
from mpcrl.planners.refit import Best, Elites
from mpcrl.planners.schedule import Schedule
from mpcrl.tasks.registry import make_task

ROOT = Path(__file__).resolve().parent.parent
STATES = [np.array([3.1, 0.1 * i]) for i in range(4)]

SOURCE = """
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mpcrl
from helper import pull


class Params(NamedTuple):
    weights: np.ndarray = np.array([1.0, 0.1])
    index: int = 1
    gain: float = 2.0


def step(x, u, p):
    return x[0] + 0.02 * x[1], x[1] + 0.02 * (u[0] - p.gain * pull(x[0]))


def cost(x, u, t, p):
    return p.weights[0] * x[0] ** 2 + p.weights[p.index] * x[1] ** 2


def task():
    return mpcrl.AnalyticTask(
        name="mine", dt=0.02, control_low=[-2.0], control_high=[2.0], params=Params(), episode_steps=50,
        state_names=("position", "speed"), control_names=("force",), step=step, cost=cost,
        reset=lambda rng: np.array([3.1, 0.0]),
    )


def other():
    Path(__file__).with_name("mark").touch()
"""


@pytest.fixture
def pendulum():
    return make_task("pendulum-swingup")


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """A task of the user's own, in two files."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "mine.py").write_text(SOURCE)
    (folder / "helper.py").write_text("import math\n\ndef pull(x):\n    return math.sin(x)\n")
    return f"{folder / 'mine.py'}:task"


def exported_mine(source: str, out: Path) -> tuple[mpcrl.Controller, Path]:
    controller = mpcrl.Controller(make_task(source), mpcrl.planners.mppi(budget=32, horizon=10), threads=1)
    return controller, mpcrl.export(controller, out, source=source, files=[Path(source).with_name("helper.py")])


def controls(controller: mpcrl.Controller) -> np.ndarray:
    return np.array([controller.act(state) for state in STATES])


def edited(folder: Path, **changes: Any) -> Path:
    """The export with other entries in controller.json, and a manifest that fits."""
    files = read_bundle(folder, FORMAT)
    written = {**json.loads(files["controller.json"]), **changes}
    write_bundle(folder, {**files, "controller.json": json.dumps(written).encode()}, FORMAT)
    return folder


# ---- what is loaded acts alike ---------------------------------------------------------------------------------------
EVERY = {name: make() for name, make in PLANNERS.items()}
EVERY["both"] = mpcrl.planners.WarmStart(
    first=mpcrl.planners.ilqr(horizon=12), then=mpcrl.planners.icem(budget=32, horizon=12)
)


@pytest.mark.parametrize("name", EVERY)
def test_every_planner_comes_back_equal(name: str, pendulum: Any, tmp_path: Path) -> None:
    model = mpcrl.Analytic(pendulum, dtype=np.float64)
    loaded = mpcrl.load(mpcrl.export(mpcrl.Controller(pendulum, EVERY[name], model=model, threads=1), tmp_path / "out"))
    assert loaded.planner == EVERY[name]
    assert loaded.model.dtype == np.float64


def test_a_loaded_controller_gives_the_same_controls(pendulum: Any, tmp_path: Path) -> None:
    params = pendulum.params._replace(gravity=12.5, max_rate=7)
    controller = mpcrl.Controller(
        dataclasses.replace(pendulum, params=params),
        mpcrl.planners.icem(budget=32, horizon=12),
        seed=2**64 - 1,
        threads=1,
        rate_limit=np.array([9.0]),
        safe_control=np.array([0.5]),
        controls_per_plan=2,
    )
    expected = controls(controller)
    loaded = mpcrl.load(mpcrl.export(controller, tmp_path / "out"))
    assert loaded.task.params == params
    assert loaded.space.rate.tolist() == [9.0]
    np.testing.assert_array_equal(controls(loaded), expected)


def test_every_argument_of_a_controller_is_kept_or_given_anew() -> None:
    """A new argument must be added to `Controller.settings`, and to what `export` reads of it."""
    arguments = set(inspect.signature(mpcrl.Controller.__init__).parameters) - {"self"}
    controller = mpcrl.Controller(make_task("lqr"), mpcrl.planners.mppi(budget=8, horizon=4))
    assert arguments == {"task", "planner", "model", "seed", "telemetry", *controller.settings}


def test_filters_come_back_and_a_validator_must_be_given_again(tmp_path: Path) -> None:
    def near(states: np.ndarray, controls: np.ndarray) -> bool:
        return bool(np.abs(states).max() < 100)

    smoothing = mpcrl.SavitzkyGolay(window=3, order=1)
    filters: dict[str, Any] = {"acceleration_limit": 50.0, "smoothing": smoothing, "validator": near}
    planner = mpcrl.planners.mppi(budget=8, horizon=4)
    folder = mpcrl.export(mpcrl.Controller(make_task("lqr"), planner, threads=1, **filters), tmp_path / "out")
    with pytest.raises(InvalidInput, match="had a validator; give it again"):
        mpcrl.load(folder)
    loaded = mpcrl.load(folder, validator=near, telemetry=tmp_path / "log")
    assert {name: loaded.settings[name] for name in filters} == filters
    assert (tmp_path / "log").exists()


def test_a_limit_of_some_controls_only_comes_back(tmp_path: Path) -> None:
    task = make_task("quadrotor-obstacles")
    limit = np.array([3.0] + [np.inf] * (task.nu - 1))
    controller = mpcrl.Controller(task, mpcrl.planners.mppi(budget=8, horizon=4), rate_limit=limit, threads=1)
    np.testing.assert_array_equal(mpcrl.load(mpcrl.export(controller, tmp_path / "out")).space.rate, limit)


def test_a_mujoco_controller_comes_back_without_torch(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    task = make_task("InvertedPendulum-v5")
    controller = mpcrl.Controller(
        task, mpcrl.planners.icem(budget=12, horizon=5), model=mpcrl.MuJoCo(task, coarse=True), threads=1
    )
    state = controller.model.example_state()
    mpcrl.export(controller, tmp_path / "out")
    code = f"""
import sys, mpcrl
controller = mpcrl.load({str(tmp_path / "out")!r})
print(controller.model.coarse, controller.act({state.tolist()}).tolist(), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.stdout.strip() == f"True {controller.act(state).tolist()} False", done.stderr


def test_what_a_folder_cannot_hold_is_refused(pendulum: Any, tmp_path: Path) -> None:
    planner = mpcrl.planners.mppi(budget=8, horizon=4)
    risky = mpcrl.Analytic(pendulum, scenarios=[pendulum.params, pendulum.params])
    with pytest.raises(InvalidInput, match="this Analytic cannot be exported"):
        mpcrl.export(mpcrl.Controller(pendulum, planner, model=risky), tmp_path / "out")
    faster = dataclasses.replace(pendulum, dt=0.01)
    with pytest.raises(InvalidInput, match="not as it brings it"):
        mpcrl.export(mpcrl.Controller(faster, planner), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(InvalidInput, match="is there already and no older export"):
        mpcrl.export(mpcrl.Controller(pendulum, planner), tmp_path / "full")
    assert not (tmp_path / "out").exists()


# ---- a source of the user's own --------------------------------------------------------------------------------------
def test_a_source_runs_only_when_named_and_unchanged(mine: str, tmp_path: Path) -> None:
    controller, folder = exported_mine(mine, tmp_path / "out")
    file = Path(mine.rpartition(":")[0])
    expected = controls(controller)
    with pytest.raises(WrongSource, match=r"to have it executed, name it: source='.*file\.py:name'"):
        mpcrl.load(folder)
    np.testing.assert_array_equal(controls(mpcrl.load(folder, source=mine)), expected)
    np.testing.assert_array_equal(controls(mpcrl.load(folder, source=f"{folder}/source/mine.py:task")), expected)
    with pytest.raises(WrongSource, match=r"the source must be 'mine\.py':'task'"):
        mpcrl.load(folder, source=f"{file}:other")
    assert not file.with_name("mark").exists()
    for name in ("helper.py", "mine.py"):
        before = file.with_name(name).read_bytes()
        file.with_name(name).write_bytes(before + b"\nimport os\nos.mkdir('mark')\n")
        with pytest.raises(WrongSource, match=rf"{name}' is not what was exported: its SHA-256 is another"):
            mpcrl.load(folder, source=mine)
        file.with_name(name).write_bytes(before)
    assert not Path("mark").exists()


def test_a_folder_cannot_choose_what_of_a_source_is_called(mine: str, tmp_path: Path) -> None:
    _, folder = exported_mine(mine, tmp_path / "out")
    task = json.loads((folder / "controller.json").read_text())["task"]
    edited(folder, task={**task, "source": {"file": "mine.py", "name": "other"}})
    with pytest.raises(WrongSource):
        mpcrl.load(folder, source=mine)
    edited(folder, task={**task, "name": mine, "source": None})
    with pytest.raises(DamagedExport, match="there is no task"):
        mpcrl.load(folder)
    assert not (tmp_path / "user" / "mark").exists()


def test_byte_code_beside_a_source_is_not_run(mine: str, tmp_path: Path) -> None:
    import importlib.util
    import py_compile

    _, folder = exported_mine(mine, tmp_path / "out")
    file = Path(mine.rpartition(":")[0])
    evil = tmp_path / "evil.py"
    evil.write_text("import pathlib\npathlib.Path(__file__).with_name('mark').touch()\n")
    target = importlib.util.cache_from_source(str(file))
    py_compile.compile(
        str(evil), target, dfile=str(file), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    assert mpcrl.load(folder, source=mine).task.name == "mine"
    assert not file.with_name("mark").exists()


def test_another_task_than_the_source_makes_is_refused(mine: str, pendulum: Any, tmp_path: Path) -> None:
    controller = mpcrl.Controller(pendulum, mpcrl.planners.mppi(budget=8, horizon=4))
    with pytest.raises(InvalidInput, match="is another task than the controller's 'pendulum-swingup'"):
        mpcrl.export(controller, tmp_path / "out", source=mine)


# ---- damage ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Rows of `benchmarks/load_fuzz.py` by kind of change."""
    table = tmp_path_factory.mktemp("fuzz") / "fuzz.csv"
    command = [sys.executable, "benchmarks/load_fuzz.py", "--cases", "450", "--seed", "1", "--csv", str(table)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {row["change"]: row for row in csv.DictReader(table.open())}


def test_damaged_and_hostile_folders_give_typed_errors_and_execute_nothing(fuzzed: Any) -> None:
    everything = fuzzed.pop("all")
    assert (everything["cases"], everything["untyped"], everything["executed"]) == ("450", "0", "0")
    for kind, row in fuzzed.items():
        assert int(row["typed"]) > 0.3 * int(row["cases"]), kind
        assert row["loaded"] == "0" or kind.endswith("resealed"), kind


def test_another_version_says_so(pendulum: Any, tmp_path: Path) -> None:
    folder = mpcrl.export(mpcrl.Controller(pendulum, mpcrl.planners.mppi(budget=8, horizon=4)), tmp_path / "out")
    write_bundle(folder, read_bundle(folder, FORMAT), {**FORMAT, "version": 2})
    with pytest.raises(DamagedExport, match=r"version must be 1, got 2"):
        mpcrl.load(folder)


def test_export_replaces_an_older_one(pendulum: Any, tmp_path: Path) -> None:
    for budget in (8, 9):
        planner = mpcrl.planners.mppi(budget=budget, horizon=4)
        mpcrl.export(mpcrl.Controller(pendulum, planner), tmp_path / "out")
        assert mpcrl.load(tmp_path / "out").planner.budget == budget
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', "[" * 10_000, '{"a": ' + "9" * 30 + "}", "[1]", "", "\xff"],
)
def test_json_is_strict(text: str) -> None:
    with pytest.raises(DamagedExport, match=r"it\.json"):
        from_json(text.encode("latin-1"), "it.json")


def test_json_that_would_take_all_memory_is_not_read() -> None:
    with pytest.raises(DamagedExport, match=r"it\.json has \d+ bytes, more than"):
        from_json(b'{"a": [' + b"{}," * 2**19 + b"{}]}", "it.json")


def test_an_older_export_stays_where_a_new_one_cannot_be_put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path / "out", {"a": b"old"}, FORMAT)
    replace = os.replace

    def refusing(source: Path, target: Path) -> None:
        if Path(target).name == "out" and not str(source).endswith("-older"):
            raise PermissionError(13, "no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(InvalidInput, match="cannot write"):
        write_bundle(tmp_path / "out", {"a": b"new"}, FORMAT)
    assert read_bundle(tmp_path / "out", FORMAT) == {"a": b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_arrays_come_back_with_type_and_shape() -> None:
    arrays = {"a": np.array(3.5), "b": np.ones((2, 3), bool), "c": np.arange(4, dtype=np.int32), "d": np.zeros((0, 2))}
    arrays |= {kind: np.arange(3).astype(kind) for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "f2")}
    found = from_safetensors(to_safetensors(arrays), "it")
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)


def test_configurations_come_back_or_are_refused() -> None:
    kinds = {"Schedule": Schedule, "Best": Best, "Elites": Elites}
    schedule = Schedule(budget=7, decay=1.25, mean_candidate="last")
    written = configuration(schedule)
    assert rebuilt(written, kinds) == schedule
    for change in (
        {"budget": 7.0}, {"budget": True}, {"budget": 10**9}, {"decay": "1"}, {"decay": -1.0}, {"mean_candidate": None},
        {"more": 1}, {"type": "Popen"}, {"type": ["Schedule"]}, {"decay": {"type": "Best"}},
    ):  # fmt: skip
        with pytest.raises(InvalidInput):
            rebuilt({**written, **change}, kinds)


# ---- kernels ---------------------------------------------------------------------------------------------------------
LOAD = """
import sys, mpcrl
from mpcrl.core.compile import cache_folder
controller = mpcrl.load({folder!r}, trust_kernels={trust})
controller.act([3.1, 0.0])
print(len(list(cache_folder().glob("*.nbi"))), sum(controller.model._kernels.costs.stats.cache_hits.values()))
"""


def test_kernels_are_taken_only_when_trusted(pendulum: Any, tmp_path: Path) -> None:
    controller = mpcrl.Controller(pendulum, mpcrl.planners.mppi(budget=8, horizon=4), threads=1)
    folder = mpcrl.export(controller, tmp_path / "out", kernels=True)
    assert list((folder / "kernels").glob("*costs*.nbi"))
    cache = tmp_path / "cache"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPCRL_CACHE_DIR": str(cache)}
    code = LOAD.format(folder=str(folder), trust=True)
    done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) == 1
    assert not [path for path in cache.iterdir() if path.stat().st_mode & 0o022]


def test_kernels_are_left_alone_otherwise(pendulum: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    controller = mpcrl.Controller(pendulum, mpcrl.planners.mppi(budget=8, horizon=4), threads=1)
    folder = mpcrl.export(controller, tmp_path / "out", kernels=True)
    monkeypatch.setenv("MPCRL_CACHE_DIR", str(tmp_path / "cache"))
    mpcrl.load(folder)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(compiling, "library_digest", lambda: "another version")
    with pytest.warns(CacheWarning, match="compiled by another version or for another CPU"):
        mpcrl.load(folder, trust_kernels=True)
    assert not list((tmp_path / "cache").rglob("*.nb?"))


# ---- the command -----------------------------------------------------------------------------------------------------
def test_the_command_exports_a_task_of_ones_own(mine: str, tmp_path: Path, capsys: Any) -> None:
    helper = str(Path(mine).with_name("helper.py"))
    flags = "--planner mppi --budget 16 --horizon 5 --option width=0.7 --rate-limit 4 --safe-control -0.5 --seed 3"
    arguments = ["export", mine, "--out", str(tmp_path / "out"), "--file", helper, *flags.split()]
    assert main([*arguments, "--dtype", "float64", "--controls-per-plan", "2", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert f"load it with mpcrl.load('{tmp_path / 'out'}', source='{tmp_path / 'out'}/source/mine.py:task')" in shown
    loaded = mpcrl.load(tmp_path / "out", source=mine)
    assert (loaded.seed, loaded.planner.budget, loaded.planner.horizon) == (3, 16, 5)
    assert (loaded.model.dtype, loaded.threads.count) == (np.dtype(np.float64), 1)
    given = {"threads": 1, "rate_limit": 4.0, "safe_control": [-0.5], "controls_per_plan": 2}
    assert {name: value for name, value in loaded.settings.items() if value is not None} == given
    assert main(["export", "lqr", "--out", str(tmp_path / "x"), "--safe-control", "up"]) == 2
    assert "safe-control is written as numbers with commas" in capsys.readouterr().err
