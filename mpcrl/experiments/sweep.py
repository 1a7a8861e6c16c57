"""Many runs: spread over worker processes by joblib, their results kept as they come in."""

from __future__ import annotations

import importlib
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import joblib
import numpy as np

from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput, unknown_name
from mpcrl.core.threads import ThreadBudget, available_threads
from mpcrl.experiments.backends import BACKENDS, Workers, workers_of
from mpcrl.experiments.config import RunConfig
from mpcrl.experiments.configure import Predictor, predictor_for
from mpcrl.experiments.machine import machine, versions
from mpcrl.experiments.run import RunResult, run_task
from mpcrl.experiments.store import FORMAT, Store, versions_tag
from mpcrl.experiments.video import settle_rendering
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import Task

_CURVE = 50  # points that the return so far is kept at
_BINS_PER_DECADE = 10  # of the histogram of plan times

Run = tuple[RunConfig, int]
"""A configuration and a seed."""


def execute(config: RunConfig, seed: int, threads: int) -> dict[str, Any]:
    """Do a run, and say what became of it: a result, or a failure with its traceback. What a worker process calls."""
    settle_rendering(config.task, False)
    begin = time.perf_counter()
    record: dict[str, Any] = {
        "format": FORMAT,
        "hash": config.hash,
        "seed": seed,
        "config": config.fields,
        "versions": versions(),
        "machine": machine(threads),
    }
    try:
        task, predictor = _prepared(config.task, config.model, config.dtype)
        result = run_task(
            task,
            config.build_planner(),
            model=predictor,
            steps=config.steps,
            seed=seed,
            threads=threads,
            budget_ms=_budget_ms(config, task.dt),
            controls_per_plan=config.controls_per_plan,
            conditions=config.conditions,
        )
        if result.interrupted:
            raise KeyboardInterrupt
        if not np.isfinite(result.returns[0]):
            raise FloatingPointError(f"the return is {result.returns[0]}: the world diverged")
    except Exception as error:  # noqa: BLE001  whatever it is, it belongs to this run alone
        text = " ".join(str(error).split())
        return {**record, "error": f"{type(error).__name__}: {text}", "traceback": traceback.format_exc()}
    return {**record, **_outcome(result), "timing": _timing(result, time.perf_counter() - begin)}


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs, and how they are spread.

    Attributes
    ----------
    configs : sequence of RunConfig
    seeds : sequence of int
    store : Store
    backend : str
        One of `BACKENDS`.
    workers : int, optional
        Processes; one for each core that this process may use and no more than `threads`, or those of the cluster, if
        not given.
    threads : int, optional
        To be divided among the workers; all that there are if not given.
    scheduler : str, optional
        Address of a Dask or Ray cluster; a local one is started if not given.
    """

    configs: Sequence[RunConfig]
    seeds: Sequence[int]
    store: Store
    backend: str = "loky"
    workers: int | None = None
    threads: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise unknown_name("backend", self.backend, BACKENDS)
        if self.scheduler is not None and self.backend == "loky":
            raise InvalidInput("loky runs on this machine only; --scheduler needs --backend dask or ray")
        if self.workers is not None:
            positive_integer("workers", self.workers)
        if self.threads is not None and self.scheduler is None:
            ThreadBudget(self.threads)

    @property
    def runs(self) -> list[Run]:
        """All of them; each seed of all configurations before the next, so that what there is can be compared."""
        return [(config, seed) for seed in self.seeds for config in self.configs]

    def missing(self) -> tuple[list[dict[str, Any]], list[Run]]:
        """Results that are there already, and the runs that are not."""
        done, left = [], []
        for config, seed in self.runs:
            record = self.store.finished(config, seed)
            if record is None:
                left.append((config, seed))
            else:
                done.append(record)
        return done, left

    def execute(self, runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
        """Do runs, keep what becomes of each, and tell it, in the order in which they end.

        Raises
        ------
        InvalidInput
            A result cannot be written, or a worker has other versions than this process.
        """
        self.store.check_space(len(runs))
        own = versions()
        wanted = self.workers
        if wanted is None and self.scheduler is None:
            wanted = min(available_threads(), ThreadBudget.of(self.threads).count)
        with workers_of(self.backend, wanted, self.scheduler) as workers:
            share = ThreadBudget.of(self.threads).share(workers.number).count if workers.local else self.threads or 1
            for record in _unordered(workers, runs, share):
                self.store.save(record)
                theirs, ours = (versions_tag(record["config"]["task"], v) for v in (record["versions"], own))
                if theirs != ours:
                    raise InvalidInput(f"a worker has {theirs}, but this process has {ours}; install the same on all")
                yield record


def sweep_fields(sweep: Sweep) -> dict[str, Any]:
    """The resolved sweep, as `sweep.json` keeps it."""
    return {
        "format": FORMAT,
        "seeds": list(sweep.seeds),
        "configs": {config.hash: config.fields for config in sweep.configs},
        "backend": sweep.backend,
        "versions": versions(),
        "machine": machine(),
    }


# ---- parts -------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=16)
def _prepared(task: str, model: str, dtype: str) -> tuple[Task, Predictor]:
    """A task and its model, compiled once per process."""
    made = make_task(task)
    return made, predictor_for(made, model, dtype if model == "analytic" else None)


def _budget_ms(config: RunConfig, dt: float) -> float | None:
    return None if config.time_share is None else 1e3 * config.time_share * config.controls_per_plan * dt


def _unordered(workers: Workers, runs: Sequence[Run], threads: int) -> Iterator[dict[str, Any]]:
    """What becomes of each run. Those that were under way when a worker died are done again, one by one."""
    parallel = workers.parallel(threads)
    waiting = {(config.hash, seed): (config, seed) for config, seed in runs}
    begun: list[tuple[str, int]] = []

    def tasks(some: Sequence[Run]) -> Iterator[Any]:
        begun.clear()
        for config, seed in some:
            begun.append((config.hash, seed))
            yield joblib.delayed(execute)(config, seed, threads)

    while waiting:
        try:
            ending = parallel(tasks(list(waiting.values())))
            importlib.import_module("scipy.special")  # the workers start, and the tables at the end need it
            for record in ending:
                del waiting[record["hash"], record["seed"]]
                yield record
        except workers.died:
            suspects = [key for key in begun if key in waiting]
            if not suspects:
                raise
            for key in suspects:
                run = waiting.pop(key)
                try:
                    yield from parallel(tasks([run]))
                except workers.died:
                    yield _death(run, threads)


def _death(run: Run, threads: int) -> dict[str, Any]:
    config, seed = run
    return {
        "format": FORMAT,
        "hash": config.hash,
        "seed": seed,
        "config": config.fields,
        "versions": versions(),
        "machine": machine(threads),
        "error": "the worker process died: it was killed, ran out of memory, or crashed",
        "traceback": "",
    }


def _outcome(result: RunResult) -> dict[str, Any]:
    """What the seed determines, and no clock."""
    (record,) = result.records
    so_far = np.cumsum(record.rewards)
    points = np.unique(np.linspace(1, so_far.size, min(_CURVE, so_far.size)).round().astype(int))
    return {
        "return": record.total,
        "planning_cost": record.planning_cost if np.isfinite(record.planning_cost) else None,
        "steps": len(record.controls),
        "ended": record.ended,
        "samples": result.samples,
        "failed_samples": result.failed_samples,
        "fallbacks": result.fallbacks,
        "control_hash": result.control_hash,
        "curve": {"steps": points.tolist(), "returns": so_far[points - 1].tolist()},
    }


def _timing(result: RunResult, seconds: float) -> dict[str, Any]:
    (record,) = result.records
    times = record.plan_ms[np.isfinite(record.plan_ms)]
    bins, counts = np.unique(np.floor(_BINS_PER_DECADE * np.log10(times)).astype(int), return_counts=True)
    return {
        "plan_ms": dict(result.plan_ms),
        "plan_ms_histogram": {
            "lower": (10.0 ** (bins / _BINS_PER_DECADE)).tolist(),
            "ratio": 10 ** (1 / _BINS_PER_DECADE),
            "counts": counts.tolist(),
        },
        "control_period_ms": result.control_period_ms,
        "warmup_s": result.warmup_s,
        "seconds": seconds,
    }
