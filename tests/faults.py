"""What may go wrong around a controller, in one list, and a robot's loop that each of it is done to.

Each fault names the status and flags that docs/realtime.md promises for it. `Rig.check` holds for every answer,
whatever happens: finite, within bounds, and PLANNED only while the plan is as young as it is meant to be.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mpcrl.control.controller import Controller
from mpcrl.control.plan import Plan, Status
from mpcrl.control.realtime import Answer, Fault, RealtimeController
from mpcrl.core.errors import InvalidInput, MpcrlError
from mpcrl.models.analytic import Analytic
from mpcrl.models.mujoco import MuJoCo
from mpcrl.planners import PLANNERS
from mpcrl.planners.planner import Planner
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask

DT, HORIZON, HZ, DEADLINE = 0.02, 10, 50.0, 0.012
LOW, HIGH, SAFE = np.array([-1.0]), np.array([2.0]), np.array([0.25])
PLANNED, SHIFTED, SAFE_, STOPPED = Status.PLANNED, Status.SHIFTED, Status.SAFE, Status.STOPPED


class Params(NamedTuple):
    table: np.ndarray
    goal: float = 1.0
    growth: float = 1.0


def step(x: tuple[float, ...], u: tuple[float, ...], p: Params) -> tuple[float, ...]:
    return (x[0] + DT * x[1]) * p.growth, x[1] + DT * u[0]


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: Params) -> float:
    return (x[0] - p.goal) ** 2 + 0.1 * x[1] ** 2 + 0.01 * u[0] ** 2 + p.table[int(0.0 * x[1])]


TASK = AnalyticTask(
    name="cart",
    dt=DT,
    control_low=LOW,
    control_high=HIGH,
    params=Params(np.zeros(3)),
    cost=cost,
    episode_steps=100,
    state_names=("position", "speed"),
    control_names=("force",),
    step=step,
    reset=lambda rng: rng.uniform(-0.1, 0.1, 2),
)


class SpoilableModel(Analytic):
    """A task's model, the cart's if not given; `spoil` is done to all costs that it gives."""

    def __init__(self, task: AnalyticTask = TASK) -> None:
        super().__init__(task)
        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda costs: costs

    def costs(self, *arguments: Any) -> np.ndarray:
        return self.spoil(super().costs(*arguments))

    @property
    def local(self) -> Any:
        return self

    def expand(self, *arguments: Any) -> Any:
        return super().local.expand(*arguments)

    def follow(self, *arguments: Any) -> Any:
        states, controls, costs = super().local.follow(*arguments)
        return states, controls, self.spoil(costs)


class SpoilablePhysics(MuJoCo):
    """The same for a task in MuJoCo."""

    def __init__(self, task: MujocoTask) -> None:
        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda costs: costs
        super().__init__(task)

    def costs(self, *arguments: Any) -> np.ndarray:
        return self.spoil(super().costs(*arguments))


_model = functools.cache(SpoilableModel)
"""One for all rigs: making it takes longer than a run."""


def planner_named(name: str) -> Planner:
    return PLANNERS[name](budget=32, horizon=HORIZON)


@dataclass
class Rig:
    """A cart in closed loop with a real-time controller; the hooks spoil what passes between them."""

    planner: str
    seed: int = 0
    threaded: bool = False
    state: Callable[[np.ndarray], Any] = lambda state: state
    stamp: Callable[[float], float] = lambda stamp: stamp
    now: Callable[[float], float] = lambda now: now
    params: Params | None = None
    errors: list[MpcrlError] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = _model()
        self.model.spoil = lambda costs: costs
        self.controller = Controller(
            TASK, planner_named(self.planner), model=self.model, seed=self.seed, threads=1, safe_control=SAFE
        )
        self.realtime = self.controller.realtime(
            hz=HZ, deadline=DEADLINE, lockstep=not self.threaded, stop_after=4 * DT
        )
        self.lead = 1
        self.oldest = self.lead * DT + 1.8 / HZ + 1e-9
        self.time = time.monotonic() if self.threaded else 100.0
        self.x = TASK.reset(np.random.default_rng(self.seed))

    def tick(self) -> Answer:
        """One control period: submit, and ask for two controls."""
        try:
            self.realtime.submit(self.state(self.x), self.stamp(self.time), self.params)
        except InvalidInput as error:
            self.errors.append(error)
        for _ in range(2):
            self.wait()
            answer = self.realtime.control(self.now(self.time))
            self.check(answer)
            self.answers.append(answer)
            self.x = np.array(step(tuple(self.x), tuple(answer.control), TASK.params))
            self.time += DT / 2
        return answer

    def wait(self) -> None:
        """Keep to the clock, and take the time as it is where something held the process up."""
        if self.threaded:
            time.sleep(max(0.0, self.time - time.monotonic()))
            self.time = max(self.time, time.monotonic())

    def check(self, answer: Answer) -> None:
        assert answer.control.shape == (1,) and np.isfinite(answer.control).all()
        assert (answer.control >= LOW).all() and (answer.control <= HIGH).all()
        assert isinstance(answer.status, Status) and isinstance(answer.faults, Fault)
        assert answer.status is not PLANNED or answer.age <= self.oldest
        assert answer.status not in (SAFE_, STOPPED) or (answer.age == np.inf and np.array_equal(answer.control, SAFE))

    def run(self, ticks: int) -> Answer:
        for _ in range(ticks):
            answer = self.tick()
        return answer

    def until(self, wanted: Callable[[Answer], bool], ticks: int) -> Answer:
        """Run until an answer is as wanted; an error after so many control periods."""
        for _ in range(ticks):
            answer = self.tick()
            if wanted(answer):
                return answer
        raise AssertionError(f"not in {ticks} control periods; last {answer}")

    def recover(self, healthy: Callable[[Answer], bool], ticks: int) -> None:
        """Run until an answer is healthy; in real time a machine that is busy may stop the controller anew."""
        for _ in range(ticks):
            if healthy(self.tick()):
                return
            if self.threaded and self.realtime.stopped:
                self.realtime.release()
        raise AssertionError(f"not well after {ticks} control periods; last {self.answers[-1]}")

    def heal(self) -> None:
        self.state, self.stamp, self.now = (lambda state: state), (lambda stamp: stamp), (lambda now: now)
        self.model.spoil, self.params = (lambda costs: costs), TASK.params

    def close(self) -> None:
        self.realtime.close()


class Ledger:
    """What was planned and when, kept beside a controller: which answers were stale, whatever they say themselves.

    Each state is submitted with params of its own, equal but another object, by which its plan is recognised.
    """

    def __init__(self, realtime: RealtimeController, hz: float, deadline: float, clock: Callable[[], float]) -> None:
        self.realtime, self.clock = realtime, clock
        controller = realtime.controller
        self.params, self.dt, self.plan = controller.task.params, controller.task.dt, controller.plan
        self.lead = np.ceil(deadline / self.dt - 1e-6) * self.dt
        self.oldest = self.lead + 1.8 / hz + 1e-6
        self.stamps: dict[int, tuple[Any, float]] = {}
        self.planned: list[tuple[float, float]] = []  # when a plan was there, and of which stamp
        self.stale = self.unflagged = self.too_young = 0
        self.there = -np.inf  # when the last answer was
        controller.plan = self._plan  # type: ignore[method-assign]

    def _plan(self, state: np.ndarray, **options: Any) -> Plan:
        plan = self.plan(state, **options)
        if plan.status is PLANNED:
            self.planned.append((self.clock(), self.stamps[id(options["params"])][1]))
        return plan

    def submit(self, state: np.ndarray, stamp: float) -> bool:
        params = self.params._replace()
        self.stamps[id(params)] = params, stamp
        return self.realtime.submit(state, stamp, params)

    def control(self) -> Answer:
        """Ask, and count what is older than PLANNED may be, was said to be PLANNED, or was said to be younger."""
        asked = self.clock()
        answer = self.realtime.control(asked)
        self.there = self.clock()
        reached = [s for when, s in self.planned if when <= self.there and s + self.lead <= asked + 1e-6]
        age = asked - max(reached, default=-np.inf)  # at the least
        stale = age > self.oldest
        self.stale += stale
        self.unflagged += stale and answer.status is PLANNED
        self.too_young += answer.age < age - 1e-6
        return answer


class Case(NamedTuple):
    """A fault that lasts.

    Attributes
    ----------
    name : str
    provoke : callable of Rig
        Sets the rig's hooks.
    status : Status
        A few control periods after it began. SHIFTED goes on to SAFE and STOPPED while the fault lasts.
    flags : Fault
        That are raised by then.
    error : bool
        Whether `submit` raises InvalidInput.
    threaded : bool
        Needs the planner thread and real time.
    """

    name: str
    provoke: Callable[[Rig], None]
    status: Status
    flags: Fault = Fault.NONE
    error: bool = False
    threaded: bool = False


def _set(name: str, value: Any) -> Callable[[Rig], None]:
    return lambda rig: setattr(rig, name, value)


def _spoil(spoil: Callable[[np.ndarray], np.ndarray]) -> Callable[[Rig], None]:
    return lambda rig: setattr(rig.model, "spoil", spoil)


def _one(value: float) -> Callable[[Rig], None]:
    def spoil(costs: np.ndarray) -> np.ndarray:
        costs = costs.copy()
        costs[-1:] = value if len(costs) > 1 else costs[-1:]
        return costs

    return _spoil(spoil)


def _raise(error: Exception) -> Callable[[Rig], None]:
    def spoil(costs: np.ndarray) -> np.ndarray:
        raise error

    return _spoil(spoil)


def _stall(periods: float) -> Callable[[Rig], None]:
    """Every evaluation of the model takes as long as so many deadlines."""

    def spoil(costs: np.ndarray) -> np.ndarray:
        time.sleep(periods * DEADLINE)
        return costs

    return _spoil(spoil)


def _frozen_stamp(rig: Rig) -> None:
    rig.stamp = lambda stamp, last=rig.time - DT: last  # type: ignore[misc]


def _clock_back(rig: Rig) -> None:
    rig.now = lambda now: now - 50.0


def _strided(state: np.ndarray) -> np.ndarray:
    return np.repeat(state, 2)[::2]


def _read_only(state: np.ndarray) -> np.ndarray:
    state = state.copy()
    state.setflags(write=False)
    return state


def _busy(rig: Rig) -> None:
    """Another thread is inside the controller's `plan`, for ever; until `heal` there is no way in."""
    rig.controller._busy.acquire()
    heal = rig.heal

    def healed() -> None:
        rig.controller._busy.release()
        heal()

    rig.heal = healed  # type: ignore[method-assign]


