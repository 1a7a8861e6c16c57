"""The real-time loop: a planner thread beside the caller's own, which never waits for it.

Plans have a place in time. A state measured at `stamp` gives a plan that begins at

    begin = stamp + n dt,    n = ceil((deadline + actuator_delay) / dt),

the first control period that the plan can reach: it is ready by `stamp + deadline`, and what is sent then acts
`actuator_delay` later. Until `begin` the actuator does what was answered before and what older plans say; that is
frozen, the state is predicted through it, and the plan starts from there. So a plan that is ready in time is applied
as it was meant, whatever its computation took, and the same submissions give the same controls.
"""

from __future__ import annotations

import atexit
import enum
import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.control.plan import Plan, Status
from mpcrl.control.telemetry import Telemetry
from mpcrl.control.timeline import Held, History, Piece, Timeline, acting, extended, serving
from mpcrl.core.checks import finite, numbers, positive_number, vector
from mpcrl.core.errors import ForkedProcess, InvalidInput
from mpcrl.models.model import Model
from mpcrl.planners.space import ControlSpace
from mpcrl.tasks.task import Task

_PERIOD_SLACK = 0.9  # of a planning period after which the next state is planned for: two clocks never run alike
_LATENESS = 0.5  # of a period by which a state may come late without the next one being too early
_MOST_PERIODS = 2 * _PERIOD_SLACK
"""From plan to plan, for how long a plan counts as fresh. Where states come every d periods, d <= 1, plans may be
ceil(0.9 / d) d apart: most where d is just below 0.9, a state comes just too early, and the next plan begins 1.8
periods after the last though nothing is late. A smaller number would call that a miss; with d = 1 the rest is for
stamps that jitter."""
_CLOSING_S = 1.0  # beyond the deadline, after which a planner thread that has not ended will hardly ever
_ON_MISS = ("shift", "safe", "stop")


class Fault(enum.Flag):
    """What is wrong at the time of an answer; see the table in docs/realtime.md."""

    NONE = 0
    STATE = enum.auto()  # the last state was not finite, or the estimator failed; it was not planned for
    STAMP = enum.auto()  # the last state was not newer than the one before, from the future, or older than the deadline
    SILENT = enum.auto()  # the newest state is older than the deadline and a planning period and a half
    CLOCK = enum.auto()  # `now` went back, or is not finite: the answer is for the latest time seen, plus what passed
    LATE = enum.auto()  # the last plan was not ready by its deadline
    MODEL = enum.auto()  # the last plan found no finite trajectory, none that the validator takes, or raised an error
    THREAD = enum.auto()  # the planner thread is dead, or did not end when it was closed


class Answer(NamedTuple):
    """What `RealtimeController.control` answers.

    Attributes
    ----------
    control : ndarray [nu]
        Finite, within bounds and limits, whatever happened. A plan's control is the same for its whole period; from one
        to the next it changes by what the limits admit in a period, and so it does on the way to a fallback, which is
        taken step by step as time passes: between two answers T apart by no more than `rate_limit` (T + dt).
    status : Status
        PLANNED only where the plan is as young as it is meant to be.
    age : float
        Seconds since the state that the plan was made for; inf without a plan.
    faults : Fault
    """

    control: np.ndarray
    status: Status
    age: float
    faults: Fault


