"""One owner of threads: a budget that Numba, BLAS, torch and MuJoCo take from.

Nothing is set at import. Inside `ThreadBudget.limit()` every library that is loaded keeps to the budget, and what it
had before comes back after it. Kernels of one plan only need `kernels()`, which costs a microsecond.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import numpy as np
from numba.np.ufunc import parallel

from mpcrl.core.errors import ForkedProcess, InvalidInput

PARALLEL_PAYS = 1e-4
"""Seconds of single-threaded work from which on several threads are used."""

_forked_after_kernels = False
_kernels_ran = False

_one_at_a_time = threading.RLock()
"""Held around kernels on Numba's workqueue layer, which ends the process when two threads run kernels at once."""


def _needs_turns() -> bool:
    """Whether kernels of several threads must take turns; also before the first kernel, when nobody knows the layer."""
    try:
        return numba.threading_layer() == "workqueue"
    except ValueError:
        return True


def _note_fork() -> None:
    global _forked_after_kernels
    _forked_after_kernels = _kernels_ran


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def available_threads() -> int:
    """Threads that this process may use: its CPU affinity, and no more than NUMBA_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, numba.config.NUMBA_NUM_THREADS))


class _Kernels:
    """Numba's thread count, set and set back; plain methods because every plan enters it twice."""

    __slots__ = ("before", "count", "turn")

    def __init__(self, count: int) -> None:
        self.count, self.turn = count, False

    def __enter__(self) -> None:
        global _kernels_ran
        if _forked_after_kernels:
            raise ForkedProcess(
                "this process was forked after its parent ran parallel kernels, whose threads do not exist here; "
                "start worker processes with the 'spawn' or 'forkserver' method"
            )
        if not _kernels_ran:
            numba.get_num_threads()  # starts the threads
            _kernels_ran = True
        self.turn = _needs_turns()
        if self.turn:
            _one_at_a_time.acquire()
        # What `numba.get_num_threads` and `set_num_threads` come down to once threads run. They ask first whether these
        # do, through the lock of a process and that of a thread: 5 us a time, a sixth of a short plan.
        self.before = parallel._get_num_threads()
        if self.before != self.count:
            parallel._set_num_threads(self.count)

    def __exit__(self, *error: object) -> None:
        if self.before != self.count:
            parallel._set_num_threads(self.before)
        if self.turn:
            _one_at_a_time.release()


@dataclass(frozen=True)
class ThreadBudget:
    """How many threads one piece of work may use.

    Parameters
    ----------
    count : int
        At least 1; more than there are is an error, not a wish.
    """

    count: int

    @classmethod
    def of(cls, threads: int | None) -> ThreadBudget:
        """The budget for a user's number; None means all that there are."""
        return cls(available_threads() if threads is None else threads)

    def __post_init__(self) -> None:
        limit = numba.config.NUMBA_NUM_THREADS
        whole = isinstance(self.count, int | np.integer) and not isinstance(self.count, bool)
        if not (whole and 1 <= self.count <= limit):
            raise InvalidInput(
                f"threads must be an integer between 1 and {limit}, got {self.count!r}; "
                "set NUMBA_NUM_THREADS before the first import for more"
            )

    def kernels(self) -> _Kernels:
        """A context in which Numba's kernels on the calling thread keep to the budget."""
        return _Kernels(self.count)

    @contextlib.contextmanager
    def limit(self) -> Iterator[None]:
        """All loaded libraries keep to the budget: Numba, BLAS, OpenMP and torch."""
        import threadpoolctl  # a twentieth of all imports, and an embedded controller does without

        torch = sys.modules.get("torch")
        before = torch.get_num_threads() if torch else 0
        with self.kernels(), threadpoolctl.threadpool_limits(self.count):
            if torch:
                torch.set_num_threads(self.count)
            try:
                yield
            finally:
                if torch:
                    torch.set_num_threads(before)

    def for_work(self, seconds: float) -> ThreadBudget:
        """This budget, or one thread where the whole work takes one thread less than waking a second one may cost.

        A barrier costs microseconds on an idle machine, and a time slice on one that is busy with something else.
        """
        return self if seconds > PARALLEL_PAYS else _SERIAL

    def share(self, workers: int) -> ThreadBudget:
        """The part of each of several workers, at least one thread."""
        return ThreadBudget(max(1, self.count // workers))


_SERIAL = ThreadBudget(1)
