"""What a controller in real time keeps to: `python benchmarks/realtime.py STUDY [--scale 0.1]`.

Each study prints its figures beside its bars, writes benchmarks/results/realtime_STUDY.csv (histograms beside it), and
exits with 1 where a bar is missed. `--scale` shortens a study; only whole ones are written. Times want a machine that
does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for tests.faults, the list of faults

import mpcrl  # noqa: E402
from mpcrl.core.checks import positive_number  # noqa: E402
from mpcrl.core.files import atomic  # noqa: E402
from mpcrl.experiments.machine import processor  # noqa: E402
from mpcrl.planners import PLANNERS  # noqa: E402
from tests import faults  # noqa: E402

Row = dict[str, Any]
RESULTS = ROOT / "benchmarks" / "results"


SEEDS_DONE = "seeds of each fault and planner"


def results(study: str) -> pathlib.Path:
    return RESULTS / f"realtime_{study}.csv"


def save(study: str, rows: list[Row]) -> None:
    there = {"machine": processor(), "threads_there": numba.config.NUMBA_NUM_THREADS, "date": time.strftime("%F")}
    columns = list(dict.fromkeys(key for each in rows for key in each | there))
    with atomic(results(study)) as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(each | there for each in rows)


def row(what: str, value: float, bar: str, met: bool | None, **more: Any) -> Row:
    return {"what": what, "value": value, "bar": bar, "met": "" if met is None else "yes" if met else "no", **more}


def at_most(what: str, value: float, limit: float, **more: Any) -> Row:
    return row(what, value, f"<= {limit:g}", value <= limit, **more)


def at_least(what: str, value: float, limit: float, **more: Any) -> Row:
    return row(what, value, f">= {limit:g}", value >= limit, **more)


def histogram(name: str, columns: dict[str, list[float]], width: float, scale: float) -> None:
    """Counts of times (ms) in bins of `width`, one column each; the last bin holds all that is longer."""
    if scale < 1:
        return
    edges = width * np.arange(401)
    counts = {key: np.histogram(np.clip(values, 0, edges[-1] - width / 2), edges)[0] for key, values in columns.items()}
    with atomic(RESULTS / f"realtime_{name}_histogram.csv") as scratch, scratch.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["from_ms", *counts])
        for k, edge in enumerate(edges[:-1]):
            if any(values[k] for values in counts.values()):
                writer.writerow([f"{edge:.6g}", *(values[k] for values in counts.values())])


def sleep_until(moment: float) -> None:
    left = moment - time.monotonic()
    if left > 0:
        time.sleep(left)


@contextlib.contextmanager
def compilations() -> Iterator[list[object]]:
    """Everything that Numba compiles meanwhile, in this process."""
    from numba.core import event

    recorder = event.RecordingListener()
    with event.install_listener("numba:compile", recorder):
        yield recorder.buffer


@contextlib.contextmanager
def priority(first: bool) -> Iterator[str]:
    """The calling thread, not the planner's, before all ordinary ones where asked for and allowed; its name."""
    if not first or not hasattr(os, "SCHED_FIFO"):
        yield "ordinary"
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError:
        yield "ordinary (SCHED_FIFO is not permitted)"
        return
    try:
        yield "SCHED_FIFO"
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


CALLERS = {"": mpcrl.wait_until, ", caller just sleeps": sleep_until}
"""How a caller waits for its deadline. Bars are asked of the first; what the other costs is told beside it."""


