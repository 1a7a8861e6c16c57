"""The log of plans: what it holds, what another process sees of it, and what it refuses to take for one."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import mpcrl
from mpcrl.cli import main
from mpcrl.control.controller import Controller
from mpcrl.control.plan import Plan, Status
from mpcrl.control.telemetry import Counter, Telemetry, read_telemetry
from mpcrl.core.errors import BadTelemetry, InvalidInput
from mpcrl.planners import presets
from mpcrl.tasks.registry import ANALYTIC_TASKS, make_task
from tests.test_controller import broken, toy

ROOT = Path(__file__).resolve().parent.parent


def plan(number: float, status: Status = Status.PLANNED) -> Plan:
    """One whose every number tells which it is."""
    return Plan(
        control=np.full(2, number),
        status=status,
        age=number,
        controls=np.zeros((1, 2)),
        cost=number,
        milliseconds=number,
        iterations=1,
        samples=10,
        failed=1,
        effective_sample_size=number,
    )


def ring(capacity: int = 8, path: Path | None = None) -> Telemetry:
    return Telemetry({"task": "toy"}, "xyz", ("left", "right"), ("effort",), path=path, capacity=capacity)


def record(telemetry: Telemetry, *numbers: float) -> None:
    for number in numbers:
        telemetry.record(plan(number), np.full(3, number), True, [number])


@pytest.mark.parametrize("filed", [False, True])
def test_the_ring_keeps_the_last_plans_in_their_order(tmp_path, filed):
    telemetry = ring(path=tmp_path / "ring" if filed else None)
    record(telemetry, *range(19))
    for log in (telemetry.read(), *([read_telemetry(tmp_path / "ring")] if filed else [])):
        for column in ("cost", "age", "milliseconds", "effective_sample_size", "state_y", "control_right"):
            assert log[column].tolist() == list(range(11, 19)), column
        assert log["state"].shape == (8, 3) and log.names("control") == ["left", "right"]
        assert log["stage"][:, 0].tolist() == list(range(11, 19))
        assert (np.diff(log["time"]) >= 0).all() and abs(time.monotonic() - log["time"][-1]) < 60
        with pytest.raises(InvalidInput, match="no column 'colour'; it has time, episode"):
            log["colour"]
    assert len(telemetry.read(3)) == 3 and telemetry.count(Counter.SAMPLES) == 190
    telemetry.reset()
    record(telemetry, 30)
    assert len(telemetry.read()) == 8 and telemetry.read(episode=True)["cost"].tolist() == [30]
    assert telemetry.count(Counter.PLANS) == 1 and telemetry.status_counts()[Status.PLANNED] == 1


def test_a_row_in_the_making_is_not_taken():
    telemetry = ring()
    record(telemetry, *range(8))
    for place, spoilt in ((2, 0), (5, 7)):  # no number yet, and one number of an older row
        telemetry._rows[place, spoilt] = 0.0
    assert telemetry.read()["cost"].tolist() == [0, 1, 3, 4, 6, 7]


def test_a_reader_never_sees_a_torn_row_of_a_writer_in_another_process(tmp_path):
    code = """
import sys, time
sys.path.insert(0, ".")
from tests.test_telemetry import ring, record
telemetry = ring(16, sys.argv[1])
print("go", flush=True)
end, number = time.monotonic() + 1.5, 0
while time.monotonic() < end:
    record(telemetry, number)
    number += 1
print(number)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "ring")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "go\n"
        telemetry, seen = Telemetry.attach(tmp_path / "ring"), 0
        while writer.poll() is None:
            log = telemetry.read()
            if len(log):
                every = np.column_stack([log["cost"], log["state"], log["control"], log["stage"], log["age"]])
                assert (every == every[:, :1]).all(), "numbers of two plans in one row"
                assert (np.diff(every[:, 0]) > 0).all()  # the newest may be missing: overwritten while it was copied
                seen += len(log)
        assert seen > 50 and telemetry.read()["cost"][-1] == int(writer.stdout.read()) - 1


def test_recording_takes_no_memory_that_grows():
    telemetry, given, state = ring(), plan(1.0), np.zeros(3)
    telemetry.record(given, state, True, [0.0])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5_000):
            telemetry.record(given, state, True, [0.0])
        assert tracemalloc.get_traced_memory()[0] - before < 1_000
    finally:
        tracemalloc.stop()