def _other_types(rig: Rig) -> None:
    """Params and states of types that kernels were not compiled for."""
    table = np.zeros(6, np.float32)[::2]
    table.setflags(write=False)
    rig.params = Params(table, 1, np.float32(1))  # type: ignore[arg-type]
    rig.state = lambda state: state.astype(np.float32)


CASES = (
    Case("state NaN", _set("state", lambda x: np.array([np.nan, 0.0])), SHIFTED, Fault.STATE),
    Case("state inf", _set("state", lambda x: np.array([0.0, -np.inf])), SHIFTED, Fault.STATE),
    Case("state 1e300", _set("state", lambda x: np.array([1e300, 0.0])), SHIFTED, Fault.MODEL),
    Case("state of a wrong shape", _set("state", lambda x: np.zeros(3)), SHIFTED, Fault.SILENT, error=True),
    Case("state of a wrong dtype", _set("state", lambda x: ["fast", "slow"]), SHIFTED, Fault.SILENT, error=True),
    Case("state read-only", _set("state", _read_only), PLANNED),
    Case("state strided", _set("state", _strided), PLANNED),
    Case("stale stamp", _frozen_stamp, SHIFTED, Fault.STAMP),
    Case("stamps going back", _set("stamp", lambda stamp: stamp - 50.0), SHIFTED, Fault.STAMP),
    Case("clock going back", _clock_back, PLANNED, Fault.CLOCK),
    Case("one NaN cost", _one(np.nan), PLANNED),
    Case("one -inf cost", _one(-np.inf), PLANNED),
    Case("all costs NaN", _spoil(lambda costs: np.full_like(costs, np.nan)), SHIFTED, Fault.MODEL),
    Case("all costs +inf", _spoil(lambda costs: np.full_like(costs, np.inf)), SHIFTED, Fault.MODEL),
    Case("all costs -inf", _spoil(lambda costs: np.full_like(costs, -np.inf)), SHIFTED, Fault.MODEL),
    Case("overflow", _set("params", TASK.params._replace(goal=1e200)), SHIFTED, Fault.MODEL),
    Case("divergence", _set("params", TASK.params._replace(growth=1e200)), SHIFTED, Fault.MODEL),
    Case("params of another shape", _set("params", TASK.params._replace(table=np.zeros(4))), SHIFTED, Fault.MODEL),
    Case("a model that raises", _raise(ValueError("no")), SHIFTED, Fault.MODEL),
    Case("a covariance that is not positive", _raise(np.linalg.LinAlgError("not PSD")), SHIFTED, Fault.MODEL),
    Case("concurrent call", _busy, SHIFTED, Fault.MODEL),
    Case("types that would compile", _other_types, PLANNED),
    Case("a stall of 2 deadlines", _stall(2), PLANNED, Fault.LATE, threaded=True),
    Case("a stall of 10 deadlines", _stall(10), SHIFTED, Fault.LATE, threaded=True),
)
"""Faults of input, model and run time that a running controller meets; those of files and of fork are met before, or in
another process: see test_realtime.py."""


