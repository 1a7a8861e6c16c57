"""The real-time loop: plans placed in time, a caller who never waits, fallbacks in order, every fault of the list."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpcrl.control.controller import Controller
from mpcrl.control.filters import SavitzkyGolay
from mpcrl.control.pacing import wait_until
from mpcrl.control.plan import Status
from mpcrl.control.realtime import Fault
from mpcrl.control.timeline import Held, History, Piece, Timeline, acting, extended, serving
from mpcrl.core.candidates import Candidates
from mpcrl.core.errors import ConcurrentCall, InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.models.analytic import Analytic
from mpcrl.planners import PLANNERS, presets
from mpcrl.planners.space import ControlSpace
from mpcrl.tasks.constraints import barrier, penalty
from tests.faults import CASES, DEADLINE, DT, HIGH, HORIZON, LOW, SAFE, TASK, Ledger, Rig, SpoilableModel, drive, step

ROOT = Path(__file__).resolve().parent.parent


class Terms(NamedTuple):
    border: float
    limit: float


def controller(planner=None, **options):
    planner = planner or presets.icem(budget=32, horizon=HORIZON)
    return Controller(TASK, planner, threads=1, **{"model": SpoilableModel(), "safe_control": SAFE, **options})


def lockstep(**options):
    return controller().realtime(lockstep=True, deadline=DEADLINE, **options)


# A caller on time.


def test_who_waits_is_never_early_and_not_late_for_long() -> None:
    late = []
    for k in range(40):
        moment = time.monotonic() + 0.001 * (k % 8)  # some sooner than a caller falls asleep for
        wait_until(moment)
        late.append(time.monotonic() - moment)
    assert min(late) >= 0
    assert np.median(late) < 0.001  # what is left of a nap, and of this machine's other processes


def test_what_has_passed_is_not_waited_for() -> None:
    begin = time.monotonic()
    wait_until(begin - 10.0)
    wait_until(begin)
    assert time.monotonic() - begin < 0.1


def test_other_threads_go_on_while_one_waits_awake() -> None:
    count, begin = 0, time.monotonic()
    waiting = threading.Thread(target=wait_until, args=(begin + 0.2,), kwargs={"awake": 1.0})
    waiting.start()
    while waiting.is_alive():
        count += 1
    assert count > 1000


@pytest.mark.parametrize("moment, awake", [(np.nan, 0.002), (np.inf, 0.002), (0.0, -0.001), (0.0, np.nan)])
def test_a_moment_that_never_comes_is_refused(moment, awake) -> None:
    with pytest.raises(InvalidInput, match="finite seconds"):
        wait_until(moment, awake=awake)


# Plans in time.

FREE = Held(ControlSpace.of(np.array([-1.0]), np.array([1.0]), 1.0), np.array([0.5]))
WIDE = Held(ControlSpace.of(np.array([-100.0]), np.array([100.0]), 0.02), np.array([0.5]))


def piece(begin, controls, stamp=0.0, dt=1.0):
    return Piece(stamp, begin, dt, np.array(controls, float)[:, None])


@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(-1, 1)), max_size=6),
    st.lists(st.tuples(st.floats(0.1, 2), st.lists(st.floats(-1, 1), min_size=1, max_size=5)), max_size=3),
    st.floats(-2, 8),
    st.floats(-1, 2),
)
@settings(max_examples=60, deadline=None)
def test_what_acts_is_the_mean_of_what_holds_at_each_moment(answers, plans, start, later):
    history, at, given = History(1), 0.0, []
    timeline: Timeline = ()
    for gap, value in answers:
        at += gap
        history.add(at, np.array([value]))
        given.append((at, value))
    begin = 0.0
    for gap, values in plans:
        begin += gap
        timeline = extended(timeline, piece(begin, values, stamp=-1.0))

    def holds(moment):
        if answers and moment < max(at, start, start + later):
            before = [value for time, value in given if time <= moment]
            return before[-1] if before else 0.5
        found = serving(timeline, moment)
        if found is None or found.step_at(moment) >= len(found.controls):
            return 0.5
        return float(found.controls[found.step_at(moment), 0])

    means, last = acting(history, timeline, FREE, np.array([0.5]), start, 1.0, 3, start + later)
    grid = start + (np.arange(3000) + 0.5) / 1000
    naive = np.array([holds(moment) for moment in grid]).reshape(3, 1000).mean(axis=1)
    assert np.allclose(means[:, 0], naive, atol=0.02)
    assert last[0] in {0.5, *(v for _, v in answers), *(v for _, values in plans for v in values)}


@pytest.mark.parametrize("epoch", [3e7, 1.7634e9, 1.7634e9 + 0.1234567, 1e12])  # a year of uptime, seconds since 1970
def test_what_acts_is_found_where_a_clock_counts_from_long_ago(epoch):
    history, timeline = History(1), (piece(epoch, np.arange(60.0), stamp=epoch, dt=0.02),)
    for k in range(20):
        history.add(epoch + 0.001 * k, np.array([7.0]))
        means, _ = acting(history, timeline, WIDE, np.array([0.5]), epoch + 0.02, 0.02, 3 + k, epoch)
        if epoch < 1e10:
            assert np.allclose(means[:, 0], np.arange(1.0, 4 + k), atol=0.01)


def test_a_newer_plan_replaces_what_begins_later_and_keeps_what_comes_before():
    old, middle, new = piece(1, [1, 1, 1]), piece(3, [2, 2]), piece(2, [3, 3, 3])
    timeline = extended(extended(extended((), old), middle), new)
    assert [each.begin for each in timeline] == [1, 2]
    assert serving(timeline, 0.5) is None and serving(timeline, 1.9) is old and serving(timeline, 9.0) is new
    later = piece(7, [4], stamp=5.0)
    assert extended(timeline, later) == (new, later)  # `old` was over when the state was measured


def test_the_history_outlives_its_size():
    history = History(1, size=16)
    for k in range(1000):
        history.add(float(k), np.array([float(k)]))
    times, controls = history.since(997.5)
    assert times.tolist() == [997, 998, 999] == controls[:, 0].tolist()
    assert len(history.since(0.0)[0]) == 8


def test_the_plan_starts_where_the_robot_will_be():
    """With delay and computing time, the state that was planned from is met when the plan begins."""
    realtime = lockstep(actuator_delay=1.5 * DT)
    assert realtime._lead == 3
    x, line = np.array([0.0, 0.5]), [SAFE] * 3
    predicted: dict[int, np.ndarray] = {}
    plan = realtime.controller.plan

    def spied(state, **options):
        predicted[round(now / DT) + 3] = state
        return plan(state, **options)

    realtime.controller.plan = spied
    for tick in range(40):
        now = tick * DT
        if tick in predicted:
            assert np.allclose(predicted[tick], x, atol=2e-6)
        realtime.submit(x, now)
        for half in range(2):
            line.append(realtime.control(now + half * DT / 2).control)
        acted = (line.pop(0) + line.pop(0)) / 2  # linear in the control: the mean of both halves is exact
        x = np.array(step(tuple(x), tuple(acted), TASK.params))
    assert len(predicted) == 40


def test_committed_controls_are_frozen():
    realtime = lockstep(actuator_delay=2 * DT)
    for tick in range(12):
        realtime.submit(np.zeros(2), tick * DT, TASK.params._replace(goal=-1.0 if tick >= 10 else 1.0))
        if tick == 10:
            (before, *_), last = realtime._timeline, realtime._timeline[-1]
            assert before.stamp == pytest.approx(7 * DT) and last.stamp == pytest.approx(10 * DT)
            assert last.begin == pytest.approx(13 * DT)  # the new goal is for then
        answer = realtime.control(tick * DT)
        if tick >= 3:
            assert answer.status is Status.PLANNED and answer.age == pytest.approx(DT)
    assert not realtime.submit(np.zeros(2), 11 * DT)


# The caller's side.


def test_neither_call_waits_for_a_plan():
    rig = Rig("icem", threaded=True)
    rig.run(5)
    entered = threading.Event()

    def stall(costs):
        entered.set()
        time.sleep(0.4)
        return costs

    rig.model.spoil = stall
    while not entered.wait(DT):
        rig.realtime.submit(rig.x)
    laps = []
    for _ in range(50):
        begin = time.perf_counter()
        rig.realtime.submit(rig.x)
        rig.realtime.control()
        laps.append(time.perf_counter() - begin)
    assert np.median(laps) < 1e-3 and sum(laps) < 0.3
    rig.heal()
    rig.close()


def test_lockstep_gives_the_same_controls_for_the_same_submissions():
    def controls():
        rig = Rig("mppi", seed=3)
        rig.run(30)
        return np.array([answer.control for answer in rig.answers]).tobytes()

    assert controls() == controls()


def test_the_thread_gives_what_lockstep_gives_where_nothing_is_late():
    slow = dataclasses.replace(TASK, dt=50.0)  # no plan is late, however busy the machine is
    found = []
    for threaded in (False, True):
        now = [0.0]
        planning = Controller(slow, presets.icem(budget=32, horizon=HORIZON), model=SpoilableModel(), threads=1)
        with planning.realtime(lockstep=not threaded, clock=partial(now.__getitem__, 0)) as realtime:
            controls = []
            for tick in range(10):
                now[0] = tick * slow.dt
                realtime.submit(np.array([0.1 * tick, 0.0]))
                while realtime._done < now[0]:
                    time.sleep(1e-3)
                controls += [realtime.control().control]
            found.append(np.array(controls).tobytes())
    assert found[0] == found[1]


def test_a_plan_that_is_not_finite_somewhere_is_none():
    realtime = lockstep()
    for tick in range(12):
        if tick == 3:
            solver = realtime.controller._solver
            solver.controls = lambda state: np.where(np.arange(HORIZON) == 4, np.nan, 0.5)[:, None]
        realtime.submit(np.zeros(2), tick * DT)
        answer = realtime.control(tick * DT)
        assert np.isfinite(answer.control).all() and (Fault.MODEL in answer.faults) == (tick >= 3)
    assert answer.status is Status.SHIFTED and realtime.last_plan.status is Status.SHIFTED


@pytest.mark.parametrize("rate", [50, 55.7, 60, 66, 75, 100, 200, 333])
def test_states_at_any_steady_rate_from_that_of_plans_on_are_no_miss(rate):
    realtime, came, statuses = lockstep(hz=50, on_miss="stop"), -1, []
    for k in range(500):
        if int(k * 0.001 * rate) > came:
            came = int(k * 0.001 * rate)
            realtime.submit(np.zeros(2), k * 0.001)
        statuses.append(realtime.control(k * 0.001).status)
    assert set(statuses[21:]) == {Status.PLANNED}


def test_plans_count_as_fresh_for_no_shorter_than_steady_states_take():
    """States come a little too early to be planned for each: plans are as far apart as they ever are."""
    realtime, between, stamps = lockstep(hz=50, on_miss="stop"), 0.8999 * DT, []
    for k in range(60):
        realtime.submit(np.zeros(2), k * between)
        stamps.append(realtime._timeline[-1].stamp)
        if k > 1:  # just before the plan for the state before begins
            assert realtime.control((k - 1) * between + DT - 1e-5).status is Status.PLANNED
    assert np.diff(stamps).max() == pytest.approx(2 * between)


def test_states_that_come_late_now_and_then_are_no_miss():
    """A caller at the rate of plans, whom the system wakes up to 8 ms late, stamps what it measures when it wakes."""
    realtime, rng, stamp = lockstep(hz=50, on_miss="stop"), np.random.default_rng(0), 0.0
    for tick in range(400):
        begin, stamp = stamp, tick * DT + rng.choice([0.0, 0.0, 0.004, 0.008])
        if tick:
            asked = [realtime.control(now).status for now in np.arange(begin, stamp, 0.001)]
            assert tick < 3 or set(asked) == {Status.PLANNED}
        realtime.submit(np.zeros(2), stamp)


def test_params_change_between_plans():
    realtime = lockstep()
    ends: list[float] = []
    for goal in (1.0, -1.0):
        for tick in range(5):
            realtime.submit(np.zeros(2), len(ends) + tick * DT, TASK.params._replace(goal=goal) if not tick else None)
            answer = realtime.control(len(ends) + tick * DT)
        ends.append(answer.control[0])
    assert ends[1] < 0 < ends[0]


def test_fallbacks_in_their_order_and_the_latch():
    rig = Rig("icem")
    realtime = rig.realtime
    assert [rig.tick().status for _ in range(3)] == [Status.SAFE, Status.PLANNED, Status.PLANNED]
    now, planned = rig.time, realtime._timeline[-1]
    statuses, ages = [], []
    for k in range(2 * HORIZON):
        answer = realtime.control(now + k * DT)
        statuses.append(answer.status)
        ages.append(answer.age)
        if answer.status in (Status.PLANNED, Status.SHIFTED):
            assert np.array_equal(answer.control, planned.controls[planned.step_at(now + k * DT)])
            assert answer.age == pytest.approx(now + k * DT - planned.stamp)
    names = list(dict.fromkeys(statuses))
    assert names == [Status.PLANNED, Status.SHIFTED, Status.SAFE, Status.STOPPED]
    assert statuses.count(Status.SAFE) == 4  # stop_after
    rig.time = now + 2 * HORIZON * DT
    assert rig.run(5).status is Status.STOPPED and realtime.stopped
    realtime.release()
    rig.run(2)
    assert rig.tick().status is Status.PLANNED and not rig.tick().faults
    realtime.stop()
    assert rig.tick().status is Status.STOPPED


def test_a_plan_that_was_begun_before_a_release_is_not_followed_after_it():
    realtime = lockstep()
    for tick in range(3):
        realtime.submit(np.zeros(2), tick * DT)
    realtime.stop()
    realtime.controller.model.spoil = lambda costs: (realtime.release(), costs)[1]  # while the planner is at work
    realtime.submit(np.zeros(2), 3 * DT)
    realtime.controller.model.spoil = lambda costs: costs
    assert realtime._timeline == () and realtime._done == -np.inf and realtime._mail is None
    assert {realtime.control((3 + k) * DT).status for k in range(HORIZON)} == {Status.SAFE}
    for tick in (13, 14):
        realtime.submit(np.zeros(2), tick * DT)
    assert realtime.control(14 * DT).status is Status.PLANNED


@pytest.mark.parametrize(("on_miss", "status"), [("safe", Status.SAFE), ("stop", Status.STOPPED)])
def test_on_a_miss(on_miss, status):
    realtime = lockstep(on_miss=on_miss)
    for tick in range(5):
        realtime.submit(np.zeros(2), tick * DT)
        answer = realtime.control(tick * DT)
    assert answer.status is Status.PLANNED
    answer = realtime.control(8 * DT)
    assert answer.status is status and np.array_equal(answer.control, SAFE) and Fault.SILENT in answer.faults
    for tick in (9, 10):
        realtime.submit(np.zeros(2), tick * DT)
        answer = realtime.control(tick * DT)
    assert answer.status is (Status.PLANNED if on_miss == "safe" else Status.STOPPED)


def test_a_caller_who_comes_back_after_the_plan_is_over_has_missed_too():
    realtime = lockstep(on_miss="stop")
    for tick in range(5):
        realtime.submit(np.zeros(2), tick * DT)
        assert realtime.control(tick * DT).status is (Status.PLANNED if tick else Status.SAFE)
    assert realtime.control((5 + 3 * HORIZON) * DT).status is Status.STOPPED


@pytest.mark.parametrize("on_miss", ["safe", "shift"])
def test_a_stop_of_another_thread_is_never_undone_by_an_answer(on_miss):
    class Meddling(tuple):
        """A timeline that stands for a thread that stops the controller while `control` decides."""

        def __reversed__(self):
            realtime.stop()
            return iter(tuple(self)[::-1])

    realtime = lockstep(on_miss=on_miss)
    for tick in range(3):
        realtime.submit(np.zeros(2), tick * DT)
        realtime.control(tick * DT)
    realtime._timeline = Meddling(realtime._timeline)
    realtime.control(7 * DT)
    assert realtime.stopped and realtime.control(7 * DT).status is Status.STOPPED


def test_plans_that_are_only_ever_late_arm_the_latch_and_break_the_count():
    realtime = lockstep(stop_after=4 * DT)
    realtime.submit(np.zeros(2), 0.0)
    statuses = [realtime.control(k * DT).status for k in (0, 5, 6, 12, 13)]  # nobody asked while the plan was young
    assert statuses == [Status.SAFE, Status.SHIFTED, Status.SHIFTED, Status.SAFE, Status.SAFE]
    realtime.submit(np.zeros(2), 13 * DT)
    statuses = [realtime.control((13 + k) * DT).status for k in (5, 12, 14, 16)]
    assert statuses == [Status.SHIFTED, Status.SAFE, Status.SAFE, Status.STOPPED]


def test_nothing_stops_before_the_first_plan():
    realtime = lockstep()
    assert {realtime.control(k * 1.0).status for k in range(100)} == {Status.SAFE}


def test_a_dead_planner_thread_stops_for_good():
    rig = Rig("icem", threaded=True)
    rig.run(3)

    def die(costs):
        raise SystemExit

    rig.model.spoil = die
    rig.until(lambda a: a.status is Status.STOPPED and Fault.THREAD in a.faults, 100)
    with pytest.raises(InvalidInput, match="thread is dead"):
        rig.realtime.release()
    rig.close()


def test_a_model_that_hangs_does_not_hang_who_closes_the_controller():
    rig, go = Rig("icem", threaded=True), threading.Event()
    rig.run(3)
    rig.model.spoil = lambda costs: (go.wait(60), costs)[1]
    rig.until(lambda a: Fault.LATE in a.faults, 100)
    begin = time.monotonic()
    with pytest.warns(RuntimeWarning, match="did not end"):
        rig.close()
    assert time.monotonic() - begin < 10
    for _ in range(2):
        answer = rig.tick()
        assert answer.status is Status.STOPPED and Fault.THREAD in answer.faults
        go.set()  # too late
        rig.realtime._thread.join()  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match="hangs"):
        rig.realtime.release()
    rig.close()  # and no second warning
    rig.heal()


@pytest.mark.parametrize("acceleration", [None, 800.0])
def test_a_planned_control_is_held_for_its_period_and_the_next_is_within_the_limits(acceleration):
    limited = controller(rate_limit=20.0, acceleration_limit=acceleration)
    realtime = limited.realtime(lockstep=True, deadline=DEADLINE)
    rng, steps = np.random.default_rng(0), []
    for tick in range(60):
        realtime.submit(rng.normal(size=2), tick * DT, TASK.params._replace(goal=10 * rng.normal()))
        served = serving(realtime._timeline, tick * DT)
        answers = [realtime.control(tick * DT + part * DT / 4) for part in range(4)]
        if served is None:
            continue
        assert np.abs([answer.control - served.controls[0] for answer in answers]).max() < 1e-12
        steps.append(served.controls[0, 0])
    changes = np.abs(np.diff(steps))
    assert changes.max() == pytest.approx(20 * DT) and (changes > 0.9 * 20 * DT).mean() > 0.2
    assert acceleration is None or np.abs(np.diff(steps, 2)).max() <= acceleration * DT**2 * (1 + 1e-6)
    assert min(steps) >= LOW[0] and max(steps) <= HIGH[0]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.35, 1.0, 1.7, 4.0]), st.floats(-1, 1)), min_size=2, max_size=60))
@settings(max_examples=80, deadline=None)
def test_between_any_two_answers_no_control_changes_by_more_than_the_rate_admits(asked):
    """Whatever is wanted, and whenever it is to have begun, asked for at any times."""
    space = ControlSpace.of(np.array([-1.0]), np.array([1.0]), 1.0, 0.3)
    held, at, answers = Held(space, np.zeros(1)), 0.0, []
    for gap, wanted in asked:
        at += gap
        begins = at if wanted > 0.5 else np.floor(at)  # the safe control, or a planned one
        held = held.moved(np.array([wanted]), begins, at)
        answers.append((at, held.control[0]))
    times, controls = np.array(answers).T
    spans, changes = np.abs(times[:, None] - times), np.abs(controls[:, None] - controls)
    assert (changes <= 0.3 * (spans + 1.0) + 1e-9).all()


def test_what_could_not_be_reached_at_once_is_reached_at_the_rate():
    space = ControlSpace.of(np.array([-1.0]), np.array([1.0]), 1.0, 0.3)
    held, path = Held(space, np.zeros(1)), []
    for k in range(40):
        held = held.moved(np.array([1.0]), 0.0, 0.1 * k)  # of one long step
        path.append(held.control[0])
    assert path == pytest.approx([min(0.3 + 0.03 * k, 1.0) for k in range(40)])


@pytest.mark.parametrize("rate", [None, 20.0])
@pytest.mark.parametrize("on_miss", ["shift", "safe"])
def test_the_first_plan_after_a_miss_starts_where_the_answers_lead(on_miss, rate):
    """Silence for some periods, then a state again: the committed controls are those that the ladder will give."""
    planning = controller(rate_limit=rate)
    realtime = planning.realtime(lockstep=True, deadline=DEADLINE, actuator_delay=3 * DT, on_miss=on_miss, stop_after=9)
    seen: dict[int, np.ndarray] = {}
    lead, line = realtime._lead, [SAFE] * 3
    plan = planning.plan

    def spied(state, **options):
        seen[tick + lead] = state
        return plan(state, **options)

    planning.plan = spied
    x, met, statuses = np.array([0.0, 0.5]), 0, []
    for tick in range(30):
        if tick in seen:
            assert np.allclose(seen[tick], x, atol=1e-5), tick
            met += 1
        if not 10 <= tick < 15:
            realtime.submit(x, tick * DT)
        answer = realtime.control(tick * DT)
        statuses.append(answer.status)
        line.append(answer.control)
        x = np.array(step(tuple(x), tuple(line.pop(0)), TASK.params))
    assert met >= 20 and (Status.SAFE if on_miss == "safe" else Status.SHIFTED) in statuses[6:]


def test_an_estimator_makes_states_of_measurements():
    seen = []

    def estimate(measurement, control, elapsed):
        seen.append((measurement.copy(), control.copy(), elapsed))
        if measurement[0] > 10:
            raise RuntimeError("lost")
        return np.array([measurement[0], 0.0])

    realtime = lockstep(estimator=estimate)
    for tick in range(6):
        assert realtime.submit([0.1 * tick], tick * DT)
        answer = realtime.control(tick * DT)
    assert answer.status is Status.PLANNED
    assert [elapsed for *_, elapsed in seen] == pytest.approx([0.0] + [DT] * 5)
    assert np.array_equal(seen[3][1], realtime._history.since(2 * DT)[1][0])
    assert not realtime.submit([20.0], 6 * DT)
    assert Fault.STATE in realtime.control(6 * DT).faults and "lost" in str(realtime.error)


def test_under_a_clock_that_went_back_plans_grow_old():
    now = [100.0]
    with controller().realtime(deadline=5 * DT, stop_after=2 * DT, clock=partial(now.__getitem__, 0)) as realtime:
        realtime.submit(np.zeros(2))
        while realtime._done < now[0]:
            time.sleep(1e-3)
        now[0] += 5 * DT
        assert realtime.control().status is Status.PLANNED
        now[0], seen, end = 0.0, [], time.monotonic() + 30
        while Status.STOPPED not in seen and time.monotonic() < end:
            assert not realtime.submit(np.zeros(2))
            answer = realtime.control()
            assert Fault.CLOCK | Fault.STAMP in answer.faults
            seen.append(answer.status)
            time.sleep(DT / 4)
        order = [Status.PLANNED, Status.SHIFTED, Status.SAFE, Status.STOPPED]
        assert seen[-1] is Status.STOPPED and seen == sorted(seen, key=order.index)


def test_an_estimator_is_told_what_was_answered_not_what_was_planned():
    told, answers = [], []

    def estimate(measurement, control, elapsed):
        told.append(control.copy())
        return measurement

    realtime = controller(rate_limit=5.0).realtime(lockstep=True, deadline=DEADLINE, estimator=estimate)
    for tick in range(14):
        if tick == 7:
            realtime.stop()
        realtime.submit(np.zeros(2), tick * DT, TASK.params._replace(goal=float(tick % 2)))
        answers.append(realtime.control(tick * DT).control)
    assert np.allclose(told[1:], answers[:-1], atol=1e-9) and realtime.stopped


def test_beside_asyncio():
    async def robot():
        with controller().realtime(deadline=DEADLINE) as realtime:
            for _ in range(200):
                realtime.submit(np.zeros(2))
                await asyncio.sleep(DT / 2)
                if realtime.control().status is Status.PLANNED:
                    return True
        return False

    assert asyncio.run(robot())


def test_in_a_spawned_process_it_works_and_in_a_forked_one_it_says_so():
    code = """
