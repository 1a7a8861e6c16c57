"""MuJoCo alone: the physics of the very controls that a plan of ours tried, all in one call, and nothing else.

By either of MuJoCo's ways to step many simulations: `mujoco.batch`, or `mujoco.rollout`.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gymnasium
import mujoco
import numpy as np
from mujoco.batch import Batch
from mujoco.rollout import Rollout
from worker import describe, serve

INTEGRATION, FULL = mujoco.mjtState.mjSTATE_INTEGRATION, mujoco.mjtState.mjSTATE_FULLPHYSICS


class Worker:
    def __init__(self, way: str) -> None:
        self.simulate = {"batch": self.by_batch, "rollout": self.by_rollout}[way]

    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        env = gymnasium.make(bench["environment"]).unwrapped
        self.model, self.frame_skip = env.model, env.frame_skip
        self.data = [mujoco.MjData(self.model) for _ in range(threads)]
        self.pool = Rollout(nthread=threads)
        self.threads = threads
        self.made: dict[tuple[int, int], Any] = {}
        return describe("mujoco", "gymnasium", "numpy")

    def time(self, repeats: int, controls: str) -> dict[str, Any]:
        """Seconds of the physics of recorded plans: `state` [R, n] (integration) and `controls` [R, N, H, nu]."""
        with np.load(controls) as record:
            plans = list(zip(record["state"], record["controls"], strict=True))[:repeats]
        seconds = [self.simulate(state, np.repeat(held, self.frame_skip, axis=1)) for state, held in [plans[0], *plans]]
        return {"seconds": seconds[1:]}

    def by_batch(self, state: np.ndarray, controls: np.ndarray) -> float:
        count, steps, _ = controls.shape
        if (count, steps) not in self.made:
            self.made[count, steps] = Batch(self.model, count, self.threads)
        batch = self.made[count, steps]
        begin = time.perf_counter()
        batch.state[:] = state
        batch.rollout(steps, controls, record=())
        return time.perf_counter() - begin

    def by_rollout(self, state: np.ndarray, controls: np.ndarray) -> float:
        count, steps, _ = controls.shape
        mujoco.mj_setState(self.model, self.data[0], state, INTEGRATION)
        start = np.empty(mujoco.mj_stateSize(self.model, FULL))
        mujoco.mj_getState(self.model, self.data[0], start, FULL)
        starts, warmstart = np.tile(start, (count, 1)), np.tile(self.data[0].qacc_warmstart, (count, 1))
        if (count, steps) not in self.made:
            self.made[count, steps] = np.empty((count, steps, start.size))
        out = self.made[count, steps]
        begin = time.perf_counter()
        self.pool.rollout(self.model, self.data, starts, controls, initial_warmstart=warmstart, state=out)
        return time.perf_counter() - begin


if __name__ == "__main__":
    serve(Worker(sys.argv[1]))
