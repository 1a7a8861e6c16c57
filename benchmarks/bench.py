"""Our own speed: `python benchmarks/bench.py`. What each part of a plan costs on one thread and on two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numba
import numpy as np

from mpcrl import Analytic, Controller, make_task
from mpcrl.core.candidates import Candidates
from mpcrl.core.random import LANES, normal_lanes
from mpcrl.core.threads import ThreadBudget
from mpcrl.experiments.machine import processor
from mpcrl.planners import icem, mppi
from mpcrl.planners.space import ControlSpace

CASES = (
    ("pendulum-swingup", 1_000, 30),
    ("pendulum-swingup", 10_000, 30),
    ("quadrotor-obstacles", 4096, 50),
    ("diffdrive-costmap", 2000, 56),
)


def median(function: Callable[[], object], repeats: int = 40) -> float:
    """Median seconds of a call."""
    function()
    laps = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        laps.append(time.perf_counter() - begin)
    return statistics.median(laps)


def part(name: str, samples: int, horizon: int) -> None:
    """Rollouts alone, rollouts with their noise, and a whole plan, on 1 and 2 threads by turns."""
    task = make_task(name)
    model = Analytic(task)
    solver = mppi(budget=samples, horizon=horizon).bind(
        ControlSpace.of(task.control_low, task.control_high, task.dt, dtype=model.dtype)
    )
    state = model.example_state()
    steps = samples * horizon
    times: dict[str, dict[int, float]] = {"rollouts": {}, "rollouts and noise": {}, "plan": {}}
    for count in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        drawn, budget = solver.propose(solver.init(), 0, 0), ThreadBudget(count)
        drawn.blocks()

        def cost(candidates: Candidates | None = None, threads: ThreadBudget = budget) -> None:
            model.costs(state, candidates or solver.propose(solver.init(), 0, 1), 0, task.params, threads)

        controller = Controller(task, solver.planner, model=model, threads=count)
        times["rollouts"][count] = median(partial(cost, drawn))
        times["rollouts and noise"][count] = median(cost)
        times["plan"][count] = median(partial(controller.plan, state))
    for what, by_threads in times.items():
        one, several = by_threads[1], by_threads[max(by_threads)]
        print(
            f"{name:20s} {samples:6d} x {horizon}  {what:18s} {1e3 * several:8.3f} ms on {max(by_threads)} threads, "
            f"{1e3 * one:8.3f} on 1 ({one / several:.2f}x), {1e9 * several / steps:6.2f} ns per step"
        )


def main() -> None:
    print(f"{processor()}, {numba.config.NUMBA_NUM_THREADS} threads")
    normals = np.empty((1024, LANES), np.float32)
    seconds = median(lambda: normal_lanes(normals, 0, np.uint64(1), 0, 0, 0))
    print(f"normals: {1e9 * seconds / normals.size:.2f} ns each on 1 thread")
    for case in CASES:
        part(*case)
    task = make_task("cartpole-swingup")
    controller = Controller(task, icem(budget=100, horizon=30), threads=1)
    state = controller.model.example_state()
    print(
        f"cartpole-swingup iCEM 100 x 30, whole plan: {1e3 * median(lambda: controller.plan(state)):.3f} ms on 1 thread"
    )


if __name__ == "__main__":
    main()