Estimator = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""`estimate(measurement, control, elapsed) -> state`: the state [nx] at the time of a measurement, from the mean
control [nu] that acted in the `elapsed` seconds since the measurement before (0 for the first)."""


class _Planning(Protocol):
    """What is needed of a `Controller`."""

    task: Task
    model: Model
    space: ControlSpace

    memory: int
    telemetry: Telemetry

    @property
    def horizon(self) -> int: ...

    @property
    def safe_control(self) -> np.ndarray: ...

    def warmup(self, state: np.ndarray | None = None) -> float: ...

    def plan(
        self,
        state: np.ndarray,
        *,
        budget_ms: float | None = None,
        elapsed: float | None = None,
        params: Any = None,
        applied: np.ndarray | None = None,
    ) -> Plan: ...


class _Mail(NamedTuple):
    state: np.ndarray
    stamp: float
    params: Any
    history: History
    """Of what has been answered since the last `release`, which makes a new one."""


class _Wakeup:
    """A signal from one thread to another; unlike that of `threading.Event`, setting it never waits for a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self.wait = self._lock.acquire

    def set(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it is set already
            return


class RealtimeController:
    """A controller to embed: `submit` states, ask for the `control`; neither ever waits for a plan.

    Made by `Controller.realtime`; while it is open, the controller is its own. Call `submit` from one thread and
    `control` from one thread, the same or another. Use it as a context manager, or `close` it.

    Parameters
    ----------
    controller : Controller
    hz : float, optional
        Plans per second at most; one per control period if not given.
    deadline : float, optional
        Seconds after a state's stamp by which its plan is to be ready; 0.8 / hz if not given. Planning stops there with
        the best so far. Sensor latency counts: a state that arrives late leaves less time.
    actuator_delay : float
        Seconds from an answer to its effect.
    on_miss : {"shift", "safe", "stop"}
        What follows when a plan is not renewed in time: the plan is moved on while it lasts, or the safe control is
        given at once, or the controller stops.
    stop_after : float, optional
        Seconds of nothing but safe controls after which the controller stops; a horizon if not given, inf for never.
        It does not count before the first plan.
    lockstep : bool
        Plan inside `submit`, without a thread and without limit of time, for simulations: the same submissions give the
        same controls, bit for bit.
    estimator : Estimator, optional
        Makes states of what is submitted; see `Estimator`. Runs inside `submit`.
    clock : callable
        Gives the time for calls without a stamp, and in which deadlines are kept, s. It must not go back; stamps are to
        be of the same clock.

    Notes
    -----
    *Stopped* is a latch: the safe control, whatever the planner does, until `release`. It closes after `stop_after`, on
    a miss with `on_miss="stop"`, by `stop`, and when the planner thread dies.
    """

    def __init__(
        self,
        controller: _Planning,
        *,
        hz: float | None = None,
        deadline: float | None = None,
        actuator_delay: float = 0.0,
        on_miss: str = "shift",
        stop_after: float | None = None,
        lockstep: bool = False,
        estimator: Estimator | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        dt, span = controller.task.dt, controller.task.dt * controller.horizon
        self.controller, self._dt, self._estimator, self._clock = controller, dt, estimator, clock
        self._period = 1 / positive_number("hz", 1 / dt if hz is None else hz)
        self._deadline = positive_number("deadline", 0.8 * self._period if deadline is None else deadline)
        self._delay = positive_number("actuator_delay", actuator_delay) if actuator_delay else 0.0
        self._lead = math.ceil((self._deadline + self._delay) / dt - 1e-6)
        if self._lead >= controller.horizon:
            raise InvalidInput(
                f"deadline and actuator_delay take {self._lead} control periods of {dt:g} s, but the planner looks "
                f"{controller.horizon} ahead only; shorten them, or use a longer horizon"
            )
        if on_miss not in _ON_MISS:
            raise InvalidInput(f"on_miss must be one of {', '.join(_ON_MISS)}, got {on_miss!r}")
        self._on_miss = on_miss
        self._stop_after = span if stop_after is None else stop_after
        if not self._stop_after > 0:
            raise InvalidInput(f"stop_after must be a number of seconds above 0, got {stop_after!r}")
        self._fresh_for = self._lead * dt - self._delay + _MOST_PERIODS * self._period
        self._safe, self._nx = controller.safe_control, controller.model.nx
        # what the caller's thread writes
        self._history = History(controller.task.nu)
        self._held, self._now = Held(controller.space, self._safe), -math.inf
        self._heard = -math.inf  # on the system's clock
        self._stamp, self._measured = -math.inf, -math.inf
        self._due = -math.inf
        self._params: Any = None
        self._submit_faults = Fault.NONE
        self._safe_since: float | None = None
        self._armed = self._stopped = False
        self._mail: _Mail | None = None
        self._waiting = -math.inf  # stamp of the oldest state that was posted since the planner was idle
        # what the planner writes
        self._timeline: Timeline = ()
        self._plan_faults = Fault.NONE
        self._thread_faults = Fault.NONE  # for good
        self._done = -math.inf  # stamp of the last state that was planned for, or given up
        self._begun: float | None = None  # where the last plan was to begin
        self._steps = 0.0  # control periods from the first stamp to there
        self.error: Exception | None = None
        """The last error that planning raised."""
        self.last_plan: Plan | None = None
        """The newest plan of the planner, whatever became of it."""
        controller.warmup()
        controller.model.rollout(
            controller.model.example_state(), np.tile(self._safe, (1, self._lead, 1)), 0, controller.task.params
        )
        self._pid, self._closing, self._wakeup = os.getpid(), False, _Wakeup()
        self._thread: threading.Thread | None = None
        if not lockstep:
            self._thread = threading.Thread(target=self._run, name="mpcrl-planner", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    # ---- the caller's side ---------------------------------------------------------------------------------------
    def submit(self, state: np.ndarray, stamp: float | None = None, params: Any = None) -> bool:
        """Hand over a state to plan for.

        Parameters
        ----------
        state : ndarray [nx]
            Copied. With an estimator: a measurement.
        stamp : float, optional
            When it was measured, s; now if not given.
        params : NamedTuple, optional
            The task's, from this plan on. Its arrays are read until a later plan is there: hand over new ones instead
            of writing into them.

        Returns
        -------
        bool
            Whether the state was taken; if not, the answers' `faults` say why.

        Raises
        ------
        InvalidInput
            For what is no vector of the right length, and for a stamp that is no number.
        ForkedProcess
            In a child process: its planner thread stayed behind.
        """
        self._check_process()
        arrived = self._clock()
        stamp = arrived if stamp is None else _number("stamp", stamp)
        future = self._thread is not None and stamp > arrived + self._period
        if not math.isfinite(stamp) or stamp <= self._stamp or future:
            self._submit_faults = Fault.STAMP
            return False
        measured = self._vector(state, stamp)
        self._stamp = stamp
        if params is not None:
            self._params = params
        if measured is None:
            self._submit_faults = Fault.STATE
            return False
        if self._thread is not None and arrived - stamp >= self._deadline:
            self._submit_faults = Fault.STAMP
            return False
        self._submit_faults = Fault.NONE
        mail = _Mail(measured, stamp, self._params, self._history)
        due = stamp >= self._due
        if due:
            before = stamp if self._due == -math.inf else max(self._due, stamp - _LATENESS * self._period)
            self._due = before + _PERIOD_SLACK * self._period
        if self._thread is None:
            if due:
                self._attempt(mail)
            return True
        self._mail = mail
        if due:
            if self._done >= self._waiting:
                self._waiting = stamp
            self._wakeup.set()
        return True

    def control(self, now: float | None = None) -> Answer:
        """The control [nu] to send now, and what it is worth; see `Answer`.

        Parameters
        ----------
        now : float, optional
            The clock's time if not given.

        Raises
        ------
        ForkedProcess
            In a child process: its planner thread stayed behind.
        """
        self._check_process()
        faults = self._submit_faults | self._plan_faults | self._thread_faults
        now = self._clock() if now is None else _number("now", now)
        heard = time.monotonic()
        if not (self._now <= now < math.inf):
            faults |= Fault.CLOCK
            passed = heard - self._heard if self._thread is not None else 0.0  # else a plan would stay young for ever
            now = max(self._now + passed, self._stamp) if self._now > -math.inf else self._stamp
            now = now if now > -math.inf else self._clock()
        self._heard = heard
        if self._done < self._waiting and now > self._waiting + self._deadline:
            faults |= Fault.LATE
        if now - self._stamp > self._deadline + 1.5 * self._period:
            faults |= Fault.SILENT
        self._now, at = now, now + self._delay
        status, wanted, begins, age = self._rung(at)
        self._held = self._held.moved(wanted, begins, at)
        control = self._held.control
        self._history.add(at, control)
        self.controller.telemetry.answered(status, faults.value)
        return Answer(control.copy(), status, age, faults)

    def stop(self) -> None:
        """Stop: the safe control from now on, until `release`."""
        self._stopped = True

    def release(self) -> None:
        """End a stop: plans for states submitted from now on are followed, by a clock that may have begun anew.

        Raises
        ------
        InvalidInput
            Where the planner thread is dead.
        """
        self._check_process()
        if self._thread_faults:
            raise InvalidInput(f"the planner thread is dead or hangs ({self.error!r}); make a new controller")
        self._mail, self._history = None, History(self.controller.task.nu)  # a plan at hand sees that it is of before
        self._timeline = ()
        self._now = self._stamp = self._measured = self._due = self._waiting = self._done = -math.inf
        self._held = self._held._replace(since=-math.inf, at=-math.inf)
        self._armed, self._safe_since, self._stopped = False, None, False

    @property
    def stopped(self) -> bool:
        """Whether the latch is closed."""
        return self._stopped

    def close(self) -> None:
        """End the planner thread, after the plan at hand; answers go on down the fallbacks.

        A thread that has not ended a second after its deadline, because its model hangs say, is left alone with a
        RuntimeWarning, and the controller stops with `Fault.THREAD`. It does not keep the process from ending.
        """
        atexit.unregister(self.close)
        self._closing = True
        self._wakeup.set()
        thread, seconds = self._thread, self._deadline + _CLOSING_S
        if thread is None or os.getpid() != self._pid or thread is threading.current_thread():
            return
        thread.join(seconds)
        if thread.is_alive() and not self._thread_faults:
            self._lost()
            warnings.warn(
                f"the planner thread did not end within {seconds:.3g} s: a plan hangs, in the model most likely. The "
                "thread stays until the process ends; do not use this controller, its model or its planner again",
                RuntimeWarning,
                stacklevel=2,
            )

    def __enter__(self) -> RealtimeController:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # ---- parts of the caller's side ------------------------------------------------------------------------------
    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcess(
                "this process was forked from the one that the planner thread runs in; make the controller in the "
                "process that uses it, and start processes with the 'spawn' or 'forkserver' method"
            )

    def _vector(self, state: np.ndarray, stamp: float) -> np.ndarray | None:
        """The state [nx] as the model takes it; None where it is not finite or the estimator fails."""
        if self._estimator is not None:
            measurement = numbers("the measurement", state)
            if not np.isfinite(measurement).all():
                return None
            state = self._estimated(measurement, stamp)
        found = vector("state", state, self._nx)
        return found if finite(found) else None

    def _estimated(self, measurement: np.ndarray, stamp: float) -> np.ndarray:
        elapsed, control = 0.0, self._held.control
        if self._measured > -math.inf:
            elapsed = stamp - self._measured
            (control, *_), _ = acting(
                self._history, (), self._held, self._safe, self._measured, elapsed, 1, known=stamp
            )
        self._measured = stamp
        assert self._estimator is not None
        try:
            return np.array(self._estimator(measurement, control, elapsed), np.float64)
        except Exception as error:  # noqa: BLE001 - a filter may fail in any way; the controller goes on
            self.error = error
            return np.full(self._nx, np.nan)

    def _rung(self, at: float) -> tuple[Status, np.ndarray, float, float]:
        """Status, control, since when it is to act and age, by the order of fallbacks."""
        piece = serving(self._timeline, at)
        if self._stopped or piece is None:
            return self._without_plan(at)
        if piece.lasts(at):
            self._armed, self._safe_since = True, None
            step = piece.step_at(at)
            status = Status.PLANNED if at <= self._fresh_until(piece.stamp) else Status.SHIFTED
            return status, piece.controls[step], piece.begin + step * piece.dt, at - self._delay - piece.stamp
        if self._on_miss == "stop":
            self._stopped = True  # never set to False but by `release`: another thread may have just set it to True
        return self._without_plan(at)

    def _without_plan(self, at: float) -> tuple[Status, np.ndarray, float, float]:
        if self._armed and not self._stopped:
            self._safe_since = at if self._safe_since is None else self._safe_since
            if at - self._safe_since >= self._stop_after - 1e-9:
                self._stopped = True
        return Status.STOPPED if self._stopped else Status.SAFE, self._safe, at, math.inf

    def _fresh_until(self, stamp: float) -> float:
        """When the actuator has followed the plan for a state for as long as it is meant to."""
        return stamp + self._fresh_for + self._delay

    # ---- the planner's side --------------------------------------------------------------------------------------
    def _run(self) -> None:
        """The planner thread."""
        try:
            while not self._closing:
                self._wakeup.wait()
                mail = self._mail
                if mail is not None and not self._closing:
                    self._attempt(mail)
        finally:
            if not self._closing:
                self._lost()

    def _lost(self) -> None:
        """There is no planner thread any more that could be relied on."""
        self._thread_faults = Fault.THREAD
        self._stopped = True

    def _attempt(self, mail: _Mail) -> None:
        """Plan for a state; on success the plan joins the timeline, and whatever goes wrong becomes a fault."""
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # such samples are counted, and a fault says so
                self._plan_faults = self._plan(mail)
        except Exception as error:  # noqa: BLE001 - the user's model may raise anything; the ladder takes over
            self.error, self._plan_faults = error, Fault.MODEL
        if mail.history is self._history:
            self._done = mail.stamp

    def _plan(self, mail: _Mail) -> Fault:
        controller, begin = self.controller, mail.stamp + self._lead * self._dt
        params = controller.task.params if mail.params is None else mail.params
        timeline = () if self._stopped else self._timeline
        memory = controller.memory
        frozen, last = acting(
            mail.history,
            timeline,
            self._held,
            self._safe,
            mail.stamp - memory * self._dt,
            self._dt,
            memory + self._lead,
            known=mail.stamp + self._delay,  # what is answered from now on acts later than that
        )
        elapsed = self._lead * self._dt if self._begun is None else max(0.0, begin - self._begun)
        t = round(self._steps + elapsed / self._dt) - self._lead
        predicted = controller.model.rollout(mail.state, frozen[None, memory:], t, params)[0, -1]
        left = None if self._thread is None else 1e3 * (mail.stamp + self._deadline - self._clock())
        if left is not None and left <= 0:
            return Fault.LATE
        applied = frozen[-memory:]
        applied[-1] = last
        self._begun, self._steps = begin, self._steps + elapsed / self._dt
        plan = controller.plan(predicted, budget_ms=left, elapsed=elapsed, params=params, applied=applied)
        self.last_plan = plan
        late = self._thread is not None and self._clock() > mail.stamp + self._deadline
        fault = Fault.LATE if late else Fault.NONE
        if plan.status is not Status.PLANNED:
            return fault | (Fault.MODEL if plan.iterations or not np.isfinite(predicted).all() else Fault.LATE)
        if mail.history is self._history:
            until = math.inf if self._on_miss == "shift" else self._fresh_until(mail.stamp)
            self._timeline = extended(self._timeline, Piece(mail.stamp, begin, self._dt, plan.controls, until))
        if mail.history is not self._history:  # released meanwhile: what was written may have come after that
            self._timeline = ()
        return fault


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} must be a number of seconds, got {value!r}") from error