def test_a_controller_logs_what_it_answers(tmp_path):
    controller = toy(telemetry=tmp_path / "toy")
    plans = [controller.plan(np.array([0.5])) for _ in range(3)]
    broken(controller)
    plans += [controller.plan(np.array([np.nan])), controller.plan(np.array([0.1]))]
    log = read_telemetry(tmp_path / "toy")
    assert np.array_equal(log["control"], [p.control for p in plans])
    assert np.array_equal(log["state"][:, 0], [0.5, 0.5, 0.5, np.nan, 0.1], equal_nan=True)
    assert log.statuses == [p.status for p in plans] and log.statuses[-1] is Status.SHIFTED
    assert log["failed"].tolist() == [p.failed for p in plans]
    assert log.description["task"] == "toy" and log.description["horizon"] == 5
    stats = controller.stats()
    assert stats.fallbacks == 2 and stats.samples == log["samples"].sum() and stats.plans == 5
    controller.reset()
    assert controller.stats().plans == 0 and len(controller.telemetry.read()) == 5
    assert controller.plan(np.zeros(1)).status is Status.SAFE and controller.telemetry.read()["episode"][-1] == 2


def test_calls_between_plans_are_logged_and_are_no_plans():
    controller = toy(controls_per_plan=3)
    for _ in range(6):
        controller.plan(np.zeros(1))
    assert controller.telemetry.read()["planned"].tolist() == [1, 0, 0, 1, 0, 0]
    assert controller.stats().plans == 2


def test_terms_of_the_cost_are_logged_in_a_file(tmp_path):
    task = ANALYTIC_TASKS["cartpole-swingup"]()
    planner = presets.mppi(budget=16, horizon=5)
    controller = Controller(task, planner, threads=1, telemetry=tmp_path / "log")
    controller.warmup()
    controller.plan(np.array([0.0, 1.0, 0.0, 0.0]))
    log = read_telemetry(tmp_path / "log")
    assert len(log) == 1, "warming up is no plan"
    assert dict(zip(log.names("stage"), log["stage"][0], strict=True)) == controller.stats().cost_terms
    assert log.names("state") == list(task.state_names) and log.names("control") == list(task.control_names)

    def raising(*arguments: object) -> float:
        raise ZeroDivisionError

    controller.model.terms = raising  # type: ignore[assignment, method-assign]
    assert controller.plan(np.zeros(4)).status is Status.PLANNED
    assert np.isnan(read_telemetry(tmp_path / "log")["stage"][-1]).all()


def test_answers_of_a_realtime_controller_are_counted():
    task = make_task("cartpole-swingup")
    controller = Controller(task, presets.mppi(budget=16, horizon=20), threads=1)
    with controller.realtime(lockstep=True) as realtime:
        assert realtime.control(0.0).status is Status.SAFE
        for tick in range(1, 6):
            realtime.submit(np.zeros(4), tick * task.dt)
            realtime.control(tick * task.dt)
        counts = controller.telemetry.status_counts(Counter.ANSWERS)
        assert sum(counts.values()) == 6 and counts[Status.PLANNED] >= 3
        realtime.control(0.0)  # the clock went back
        assert controller.telemetry.count(Counter.FAULTS) == mpcrl.Fault.CLOCK.value


def test_tables(tmp_path):
    telemetry = ring()
    record(telemetry, 1.5, 2.5)
    telemetry.record(plan(np.nan, Status.SAFE), np.zeros(3), True, [0.0])
    telemetry.save(tmp_path / "log.csv")
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["planned", "planned", "safe"]
    assert [row["cost"] for row in rows] == ["1.5", "2.5", "nan"] and rows[0]["samples"] == "10"
    parquet = pytest.importorskip("pyarrow.parquet")
    telemetry.save(tmp_path / "log.parquet")
    table = parquet.read_table(tmp_path / "log.parquet").to_pydict()
    assert table["status"] == ["planned", "planned", "safe"] and table["state_x"] == [1.5, 2.5, 0.0]
    with pytest.raises(InvalidInput, match=r"\.csv or \.parquet"):
        telemetry.save(tmp_path / "log.xlsx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "log.parquet"]


def damaged(whole: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "words": b"hello " * 2000,
        "a magic word alone": whole[:16],
        "cut": whole[:-8],
        "too long": whole + bytes(8),
        "no description": whole[:512] + bytes(100) + whole[612:],
        "a list": whole.replace(b'{"task"', b'["task"'),
        "no capacity": whole.replace(b'"capacity"', b'"capacitx"'),
        "a negative capacity": whole.replace(b'"capacity": 8', b'"capacity":-8'),
        "a capacity of another type": whole.replace(b'"capacity": 8', b'"capacity":[]'),
        "a capacity beyond all": whole.replace(b'"task": "toy"', b'"task":"t"').replace(b'ty": 8', b'ty":1e999'),
        "a count that is none": whole[:64] + np.float64(np.nan).tobytes() + whole[72:],
        "a count beyond the largest": whole[:64] + np.float64(1e300).tobytes() + whole[72:],
        "another version": whole.replace(b'"version": 1', b'"version": 9'),
        "a length beyond the end": whole[:16] + np.uint64(2**63).tobytes() + whole[24:],
    }


def test_what_is_no_telemetry_is_refused(tmp_path, capsys):
    record(ring(path=tmp_path / "whole"), 1.0)
    for name, content in damaged((tmp_path / "whole").read_bytes()).items():
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(BadTelemetry, match="bad"):
            pytest.fail(f"{name}: {read_telemetry(tmp_path / 'bad').description}")
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadTelemetry, match="cannot read"):
            read_telemetry(path)
    with pytest.raises(InvalidInput, match="cannot write"):
        ring(path=tmp_path / "nowhere" / "ring")


