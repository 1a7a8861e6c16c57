"""The thread budget: checked, kept to, given back, and refused after a fork."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import threadpoolctl

from mpcrl.core import threads
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget, available_threads

ROOT = Path(__file__).resolve().parent.parent
LIMIT = numba.config.NUMBA_NUM_THREADS


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]


@pytest.mark.parametrize("count", [0, -1, LIMIT + 1, 10**9, 1.0, 1.5, True, "1", None, np.nan])
def test_what_is_no_number_of_threads_is_refused(count: Any) -> None:
    with pytest.raises(InvalidInput, match=f"threads must be .*{LIMIT}, got .*NUMBA_NUM_THREADS"):
        ThreadBudget(count)


def test_none_means_all_that_there_are() -> None:
    assert ThreadBudget.of(None).count == available_threads() <= LIMIT
    assert ThreadBudget.of(1).count == ThreadBudget(np.int64(1)).count == 1  # type: ignore[arg-type]


def test_kernels_keep_to_the_budget_and_give_back_what_was() -> None:
    before = numba.get_num_threads()
    for count in range(1, LIMIT + 1):
        with ThreadBudget(count).kernels():
            assert numba.get_num_threads() == count
            with ThreadBudget(1).kernels():
                assert numba.get_num_threads() == 1
            assert numba.get_num_threads() == count
        assert numba.get_num_threads() == before


def test_an_error_gives_the_threads_back() -> None:
    before, blas = numba.get_num_threads(), blas_threads()
    with pytest.raises(KeyError), ThreadBudget(1).limit():
        raise KeyError
    assert numba.get_num_threads() == before
    assert blas_threads() == blas


def test_limit_holds_for_every_library_that_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    count = {"torch": 7}
    torch = SimpleNamespace(
        get_num_threads=lambda: count["torch"], set_num_threads=lambda n: count.__setitem__("torch", n)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    before = numba.get_num_threads(), blas_threads()
    with ThreadBudget(1).limit():
        assert numba.get_num_threads() == count["torch"] == 1
        assert set(blas_threads()) <= {1}
    assert count["torch"] == 7
    assert (numba.get_num_threads(), blas_threads()) == before


def test_without_torch_it_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with ThreadBudget(1).limit():
        assert "torch" not in sys.modules


def test_other_python_threads_keep_their_own_budget() -> None:
    entered, seen, done = threading.Event(), [], threading.Event()

    def other() -> None:
        entered.wait(10)
        seen.append(numba.get_num_threads())
        done.set()

    worker = threading.Thread(target=other)
    worker.start()
    with ThreadBudget(1).kernels():
        entered.set()
        done.wait(10)
    worker.join()
    assert seen == [LIMIT]


def test_little_work_takes_one_thread() -> None:
    budget = ThreadBudget(LIMIT)
    assert budget.for_work(threads.PARALLEL_PAYS / 2).count == 1
    assert budget.for_work(threads.PARALLEL_PAYS * 2) is budget
    assert ThreadBudget(1).for_work(1.0).count == 1


@pytest.mark.parametrize("workers", [1, 2, 3, 100])
def test_shares_fit_into_the_budget(workers: int) -> None:
    share = ThreadBudget(LIMIT).share(workers)
    assert share.count == 1 or share.count * workers <= LIMIT


FORKS = """
import os
from mpcrl.core.errors import ForkedProcess
from mpcrl.core.threads import ThreadBudget

def in_a_fork():
    child = os.fork()
    if child == 0:
        try:
            with ThreadBudget(1).kernels():
                os._exit(0)
        except ForkedProcess as error:
            os._exit(3 if "spawn" in str(error) else 4)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

before = in_a_fork()
with ThreadBudget(1).kernels():
    pass
print(before, in_a_fork())
with ThreadBudget(1).kernels():  # the parent itself goes on
    print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_forked_after_kernels_ran_is_refused_and_told_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.stdout.split() == ["0", "3", "fine"], done.stderr
