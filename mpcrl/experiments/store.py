"""Results on disk: one file per run, whole or not there, so that a sweep can be killed at any moment and go on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mpcrl.core.errors import InvalidInput
from mpcrl.experiments.config import RunConfig
from mpcrl.experiments.files import writable_folder, written
from mpcrl.tasks.registry import ANALYTIC_TASKS

FORMAT = 1
_NEEDED = {"format", "hash", "seed", "config", "versions"}
_BYTES = 16_384  # that a result may take


class Store:
    """The folder of a sweep.

    `runs/HASH@VERSIONS/SEED.json` is a finished run, `SEED.failed.json` beside it one that raised. HASH is that of the
    configuration; what another version of mpcrl or MuJoCo made lies in a folder of its own, and neither replaces the
    other nor counts as done.

    Parameters
    ----------
    folder : Path
        Made if need be.
    versions : mapping
        Of the packages that new runs are made with.
    """

    def __init__(self, folder: Path, versions: Mapping[str, str]) -> None:
        self.folder = folder
        self._versions = versions

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """For one sweep at a time; the lock is the operating system's, which frees it when its holder dies.

        Raises
        ------
        InvalidInput
            Another process holds it, or the folder or one in it cannot be written to.
        """
        for folder in (self.folder, self.folder / "runs", *(self.folder / "runs").glob("*/")):
            writable_folder(folder)
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip()
                raise InvalidInput(
                    f"another sweep{holder and f' (process {holder})'} writes to {str(self.folder)!r}; "
                    "wait for it, or choose another folder"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for scratch in (self.folder / "runs").glob("*/.*"):  # of a sweep that was killed while it wrote
                scratch.unlink()
            yield

    def check_space(self, runs: int) -> None:
        """Refuse to begin `runs` runs whose results the disk has no room for."""
        free, needed = shutil.disk_usage(self.folder).free, runs * _BYTES
        if free < needed:
            raise InvalidInput(
                f"{runs} results need about {needed / 1e6:.3g} MB, but the disk of {str(self.folder)!r} has "
                f"{free / 1e6:.3g} MB left; make room, or choose another folder"
            )

    def finished(self, config: RunConfig, seed: int) -> dict[str, Any] | None:
        """The result of a run by these versions, if it is there and whole; a file that is not is set aside."""
        path = self._path(config.task, config.hash, seed, self._versions)
        record = self._read(path)
        return record if record and (record["hash"], record["seed"]) == (config.hash, seed) else None

    def save(self, record: Mapping[str, Any]) -> None:
        """Keep what became of a run; a result replaces a failure.

        Raises
        ------
        InvalidInput
            It cannot be written, say because the disk is full; nothing half-written is left.
        """
        path = self._path(record["config"]["task"], record["hash"], record["seed"], record["versions"])
        failed = path.with_suffix(".failed.json")
        target = failed if "error" in record else path
        with written(target) as scratch:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
        if target is path:
            failed.unlink(missing_ok=True)

    def write_sweep(self, sweep: Mapping[str, Any]) -> None:
        """Keep the resolved sweep as `sweep.json`."""
        with written(self.folder / "sweep.json") as scratch:
            scratch.write_text(json.dumps(sweep, indent=1, allow_nan=False) + "\n")

    def records(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Path]]:
        """All results in the order of their paths, all failures, and files set aside as damaged, now or before."""
        results: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        for path in sorted((self.folder / "runs").glob("*/*.json")):
            if path.name.startswith("."):
                continue
            record = self._read(path)
            if record is not None:
                (failures if path.name.endswith(".failed.json") else results).append(record)
        return results, failures, sorted((self.folder / "runs").glob("*/*.corrupt"))

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _lock_file(self) -> IO[str]:
        path = self.folder / ".lock"
        try:
            return path.open("a+")
        except OSError as error:
            raise InvalidInput(f"cannot write {str(path)!r}: {error.strerror}; choose another folder") from error

    def _path(self, task: str, hash_: str, seed: int, versions: Mapping[str, str]) -> Path:
        return self.folder / "runs" / f"{hash_}@{versions_tag(task, versions)}" / f"{seed}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            record = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InvalidInput(
                f"cannot read the result {str(path)!r}: {error.strerror}; mend that, or move it away to run it again"
            ) from error
        except (ValueError, UnicodeDecodeError):
            record = None
        if not (isinstance(record, dict) and record.keys() >= _NEEDED and record["format"] == FORMAT):
            with contextlib.suppress(OSError):
                path.replace(path.with_suffix(".json.corrupt"))
            return None
        return record


def versions_tag(task: str, versions: Mapping[str, str]) -> str:
    """The versions that a task's results depend on, in a word."""
    names = ("mpcrl",) if task in ANALYTIC_TASKS else ("mpcrl", "mujoco")
    return "-".join(f"{name}{versions.get(name, '')}" for name in names)
