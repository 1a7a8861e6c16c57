"""One owner of threads: a budget that Numba, BLAS, torch and MuJoCo take from.

Nothing is set at import. Inside `ThreadBudget.limit()` every library that is loaded keeps to the budget, and what it had
before comes back after it. Kernels of one plan only need `kernels()`, which costs a microsecond.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numba
import threadpoolctl

from mpcrl.core.errors import ForkedProcess, InvalidInput

_forked_after_kernels = False
_kernels_ran = False


def _note_fork() -> None:
    global _forked_after_kernels
    _forked_after_kernels = _kernels_ran


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def available_threads() -> int:
    """Threads that this process may use: its CPU affinity, and no more than NUMBA_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, numba.config.NUMBA_NUM_THREADS))


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
        if not 1 <= self.count <= limit:
            raise InvalidInput(
                f"threads must be between 1 and {limit}, got {self.count}; "
                "set NUMBA_NUM_THREADS before the first import for more"
            )

    @contextlib.contextmanager
    def kernels(self) -> Iterator[None]:
        """Numba's kernels on the calling thread keep to the budget."""
        global _kernels_ran
        if _forked_after_kernels:
            raise ForkedProcess(
                "this process was forked after its parent ran parallel kernels, whose threads do not exist here; "
                "start worker processes with the 'spawn' or 'forkserver' method"
            )
        _kernels_ran = True
        before = numba.get_num_threads()
        if before == self.count:
            yield
            return
        numba.set_num_threads(self.count)
        try:
            yield
        finally:
            numba.set_num_threads(before)

    @contextlib.contextmanager
    def limit(self) -> Iterator[None]:
        """All loaded libraries keep to the budget: Numba, BLAS, OpenMP and torch."""
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

    def share(self, workers: int) -> ThreadBudget:
        """The part of each of several workers, at least one thread."""
        return ThreadBudget(max(1, self.count // workers))
