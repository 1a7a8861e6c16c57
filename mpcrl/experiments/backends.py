"""Where runs are done: processes of this machine, or the workers of a Dask or Ray cluster."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import joblib
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mpcrl.core.errors import InvalidInput, missing
from mpcrl.core.threads import available_threads

_RESTART_S = 60
"""How long Dask may take to start workers in the place of dead ones."""


Parallel = Callable[[Iterator[Any]], Iterator[Any]]


class Workers(NamedTuple):
    """Processes that runs can be given to.

    Attributes
    ----------
    number : int
    local : bool
        Whether they share this machine's cores.
    died : tuple of type
        What is raised when a worker process ends before its run.
    parallel : callable
        `parallel(threads)(tasks)` begins tasks of joblib's, and is an iterator of their results as they come; the
        workers have so many threads.
    """

    number: int
    local: bool
    died: tuple[type[Exception], ...]
    parallel: Callable[[int], Parallel]


@contextlib.contextmanager
def _loky(workers: int | None, scheduler: str | None) -> Iterator[Workers]:
    count = available_threads() if workers is None else workers

    def parallel(threads: int) -> Parallel:
        def begin(tasks: Iterator[Any]) -> Iterator[Any]:
            with joblib.parallel_config("loky", inner_max_num_threads=threads), _interrupts_later():
                return _parallel(count, tasks)

        return begin

    try:
        yield Workers(count, True, (TerminatedWorkerError,), parallel)
    finally:  # at the interpreter's exit they would be waited for, half a second, while they tidy up
        get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


@contextlib.contextmanager
def _dask(workers: int | None, scheduler: str | None) -> Iterator[Workers]:
    try:
        from dask.distributed import Client, KilledWorker, LocalCluster
    except ImportError as error:
        raise missing("dask.distributed", "dask") from error
    from joblib._dask import DaskDistributedBackend

    class Telling(DaskDistributedBackend):
        """Joblib's own backend never tells of a run whose workers died, so that it would be waited for without end.

        And where it counts one worker, runs would be done in this process.
        """

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

        def submit(self, func: Any, callback: Any = None) -> Any:
            future = super().submit(func, callback)
            future.add_done_callback(lambda ended: callback(ended) if ended.exception() else None)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return out.result() if isinstance(out, Future) else super().retrieve_result_callback(out)

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            count = available_threads() if workers is None else workers
            target: Any = stack.enter_context(
                LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, host="127.0.0.1")
            )
        else:
            target = scheduler
        try:
            client = stack.enter_context(Client(target, timeout="20s"))
        except (OSError, ValueError) as error:
            raise InvalidInput(f"no Dask scheduler answers at {scheduler!r}: {error}") from error
        present = len(client.scheduler_info(n_workers=-1)["workers"])
        if not present:
            raise InvalidInput(f"the Dask scheduler at {scheduler!r} has no workers; start some with: dask worker ...")
        joblib.register_parallel_backend("dask", Telling)
        stack.enter_context(joblib.parallel_config("dask", client=client, wait_for_workers_timeout=_RESTART_S))
        count = workers or present
        yield Workers(count, scheduler is None, (KilledWorker,), lambda threads: partial(_parallel, count))


@contextlib.contextmanager
def _ray(workers: int | None, scheduler: str | None) -> Iterator[Workers]:
    try:
        import ray
        from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError
        from ray.util.joblib.ray_backend import RayBackend
    except ImportError as error:
        raise missing("ray", "ray") from error

    class Streaming(RayBackend):
        """Ray's own backend gives results all at once, at the end; its pool can tell each as it comes."""

        supports_return_generator = True

    count = available_threads() if workers is None else workers
    local = {"num_cpus": count, "include_dashboard": False} if scheduler is None else {}
    try:
        ray.init(address=scheduler or "local", log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, ValueError) as error:
        raise InvalidInput(f"no Ray cluster answers at {scheduler!r}: {error}") from error
    try:
        if workers is None:
            count = int(ray.cluster_resources().get("CPU", 1))
        joblib.register_parallel_backend("ray", Streaming)
        with joblib.parallel_config("ray"):
            died = (RayActorError, WorkerCrashedError, OutOfMemoryError)
            yield Workers(count, scheduler is None, died, lambda threads: partial(_parallel, count))
    finally:
        ray.shutdown()


def _parallel(count: int, tasks: Iterator[Any]) -> Iterator[Any]:
    """One run at a time and worker, the next ones at hand: they are too long for larger batches to pay."""
    return joblib.Parallel(n_jobs=count, return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")(tasks)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Ctrl-C waits until the workers are begun, and never reaches them: they inherit that it is blocked.

    A terminal sends it to all its processes. This one ends the others; one that still imports would tell of it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


BACKENDS: dict[str, Callable[[int | None, str | None], contextlib.AbstractContextManager[Workers]]] = {
    "loky": _loky,
    "dask": _dask,
    "ray": _ray,
}
"""What `--backend` may be."""


def workers_of(backend: str, workers: int | None, scheduler: str | None) -> contextlib.AbstractContextManager[Workers]:
    """Workers of a backend, while the context lasts.

    Raises
    ------
    MissingDependency
    InvalidInput
        Nothing answers at the scheduler's address.
    """
    return BACKENDS[backend](workers, scheduler)