def child(study: str, *arguments: str, **environment: str) -> list[str]:
    """Run a part of a study in a process of its own; the words that it prints."""
    done = subprocess.run(
        [sys.executable, __file__, study, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    if done.returncode:
        raise RuntimeError(f"{study} {arguments} {environment}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout.split()


# ---- whatever happens --------------------------------------------------------------------------------------------
def fuzz(scale: float) -> list[Row]:
    """Calls with anything for a state, costs, params, times: the control is finite, within bounds and the rate limit.

    A cart with bounds that are not symmetric, a quadrotor with four controls, and a pendulum in MuJoCo.
    """
    rng, statuses, rows, total = np.random.default_rng(0), Counter[str](), [], 0
    for task, model, share in (
        (faults.TASK, faults.SpoilableModel, 0.58),
        (mpcrl.make_task("quadrotor-obstacles"), faults.SpoilableModel, 0.4),
        (mpcrl.make_task("InvertedPendulum-v5"), faults.SpoilablePhysics, 0.02),
    ):
        bad, fast, names = 0, 0, [name for name in sorted(PLANNERS) if name != "ilqr" or model is faults.SpoilableModel]
        for name in names:  # iLQR wants derivatives, which the physics does not give
            calls = max(1, int(1e5 * scale * share / len(names)))
            outside, jumped = fuzzed(task, model(task), name, calls, rng, statuses)
            bad, fast, total = bad + outside, fast + jumped, total + calls
        more = {"planners": len(names), "calls": calls * len(names)}
        rows.append(at_most(f"{task.name}: controls not finite or out of bounds", bad, 0, **more))
        rows.append(at_most(f"{task.name}: changes beyond the rate limit", fast, 0, **more))
    print(dict(statuses))
    return [*rows, at_least("calls", total, int(9.9e4 * scale))]


def fuzzed(
    task: Any, model: Any, planner: str, calls: int, rng: np.random.Generator, statuses: Counter[str]
) -> tuple[int, int]:
    """How many controls were not finite or out of bounds, and how many changed faster than the rate limit."""
    values = np.array([0.0, 1.0, -1.0, 1e-300, 1e30, -1e39, 1e300, np.nan, np.inf, -np.inf])

    def anything(like: np.ndarray) -> np.ndarray:
        drawn = np.where(rng.random(like.shape) < 0.3, rng.choice(values, like.shape), like)
        return drawn if rng.random() < 0.5 else like

    low, high, dt = task.control_low, task.control_high, task.dt
    rate = rng.choice([0.1, 0.5, np.inf]) * (high - low) / dt
    controller = mpcrl.Controller(
        task,
        faults.planner_named(planner),
        model=model,
        threads=1,
        safe_control=low + 0.4 * (high - low),
        rate_limit=rate,
        acceleration_limit=rate / dt if rng.random() < 0.5 else None,
        smoothing=mpcrl.SavitzkyGolay(window=5) if rng.random() < 0.5 else None,
        validator=lambda states, controls: rng.random() < 0.8,
    )
    realtime, now, latest = controller.realtime(lockstep=True, deadline=0.6 * dt), 0.0, -np.inf
    floats = [key for key, value in task.params._asdict().items() if isinstance(value, float)]
    example, before = model.example_state(), controller.safe_control
    model.spoil = anything
    bad = fast = 0
    for _ in range(calls):
        params = task.params
        if rng.random() < 0.5:
            key = rng.choice(floats)
            params = params._replace(**{key: float(anything(np.array([getattr(params, key)]))[0])})
        now += dt * rng.choice([0.0, 0.25, 1.0, 5.0, -50.0], p=[0.1, 0.4, 0.4, 0.09, 0.01])
        realtime.submit(anything(example + rng.normal(size=example.size)), now, params)
        asked = now + dt * rng.choice([0.0, 0.5])
        answer = realtime.control(asked)
        elapsed = max(dt, asked - latest) if latest > -np.inf else dt
        latest = max(latest, asked)
        bad += not (np.isfinite(answer.control).all() and (low <= answer.control).all())
        bad += not (answer.control <= high).all()
        fast += not (np.abs(answer.control - before) <= rate * elapsed * (1 + 1e-9)).all()
        before = answer.control
        statuses[answer.status.value] += 1
        if answer.status is mpcrl.Status.STOPPED:
            realtime.release()
            latest = -np.inf
    return bad, fast


def every_fault(scale: float) -> list[Row]:
    """Every fault of the list, every planner, 20 seeds: documented status, flags and control.

    Goes on where the last call was ended: what a seed has given is written at once. Delete the file to begin anew.
    """
    path, failed, first = results("faults"), Counter[str](), 0
    if scale >= 1 and path.exists():
        with path.open(newline="") as file:
            there = {each["what"]: each for each in csv.DictReader(file)}
        if all(case.name in there for case in faults.CASES):
            first = int(float(there[SEEDS_DONE]["value"]))
            failed.update({case.name: int(float(there[case.name]["value"])) for case in faults.CASES})
    seeds, done = max(1, round(20 * scale)), first

    def rows() -> list[Row]:
        found = [at_most(case.name, failed[case.name], 0, runs=done * len(PLANNERS)) for case in faults.CASES]
        return [*found, at_least(SEEDS_DONE, done, seeds, runs=done * len(PLANNERS) * len(faults.CASES))]

    for seed in range(first, seeds):
        for case in faults.CASES:
            for planner in sorted(PLANNERS):
                try:
                    faults.drive(case, planner, seed)
                except AssertionError as error:
                    failed[case.name] += 1
                    print(case.name, planner, seed, error, flush=True)
        done = seed + 1
        if scale >= 1:
            save("faults", rows())
    return rows()


def process(scale: float, part: str = "") -> list[Row]:
    """The faults that a controller meets before it starts, or in another process: files, cold kernels, fork."""
    if part:
        rig = faults.Rig(part, threaded=True)
        with compilations() as compiled:
            rig.until(lambda answer: answer.status is mpcrl.Status.PLANNED, 500)
            rig.run(20)
        child_process = os.fork()
        if child_process == 0:
            refused = 0
            for call in (rig.realtime.control, lambda: rig.realtime.submit(rig.x), rig.realtime.release):
                try:
                    call()
                except mpcrl.core.errors.ForkedProcess:
                    refused += 1
            os._exit(refused)
        refused = os.waitstatus_to_exitcode(os.waitpid(child_process, 0)[1])
        rig.until(lambda answer: answer.status is mpcrl.Status.PLANNED, 500)
        print(len(compiled), refused)
        rig.close()
        return []
    rows = []
    for planner in ("icem", "ilqr") if scale >= 1 else ("icem",):  # the sampling planners share their kernels
        with tempfile.TemporaryDirectory() as name:
            cache, blocked = pathlib.Path(name) / "cache", pathlib.Path(name) / "file"
            blocked.write_text("not a folder")
            for what, folder in (
                ("cold compile", cache),
                ("truncated cache", cache),
                ("read-only disk", blocked / "no"),
            ):
                for path in cache.glob("*.nb*") if what == "truncated cache" else ():
                    os.truncate(path, path.stat().st_size // 2)
                compiled, refused = map(int, child("process", "--part", planner, MPCRL_CACHE_DIR=str(folder)))
                rows.append(at_most(f"{planner}, {what}: compiled after the start", compiled, 0))
                rows.append(at_least(f"{planner}, {what}: calls refused after a fork", refused, 3))
    accepted, xml = 0, "<mujoco><worldbody><body><joint/><geom size='.1'/></body></worldbody></mujoco>"
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "robot.xml"
        for length in range(len(xml)):
            path.write_text(xml[:length])
            try:
                mpcrl.MuJoCo(path, cost=lambda before, u, after, t, p: 0.0)
                accepted += 1
            except mpcrl.MpcrlError:
                continue
    rows.append(at_most("bad model file: no typed error", accepted, 0, files=len(xml)))
    return rows


# ---- time --------------------------------------------------------------------------------------------------------
def cartpole(threads: int = 1, **options: Any) -> mpcrl.Controller:
    task = mpcrl.make_task("cartpole-swingup")
    return mpcrl.Controller(task, mpcrl.planners.icem(budget=128, horizon=30), threads=threads, **options)


def jitter(scale: float) -> list[Row]:
    """50 Hz, deadline 15 ms: each tick submits, waits until the deadline, asks. Alone, and with a busy process.

    The caller waits by `wait_until`; one that just sleeps is measured beside it.
    """
    deadline, period, rows = 0.015, 0.02, []
    answering: dict[str, list[float]] = {}
    for load, seconds, wait in (
        ("alone", 30, mpcrl.wait_until),
        *((f"busy{caller}", 60, wait) for caller, wait in CALLERS.items()),
    ):
        asked = wait is mpcrl.wait_until
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if "busy" in load else None
        try:
            with (
                cartpole().realtime(hz=50, deadline=deadline) as realtime,
                compilations() as compiled,
            ):
                answers, woke, plans, statuses = [], [], [], Counter[str]()
                state, begin, seen = realtime.controller.model.example_state(), time.monotonic() + 0.1, None
                for tick in range(round(scale * seconds / period)):
                    stamp = begin + tick * period
                    sleep_until(stamp)
                    realtime.submit(state, stamp)
                    wait(stamp + deadline)
                    awake = time.monotonic()
                    answer = realtime.control()
                    answers.append(1e3 * (time.monotonic() - stamp))
                    woke.append(1e3 * (awake - stamp))
                    statuses[answer.status.value] += 1
                    if realtime.last_plan is not seen:
                        seen = realtime.last_plan
                        plans.append(seen.milliseconds)
                compiled_count = len(compiled)
        finally:
            if busy:
                busy.kill()
                busy.wait()
        answering[f"answer {load}"], answering[f"plan {load}"] = answers, plans
        late = float(np.percentile(answers, 99.9))
        ratio = float(np.percentile(plans, 99) / np.median(plans))
        more = {
            "ticks": len(answers),
            "planned": statuses["planned"],
            "max_ms": round(max(answers), 3),
        }
        rows.append(at_most(f"{load}: p99.9 of answering, ms", late, 16 if asked else np.inf, **more))
        rows.append(row(f"{load}: p99.9 of waking up to ask, ms", float(np.percentile(woke, 99.9)), "", None, **more))
        calls = np.subtract(answers, woke)
        rows.append(at_most(f"{load}: p99.9 of a call of control, ms", float(np.percentile(calls, 99.9)), 1, **more))
        more["max_ms"] = round(max(plans), 3)
        bar = 1.5 if load == "alone" else np.inf
        rows.append(at_most(f"{load}: p99 / median of planning", ratio, bar, **more))
        rows.append(at_most(f"{load}: compilations", compiled_count, 0, **more))
        print(load, f"plan median {np.median(plans):.2f} ms", dict(statuses))
    histogram("jitter", answering, 0.05, scale)
    return rows


def stalls(scale: float) -> list[Row]:
    """Plans that take 2 and 10 times their deadline, out of the blue: how late the answer at the deadline is."""
    rows, columns, deadline, period = [], {}, 0.015, 0.02
    for (caller, wait), factor in itertools.product(CALLERS.items(), (2, 10)):
        label, asked = f"{factor}x{caller}", wait is mpcrl.wait_until
        controller = cartpole()
        costs, rng = controller.model.costs, np.random.default_rng(factor)

        def slow(*arguments: Any, seconds: float = factor * deadline, costs: Any = costs, rng: Any = rng) -> Any:
            if rng.random() < 0.05:
                time.sleep(seconds)
            return costs(*arguments)

        with controller.realtime(hz=50, deadline=deadline) as realtime:
            controller.model.costs = slow  # type: ignore[method-assign]
            late, woke, calls, statuses = [], [], [], Counter[str]()
            ledger = faults.Ledger(realtime, 50, deadline, time.monotonic)
            state, begin = controller.model.example_state(), time.monotonic() + 0.1
            for tick in range(round(30 * scale / period)):
                stamp = begin + tick * period
                sleep_until(stamp)
                ledger.submit(state, stamp)
                wait(stamp + deadline)
                awake = time.monotonic()
                answer, done = ledger.control(), ledger.there
                late.append(1e3 * (done - stamp - deadline))
                woke.append(1e3 * (awake - stamp - deadline))
                calls.append(1e3 * (done - awake))
                statuses[answer.status.value] += 1
                if realtime.stopped:
                    realtime.release()
        more = {
            "not_planned": len(late) - statuses["planned"],
            "ticks": len(late),
            "p50_ms": round(float(np.median(late)), 4),
        }
        rows.append(
            at_most(f"{label}: latest answer after its deadline, ms", max(late), 1 if asked else np.inf, **more)
        )
        rows.append(row(f"{label}: of that the system woke us late by, ms", max(woke), "", None, **more))
        rows.append(row(f"{label}: longest call of control, ms", max(calls), "", None, **more))
        rows.append(at_most(f"{label}: stale controls that were not flagged", ledger.unflagged, 0, **more))
        rows.append(at_most(f"{label}: controls older than was said", ledger.too_young, 0, **more))
        if factor == 10:  # else the rows above show nothing
            rows.append(at_least(f"{label}: stale controls", ledger.stale, 1, **more))
        columns[f"late {label}"] = late
        print(label, dict(statuses))
    histogram("stalls", columns, 0.01, scale)
    return rows


def nav2(scale: float, part: str = "") -> list[Row]:
    """Differential drive over a costmap that is new at every tick: 2000 x 56 by MPPI on 2 threads."""
    if not part:
        columns, rows = {}, []
        for kind in ("ordinary", "first"):
            size, caller, *laps = child("nav2", "--scale", str(scale), "--part", kind)
            times = columns[kind] = [float(lap) for lap in laps]
            more = {"ticks": len(times), "costmap": size, "threads": caller, "max_ms": round(max(times), 3)}
            rows.append(
                at_least(f"{kind}: plans per second, by the median", 1e3 / float(np.median(times)), 500, **more)
            )
            rows.append(at_most(f"{kind}: p99 of a plan, ms", float(np.percentile(times, 99)), 4, **more))
        histogram("nav2", columns, 0.05, scale)
        return rows
    task = mpcrl.make_task("diffdrive-costmap")
    planner = mpcrl.planners.mppi(budget=2000, horizon=56, width=0.5, temperature=0.3)
    with priority(part == "first") as caller:  # before the first kernel: its threads inherit the priority
        controller = mpcrl.Controller(task, planner, threads=2)
        state, rng = controller.model.example_state(), np.random.default_rng(0)
        controller.warmup()
        laps, base = [], task.params.costmap
        for _ in range(round(5000 * scale)):
            costmap = np.minimum(base + 0.01 * rng.random(base.shape), 1.0)
            begin = time.perf_counter()
            plan = controller.plan(state, params=task.params._replace(costmap=costmap))
            laps.append(1e3 * (time.perf_counter() - begin))
            state = np.array(task.step(tuple(state), tuple(plan.control), task.params))
    print("x".join(map(str, base.shape)), caller.replace(" ", "_"), *(f"{lap:.4f}" for lap in laps))
    return []


def idle(scale: float, part: str = "") -> list[Row]:
    """What a process uses at 100 Hz beside solving, in cores; its caller, punctual by `wait_until`, included."""
    if part:
        threads = int(part)
        task = mpcrl.make_task("quadrotor-obstacles")
        controller = mpcrl.Controller(task, mpcrl.planners.mppi(budget=512, horizon=30), threads=threads)
        with controller.realtime(hz=100, deadline=0.008) as realtime:
            state, solving, seen = controller.model.example_state(), 0.0, None
            begin, used = time.monotonic(), time.process_time()
            ticks = round(1000 * scale)
            for tick in range(ticks):
                mpcrl.wait_until(begin + 0.01 * tick)
                realtime.submit(state)
                realtime.control()
                if realtime.last_plan is not seen:
                    seen = realtime.last_plan
                    solving += 1e-3 * seen.milliseconds
            used, seconds = time.process_time() - used, time.monotonic() - begin
        print(used / seconds, solving / seconds)
        return []
    rows = []
    for threads, policy in (("1", ""), ("2", "passive"), ("2", "")):
        environment = {"OMP_WAIT_POLICY": policy} if policy else {}
        used, solving = map(float, child("idle", "--scale", str(scale), "--part", threads, **environment))
        beside = used - solving  # work of further threads on a plan counts as beside it
        what = f"{threads} threads{', OMP_WAIT_POLICY=' + policy if policy else ''}: cores beside solving"
        advised = threads == "1" or bool(policy)
        more = {"used": round(used, 4), "solving": round(solving, 4)}
        rows.append(at_most(what, beside, 0.15, **more) if advised else row(what, beside, "", None, **more))
    return rows


# ---- control -----------------------------------------------------------------------------------------------------
def delay(scale: float) -> list[Row]:
    """60 ms of actuator and 20 ms of computing: with what the real-time loop does about it, and without."""
    rows = []
    plans = {
        "cartpole-swingup": mpcrl.planners.icem(budget=128, horizon=30),
        "quadrotor-obstacles": mpcrl.planners.icem(budget=256, horizon=35, width=0.25),
    }
    for name, planner in plans.items():
        means = {}
        for mode in ("no delay", "compensated", "uncompensated"):
            costs = [delayed(name, planner, mode, seed) for seed in range(max(2, round(6 * scale)))]
            means[mode] = float(np.mean(costs))
        more = {"seeds": len(costs), "cost_without_delay": round(means["no delay"], 2)}
        rows.append(at_most(f"{name}: compensated / no delay", means["compensated"] / means["no delay"], 1.15, **more))
        ratio = means["uncompensated"] / means["no delay"]
        rows.append(at_least(f"{name}: uncompensated / no delay", ratio, 1.3, **more))
    return rows


def delayed(name: str, planner: Any, mode: str, seed: int, seconds: float = 8.0) -> float:
    """Cost of an episode at 20 ms ticks, half a control period."""
    task = mpcrl.make_task(name)
    tick, fine = task.dt / 2, task.params._replace(dt=task.dt / 2)
    controller = mpcrl.Controller(task, planner, threads=1, seed=seed)
    realtime = controller.realtime(deadline=0.02, actuator_delay=0.06, lockstep=True)
    x = tuple(task.reset(np.random.default_rng(seed)))
    late = {"no delay": 0, "compensated": 3, "uncompensated": 4}[mode]  # the 20 ms of computing are the loop's own
    line, control, total = deque([controller.safe_control] * late), controller.safe_control, 0.0
    for k in range(round(seconds / tick)):
        if k % 2 == 0 and mode == "compensated":
            realtime.submit(np.array(x), k * tick)
        elif k % 2 == 0:
            control = controller.act(np.array(x))
        line.append(realtime.control(k * tick).control if mode == "compensated" else control)
        acting = tuple(line.popleft())
        total += sum(task.cost(x, acting, 0, task.params)) / 2
        x = tuple(map(float, task.step(x, acting, fine)))
    return total


def smoothness(scale: float) -> list[Row]:
    """Control variation and cost of KMPPI against MPPI at the same options, a support point in every third step.

    With one in every second step, its default, the curve is hardly smoother than white noise. No bar for the cart-pole:
    a swing-up takes the force from bound to bound, and either does that.
    """
    rows, seeds = [], max(2, round(5 * scale))
    common = {"budget": 1000, "kind": "normalised", "temperature": 0.03, "width": 0.3}
    for name, horizon in (("quadrotor-obstacles", 35), ("diffdrive-costmap", 40), ("cartpole-swingup", 30)):
        task, found = mpcrl.make_task(name), {}
        for planner in (
            mpcrl.planners.mppi(horizon=horizon, **common),
            mpcrl.planners.kmppi(horizon=horizon, points=horizon // 3, kernel_width=3.0, **common),
        ):
            costs, variations = [], []
            for seed in range(seeds):
                controller = mpcrl.Controller(task, planner, threads=1, seed=seed)
                x, controls, total = task.reset(np.random.default_rng(seed)), [], 0.0
                for _ in range(task.episode_steps):
                    controls.append(controller.act(x))
                    total += sum(task.cost(tuple(x), tuple(controls[-1]), 0, task.params))
                    x = np.array(task.step(tuple(x), tuple(controls[-1]), task.params))
                costs.append(total)
                variations.append(np.abs(np.diff(controls, axis=0) / controller.space.half_range).sum())
            found[planner.name] = float(np.mean(costs)), float(np.mean(variations))
        (cost, variation), (smooth_cost, smooth_variation) = found["mppi"], found["kmppi"]
        more = {"seeds": seeds, "mppi_cost": round(cost, 2), "mppi_variation": round(variation, 1)}
        for what, ratio, bar in (
            ("control variation", smooth_variation / variation, 0.5),
            ("cost", smooth_cost / cost, 1.02),
        ):
            what = f"{name}: kmppi / mppi, {what}"
            rows.append(row(what, ratio, "", None, **more) if "cartpole" in name else at_most(what, ratio, bar, **more))
    return rows


# ---- threads and memory ------------------------------------------------------------------------------------------
def threads(scale: float, part: str = "") -> list[Row]:
    """Eight controllers in eight Python threads against the same one after the other, on each layer of Numba."""
    calls = max(1, int(1e4 * scale))
    if part:
        names = sorted(PLANNERS)[:8]

        def run(index: int, out: dict[int, bytes]) -> None:
            planner = PLANNERS[names[index]](budget=32, horizon=faults.HORIZON)
            controller = mpcrl.Controller(faults.TASK, planner, seed=index, threads=1 + index % 2)
            controller.model._pace = 1.0  # type: ignore[attr-defined]  # two threads always pay
            rng = np.random.default_rng(index)
            out[index] = np.array([controller.act(rng.normal(size=2)) for _ in range(calls)]).tobytes()

        alone: dict[int, bytes] = {}
        together: dict[int, bytes] = {}
        for index in range(8):
            run(index, alone)
        workers = [threading.Thread(target=run, args=(index, together)) for index in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        print(sum(alone[i] != together.get(i) for i in range(8)), numba.threading_layer())
        return []
    rows = []
    for layer in ("omp", "workqueue", "tbb"):
        try:
            differing, used = child("threads", "--scale", str(scale), "--part", layer, NUMBA_THREADING_LAYER=layer)
        except RuntimeError as error:
            absent = "No threading layer could be loaded" in str(error)
            rows.append(row(f"{layer}: controllers that differ", np.nan, "<= 0", None if absent else False))
            print(layer, "is not on this system" if absent else error)
            continue
        assert used == layer
        rows.append(at_most(f"{layer}: controllers that differ", int(differing), 0, calls=8 * calls))
    return rows


def memory(scale: float) -> list[Row]:
    """Growth of the resident memory over 10^6 ticks, a plan every hundredth."""
    realtime = mpcrl.Controller(
        faults.TASK, mpcrl.planners.icem(budget=32, horizon=faults.HORIZON), threads=1
    ).realtime(lockstep=True, deadline=faults.DEADLINE)
    x, ticks, dt = np.zeros(2), int(1e6 * scale), faults.DT / 100

    def resident() -> float:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def run(first: int, count: int) -> None:
        for tick in range(first, first + count):
            realtime.submit(x, tick * dt)
            realtime.control(tick * dt)

    run(0, 20_000)
    before = resident()
    run(20_000, ticks)
    return [at_most("growth, MB", resident() - before, 5, ticks=ticks)]


STUDIES: dict[str, Callable[..., list[Row]]] = {
    "fuzz": fuzz,
    "faults": every_fault,
    "process": process,
    "jitter": jitter,
    "stalls": stalls,
    "delay": delay,
    "threads": threads,
    "idle": idle,
    "memory": memory,
    "smoothness": smoothness,
    "nav2": nav2,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scale = positive_number("scale", arguments.scale)
    if arguments.part:
        STUDIES[arguments.study](scale, arguments.part)
        return 0
    begin = time.perf_counter()
    rows = STUDIES[arguments.study](scale)
    for each in rows:
        print(*(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in each.items()))
    print(f"{time.perf_counter() - begin:.0f} s")
    if scale >= 1:
        save(arguments.study, rows)
    return 0 if all(each["met"] != "no" for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