def drive(case: Case, planner: str, seed: int = 0) -> list[Answer]:
    """A healthy run, the fault until the controller has stopped or stays well, the end of the fault; its answers."""
    rig = Rig(planner, seed, case.threaded)
    try:
        healthy = lambda a: a.status is PLANNED and not a.faults  # noqa: E731
        rig.until(healthy, 200 if case.threaded else 3)
        signatures = list(rig.model._kernels.costs.signatures)
        case.provoke(rig)
        if case.threaded:
            rig.until(lambda a: (a.status is case.status or a.status is not PLANNED) and case.flags in a.faults, 200)
        else:
            answer = rig.run(4)
            assert answer.status is case.status and case.flags in answer.faults, answer
        assert bool(rig.errors) == case.error
        begin = len(rig.answers)
        if case.status is SHIFTED and not case.threaded:
            rig.until(lambda a: a.status is STOPPED, HORIZON + 6)
            seen = [a.status for a in rig.answers[begin:]]
            order = [SHIFTED, SAFE_, STOPPED]
            assert [order.index(s) for s in seen] == sorted(order.index(s) for s in seen)
        else:
            rig.run(6)
        rig.heal()
        time.sleep(10 * DEADLINE * case.threaded)  # the stalled plan ends
        if rig.realtime.stopped:
            rig.until(lambda a: a.status is STOPPED, 3)
            rig.realtime.release()
        rig.recover(healthy, 200 if case.threaded else 4)
        assert rig.model._kernels.costs.signatures == signatures
        return rig.answers
    finally:
        rig.close()
