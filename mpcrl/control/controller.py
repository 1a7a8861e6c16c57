"""The controller: plans as the world moves, and always answers with a control that is finite and within bounds."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mpcrl.control.filters import SavitzkyGolay, Validator
from mpcrl.control.plan import Plan, Stats, Status
from mpcrl.control.realtime import Estimator, RealtimeController
from mpcrl.control.telemetry import Counter, Telemetry
from mpcrl.core.checks import finite, finite_vector, numbers, positive_integer, positive_number, vector
from mpcrl.core.errors import ConcurrentCall, InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.models import model_of
from mpcrl.models.model import Model
from mpcrl.planners.planner import IterationInfo, Planner, Problem
from mpcrl.planners.space import ControlSpace
from mpcrl.tasks.task import AnalyticTask, Task

__all__ = ["Controller", "Plan", "Stats", "Status"]

_LEAST = 4  # samples below which an iteration is not worth its time
_MARGIN = 0.9  # share of the time left that an iteration may be expected to take
_NEXT_BEST = 8  # samples that are offered to a validator after the plan itself


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
        Largest change of a control per second. Controls change from one control period to the next, by at most
        `rate_limit` dt, and are held in between: an actuator that follows makes a ramp of it.
    acceleration_limit : float or ndarray [nu], optional
        Largest change of that rate per second. Plans are brought within it; the planner itself does not know of it.
    smoothing : SavitzkyGolay, optional
        Applied to plans, before the limits.
    validator : callable, optional
        `validator(states, controls) -> bool` says whether a predicted trajectory, states [H + 1, nx] under controls
        [H, nu], may be used. If not, the cheapest samples are tried in order; if none is taken, there is no plan.
    safe_control : ndarray [nu], optional
        Given when there is no plan left; the middle of the bounds if not given.
    controls_per_plan : int
        Controls that are taken of each plan: `plan` plans anew at every so many calls, and moves on in between. A model
        too slow for every control period so gets several of them for each plan.
    telemetry : path, optional
        A file to keep the log of plans in, which `mpcrl monitor` shows live; best on a file system in memory, such as
        /dev/shm. What is there is replaced.

    Attributes
    ----------
    telemetry : Telemetry
        The log of the last 10,000 plans, in memory or in that file.
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
        acceleration_limit: float | np.ndarray | None = None,
        smoothing: SavitzkyGolay | None = None,
        validator: Validator | None = None,
        safe_control: np.ndarray | None = None,
        controls_per_plan: int = 1,
        telemetry: str | os.PathLike[str] | None = None,
    ) -> None:
        self.task, self.planner = task, planner
        self.model = model_of(task) if model is None else model
        self.threads = ThreadBudget.of(threads)
        self.space = ControlSpace.of(
            task.control_low, task.control_high, task.dt, rate_limit, self.model.dtype, acceleration_limit
        )
        self.memory = max(2, smoothing.past if smoothing else 0)
        """Control periods before a plan whose controls it depends on."""
        self._smooth = smoothing.matrix(planner.horizon) if smoothing else None
        self._validator = validator
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
        self.settings: Mapping[str, Any] = {
            "threads": threads,
            "rate_limit": rate_limit,
            "acceleration_limit": acceleration_limit,
            "smoothing": smoothing,
            "validator": validator,
            "safe_control": safe_control,
            "controls_per_plan": controls_per_plan,
        }
        """The arguments beside task, planner, model, seed and telemetry, as they were given."""
        self._seconds_per_sample = 0.0
        self._busy = threading.Lock()
        self.telemetry = self._telemetry(telemetry)
        self.reset(seed)

    @property
    def horizon(self) -> int:
        """H, control steps ahead."""
        return self.planner.horizon

    @property
    def safe_control(self) -> np.ndarray:
        """Given when there is no plan left [nu]."""
        return self._safe.copy()

    def reset(self, seed: int | None = None) -> None:
        """Forget the last plan and begin all statistics anew, at the start of an episode.

        A `seed` replaces the last one. The telemetry goes on.
        """
        if seed is not None:
            if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
                raise InvalidInput(f"seed must be an integer in [0, 2^64), got {seed!r}")
            self._seed = int(seed)
        self._state = self._solver.init()
        self._plans = 0
        self._steps = 0.0  # control steps since the reset
        self._started_at = self._planned_at = 0.0  # the solver's last plan, and the last one that was taken
        self._to_come = 0  # calls that the last plan serves without a new one
        self._controls: np.ndarray | None = None
        self._past = np.tile(self.space.middle, (self.memory, 1))  # controls of the last periods
        self._newest: IterationInfo | None = None
        self.telemetry.reset()
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
        self.telemetry.clear()
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
        applied: np.ndarray | None = None,
    ) -> Plan:
        """Plan from a state, and say how it went.

        Parameters
        ----------
        state : ndarray [nx]
            A wrong shape is an error; values that are not finite lead to a fallback.
        budget_ms : float, optional
            Time for planning: as many samples and iterations as fit; the best so far is returned.
        elapsed : float, optional
            Seconds since the last call, or the reset; one control period after a call, and none after a reset, if not
            given.
        params : NamedTuple, optional
            The task's own if not given.
        applied : ndarray [nu] or [n, nu], optional
            The controls of the last n periods before the plan begins, which limits and smoothing count from; the last
            answers if not given.

        Raises
        ------
        InvalidInput
        ConcurrentCall
            While another thread plans: the controller has one plan, and goes on with that.
        """
        if not self._busy.acquire(blocking=False):
            raise ConcurrentCall(
                "this controller is planning in another thread; give each thread a controller of its own, or use "
                "controller.realtime(), which plans in its own thread and never blocks"
            )
        try:
            return self._plan(state, budget_ms, elapsed, params, applied)
        finally:
            self._busy.release()

    def _plan(
        self,
        state: np.ndarray,
        budget_ms: float | None,
        elapsed: float | None,
        params: Any,
        applied: np.ndarray | None,
    ) -> Plan:
        begin = time.perf_counter()
        deadline = np.inf if budget_ms is None else begin + 1e-3 * positive_number("budget_ms", budget_ms)
        if elapsed is None:
            elapsed = self.task.dt if self._controls is not None or self._steps or self._plans else 0.0
        if not (np.isfinite(elapsed) and elapsed >= 0):
            raise InvalidInput(f"elapsed must be a finite number of seconds of at least 0, got {elapsed!r}")
        if applied is not None:
            applied = self._remembered(applied)
        given = vector("state", state, self.model.nx)
        start = given if finite(given) else None
        self._steps += elapsed / self.task.dt
        self._past = self._past if applied is None else applied
        params = self.task.params if params is None else params
        if self._to_come and start is not None and self._whole_steps_old() < self.planner.horizon:
            self._to_come -= 1
            return self._answer(start, params, Status.PLANNED, [], begin, planned=False)
        infos: list[IterationInfo] = []
        self._newest = None
        rejected, fresh = 0, False
        if start is not None:
            problem = Problem(self.model, start, round(self._steps), params, self.threads, self._seed, self._plans)
            infos, fresh, rejected = self._improve(problem, deadline)
            self._newest = infos[-1] if infos else None
        self._plans += 1
        self._to_come = self._controls_per_plan - 1 if fresh else 0
        return self._answer(start, params, Status.PLANNED if fresh else Status.SHIFTED, infos, begin, rejected)

    def realtime(
        self,
        *,
        hz: float | None = None,
        deadline: float | None = None,
        actuator_delay: float = 0.0,
        on_miss: str = "shift",
        stop_after: float | None = None,
        lockstep: bool = False,
        estimator: Estimator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> RealtimeController:
        """This controller in a planner thread that never blocks the caller; see `RealtimeController`.

        Kernels are compiled or loaded first, and the controller is reset.
        """
        if self._controls_per_plan != 1:
            raise InvalidInput(
                f"controls_per_plan is {self._controls_per_plan}, but in real time hz says how often to plan: leave "
                f"controls_per_plan away, and give hz={1 / (self._controls_per_plan * self.task.dt):g}"
            )
        return RealtimeController(
            self,
            hz=hz,
            deadline=deadline,
            actuator_delay=actuator_delay,
            on_miss=on_miss,
            stop_after=stop_after,
            lockstep=lockstep,
            estimator=estimator,
            clock=clock,
        )

    def cheapest(self, count: int) -> np.ndarray:
        """The cheapest samples of the last plan's last iteration, to draw say: controls [A, H, nu] in their order.

        A is at most `count`, and 0 where there is no finite sample, or the planner does not sample. For the thread that
        plans: the next plan writes over what this one reads.
        """
        found = () if self._newest is None else _cheapest(self._newest, count)
        return np.array(found) if len(found) else np.zeros((0, self.planner.horizon, self.task.nu))

    def stats(self) -> Stats:
        """Statistics since the last reset."""
        log, count = self.telemetry.read(episode=True), self.telemetry.count
        tried = log["planned"] > 0
        times = log["milliseconds"][tried] if tried.any() else np.array([np.nan])
        statuses = self.telemetry.status_counts()
        return Stats(
            plans=count(Counter.PLANS),
            p50_ms=float(np.percentile(times, 50)),
            p99_ms=float(np.percentile(times, 99)),
            max_ms=float(times.max()),
            effective_sample_size=float(np.median(log["effective_sample_size"][tried])) if tried.any() else np.nan,
            samples=count(Counter.SAMPLES),
            failed_samples=count(Counter.FAILED),
            fallbacks=sum(statuses.values()) - statuses[Status.PLANNED],
            cost_terms={} if self._last is None else self.model.terms(*self._last),
        )

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _remembered(self, applied: np.ndarray) -> np.ndarray:
        """Controls before a plan, as many as are remembered: the oldest again where too few are given."""
        rows = np.atleast_2d(numbers("applied", applied))
        if rows.ndim != 2 or rows.shape[1] != self.task.nu or not len(rows) or not np.isfinite(rows).all():
            raise InvalidInput(f"applied must be finite controls of {self.task.nu} numbers, got {applied!r}")
        rows = np.clip(rows, self.space.low, self.space.high)[-self.memory :]
        return np.concatenate([np.repeat(rows[:1], self.memory - len(rows), axis=0), rows])

    def _improve(self, problem: Problem, deadline: float) -> tuple[list[IterationInfo], bool, int]:
        """Run the planner's iterations while time lasts; keep its state if any sample was finite.

        Also whether there is a new plan, and how many the validator refused.
        """
        solver = self._solver
        state = solver.start(self._state, self._steps - self._started_at, self._past[-1])
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
        if _best_cost(infos) == np.inf:
            return infos, False, 0
        planned = solver.controls(state)
        if not np.isfinite(planned).all():  # a finite cost is no proof: it may not depend on each control
            return infos, False, 0
        self._state, self._started_at = solver.end(state), self._steps
        taken, rejected = self._taken(planned, infos, problem)
        if taken is not None:
            self._controls, self._planned_at = taken, self._steps
        return infos, taken is not None, rejected

    def _taken(
        self, planned: np.ndarray, infos: list[IterationInfo], problem: Problem
    ) -> tuple[np.ndarray | None, int]:
        """The planned controls [H, nu] after all filters, or the next best; None where the validator takes none."""
        controls = self._filtered(planned)
        if self._validator is None:
            return controls, 0
        last, tried = infos[-1], 0
        if self._valid(controls[None], problem) == 0:
            return controls, 0
        others = [self._filtered(each) for each in _cheapest(last, _NEXT_BEST)]
        if not others:
            return None, 1
        tried = self._valid(np.array(others), problem)
        return (others[tried] if tried < len(others) else None), 1 + tried

    def _valid(self, controls: np.ndarray, problem: Problem) -> int:
        """Index of the first of controls [A, H, nu] that the validator takes; A where it takes none."""
        assert self._validator is not None
        states = self.model.rollout(problem.state, controls, problem.t, problem.params)
        for index, (path, sequence) in enumerate(zip(states, controls, strict=True)):
            if np.isfinite(path).all() and self._validator(path, sequence):
                return index
        return len(controls)

    def _filtered(self, controls: np.ndarray) -> np.ndarray:
        """A plan [H, nu] made smooth, and brought within all limits again."""
        if self._smooth is not None:
            past = self._smooth.shape[1] - len(controls)
            controls = self._smooth @ np.concatenate([self._past[len(self._past) - past :], controls])
        elif self.space.acceleration is None:
            return controls
        limited, past = np.empty_like(controls), self._past
        for t, control in enumerate(controls):
            limited[t] = self._admitted(control, past)
            past = np.stack([past[-1], limited[t]])
        return limited

    def _admitted(self, control: np.ndarray, past: np.ndarray) -> np.ndarray:
        """The nearest control within all limits one period after those in `past`."""
        return self.space.admit(control, past[-1], self.task.dt, (past[-1] - past[-2]) / self.task.dt)

    def _whole_steps_old(self) -> int:
        """Control steps of the last plan that are over."""
        return int(self._steps - self._planned_at + 1e-9)

    def _answer(
        self,
        start: np.ndarray | None,
        params: Any,
        status: Status,
        infos: list[IterationInfo],
        begin: float,
        rejected: int = 0,
        planned: bool = True,
    ) -> Plan:
        """The control to apply by the order of fallbacks: fresh plan, last plan moved on, safe control."""
        steps_old = self._whole_steps_old()
        if self._controls is not None and steps_old < len(self._controls):
            controls = self._controls[steps_old:]
        else:
            status, controls = Status.SAFE, np.tile(self._safe, (self.planner.horizon, 1))
        control = self._admitted(controls[0], self._past)
        if not finite(control):
            status, control = Status.SAFE, self._safe.copy()
        self._past = np.concatenate([self._past[1:], control[None]])
        if start is not None:
            self._last = start, control, round(self._steps), params
        cost = _best_cost(infos)
        plan = Plan(
            control=control.copy(),
            status=status,
            age=(self._steps - self._planned_at) * self.task.dt if status is not Status.SAFE else np.inf,
            controls=controls.copy(),
            cost=cost if cost < np.inf else np.nan,
            milliseconds=1e3 * (time.perf_counter() - begin),
            iterations=len(infos),
            samples=sum(info.samples for info in infos),
            failed=sum(info.failed for info in infos),
            effective_sample_size=infos[-1].effective_sample_size if infos else 0.0,
            rejected=rejected,
        )
        nowhere, terms = np.full(self.model.nx, np.nan), self._terms_now(start)
        self.telemetry.record(plan, nowhere if start is None else start, planned, terms)
        return plan

    def _telemetry(self, path: str | os.PathLike[str] | None) -> Telemetry:
        """The log of plans; in a file also of the cost's terms, where the task is plain Python that tells them soon."""
        task = self.task
        states = tuple(map(str, range(self.model.nx)))
        controls, terms = tuple(map(str, range(task.nu))), tuple[str, ...]()
        description = {
            "task": task.name,
            "planner": self.planner.name,
            "budget": self.planner.budget,
            "horizon": self.planner.horizon,
            "dt": task.dt,
            "control_low": task.control_low.tolist(),
            "control_high": task.control_high.tolist(),
        }
        if isinstance(task, AnalyticTask):
            states, controls = task.state_names, task.control_names
            if path is not None:
                terms = tuple(self.model.terms(self.model.example_state(), self.space.middle, 0, task.params))
        return Telemetry(description, states, controls, terms, path=path)

    def _terms_now(self, start: np.ndarray | None) -> list[float]:
        """Terms of the stage cost at the state and control of this plan, as many as the telemetry has."""
        count = self.telemetry.stages
        if count and start is not None and self._last is not None:
            try:
                return list(self.model.terms(*self._last).values())
            except Exception:  # noqa: BLE001 - plain Python raises where the compiled cost is not finite
                pass
        return [math.nan] * count


def _best_cost(infos: list[IterationInfo]) -> float:
    """Of the cheapest trajectory; +inf where none was finite."""
    return min((info.best_cost for info in infos), default=np.inf)


def _cheapest(info: IterationInfo, count: int) -> np.ndarray | tuple[()]:
    """Controls [H, nu] of the cheapest finite samples, at most so many, in their order."""
    if info.candidates is None or info.costs is None:
        return ()
    order = np.argsort(info.costs, kind="stable")[:count]
    return info.candidates.at(order[np.isfinite(info.costs[order])])
