"""A log of plans in a ring of fixed size: in memory, or in a file that another process reads while it is written.

The ring is one matrix of float64, a row per call of `Controller.plan`. A file of it is, in the machine's byte order,

    bytes 0 to 15       the word MPCRL-TELEMETRY and a zero
    bytes 16 to 23      length of the description, uint64
    bytes 64 to 511     counters, float64; see `Counter`
    bytes 512 on        description, JSON in UTF-8; zeros up to a multiple of 4096 bytes
    then                the rows

Row n, counted from 1, lies at place (n - 1) mod capacity. Its first number is n, or 0 while it is written; its last one
is the CRC-32 of the others. So a reader needs no lock to tell a whole row from one in the making, in whatever order the
writes reach it, and the writer never waits for it.
"""

from __future__ import annotations

import csv
import enum
import itertools
import json
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.control.plan import Plan, Status
from mpcrl.core.errors import BadTelemetry, InvalidInput, missing
from mpcrl.core.files import written

VERSION = 1
CAPACITY = 10_000
"""Plans that are kept."""

STATUSES = tuple(Status)
"""A row holds the index of its status in here."""

_ZERO = bytes(8)
_MAGIC = b"MPCRL-TELEMETRY\0"
_PAGE, _COUNTERS, _TEXT = 4096, 64, 512
_SCALARS = (
    *("time", "episode", "planned", "status", "age", "cost", "milliseconds"),
    *("iterations", "samples", "failed", "rejected", "effective_sample_size"),
)


class Counter(enum.IntEnum):
    """Places of the counters; all but the first are since the last reset."""

    ROWS = 0
    BEGAN = 1  # ROWS at the last reset
    PLANS = 2
    SAMPLES = 3
    FAILED = 4
    STATUS = 5  # the first of one per status of the plans
    ANSWERS = 16  # the first of one per status of a RealtimeController's answers
    FAULTS = 24  # of its last answer


_ROWS, _PLANS, _SAMPLES, _FAILED, _STATUS, _ANSWERS, _FAULTS = map(
    int,  # arithmetic with members of an enumeration is slow
    (Counter.ROWS, Counter.PLANS, Counter.SAMPLES, Counter.FAILED, Counter.STATUS, Counter.ANSWERS, Counter.FAULTS),
)