import multiprocessing as mp, os, sys
import numpy as np
from tests.faults import Rig
from mpcrl.core.errors import ForkedProcess
from mpcrl.control.plan import Status

def child():
    rig = Rig("icem", threaded=True)
    rig.until(lambda a: a.status is Status.PLANNED, 200)
    rig.close()

if __name__ == "__main__":
    process = mp.get_context("spawn").Process(target=child)
    process.start(); process.join()
    print("spawned", process.exitcode)
    rig = Rig("icem", threaded=True)
    rig.until(lambda a: a.status is Status.PLANNED, 200)
    pid = os.fork()
    if pid == 0:
        refused = 0
        for call in (lambda: rig.realtime.control(), lambda: rig.realtime.submit(rig.x), rig.realtime.release):
            try:
                call()
            except ForkedProcess as error:
                refused += "spawn" in str(error)
        rig.close()  # must not wait for a thread that is not here
        os._exit(10 + refused)
    print("forked", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print("parent", rig.until(lambda a: a.status is Status.PLANNED, 200).status.value)
    rig.close()
"""
    script = ROOT / "build" / "spawned_and_forked.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["spawned", "0", "forked", "13", "parent", "planned"], done.stderr


@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_controllers_in_several_threads_give_what_they_give_alone(layer):
    code = """
import sys, threading
import numpy as np
from mpcrl.control.controller import Controller
from mpcrl.planners import PLANNERS
from mpcrl.models.analytic import Analytic
from tests.faults import TASK, HORIZON
import numba
try:
    with __import__("mpcrl.core.threads", fromlist=["x"]).ThreadBudget(1).kernels():
        pass
except ValueError:
    sys.exit(77)

names, shared = ["icem", "mppi", "ilqr", "kmppi", "cem", "dial", "smppi", "log_mppi"], Analytic(TASK)

def run(index, out):
    planner = PLANNERS[names[index]](budget=64, horizon=HORIZON)
    c = Controller(TASK, planner, model=shared if index % 2 else None, seed=index, threads=1 + index % 2)
    c.model._pace = 1.0
    rng = np.random.default_rng(index)
    acts = [c.act(rng.normal(size=2), TASK.params._replace(goal=rng.normal())) for _ in range(60)]
    out[index] = np.array(acts).tobytes()

alone, together = {}, {}
for i in range(8):
    run(i, alone)
threads = [threading.Thread(target=run, args=(i, together)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
assert alone == together, [i for i in alone if alone[i] != together.get(i)]
print(numba.threading_layer())
"""
    # pip puts tbb into a folder that no loader searches
    found = os.pathsep.join(filter(None, [f"{sys.prefix}/lib", os.environ.get("LD_LIBRARY_PATH")]))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_THREADING_LAYER": layer, "LD_LIBRARY_PATH": found}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip(f"this system has no {layer}")
    assert done.stdout.split() == [layer], done.stderr[-2000:]


def test_a_second_thread_is_refused_and_told_why():
    slow = controller()
    entered, leave = threading.Event(), threading.Event()

    def wait(costs):
        entered.set()
        leave.wait(10)
        return costs

    slow.model.spoil = wait
    worker = threading.Thread(target=slow.act, args=(np.zeros(2),))
    worker.start()
    assert entered.wait(10)
    with pytest.raises(ConcurrentCall, match="realtime"):
        slow.act(np.zeros(2))
    leave.set()
    worker.join()
    slow.act(np.zeros(2))


def test_numbers_beyond_all_floats_are_bad_input():
    realtime = lockstep()
    for call in (
        lambda: realtime.submit([10**400, 0]),
        lambda: realtime.submit([0, 0], 10**400),
        lambda: realtime.control(10**400),
        lambda: realtime.controller.act([10**400, 0]),
        lambda: realtime.controller.plan([0, 0], applied=[10**400]),
        lambda: controller(safe_control=[10**400]),
    ):
        with pytest.raises(InvalidInput, match="must be"):
            call()


def test_what_is_given_is_copied():
    safe, start = SAFE.copy(), np.zeros(2)
    planning = controller(safe_control=safe)
    realtime = planning.realtime(lockstep=True, deadline=DEADLINE)
    assert realtime.submit(start, 0.0)
    safe[:], start[:] = np.nan, np.nan
    assert np.array_equal(planning.safe_control, SAFE) and np.array_equal(realtime.control(0.0).control, SAFE)
    assert realtime.control(DT).status is Status.PLANNED


def test_bad_options_are_refused():
    for options, message in (
        ({"hz": 0}, "hz"),
        ({"deadline": -1.0}, "deadline"),
        ({"actuator_delay": np.nan}, "actuator_delay"),
        ({"actuator_delay": 1.0}, "longer horizon"),
        ({"on_miss": "hope"}, "shift, safe, stop"),
        ({"stop_after": 0.0}, "stop_after"),
    ):
        with pytest.raises(InvalidInput, match=message):
            controller().realtime(**options)
    with pytest.raises(InvalidInput, match="hz=25"):
        controller(controls_per_plan=2).realtime()


# Every fault, for every planner.


@pytest.mark.parametrize("planner", sorted(PLANNERS))
@pytest.mark.parametrize("case", [case for case in CASES if not case.threaded], ids=lambda case: case.name)
def test_fault(case, planner):
    drive(case, planner)


@pytest.mark.parametrize("planner", ["icem", "ilqr"])  # all planners: benchmarks/realtime.py faults
@pytest.mark.parametrize("case", [case for case in CASES if case.threaded], ids=lambda case: case.name)
def test_fault_in_real_time(case, planner):
    drive(case, planner)


@pytest.mark.parametrize("lying", ["", "status", "age"])
def test_the_ledger_finds_stale_controls_that_are_not_flagged(lying):
    now = [0.0]
    realtime = lockstep(hz=1 / DT)
    ledger = Ledger(realtime, 1 / DT, DEADLINE, lambda: now[0])
    if lying == "status":
        realtime._fresh_for = np.inf
    if lying == "age":
        control = realtime.control
        realtime.control = lambda now: control(now)._replace(age=0.0)
    for tick in range(30):
        now[0] = tick * DT
        if tick % 10 < 5:
            ledger.submit(np.zeros(2), now[0])
        ledger.control()
    assert 5 < ledger.stale < 20 and (ledger.unflagged > 5) == (lying == "status")
    assert (ledger.too_young > 5) == (lying == "age")


def test_every_fault_stands_in_the_table():
    table = (ROOT / "docs" / "realtime.md").read_text()
    for case in CASES:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {case.name} |")]
        status, flags = (cell.strip() for cell in row.split("|")[2:4])
        assert status.split()[0] == case.status.name
        assert flags == "|".join(flag.name or "" for flag in case.flags) or (flags == "" and not case.flags)
        assert ("InvalidInput" in row) == case.error


# Filters.


def test_savitzky_golay_smooths_over_the_seam():
    from scipy.signal import savgol_filter

    smoothing = SavitzkyGolay(window=7, order=2)
    matrix = smoothing.matrix(HORIZON)
    rng = np.random.default_rng(0)
    whole = rng.normal(size=3 + HORIZON)
    assert np.allclose(matrix @ whole, savgol_filter(whole, 7, 2, mode="interp")[3:])
    line = np.linspace(0, 1, 3 + HORIZON)
    assert np.allclose(matrix @ line, line[3:])
    for bad in ({"window": 4}, {"window": 5, "order": 5}, {"window": 5, "order": -1}, {"window": 301, "order": 300}):
        with pytest.raises(InvalidInput):
            SavitzkyGolay(**bad)
    with pytest.raises(InvalidInput, match="too long"):
        controller(smoothing=SavitzkyGolay(window=2 * HORIZON + 3))


def test_smooth_plans_vary_less():
    variation = []
    for smoothing in (None, SavitzkyGolay(window=7, order=2)):
        rough = controller(presets.mppi(budget=64, horizon=HORIZON, temperature=0.01), smoothing=smoothing)
        x, controls = np.zeros(2), []
        for _ in range(60):
            controls.append(rough.act(x))
            x = np.array(step(tuple(x), tuple(controls[-1]), TASK.params))
        variation.append(np.abs(np.diff(controls, axis=0)).sum())
    assert variation[1] < 0.5 * variation[0]


@given(
    st.lists(st.floats(-5, 5), min_size=30, max_size=60),
    st.floats(0.5, 50),
    st.one_of(st.none(), st.floats(0.2, 20)),
)
@settings(max_examples=60, deadline=None)
def test_acceleration_limits_hold_and_bounds_with_them(wanted, limit, rate):
    space = Controller(TASK, presets.icem(), model=SpoilableModel(), threads=1).space
    space = type(space).of(space.low, space.high, 0.1, rate, np.float64, limit)
    applied, velocity = np.array([0.3]), np.zeros(1)
    for value in wanted:
        control = space.admit(np.array([value]), applied, 0.1, velocity)
        assert (space.low <= control).all() and (control <= space.high).all()
        new = (control - applied) / 0.1
        assert np.abs(new - velocity).max() <= limit * 0.1 + 1e-9
        assert rate is None or np.abs(new).max() <= rate + 1e-9
        applied, velocity = control, new


def test_the_validator_gets_the_next_best_before_the_fallback():
    limit = {"speed": np.inf}

    def slow_enough(states, controls):
        assert states.shape == (HORIZON + 1, 2) and controls.shape == (HORIZON, 1)
        return bool(np.abs(states[:, 1]).max() <= limit["speed"])

    checked = controller(validator=slow_enough)
    plan = checked.plan(np.array([0.0, 0.0]))
    assert plan.status is Status.PLANNED and plan.rejected == 0
    top = np.abs(checked.model.rollout(np.zeros(2), plan.controls[None], 0, TASK.params)[0, :, 1]).max()
    checked.reset()
    limit["speed"] = 0.999 * top
    plan = checked.plan(np.array([0.0, 0.0]))
    assert plan.status is Status.PLANNED and plan.rejected >= 1
    assert np.abs(checked.model.rollout(np.zeros(2), plan.controls[None], 0, TASK.params)[0, :, 1]).max() <= 0.999 * top
    before = plan.controls
    limit["speed"] = -1.0
    plan = checked.plan(np.array([0.0, 0.0]))
    assert plan.status is Status.SHIFTED and plan.rejected == 9 and np.array_equal(plan.control, before[1])


def test_penalty_and_barrier_in_lanes():
    def walls(x, u, t, p):
        return Terms(penalty(x[0] - 0.5, 3.0), barrier(x[1] - 1.0, 0.1, 0.05))

    model = Analytic(dataclasses.replace(TASK, name="walls", cost=walls), dtype=np.float64)
    for position, speed in ((0.0, 0.0), (0.7, 0.5), (2.0, 0.96), (0.5, 1.5)):
        state, room = np.array([position, speed]), 1 - speed
        terms = model.terms(state, np.zeros(1), 0, TASK.params)
        log = -0.1 * np.log(room) if room > 0.05 else 0.1 * (0.5 * ((room / 0.05 - 2) ** 2 - 1) - np.log(0.05))
        assert terms == {"border": pytest.approx(3 * max(position - 0.5, 0) ** 2), "limit": pytest.approx(log)}
        (total,) = model.costs(state, Candidates.from_rows(np.zeros((1, 1, 1))), 0, TASK.params, ThreadBudget(1))
        assert total == pytest.approx(sum(terms.values()))
    inside, outside = ((barrier(-0.05 + h, 1.0, 0.05) - barrier(-0.05, 1.0, 0.05)) / h for h in (-1e-7, 1e-7))
    assert inside == pytest.approx(20, rel=1e-4) and outside == pytest.approx(20, rel=1e-4)


def test_rollouts_that_are_not_finite_are_not_shown_to_the_validator():
    def never(*trajectory: Any) -> bool:
        raise AssertionError(trajectory)

    checked = controller(model=Analytic(TASK), validator=never)
    plan = checked.plan(np.zeros(2), params=TASK.params._replace(growth=np.nan))
    assert plan.status is Status.SAFE and plan.failed == plan.samples
