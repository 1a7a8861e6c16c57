"""Our side: the same problems through mpcrl's public API."""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from systems import System
from worker import SystemWorker, clock, describe, serve

import mpcrl
from mpcrl.core.candidates import Candidates
from mpcrl.core.threads import ThreadBudget


def analytic_task(system: System) -> mpcrl.AnalyticTask:
    """A plain system as a task."""
    return mpcrl.AnalyticTask(
        name=system.name,
        dt=system.params.dt,
        control_low=np.array(system.low),
        control_high=np.array(system.high),
        params=system.params,
        cost=system.cost,
        terminal=system.terminal,
        episode_steps=system.steps,
        state_names=system.state_names,
        control_names=system.control_names,
        step=system.step,
        reset=lambda rng: np.array(system.start),
        solved=system.solved,
    )


class Systems(SystemWorker):
    """MPPI on a plain system, compiled into lanes."""

    def build(self, samples: int, horizon: int, threads: int) -> dict[str, Any]:
        system = self.system
        self.task = analytic_task(system)
        self.model = mpcrl.Analytic(self.task)
        planner = mpcrl.planners.mppi(
            budget=samples, horizon=horizon, width=system.width, temperature=system.temperature
        )
        self.controller = mpcrl.Controller(self.task, planner, model=self.model, threads=threads)
        self.controller.warmup()
        return describe("numba", "numpy") | {"version": mpcrl.__version__}

    def plan(self, state: tuple[float, ...]) -> np.ndarray:
        return self.controller.act(state)

    def forget(self) -> None:
        self.controller.reset()

    def total(self, controls: np.ndarray) -> np.ndarray:
        candidates = Candidates.from_rows(controls, np.float32)
        start = np.array(self.system.start)
        costs = self.model.costs(start, candidates, 0, self.task.params, ThreadBudget(1))
        return costs - self.system.terminal(self.system.start, self.task.params)


class Recorder:
    """A model that also keeps the controls it was asked to simulate, for others to simulate the same."""

    def __init__(self, model: Any) -> None:
        self.model, self.asked = model, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def costs(self, state: np.ndarray, candidates: Candidates, *rest: Any) -> np.ndarray:
        costs = self.model.costs(state, candidates, *rest)
        self.asked.append(candidates.rows())  # drawn by now: drawing is the model's own business
        return costs


class Environment:
    """iCEM on a MuJoCo task, in closed loop with the environment."""

    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        self.task = mpcrl.make_task(bench["environment"])
        self.model = Recorder(mpcrl.MuJoCo(self.task))
        planner = mpcrl.planners.icem(budget=bench["samples"], horizon=bench["horizon"], beta=bench["beta"])
        self.controller = mpcrl.Controller(self.task, planner, model=self.model, threads=threads)
        self.controller.warmup()
        self.env = self.task.make_env()
        self.folder = tempfile.TemporaryDirectory(prefix="mpcrl-bench-")
        self.start()
        for _ in range(10):
            self.step()
        return describe("mujoco", "numba", "numpy") | {"version": mpcrl.__version__}

    def start(self) -> None:
        self.env.reset(seed=0)
        self.controller.reset()

    def step(self) -> tuple[float, float]:
        """Plan and act; seconds of the plan, and the reward."""
        state = self.task.state(self.env)
        self.model.asked.clear()
        begin = time.perf_counter()
        control = self.controller.act(state)
        seconds = time.perf_counter() - begin
        self.last = state, np.concatenate(self.model.asked)
        return seconds, float(self.env.step(control.astype(self.env.action_space.dtype))[1])

    def time(self, repeats: int) -> dict[str, Any]:
        self.step()
        seconds, states, controls = [], [], []
        for _ in range(repeats):
            seconds.append(self.step()[0])
            states.append(self.last[0])
            controls.append(self.last[1])
        path = Path(self.folder.name) / "plans.npz"
        np.savez(path, state=np.array(states), controls=np.array(controls))
        return {"seconds": seconds, "controls": str(path)}

    def quality(self, steps: int, least: float) -> dict[str, Any]:
        self.start()
        total = sum(self.step()[1] for _ in range(steps))
        return {"solved": total >= least, "at": steps, "cost": -total}


class PushParams(NamedTuple):
    """Weights of judo's cylinder_push."""

    proximity: float = 0.5
    offset: float = 0.25  # m, of the pusher's place behind the cart
    cart: float = 0.1


def push_cost(before, u, after, t, p):
    """Half the squared distances of the cart to the origin, and of the pusher to its place behind the cart."""
    px, py, cx, cy = after.qpos[0], after.qpos[1], after.qpos[2], after.qpos[3]
    distance = max(math.sqrt(cx * cx + cy * cy), 1e-9)
    dx = px - cx - p.offset * cx / distance
    dy = py - cy - p.offset * cy / distance
    return 0.5 * p.proximity * (dx * dx + dy * dy) + 0.5 * p.cart * distance * distance


class Push:
    """Predictive sampling on judo's model of cylinder_push."""

    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        import mujoco

        self.mujoco = mujoco
        self.physics = mujoco.MjModel.from_xml_path(bench["model"])
        self.data = mujoco.MjData(self.physics)
        self.beginning = bench["start"]
        model = mpcrl.MuJoCo(bench["model"], cost=push_cost, params=PushParams(), fields=("qpos",), current=False)
        low, high = model.control_bounds
        self.task = mpcrl.Task(
            name="cylinder_push",
            dt=self.physics.opt.timestep,
            control_low=low,
            control_high=high,
            params=PushParams(),
            cost=push_cost,
            episode_steps=bench["steps"],
        )
        planner = mpcrl.planners.predictive_sampling(
            budget=bench["samples"], horizon=bench["horizon"], knots=bench["knots"], order=0, width=bench["width"]
        )
        self.controller = mpcrl.Controller(self.task, planner, model=model, threads=threads)
        self.controller.warmup()
        self.start()
        return describe("mujoco", "numba", "numpy") | {"version": mpcrl.__version__}

    def start(self) -> None:
        self.controller.reset()
        self.mujoco.mj_resetData(self.physics, self.data)
        self.data.qpos[:] = self.beginning
        self.mujoco.mj_forward(self.physics, self.data)

    def state(self) -> np.ndarray:
        spec = self.mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self.mujoco.mj_stateSize(self.physics, spec))
        self.mujoco.mj_getState(self.physics, self.data, state, spec)
        return state

    def time(self, repeats: int) -> dict[str, Any]:
        """Every plan starts anew, so that both sides simulate the same spread of controls."""
        self.start()
        state = self.state()
        return {"seconds": clock(lambda: self.controller.act(state), repeats, self.controller.reset)}

    def quality(self, steps: int) -> dict[str, Any]:
        """An episode as judo's worker runs it: a plan for every physics step."""
        self.start()
        total, solved_at = 0.0, None
        for t in range(steps):
            self.data.ctrl[:] = self.controller.act(self.state())
            self.mujoco.mj_step(self.physics, self.data)
            total += push_cost(None, None, self.data, t, PushParams())
            if math.hypot(*self.data.qpos[2:4]) >= 0.3:
                solved_at = None
            elif solved_at is None:
                solved_at = t + 1
        return {"solved": solved_at is not None, "at": solved_at, "cost": total}


class Worker:
    """Whichever of the above the benchmark is about."""

    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        kind = Systems if "system" in bench else Push if "model" in bench else Environment
        self.worker = kind()
        return self.worker.setup(bench, threads)

    def __getattr__(self, command: str) -> Any:
        return getattr(self.worker, command)


if __name__ == "__main__":
    serve(Worker())
