"""The cache of compiled kernels: found again by other processes, never stale, repaired, and never a reason to fail."""

from __future__ import annotations

import importlib
import linecache
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numba.core.caching
import numpy as np
import pytest

from mpcrl.core import compile as compiling
from mpcrl.core import lanes
from mpcrl.core.compile import CacheWarning, library_digest, load_module

ROOT = Path(__file__).resolve().parent.parent

TEXT = """
import numpy as np
from mpcrl.core.compile import inlined, kernel

@inlined
def scaled(x):
    return np.float32(3) * x

@kernel
def run(values):
    for i in range(values.size):
        values[i] = scaled(values[i])
    return values.sum()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("MPCRL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def reloaded(text: str = TEXT) -> ModuleType:
    """The module as a new process would load it."""
    for name in [name for name in sys.modules if name.startswith("mpcrl_cachetest_")]:
        del sys.modules[name]
    return load_module(text, "cachetest")


def ran(module: ModuleType) -> float:
    return float(module.run(np.ones(4, np.float32)))


def hits(module: ModuleType) -> int:
    return sum(module.run.stats.cache_hits.values())


# ---- other processes -------------------------------------------------------------------------------------------------
CHILD = f"""
import numpy as np
from mpcrl.core.compile import load_module
module = load_module({TEXT!r}, "cachetest")
print(float(module.run(np.ones(4, np.float32))), sum(module.run.stats.cache_hits.values()))
"""


def test_processes_that_compile_at_once_agree_and_later_ones_load_the_result(folder: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, text=True, stdout=subprocess.PIPE)

    def answer(process: subprocess.Popen[str]) -> list[str]:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0
        return output.split()

    together = [start(), start()]
    assert [answer(process)[0] for process in together] == ["12.0", "12.0"]
    assert answer(start()) == ["12.0", "1"]


def test_a_module_is_loaded_once_and_its_source_shows_in_tracebacks(folder: Path) -> None:
    assert reloaded() is load_module(TEXT, "cachetest")
    broken = TEXT + "\nraise KeyError('on purpose')  # seen\n"
    with pytest.raises(KeyError, match="on purpose") as caught:
        reloaded(broken)
    assert "# seen" in str(caught.traceback[-1].statement)
    assert not [name for name in sys.modules if name.startswith("mpcrl_cachetest_")]


# ---- never stale -----------------------------------------------------------------------------------------------------
class Params(NamedTuple):
    """One number."""

    gain: float


def user_value(files: dict[str, str], where: Path) -> tuple[float, int]:
    """Result and cache hits of a user's `step` that calls into a second file, as a new process would see them."""
    for name, source in files.items():
        (where / f"{name}.py").write_text(textwrap.dedent(source))
    importlib.invalidate_caches()
    for name in ("user_step", "user_helper"):
        sys.modules.pop(name, None)
    linecache.checkcache()
    step = importlib.import_module("user_step").step
    program = lanes.LaneProgram(np.dtype(np.float64), lanes.fields_of(Params(2.0)))
    name = program.add(step, ("float", "params"))
    call = program.call(name, "values[0]")
    module = reloaded(f"{program.text()}\n@kernel\ndef run(values{program.arguments}):\n    return {call}\n")
    return float(module.run(np.array([5.0]), 2.0)), hits(module)


def test_an_edit_anywhere_in_what_a_user_wrote_is_seen(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # byte code is as new as a second can tell
    step = """
        from user_helper import OFFSET, helper

        def step(x, p):
            return helper(x, p) + OFFSET
        """
    helper = """
        OFFSET = 100.0

        def helper(x, p, factor=3.0):
            return factor * x * p.gain
        """
    assert user_value({"user_step": step, "user_helper": helper}, tmp_path) == (130.0, 0)
    assert user_value({}, tmp_path) == (130.0, 1)
    assert user_value({"user_helper": helper.replace("3.0", "4.0")}, tmp_path) == (140.0, 0)
    assert user_value({"user_helper": helper.replace("100.0", "200.0")}, tmp_path) == (230.0, 0)
    assert user_value({"user_helper": helper.replace("* x", "- x")}, tmp_path) == (93.0, 0)
    # what compiles to the same is found again
    assert user_value({"user_helper": "# a comment\n" + textwrap.dedent(helper)}, tmp_path) == (130.0, 1)


def test_the_digest_covers_every_library_file_that_kernels_may_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest: Callable[[], str] = library_digest.__wrapped__
    monkeypatch.setattr(compiling, "_PACKAGE", tmp_path)
    digests = [digest()]
    for room in ("core", "kernels"):
        (tmp_path / room).mkdir()
        for text in ("x = 1", "x = 2"):
            (tmp_path / room / "a.py").write_text(text)
            digests.append(digest())
    monkeypatch.setattr(numba, "__version__", "0.0")
    digests.append(digest())
    assert len(set(digests)) == len(digests)


# ---- damage ----------------------------------------------------------------------------------------------------------
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "first half": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-1],
    "garbage": lambda data: bytes(range(256)) * (len(data) // 256 + 1),
    "another pickle": lambda data: b"\x80\x04]\x94.",
}


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_compiled_again(folder: Path, kind: str, damage: str) -> None:
    assert ran(reloaded()) == 12
    (path,) = folder.glob(f"*.{kind}")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    module = reloaded()
    assert (ran(module), hits(module)) == (12, 0)
    module = reloaded()
    assert (ran(module), hits(module)) == (12, 1)


def test_a_lost_entry_is_compiled_again(folder: Path) -> None:
    assert ran(reloaded()) == 12
    (path,) = folder.glob("*.nbc")
    path.unlink()
    assert ran(reloaded()) == 12
    module = reloaded()
    assert (ran(module), hits(module)) == (12, 1)


# ---- folders that cannot be used -------------------------------------------------------------------------------------
def no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file")


def below_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write_text("a file")
    monkeypatch.setenv("MPCRL_CACHE_DIR", str(folder / "deeper" / "still"))


def for_everybody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def for_a_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def of_somebody_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)


@pytest.mark.skipif(os.name != "posix", reason="owners and permission bits of POSIX")
@pytest.mark.parametrize("spoil", [no_folder, below_a_file, for_everybody, for_a_group, of_somebody_else, read_only])
def test_a_folder_that_cannot_be_used_costs_a_warning_and_no_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    spoil(folder, monkeypatch)
    with pytest.warns(CacheWarning, match=r"cannot cache in .* \(.*\); set MPCRL_CACHE_DIR") as caught:
        assert ran(reloaded()) == 12
    assert len(caught) == 1
    assert not folder.is_dir() or not list(folder.iterdir())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert ran(reloaded()) == 12


def test_a_new_folder_is_private(folder: Path) -> None:
    assert ran(reloaded()) == 12
    assert folder.stat().st_mode & 0o777 == 0o700 or os.name != "posix"


def test_a_full_disk_costs_a_warning_and_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(numba.core.caching.IndexDataCacheFile, "save", save)
    with pytest.warns(CacheWarning, match="No space left"):
        assert ran(reloaded()) == 12