@dataclass(frozen=True, eq=False)
class Log:
    """Plans in the order of their making.

    Attributes
    ----------
    description : mapping
        Of the controller: task, planner, control_low, ...
    columns : tuple of str
        See docs/telemetry.md.
    values : ndarray [plans, columns]
    """

    description: Mapping[str, Any]
    columns: tuple[str, ...]
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, column: str) -> np.ndarray:
        """One column [plans] by its name, or those [plans, n] of "state", "control" or "stage"."""
        if column in self.columns:
            return self.values[:, self.columns.index(column)]
        places = [i for i, name in enumerate(self.columns) if name.startswith(f"{column}_")]
        if column not in ("state", "control", "stage"):
            raise InvalidInput(f"telemetry has no column {column!r}; it has {', '.join(self.columns)}")
        return self.values[:, places]

    def names(self, group: str) -> list[str]:
        """What the columns of "state", "control" or "stage" are of."""
        return [name.removeprefix(f"{group}_") for name in self.columns if name.startswith(f"{group}_")]

    @property
    def statuses(self) -> list[Status]:
        """One per plan."""
        return [STATUSES[int(code)] for code in self["status"]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table; the status is a word in it.

        Parameters
        ----------
        path : path
            Ends in `.csv` or `.parquet`.

        Raises
        ------
        InvalidInput
            For another ending, and where the file cannot be written.
        MissingDependency
            Parquet needs pyarrow.
        """
        path = Path(path)
        writers = {".csv": self._csv, ".parquet": self._parquet}
        if path.suffix not in writers:
            raise InvalidInput(f"telemetry is saved as .csv or .parquet, got {str(path)!r}")
        writers[path.suffix](path)

    def _table(self) -> dict[str, list[Any]]:
        counts = {"episode", "planned", "iterations", "samples", "failed", "rejected"}
        table: dict[str, list[Any]] = {}
        for name, column in zip(self.columns, self.values.T, strict=True):
            table[name] = column.astype(np.int64).tolist() if name in counts else column.tolist()
        return table | {"status": [status.value for status in self.statuses]}

    def _csv(self, path: Path) -> None:
        table = self._table()
        with written(path) as scratch, scratch.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))

    def _parquet(self, path: Path) -> None:
        try:
            import pyarrow as arrow
            import pyarrow.parquet
        except ImportError as error:
            raise missing("pyarrow", "parquet") from error
        with written(path) as scratch:
            arrow.parquet.write_table(arrow.table(self._table()), scratch)


class Telemetry:
    """The ring. A controller makes its own, `controller.telemetry`; one thread records, any may read.

    Parameters
    ----------
    description : mapping
        What JSON can hold.
    states, controls, stages : sequence of str
        Names of what is recorded of each plan: of the state's and the control's numbers, and of the stage cost's terms.
    path : path, optional
        A file to keep the ring in; there is none if not given.
    capacity : int
        Plans that are kept.

    Raises
    ------
    InvalidInput
        The file cannot be made.
    """

    def __init__(
        self,
        description: Mapping[str, Any],
        states: Sequence[str],
        controls: Sequence[str],
        stages: Sequence[str] = (),
        *,
        path: str | os.PathLike[str] | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        groups = {"state": states, "control": controls, "stage": stages}
        self.columns = (*_SCALARS, *(f"{group}_{name}" for group, names in groups.items() for name in names))
        self.capacity = capacity
        self.description: Mapping[str, Any] = {
            **description,
            "version": VERSION,
            "byteorder": sys.byteorder,
            "capacity": capacity,
            "columns": list(self.columns),
            "pid": os.getpid(),
            "began": time.monotonic(),
        }
        self._rows = np.zeros((0, 0))
        self._counters = np.zeros(0)
        text = json.dumps(self.description).encode()
        offset = -(-(_TEXT + len(text)) // _PAGE) * _PAGE
        size = offset + 8 * capacity * (len(self.columns) + 2)
        if path is None:
            self._counters = np.zeros((_TEXT - _COUNTERS) // 8)
            self._rows = np.zeros((capacity, len(self.columns) + 2))
        else:
            start = _MAGIC + np.uint64(len(text)).tobytes()
            start = start + bytes(_TEXT - len(start)) + text
            with written(Path(path)) as scratch, scratch.open("wb+") as file:
                file.write(start)
                file.flush()
                os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full is an error now, not a signal later
                self._map(mmap.mmap(file.fileno(), size), offset)
        width, lengths = len(self.columns) + 2, [len(names) for names in groups.values()]
        self.stages = len(stages)
        """How many terms of the stage cost a row has."""
        self._scratch = np.zeros(width)  # a row is made here
        first = 1 + len(_SCALARS)
        ends = np.cumsum([first, *lengths]).tolist()
        self._parts = [slice(*each) for each in itertools.pairwise(ends)]
        self._scalars = struct.Struct(f"{first}d")
        self._packed = struct.Struct(f"{_ANSWERS}d")
        # bytes are copied several times faster than NumPy's slices of so few numbers
        self._whole, self._memory = _bytes(self._scratch), _bytes(self._rows)
        self._counted, self._body = _bytes(self._counters), self._whole[:-8]
        self._codes = {status: code for code, status in enumerate(STATUSES)}
        self._count = self._episode = 0
        self.reset()
        self._episode = 0

    @classmethod
    def attach(cls, path: str | os.PathLike[str]) -> Telemetry:
        """The ring in a file, which another process may be writing; for reading only.

        Raises
        ------
        BadTelemetry
            The file is not there, is no telemetry, is cut short, or is of another version of mpcrl.
        """
        self, name = cls.__new__(cls), repr(os.fspath(path))
        try:
            with open(path, "rb") as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            reason = getattr(error, "strerror", None) or "the file is empty"
            raise BadTelemetry(f"cannot read {name}: {reason}; give the path of a controller's telemetry") from error
        if memory[: len(_MAGIC)] != _MAGIC or len(memory) < _TEXT:
            raise BadTelemetry(f"{name} is no telemetry; give the path of a controller's telemetry")
        length = int(np.frombuffer(memory, np.uint64, 1, len(_MAGIC))[0])
        try:
            description = json.loads(memory[_TEXT : _TEXT + length])
            version, byteorder = description["version"], description["byteorder"]
            self.columns, self.capacity = tuple(map(str, description["columns"])), int(description["capacity"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise BadTelemetry(f"the description in {name} is damaged; start the controller again") from error
        if (version, byteorder) != (VERSION, sys.byteorder):
            raise BadTelemetry(
                f"{name} is telemetry of version {version}, {byteorder} endian; this is mpcrl for version {VERSION}, "
                f"{sys.byteorder} endian: read it with the mpcrl that wrote it, on a machine of its kind"
            )
        offset = -(-(_TEXT + length) // _PAGE) * _PAGE
        size = offset + 8 * self.capacity * (len(self.columns) + 2)
        if self.capacity < 1 or len(memory) != size or self.columns[: len(_SCALARS)] != _SCALARS:
            raise BadTelemetry(f"{name} should have {size} bytes, but has {len(memory)}; start the controller again")
        self.description = description
        self._map(memory, offset)
        if not ((self._counters >= 0) & (self._counters < 2**53)).all():
            raise BadTelemetry(f"the counters in {name} are damaged; start the controller again")
        return self

    def _map(self, memory: mmap.mmap, offset: int) -> None:
        self._counters = np.frombuffer(memory, np.float64, (_TEXT - _COUNTERS) // 8, _COUNTERS)
        rows = np.frombuffer(memory, np.float64, self.capacity * (len(self.columns) + 2), offset)
        self._rows = rows.reshape(self.capacity, -1)

    # ---- writing -------------------------------------------------------------------------------------------------
    def record(self, plan: Plan, state: np.ndarray, planned: bool, terms: Sequence[float]) -> None:
        """Take note of a plan.

        Parameters
        ----------
        plan : Plan
        state : ndarray [nx]
        planned : bool
            Whether the call tried to plan; if not, it moved on along the last plan, as `controls_per_plan` wants it.
        terms : sequence of float
            Of the stage cost.
        """
        scratch, (states, controls, stages) = self._scratch, self._parts
        code, number = self._codes[plan.status], self._count + 1
        self._scalars.pack_into(
            *(self._body, 0, number, time.monotonic(), self._episode, planned, code, plan.age, plan.cost),
            *(plan.milliseconds, plan.iterations, plan.samples, plan.failed, plan.rejected),
            plan.effective_sample_size,
        )
        scratch[states], scratch[controls] = state, plan.control
        if self.stages:
            scratch[stages] = terms
        scratch[-1] = zlib.crc32(self._body)
        whole, memory, place = self._whole, self._memory, len(self._whole) * (self._count % self.capacity)
        memory[place : place + 8] = _ZERO
        memory[place + 8 : place + len(whole)] = whole[8:]
        memory[place : place + 8] = whole[:8]
        self._count, totals = number, self._totals
        totals[_ROWS] = number
        totals[_PLANS] += planned
        totals[_SAMPLES] += plan.samples
        totals[_FAILED] += plan.failed
        totals[_STATUS + code] += 1
        self._packed.pack_into(self._counted, 0, *totals)

    def answered(self, status: Status, faults: int) -> None:
        """Count an answer of a `RealtimeController`; from the thread that asks for them."""
        code = self._codes[status]
        self._answers[code] += 1
        self._counters[_ANSWERS + code] = self._answers[code]
        self._counters[_FAULTS] = faults

    def reset(self) -> None:
        """Begin an episode: counters start anew, rows are kept."""
        self._episode += 1
        self._totals = [self._count, self._count] + [0] * (_ANSWERS - 2)
        self._answers = [0] * len(STATUSES)
        self._counters[:] = 0
        self._counters[:2] = self._count

    def clear(self) -> None:
        """Forget all rows."""
        self._count = self._episode = 0
        self._rows[:, 0] = 0
        self.reset()
        self._episode = 0

    # ---- reading -------------------------------------------------------------------------------------------------
    def count(self, counter: Counter) -> int:
        """Value of a counter."""
        return int(self._counters[counter])

    def status_counts(self, first: Counter = Counter.STATUS) -> dict[Status, int]:
        """How many plans since the last reset had each status; or answers, with `Counter.ANSWERS`."""
        return {status: int(self._counters[first + code]) for code, status in enumerate(STATUSES)}

    def read(self, last: int | None = None, *, episode: bool = False) -> Log:
        """A copy of the plans that are kept, oldest first.

        Parameters
        ----------
        last : int, optional
            At most so many; all if not given.
        episode : bool
            Only those since the last reset.
        """
        count = self.count(Counter.ROWS)
        kept = min(count, self.capacity if last is None else last, self.capacity)
        first = max(count - kept, self.count(Counter.BEGAN) if episode else 0)
        numbers = np.arange(first + 1, count + 1)
        rows = self._rows[(numbers - 1) % self.capacity]
        sums = [zlib.crc32(row[:-1].tobytes()) for row in rows]
        whole = (rows[:, 0] == numbers) & (rows[:, -1] == sums)
        return Log(self.description, self.columns, rows[whole, 1:-1])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all plans that are kept as a table; see `Log.save`."""
        self.read().save(path)


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).data.cast("B")


def read_telemetry(path: str | os.PathLike[str]) -> Log:
    """The plans in the file that a controller was given as `telemetry`, also while it runs.

    Raises
    ------
    BadTelemetry
        The file is not there, is no telemetry, is cut short, or is of another version of mpcrl.
    """
    return Telemetry.attach(path).read()
