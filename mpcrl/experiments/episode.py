"""One episode: see, plan, apply, record."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from mpcrl.control.controller import Controller
from mpcrl.control.plan import Actor, Plan, Status
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.worlds import Signals, World


class Progress(NamedTuple):
    """Where a run stands after a control step.

    Attributes
    ----------
    episode, episodes : int
        Counted from 1.
    step, steps : int
        Of this episode, and at most.
    episode_return : float
        So far.
    plan_ms : float
        Of the last plan; NaN before the first.
    """

    episode: int
    episodes: int
    step: int
    steps: int
    episode_return: float
    plan_ms: float


class Counts(NamedTuple):
    """What planning an episode came to.

    Attributes
    ----------
    samples, failed : int
        Trajectories simulated, and those that were not finite.
    fallbacks : int
        Controls that no plan gave, or one that could not be renewed.
    """

    samples: int = 0
    failed: int = 0
    fallbacks: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """What happened in one episode of T control steps.

    Attributes
    ----------
    seed : int
    states : ndarray [T + 1, nx]
    controls : ndarray [T, nu]
    rewards : ndarray [T]
    planning_costs : ndarray [T]
        Of the states and controls as they came about; see `Outcome`.
    plan_ms : ndarray [T]
        Of the plan that began at each control step; NaN where none did.
    counts : Counts
    ended : {"terminated", "time limit", "diverged", "steps done", "interrupted"}
    signals : tuple of Signals
        What is worth plotting of the states.
    control_names : tuple of str
    """

    seed: int
    states: np.ndarray
    controls: np.ndarray
    rewards: np.ndarray
    planning_costs: np.ndarray
    plan_ms: np.ndarray
    counts: Counts
    ended: str
    signals: tuple[Signals, ...]
    control_names: tuple[str, ...]

    @property
    def total(self) -> float:
        """The return: the sum of all rewards, in order."""
        return float(sum(self.rewards.tolist()))

    @property
    def planning_cost(self) -> float:
        """The sum of all planning costs, in order; minus the return where the task has no planning cost of its own."""
        return float(sum(self.planning_costs.tolist()))


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Runs episodes of a world under a controller.

    Attributes
    ----------
    controller : Actor
    world : World
    conditions : Conditions
    budget_ms : float or None
        Time limit of each plan.
    interrupted : threading.Event
        Ends the episode after the control step at hand.
    """

    controller: Actor
    world: World
    conditions: Conditions
    budget_ms: float | None
    interrupted: threading.Event

    def run(self, seed: int, state: np.ndarray, where: Progress, on_step: Callable[[Progress], None]) -> Episode:
        """One episode from its first state, of `where.steps` control steps at most."""
        drive: _Drive = _Realtime(self) if self.conditions.mode == "realtime" else _Lockstep(self)
        sensor = _Sensor(self, seed)
        states, controls, rewards, costs, times = [state], [], [], [], []
        total, ended, counts, plan_ms = 0.0, "", Counts(), math.nan
        while not ended:
            control, plan, fell_back = drive.control(sensor.seen(state))
            state, reward, cost, ended = self.world.step(control)
            states.append(state)
            controls.append(control)
            rewards.append(reward)
            costs.append(cost)
            fresh = plan is not None and not (plan.status is Status.PLANNED and plan.iterations == 0)
            plan_ms = plan.milliseconds if plan and fresh else plan_ms
            times.append(plan_ms if fresh else math.nan)
            samples, failed = (plan.samples, plan.failed) if plan else (0, 0)
            counts = Counts(counts.samples + samples, counts.failed + failed, counts.fallbacks + fell_back)
            total += reward
            on_step(where._replace(step=len(controls), episode_return=total, plan_ms=plan_ms))
            if not ended and len(controls) >= where.steps:
                ended = "steps done"
            if not ended and self.interrupted.is_set():
                ended = "interrupted"
        return Episode(
            seed=seed,
            states=np.array(states),
            controls=np.array(controls),
            rewards=np.array(rewards),
            planning_costs=np.array(costs),
            plan_ms=np.array(times),
            counts=counts,
            ended=ended,
            signals=self.world.signals(np.array(states)),
            control_names=self.world.control_names,
        )


_SENSOR = 1  # keeps the sensor's random numbers apart from those of the reset


# ---- parts -------------------------------------------------------------------------------------------------------
class _Drive(Protocol):
    def control(self, seen: np.ndarray) -> tuple[np.ndarray, Plan | None, bool]:
        """The control of the next step, the plan that began at it if any, and whether it is a fallback."""
        ...


class _Lockstep:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def control(self, seen: np.ndarray) -> tuple[np.ndarray, Plan | None, bool]:
        loop = self.loop
        plan = loop.controller.plan(seen, budget_ms=loop.budget_ms, params=loop.world.params)
        return plan.control, plan, plan.status is not Status.PLANNED


class _Realtime:
    """Plans serve from when they are ready; the clock is that of the world, in control periods."""

    def __init__(self, loop: Loop) -> None:
        assert isinstance(loop.controller, Controller)
        self.loop, self.controller = loop, loop.controller
        self.step = -1
        self.begun, self.ready = 0, 0  # of the plan in the making
        self.coming: Plan | None = None
        self.serving: Plan | None = None
        self.serving_begun = 0
        self.applied = self.controller.space.middle

    def control(self, seen: np.ndarray) -> tuple[np.ndarray, Plan | None, bool]:
        controller = self.controller
        dt, plan = controller.task.dt, None
        self.step += 1
        if self.step >= self.ready:
            if self.coming is not None:
                self.serving, self.serving_begun = self.coming, self.begun
            plan = controller.plan(
                seen,
                budget_ms=self.loop.budget_ms,
                elapsed=(self.step - self.begun) * dt,
                params=self.loop.world.params,
            )
            self.coming, self.begun = plan, self.step
            self.ready = self.step + math.ceil(1e-3 * plan.milliseconds / dt)
        age = self.step - self.serving_begun
        over = self.serving is None or age >= len(self.serving.controls)
        wanted = controller.space.middle if self.serving is None or over else self.serving.controls[age]
        self.applied = controller.space.admit(wanted, self.applied, dt)
        late = over or (self.serving is not None and self.serving.status is not Status.PLANNED)
        return self.applied, plan, late


class _Sensor:
    """What the controller sees of the world's states: late, and with noise."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.world, self.noise = loop.world, loop.conditions.noise
        self.late = deque[np.ndarray](maxlen=loop.conditions.delay_steps(loop.controller.task.dt) + 1)
        self.rng = np.random.default_rng((seed, _SENSOR))

    def seen(self, state: np.ndarray) -> np.ndarray:
        self.late.append(self.world.perturbed(state, self.noise, self.rng) if self.noise else state)
        return self.late[0]