def test_mutated_files_give_typed_errors_or_whole_rows(tmp_path):
    record(ring(path=tmp_path / "whole"), *range(8))
    whole, rng = (tmp_path / "whole").read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in rng.integers(0, rng.choice([600, 1200, len(whole)]), 4):
            content[place] = rng.integers(256)
        (tmp_path / "bad").write_bytes(content)
        try:
            log = read_telemetry(tmp_path / "bad")
        except BadTelemetry:
            continue
        assert set(log.values[:, 5]) <= set(range(8)), "a damaged row was taken"


# The live view in the terminal.


def test_the_monitor_shows_a_controller_of_another_process(tmp_path, capsys):
    code = """
import sys, numpy, mpcrl
task = mpcrl.make_task("cartpole-swingup")
controller = mpcrl.Controller(task, mpcrl.planners.mppi(budget=16, horizon=5), threads=1, telemetry=sys.argv[1])
controller.warmup()
print("go", flush=True)
for number in range(41):
    controller.plan([numpy.nan if number == 20 else 0.0, 1.0, 0.0, 0.0])
print("done", flush=True)
sys.stdin.read()
"""
    path = tmp_path / "log"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as robot:
        assert robot.stdin is not None and robot.stdout is not None
        assert robot.stdout.readline() == "go\n" and robot.stdout.readline() == "done\n"
        assert main(["monitor", str(path), "--once", "--window", "60"]) == 0
        robot.stdin.close()
    shown = " ".join(capsys.readouterr().out.split())  # lines break where the terminal is narrow
    for part in ("cartpole-swingup", "16 trajectories x 5 steps", "planned 40", "shifted 1", "p99", " Hz over "):
        assert part in shown, shown
    for part in ("16 per plan, 0 of 640 failed", "control force", "rail 0", f"process {robot.pid}"):
        assert part in shown, shown


def test_the_monitor_before_the_first_plan_and_of_what_is_no_telemetry(tmp_path, capsys):
    toy(telemetry=tmp_path / "log")
    assert main(["monitor", str(tmp_path / "log"), "--once"]) == 0
    assert "no plan yet" in capsys.readouterr().out
    (tmp_path / "log").write_text("hello")
    for path in ("log", "nowhere"):
        assert main(["monitor", str(tmp_path / path), "--once"]) == 2
        assert "give the path of a controller's telemetry" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["task", "planner", "budget", "horizon", "dt", "control_low", "control_high", "pid"])
def test_the_monitor_refuses_telemetry_that_does_not_describe_a_controller(tmp_path, capsys, key):
    toy(telemetry=tmp_path / "log").plan(np.zeros(1))
    whole = (tmp_path / "log").read_bytes()
    (tmp_path / "log").write_bytes(whole.replace(b'"%s"' % key.encode(), b'"%s"' % key[::-1].encode()))
    assert main(["monitor", str(tmp_path / "log"), "--once"]) == 2
    assert f"does not tell its {key}" in capsys.readouterr().err


def test_the_monitor_refuses_a_description_of_wrong_values(tmp_path, capsys):
    toy(telemetry=tmp_path / "log").plan(np.zeros(1))
    whole = (tmp_path / "log").read_bytes()
    for right, wrong in (
        (b'"horizon": 5', b'"horizon":-5'),
        (b'"dt": 0', b'"dt":-0'),
        (b'"pid": ', b'"pid":-'),
    ):
        assert right in whole and len(right) == len(wrong)
        (tmp_path / "log").write_bytes(whole.replace(right, wrong))
        assert main(["monitor", str(tmp_path / "log"), "--once"]) == 2
        assert capsys.readouterr().err.startswith("error: ")
