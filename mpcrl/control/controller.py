"""The controller: plans as the world moves, and always answers with a control that is finite and within bounds."""

from __future__ import annotations

import enum
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpcrl.core.checks import finite_vector, positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.models import model_of
from mpcrl.models.model import Model
from mpcrl.planners.planner import IterationInfo, Planner, Problem
from mpcrl.planners.space import ControlSpace
from mpcrl.tasks.task import Task

_HISTORY = 10_000
_LEAST = 4  # samples below which an iteration is not worth its time
_MARGIN = 0.9  # share of the time left that an iteration may be expected to take


class Status(enum.Enum):
    """How a control came about; the order is that of the fallbacks."""

    PLANNED = "planned"  # fresh, or as old as `controls_per_plan` means it to be
    SHIFTED = "shifted"  # no finite plan was found: the last one, moved on
    SAFE = "safe"  # the last plan is over as well: the user's safe control


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """One answer of the controller.

    Attributes
    ----------
    control : ndarray [nu]
        To apply now: finite, within bounds and rates.
    status : Status
    age : float
        Seconds since the state that the plan was made for; 0 for a fresh plan, inf for the safe control.
    controls : ndarray [H, nu]
        The whole plan.
    cost : float
        Of the cheapest trajectory seen; NaN where the plan is not fresh.
    milliseconds : float
        That planning took.
    iterations, samples, failed : int
        Completed iterations, trajectories simulated in them, and those that were not finite; 0 in a call that did not
        plan.
    effective_sample_size : float
        Of the last iteration.
    """

    control: np.ndarray
    status: Status
    age: float
    controls: np.ndarray
    cost: float
    milliseconds: float
    iterations: int
    samples: int
    failed: int
    effective_sample_size: float


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The health of the plans since the last reset.

    Attributes
    ----------
    plans : int
    p50_ms, p99_ms, max_ms : float
        Of planning, over the last 10,000 plans; NaN before the first.
    effective_sample_size : float
        Median over the same plans.
    samples, failed_samples : int
        Trajectories simulated, and those that were not finite.
    fallbacks : int
        Answers that were no fresh plan.
    cost_terms : dict
        Terms of the stage cost at the last state and control; one entry "cost" where the task's cost is one number.
    """

    plans: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    effective_sample_size: float
    samples: int
    failed_samples: int
    fallbacks: int
    cost_terms: dict[str, float]


class Controller:
    """Model-predictive control of one task.

    Parameters
    ----------
    task : Task
    planner : Planner
        Say `mpcrl.planners.icem(budget=100, horizon=30)`.
    model : Model, optional
        What predicts; the task's own dynamics or physics if not given.
    seed : int
        Keys all random numbers: the same seed, states and parameters give the same controls, at any thread count.
    threads : int, optional
        Threads to plan with; all that this process may use if not given.
    rate_limit : float or ndarray [nu], optional
        Largest change of a control per second.
    safe_control : ndarray [nu], optional
        Given when there is no plan left; the middle of the bounds if not given.
    controls_per_plan : int
        Controls that are taken of each plan: `plan` plans anew at every so many calls, and moves on in between. A model
        too slow for every control period so gets several of them for each plan.
    """

    def __init__(
        self,
        task: Task,
        planner: Planner,
        *,
        model: Model | None = None,
        seed: int = 0,
        threads: int | None = None,
        rate_limit: float | np.ndarray | None = None,
        safe_control: np.ndarray | None = None,
        controls_per_plan: int = 1,
    ) -> None:
        self.task, self.planner = task, planner
        self.model = model_of(task) if model is None else model
        self.threads = ThreadBudget.of(threads)
        self.space = ControlSpace.of(task.control_low, task.control_high, task.dt, rate_limit, self.model.dtype)
        self._solver = planner.bind(self.space)
        safe = self.space.middle if safe_control is None else finite_vector("safe_control", safe_control, task.nu)
        if not ((safe >= self.space.low) & (safe <= self.space.high)).all():
            raise InvalidInput(f"safe_control must lie within the bounds, got {safe.tolist()}")
        self._safe = safe
        if positive_integer("controls_per_plan", controls_per_plan) > planner.horizon:
            raise InvalidInput(
                f"controls_per_plan must be at most the planner's horizon of {planner.horizon}, got {controls_per_plan}"
            )
        self._controls_per_plan = controls_per_plan
        self.settings = {
            "threads": threads,
            "rate_limit": rate_limit,
            "safe_control": safe_control,
            "controls_per_plan": controls_per_plan,
        }
        """The arguments beside task, planner, model and seed, as they were given."""
        self._seconds_per_sample = 0.0
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Forget the last plan and all statistics, at the start of an episode; a `seed` replaces the last one."""
        if seed is not None:
            if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
                raise InvalidInput(f"seed must be an integer in [0, 2^64), got {seed!r}")
            self._seed = int(seed)
        self._state = self._solver.init()
        self._plans = 0
        self._steps = 0.0  # control steps since the reset
        self._planned_at = 0.0
        self._to_come = 0  # calls that the last plan serves without a new one
        self._controls: np.ndarray | None = None
        self._applied = self.space.middle
        self._times: deque[float] = deque(maxlen=_HISTORY)
        self._effective: deque[float] = deque(maxlen=_HISTORY)
        self._samples = self._failed = self._fallbacks = 0
        self._last: tuple[np.ndarray, np.ndarray, int, Any] | None = None

    @property
    def seed(self) -> int:
        """What keys all random numbers."""
        return self._seed

    def warmup(self, state: np.ndarray | None = None) -> float:
        """Compile or load all kernels and measure the rate of samples; the controller is as if new afterwards.

        Parameters
        ----------
        state : ndarray [nx], optional
            One to plan from; a state of the task's reset if not given.

        Returns
        -------
        float
            Seconds that it took.
        """
        begin = time.perf_counter()
        start = self.model.example_state() if state is None else state
        for _ in range(3):
            self._to_come = 0
            self.plan(start)
        self.reset()
        return time.perf_counter() - begin

    def act(self, state: np.ndarray, params: Any = None) -> np.ndarray:
        """The control [nu] for a state [nx], one control period after the last call.

        `params` replace the task's own for this call.
        """
        return self.plan(state, params=params).control

    def plan(
        self,
        state: np.ndarray,
        *,
        budget_ms: float | None = None,
        elapsed: float | None = None,
        params: Any = None,
    ) -> Plan:
        """Plan from a state, and say how it went.

        Parameters
        ----------
        state : ndarray [nx]
            A wrong shape is an error; values that are not finite lead to a fallback.
        budget_ms : float, optional
            Time for planning: as many samples and iterations as fit; the best so far is returned.
        elapsed : float, optional
            Seconds since the last call; one control period if not given.
        params : NamedTuple, optional
            The task's own if not given.
        """
        begin = time.perf_counter()
        deadline = np.inf if budget_ms is None else begin + 1e-3 * positive_number("budget_ms", budget_ms)
        if self._controls is not None or self._steps or self._plans:
            seconds = self.task.dt if elapsed is None else elapsed
            if not (np.isfinite(seconds) and seconds >= 0):
                raise InvalidInput(f"elapsed must be a finite number of seconds of at least 0, got {elapsed!r}")
            self._steps += seconds / self.task.dt
        params = self.task.params if params is None else params
        start = self._checked(state)
        if self._to_come and start is not None and self._whole_steps_old() < self.planner.horizon:
            self._to_come -= 1
            return self._answer(start, params, Status.PLANNED, [], begin)
        infos: list[IterationInfo] = []
        if start is not None:
            problem = Problem(self.model, start, round(self._steps), params, self.threads, self._seed, self._plans)
            infos = self._improve(problem, deadline)
        self._plans += 1
        fresh = _best_cost(infos) < np.inf
        self._to_come = self._controls_per_plan - 1 if fresh else 0
        plan = self._answer(start, params, Status.PLANNED if fresh else Status.SHIFTED, infos, begin)
        self._times.append(plan.milliseconds)
        self._effective.append(plan.effective_sample_size)
        return plan

    def stats(self) -> Stats:
        """Statistics since the last reset."""
        times = np.array(self._times) if self._times else np.array([np.nan])
        terms = {} if self._last is None else self.model.terms(*self._last)
        return Stats(
            plans=self._plans,
            p50_ms=float(np.percentile(times, 50)),
            p99_ms=float(np.percentile(times, 99)),
            max_ms=float(times.max()),
            effective_sample_size=float(np.median(self._effective)) if self._effective else np.nan,
            samples=self._samples,
            failed_samples=self._failed,
            fallbacks=self._fallbacks,
            cost_terms=terms,
        )

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _checked(self, state: np.ndarray) -> np.ndarray | None:
        """The state as the model takes it; None where it is not finite."""
        try:
            vector = np.array(state, np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"state must be a vector of {self.model.nx} numbers, got {state!r}") from error
        if vector.shape != (self.model.nx,):
            raise InvalidInput(f"state must be a vector of {self.model.nx} numbers, got the shape {vector.shape}")
        return vector if _finite(vector) else None

    def _improve(self, problem: Problem, deadline: float) -> list[IterationInfo]:
        """Run the planner's iterations while time lasts; keep its state if any sample was finite."""
        solver = self._solver
        state = solver.start(self._state, self._steps - self._planned_at, self._applied)
        infos: list[IterationInfo] = []
        for _ in range(solver.iterations(state)):
            samples, begin = solver.samples(state), time.perf_counter()
            if deadline < np.inf:
                affordable = _MARGIN * (deadline - begin) / max(self._seconds_per_sample, 1e-9)
                least = min(samples, _LEAST)
                if affordable < least:
                    self._seconds_per_sample *= 0.9  # one slow iteration must not end all planning: try again soon
                    break
                share = affordable / solver.remaining(state)  # each iteration gives up the same share of its samples
                samples = min(samples, max(least, int(samples * share)))
            state, info = solver.iterate(state, problem, samples)
            spent = (time.perf_counter() - begin) / max(1, info.samples)
            self._seconds_per_sample += 0.5 * (spent - self._seconds_per_sample) if self._seconds_per_sample else spent
            infos.append(info)
            if solver.settled(state):
                break
        if _best_cost(infos) < np.inf:
            self._state, self._planned_at = solver.end(state), self._steps
            self._controls = solver.controls(state)
        return infos

    def _whole_steps_old(self) -> int:
        """Control steps of the last plan that are over."""
        return int(self._steps - self._planned_at + 1e-9)

    def _answer(
        self, start: np.ndarray | None, params: Any, status: Status, infos: list[IterationInfo], begin: float
    ) -> Plan:
        """The control to apply by the order of fallbacks: fresh plan, last plan moved on, safe control."""
        steps_old = self._whole_steps_old()
        if self._controls is not None and steps_old < len(self._controls):
            controls = self._controls[steps_old:]
        else:
            status, controls = Status.SAFE, np.tile(self._safe, (self.planner.horizon, 1))
        control = self.space.admit(controls[0], self._applied, self.task.dt)
        if not _finite(control):
            status, control = Status.SAFE, self._safe.copy()
        self._applied = control
        samples, failed = sum(i.samples for i in infos), sum(i.failed for i in infos)
        self._samples, self._failed = self._samples + samples, self._failed + failed
        self._fallbacks += status is not Status.PLANNED
        if start is not None:
            self._last = start, control, round(self._steps), params
        cost = _best_cost(infos)
        return Plan(
            control=control.copy(),
            status=status,
            age=(self._steps - self._planned_at) * self.task.dt if status is not Status.SAFE else np.inf,
            controls=controls.copy(),
            cost=cost if cost < np.inf else np.nan,
            milliseconds=1e3 * (time.perf_counter() - begin),
            iterations=len(infos),
            samples=samples,
            failed=failed,
            effective_sample_size=infos[-1].effective_sample_size if infos else 0.0,
        )


def _best_cost(infos: list[IterationInfo]) -> float:
    """Of the cheapest trajectory; +inf where none was finite."""
    return min((info.best_cost for info in infos), default=np.inf)


def _finite(vector: np.ndarray) -> bool:
    """Quicker than NumPy for the few numbers of a state or a control."""
    return all(map(math.isfinite, vector.tolist()))
