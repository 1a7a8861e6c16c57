"""`mpcrl compare`: what a sweep runs, that it loses and repeats nothing, and what it refuses before it begins."""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpcrl.cli import main
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import available_threads
from mpcrl.experiments import board, display, machine, sweep
from mpcrl.experiments.backends import Workers
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.config import labels, run_config
from mpcrl.experiments.configure import planner_for
from mpcrl.experiments.machine import versions
from mpcrl.experiments.matrix import matrix_of, read_toml
from mpcrl.experiments.run import run_task
from mpcrl.experiments.store import Store
from mpcrl.experiments.suites import expanded, planner_suites, task_suites
from mpcrl.experiments.tables import grouped, summary_rows
from mpcrl.planners import PLANNERS
from mpcrl.tasks.registry import TASKS, make_task

ROOT = Path(__file__).resolve().parent.parent
TASK = "pendulum-swingup"
SWEEP = f"--tasks {TASK} --planners icem,mppi:width=0.5 --budgets 16,32 --horizons 8 --seeds 3 --steps 4"
TABLES = ("results.csv", "summary.csv")


def compare(out: Path, arguments: str = SWEEP, *more: str) -> int:
    """In this process, one run after the other."""
    return main(["compare", "--out", str(out), "--workers", "1", "--threads", "1", *arguments.split(), *more])


def process(out: Path, arguments: str = SWEEP, workers: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mpcrl", "compare", "--out", str(out), "--workers", str(workers), *arguments.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # whoever runs these tests in the background may have them ignore it, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(out: Path) -> dict[str, tuple[bytes, int]]:
    """Result files with their bytes and times of writing."""
    found = sorted((out / "runs").glob("*/[0-9]*.json"))
    return {str(path.relative_to(out)): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done")
    assert compare(out) == 0
    return out


# What is run.


def test_every_combination_is_run_once_and_gives_what_a_run_gives(done) -> None:
    table = rows(done / "results.csv")
    found = [(row["planner"], int(row["budget"]), int(row["seed"])) for row in table]
    assert sorted(found) == sorted(itertools.product(["icem", "mppi"], [16, 32], range(3)))
    task = make_task(TASK)
    row = next(row for row in table if (row["planner"], row["budget"], row["seed"]) == ("mppi", "32", "2"))
    planner = planner_for(task, "mppi", budget=32, horizon=8, options={"width": 0.5})
    alone = run_task(task, planner, steps=4, seed=2, threads=1)
    assert float(row["return"]) == alone.returns[0]
    assert alone.control_hash.startswith(row["control_hash"])
    assert (row["task"], row["method"], row["most_steps"]) == (TASK, "mppi, budget 32", "4")


def test_a_share_of_the_time_limits_plans() -> None:
    """And counts the time of all controls that are taken of a plan."""
    task = make_task(TASK)

    def samples(time_share: float | None, controls_per_plan: int) -> float:
        config = run_config(
            task,
            "icem",
            budget=20_000,
            steps=20,
            options={"iterations": 10},
            time_share=time_share,
            controls_per_plan=controls_per_plan,
        )
        return float(sweep.execute(config, 0, 1)["samples"]) * controls_per_plan / 20  # of one plan

    assert samples(0.02, 1) < 0.5 * samples(None, 1)
    assert samples(0.02, 4) > 2 * samples(0.02, 1)


def test_summary_is_of_the_runs(done) -> None:
    results = rows(done / "results.csv")
    for row in rows(done / "summary.csv"):
        returns = [float(r["return"]) for r in results if r["hash"] == row["hash"]]
        assert len(returns) == int(row["runs"]) == 3
        assert float(row["mean"]) == pytest.approx(np.mean(returns), rel=1e-14)
        assert float(row["mean_low"]) <= float(row["mean"]) <= float(row["mean_high"])


def test_a_sweep_that_is_done_does_nothing_again(done, capsys) -> None:
    before, tables = files(done), [(done / name).read_bytes() for name in TABLES]
    assert compare(done) == 0
    assert "0 runs of 4 configurations; 12 are there already" in capsys.readouterr().out
    assert files(done) == before
    assert [(done / name).read_bytes() for name in TABLES] == tables


def test_more_seeds_are_added_to_what_is_there(done, tmp_path) -> None:
    out = tmp_path / "out"
    assert compare(out, SWEEP.replace("--seeds 3", "--seeds 2")) == 0
    before = files(out)
    assert compare(out) == 0
    assert {path: files(out)[path] for path in before} == before
    assert (out / "results.csv").read_bytes() == (done / "results.csv").read_bytes()


def test_the_order_of_runs_has_no_part_in_the_table(done, tmp_path) -> None:
    reversed_ = SWEEP.replace("icem,mppi:width=0.5", "mppi:width=0.5,icem").replace("16,32", "32,16")
    assert compare(tmp_path, reversed_.replace("--seeds 3", "--seeds 2,0,1")) == 0
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes()


def test_toml_and_flags_say_the_same_and_flags_win(tmp_path) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(
        f"""
tasks = ["{TASK}"]
planners = ["icem", {{ name = "mppi", width = 0.5 }}]
budgets = [16, 32]
horizons = 8
seeds = 3
steps = 7
plant_scale = {{ mass = 1.5 }}
"""
    )
    entries = read_toml(file)
    flags = {"tasks": TASK, "planners": "icem,mppi:width=0.5", "budgets": "16,32", "horizons": "8", "seeds": "3"}
    same = {**flags, "steps": 7, "plant_scale": ("mass=1.5",)}
    told = [[config.hash for config in matrix_of(e).configs()] for e in (entries, same, {**entries, "steps": 4})]
    assert told[0] == told[1]
    assert len(set(told[0])) == 4
    assert not set(told[0]) & set(told[2])


def test_the_examples_file_and_the_readmes_are_sweeps() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    for entries in (read_toml(ROOT / "examples" / "sweep.toml"), tomllib.loads(text)):
        assert len(matrix_of(entries).configs()) >= 8


@pytest.mark.parametrize(
    ("value", "seeds"),
    [(3, (0, 1, 2)), ("3", (0, 1, 2)), ([5, 7], (5, 7)), ("5,7,5", (5, 7)), ("100-102", (100, 101, 102))],
)
def test_seeds_are_a_number_or_a_list(value: Any, seeds: tuple[int, ...]) -> None:
    assert matrix_of({"tasks": TASK, "seeds": value}).seeds == seeds


def test_presets_are_what_is_not_given() -> None:
    (config,) = matrix_of({"tasks": [TASK]}).configs()
    preset = make_task(TASK).preset
    assert (config.planner, config.budget, config.horizon) == tuple(preset[k] for k in ("planner", "budget", "horizon"))
    assert config.build_planner() == planner_for(make_task(TASK))
    assert config.steps == make_task(TASK).episode_steps


def test_suites_name_what_exists() -> None:
    for suite, names in task_suites().items():
        assert names, suite
        assert set(names) <= set(TASKS)
    assert len(task_suites()["dmc-easy"]) == 9
    assert sum(len(task_suites()[name]) for name in ("analytic", "gym", "robotics", "dmc")) == len(TASKS)
    assert set(planner_suites()["all"]) == set(PLANNERS)
    assert expanded("task", ["gym", "lqr", "gym"], task_suites(), TASKS) == [*task_suites()["gym"], "lqr"]


# Configurations.


def test_the_hash_is_of_what_determines_a_run() -> None:
    task = make_task(TASK)
    usual = run_config(task, "mppi", budget=32)
    same = (
        run_config(task, "mppi", budget=32, options={"width": str(usual.options["width"])}),
        run_config(task, "mppi", budget=32, model="analytic", dtype="float32"),
        run_config(task, "mppi", budget=32, steps=task.episode_steps, conditions=Conditions(plant_scale={"mass": 1})),
    )
    assert {config.hash for config in same} == {usual.hash}
    assert re.fullmatch("[0-9a-f]{12}", usual.hash)
    others = [
        run_config(task, "log_mppi", budget=32),
        run_config(task, "mppi", budget=33),
        run_config(task, "mppi", budget=32, options={"width": 0.7}),
        run_config(task, "mppi", budget=32, horizon=7),
        run_config(task, "mppi", budget=32, dtype="float64"),
        run_config(task, "mppi", budget=32, steps=5),
        run_config(task, "mppi", budget=32, controls_per_plan=2),
        run_config(task, "mppi", budget=32, time_share=0.5),
        *(
            run_config(task, "mppi", budget=32, conditions=Conditions(**each))
            for each in ({"mode": "realtime"}, {"delay": 0.05}, {"noise": 0.1}, {"plant_scale": {"mass": 2}})
        ),
        run_config(make_task("lqr"), "mppi", budget=32),
    ]
    assert len({usual.hash, *(config.hash for config in others)}) == len(others) + 1


def test_labels_tell_what_differs_and_are_the_same_in_all_tasks() -> None:
    tasks = [make_task(name) for name in (TASK, "lqr")]
    plain = [run_config(task, name).fields for task in tasks for name in ("icem", "mppi")]
    assert labels(plain) == ["icem", "mppi"] * 2  # presets differ between tasks, and that is the same choice
    sizes = list(itertools.product(tasks, (8, 9), (1, 2)))
    widths = [run_config(task, "mppi", budget=b, options={"width": w}).fields for task, b, w in sizes]
    expected = [f"mppi, width {w}, budget {b}" for b in (8, 9) for w in (1, 2)]
    assert labels(widths) == expected * 2
    assert labels(widths, without=["budget"])[:2] == ["mppi, width 1", "mppi, width 2"]
    late = [run_config(tasks[0], "icem", conditions=Conditions(delay=d)).fields for d in (0, 0.05)]
    assert labels(late) == ["icem, delay 0", "icem, delay 0.05"]
    heavy = [run_config(tasks[0], "icem", conditions=Conditions(plant_scale=s)).fields for s in ({}, {"mass": 2})]
    assert labels(heavy) == ["icem", "icem, mass 2"]


# Nothing is lost, nothing is repeated.


def killed_and_resumed(out: Path, points: int, rng: np.random.Generator, arguments: str, longest: float) -> None:
    """Kill a sweep at random moments; whatever was kept by then stays as it is."""
    kept: dict[str, tuple[bytes, int]] = {}
    for _ in range(points):
        running = process(out, arguments)
        time.sleep(rng.uniform(0.0, longest))
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        now = files(out)
        assert {path: now.get(path) for path in kept} == kept
        kept = now
        for content, _ in now.values():
            json.loads(content)


def finished(out: Path, arguments: str, reference: Path) -> None:
    running = process(out, arguments)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    for name in TABLES:
        assert (out / name).read_bytes() == (reference / name).read_bytes()
    identities = [(row["hash"], row["seed"]) for row in rows(out / "results.csv")]
    assert len(identities) == len(set(identities)) == len(files(out))
    assert not list((out / "runs").glob("*/.*"))


def test_a_sweep_killed_at_random_gives_the_table_of_one_that_was_not(done, tmp_path) -> None:
    killed_and_resumed(tmp_path, 2, np.random.default_rng(), SWEEP, 4.0)
    finished(tmp_path, SWEEP, done)


@pytest.mark.acceptance
def test_a_sweep_killed_at_50_points_gives_the_table_of_one_that_was_not(tmp_path) -> None:
    long = SWEEP.replace("--seeds 3", "--seeds 60").replace("--steps 4", "--steps 40")
    assert compare(tmp_path / "whole", long) == 0
    rng, out = np.random.default_rng(), tmp_path / "killed"
    killed_and_resumed(out, 50, rng, long, 6.0)
    finished(out, long, tmp_path / "whole")


def test_a_dead_workers_runs_are_done_by_another(done, tmp_path) -> None:
    slow = SWEEP.replace("--steps 4", "--steps 50")
    running = process(tmp_path, slow)
    worker = None
    while worker is None and running.poll() is None:
        time.sleep(0.05)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
        busy = [int(child) for child, command in commands.items() if b"LokyProcess" in command]
        worker = busy[0] if busy and len(files(tmp_path)) >= 2 else None
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert len(rows(tmp_path / "results.csv")) == 12


def test_a_run_that_kills_its_worker_is_a_failure_and_the_others_go_on(tmp_path, monkeypatch) -> None:
    configs = matrix_of({"tasks": TASK, "planners": "icem", "budgets": "16", "steps": 2}).configs()
    runs = [(config, seed) for config in configs for seed in range(4)]
    died: list[int] = []

    def begin(tasks: Any) -> Any:
        for function, arguments, _ in tasks:
            if arguments[1] == 2:
                died.append(2)
                raise ZeroDivisionError("gone")
            yield function(*arguments)

    records = list(sweep._unordered(Workers(1, True, (ZeroDivisionError,), lambda threads: begin), runs, 1))
    assert len(died) == 2  # once among others, once alone
    assert sorted(record["seed"] for record in records) == [0, 1, 2, 3]
    assert [record["seed"] for record in records if "error" in record] == [2]


def test_failures_are_kept_and_tried_again(tmp_path, capsys, monkeypatch) -> None:
    arguments = f"--tasks {TASK} --planners icem --budgets 16 --seeds 3 --steps 2"
    plain = run_task

    def broken(*given: Any, seed: int, **named: Any) -> Any:
        if seed == 1:
            raise ZeroDivisionError("the second run\nis broken")
        return plain(*given, seed=seed, **named)

    monkeypatch.setattr(sweep, "run_task", broken)
    assert compare(tmp_path, arguments) == 1
    told = capsys.readouterr().err
    assert f"failed: {TASK} with icem, budget 16, seed 1: ZeroDivisionError: the second run is broken" in told
    assert "tries these runs again" in told
    (failure,) = (tmp_path / "runs").glob("*/*.failed.json")
    assert "in broken" in json.loads(failure.read_text())["traceback"]
    assert [row["seed"] for row in rows(tmp_path / "results.csv")] == ["0", "2"]
    monkeypatch.setattr(sweep, "run_task", plain)
    assert compare(tmp_path, arguments) == 0
    assert not failure.exists()
    assert [row["seed"] for row in rows(tmp_path / "results.csv")] == ["0", "1", "2"]


def test_a_planner_that_a_model_cannot_serve_fails_and_says_why(tmp_path, capsys) -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    assert compare(tmp_path, "--tasks InvertedPendulum-v5 --planners ilqr --seeds 1 --steps 2") != 0
    assert "ilqr needs the derivatives" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"format": 1, "ret', b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_set_aside_and_its_run_done_again(content: bytes, done, tmp_path, capsys) -> None:
    arguments = SWEEP.replace("16,32", "16").replace("--seeds 3", "--seeds 2")
    assert compare(tmp_path, arguments) == 0
    table = (tmp_path / "results.csv").read_bytes()
    path = sorted((tmp_path / "runs").glob("*/1.json"))[0]
    path.write_bytes(content)
    assert compare(tmp_path, arguments) == 0
    assert f"damaged: {path}.corrupt was not whole; the run was done again" in capsys.readouterr().err
    assert path.with_name("1.json.corrupt").read_bytes() == content
    assert (tmp_path / "results.csv").read_bytes() == table


def test_two_sweeps_do_not_write_to_one_folder(tmp_path, capsys) -> None:
    store = Store(tmp_path, versions())
    with store.locked():
        assert compare(tmp_path) == 2
    assert f"another sweep (process {os.getpid()}) writes to" in capsys.readouterr().err
    assert files(tmp_path) == {}
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib; from mpcrl.experiments.store import Store\n"
            "with Store(pathlib.Path(sys.argv[1]), {}).locked():\n    print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InvalidInput, match=f"process {holder.pid}"), store.locked():
        pass
    holder.kill()  # no chance to tidy up
    holder.wait()
    with store.locked():
        pass


def test_results_of_another_mujoco_are_kept_apart(tmp_path) -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    arguments = "--tasks InvertedPendulum-v5 --planners icem --budgets 16 --horizons 5 --seeds 2 --steps 3"
    assert compare(tmp_path, arguments) == 0
    old = Store(tmp_path, versions())
    results, _, _ = old.records()
    for record in results:
        old.save({**record, "versions": {**record["versions"], "mujoco": "3.1.0"}, "return": record["return"] + 1})
    groups = grouped(old.records()[0])
    assert [len(group.records) for group in groups] == [2, 2]
    assert [row["mean"] for row in summary_rows(groups)] == [4.0, 3.0]
    assert groups[0].method == "icem, mujoco 3.1.0"
    other = Store(tmp_path, {**versions(), "mujoco": "9.9"})
    (config,) = matrix_of(
        {"tasks": "InvertedPendulum-v5", "planners": "icem", "budgets": "16", "horizons": "5", "steps": 3}
    ).configs()
    assert old.finished(config, 0) is not None
    assert other.finished(config, 0) is None


# Bad input, before anything is run.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--seeds 2", "name the tasks to run, such as --tasks pendulum-swingup"),
        ("--tasks pendulm-swingup", "unknown task 'pendulm-swingup'; did you mean 'pendulum-swingup'"),
        ("--tasks dmcc", "unknown task 'dmcc'; did you mean 'dmc'"),
        (f"--tasks {TASK} --planners icm", "unknown planner 'icm'; did you mean 'icem'"),
        (f"--tasks {TASK} --planners icem:betta=2", "no option 'betta'; did you mean 'beta'?"),
        (f"--tasks {TASK} --planners icem:beta", "an option is written name=value"),
        (
            f"--tasks lqr,{TASK} --planners cem:iterations=5 --budgets 100,10",
            "task lqr, planner cem, budget 10: a budget of 10 trajectories is too small for 5 iterations of at least 4 "
            "samples; use at least 20, or fewer iterations",
        ),
        (f"--tasks {TASK} --planners ilqr --budgets 5", "budget 5: ilqr: a budget of 5 trajectories is too small"),
        (f"--tasks {TASK} --budgets many", "budgets must be integers of at least 1, got 'many'"),
        (f"--tasks {TASK} --seeds 1.5", "seeds must be integers of at least 0, got '1.5'"),
        (f"--tasks {TASK} --seeds 5-3", "seeds 5-3 ends before it begins; write 3-5"),
        (f"--tasks {TASK} --seeds {2**64},1", f"seeds must be below 2^64, got {2**64}"),
        (f"--tasks {TASK} --models mujoco", "has no mujoco model; use --model analytic"),
        (f"--tasks {TASK} --steps 100000", "control steps; got steps=100000"),
        (f"--tasks {TASK} --delay 0.07", "a delay must be a multiple of the control period of 0.05 s"),
        (f"--tasks {TASK} --plant-scale mas=2", "no quantity 'mas' to scale"),
        (f"--tasks {TASK} --mode realtme", "unknown mode 'realtme'; did you mean 'realtime'"),
        (f"--tasks {TASK} --time-share 0", "time_share must be a finite number above 0, got 0.0"),
        (f"--tasks {TASK} --controls-per-plan 40", "controls_per_plan must be at most the planner's horizon of 30"),
        (f"--tasks {TASK} --backend loki", "unknown backend 'loki'; did you mean 'loky'"),
        (f"--tasks {TASK} --scheduler tcp://a:1", "--scheduler needs --backend dask or ray"),
        (f"--tasks {TASK} --threads 4096", "threads must be an integer between 1 and"),
        (f"--tasks {TASK} --workers 0", "workers must be an integer of at least 1, got 0"),
    ],
)
def test_bad_input_is_refused_before_any_run(arguments: str, message: str, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["compare", "--out", str(out), *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tsks = ['lqr']", "unknown entry 'tsks'; did you mean 'tasks'? known: tasks, planners"),
        ("tasks = ['lqr'", "is not valid TOML"),
        ("tasks = ['lqr']\nseeds = 'x'", "seeds must be integers"),
        ("tasks = ['lqr']\nplanners = [{width = 1}]", "must be names or tables such as"),
        (
            "tasks = ['lqr']\nplanners = [{name = 'mppi', width = 'wide'}]",
            "option width of planner 'mppi' must be",
        ),
        ("tasks = ['lqr']\nplanners = [{name = 'icem', elites = 2.5}]", "option elites of planner 'icem' must be int"),
        ("tasks = [1]", "tasks must be names, got 1"),
        ("tasks = []", "tasks is an empty list"),
        ("tasks = ['lqr']\ndelay = 'late'", "delay must be a number, got 'late'"),
    ],
)
def test_a_bad_file_is_refused(text: str, message: str, tmp_path, capsys) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    assert main(["compare", str(file), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert compare(tmp_path / "file" / "out") == 2
    assert "cannot make the folder" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.toml"), "--out", str(tmp_path)]) == 2
    assert "cannot read the sweep's file" in capsys.readouterr().err


def test_a_disk_without_room_is_refused(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 1000))
    assert compare(tmp_path) == 2
    assert "12 results need about 0.197 MB" in capsys.readouterr().err
    assert files(tmp_path) == {}


def test_a_disk_that_fills_up_stops_the_sweep_and_nothing_is_lost(done, tmp_path) -> None:
    """The limit on the size of files stands for the end of the disk: writing fails in the middle."""
    sizes = [path.stat().st_size for path in (done / "runs").glob("*/*.json")]
    limit = min(sizes) - 100
    arguments = SWEEP.replace("icem,mppi:width=0.5", "mppi:width=0.5").replace("16,32", "16")
    code = (
        "import resource, sys; from mpcrl.cli import main; from mpcrl.experiments import sweep\n"
        f"sweep.execute = lambda c, s, t, plain=sweep.execute: (plain(c, s, t), "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1)) if s else None)[0]\n"
        f"sys.exit(main(sys.argv[1:]))"
    )
    full = subprocess.run(
        [sys.executable, "-c", code, "compare", "--out", str(tmp_path), "--workers", "1", *arguments.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert full.returncode == 2
    assert "cannot write" in full.stderr
    assert "the same command goes on" in full.stderr
    kept = files(tmp_path)
    assert [Path(path).name for path in kept] == ["0.json"]
    assert not list((tmp_path / "runs").glob("*/.*"))
    assert compare(tmp_path, arguments) == 0
    assert len(files(tmp_path)) == 3
    assert files(tmp_path).items() >= kept.items()


# Workers.


def test_threads_are_divided_among_workers(tmp_path) -> None:
    running = process(tmp_path, f"--tasks {TASK} --planners icem --budgets 16 --seeds 2 --steps 2 --threads 2", 2)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert {row["threads"] for row in rows(tmp_path / "timing.csv")} == {"1"}


@pytest.mark.parametrize("least", [0, 30])
def test_ctrl_c_keeps_what_is_done(done, tmp_path, least: int) -> None:
    """Also while the workers start: they are begun as the command's children, and import for seconds."""
    slow = SWEEP.replace("--steps 4", "--steps 100").replace("--seeds 3", "--seeds 40")
    running = process(tmp_path, slow)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    while running.poll() is None and (len(children.read_text().split()) < 3 or len(files(tmp_path)) < least):
        time.sleep(0.02)
    time.sleep(0.0 if least else 0.2)  # they load Python's own modules first, and would tell of it there
    os.killpg(running.pid, signal.SIGINT)
    out, errors = running.communicate(timeout=60)
    # a shell calls both 130: CPython ends by the signal where it came into an import's exec(), caught or not
    assert running.returncode in (130, -signal.SIGINT), errors
    assert "interrupted" in errors
    assert "the same command does the others" in out
    assert "Traceback" not in errors
    assert least <= len(files(tmp_path)) < 160


def test_progress_tells_runs_time_left_and_leaders(capsys, monkeypatch) -> None:
    clock = itertools.count(start=0.0, step=6.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    configs = matrix_of({"tasks": TASK, "planners": "icem,mppi"}).configs()
    console, _ = display.consoles()
    with board.SweepBoard(console, configs, [], 4) as told:
        for config, seed in itertools.product(configs, (0, 1)):
            value = -10.0 * (seed + 1) - 5 * (config.planner == "mppi")
            told({"config": config.fields, "hash": config.hash, "seed": seed, "return": value})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 runs of 2 configurations"
    assert [line.partition("; ")[0] for line in lines[1:]] == [
        "1/4 runs, 18 s left",
        "2/4 runs, 12 s left",
        "3/4 runs, 6 s left",
        "4/4 runs, 0 s left",
    ]
    assert {line.partition("; ")[2] for line in lines[1:]} == {"icem leads"}
    console.print(told._leaders())
    assert capsys.readouterr().out.split() == [TASK, "-15.0", "icem", "(2", "runs)"]


def test_versions_are_those_that_the_process_began_with(monkeypatch) -> None:
    began = versions()
    monkeypatch.setattr(machine, "installed", lambda package: "99")
    assert versions() == began
    versions()["numpy"] = "0"
    assert versions() == began


@pytest.mark.parametrize("place", ["", "runs", "runs/hash", ".lock"])
def test_no_write_permission_is_said_before_any_run(place: str, tmp_path) -> None:
    """In a process that may not override permissions, as root may."""
    drop = shutil.which("setpriv") or ""
    if os.geteuid() == 0 and not drop:
        pytest.skip("root may write everywhere, and setpriv is not there to give that up")
    (tmp_path / "out" / "runs" / "hash").mkdir(parents=True)
    (tmp_path / "out" / ".lock").touch()
    path = tmp_path / "out" / place
    mode = path.stat().st_mode
    path.chmod(0o444 if path.is_file() else 0o555)
    prefix = [drop, "--bounding-set=-dac_override", "--inh-caps=-dac_override"] if os.geteuid() == 0 else []
    refused = subprocess.run(
        [*prefix, sys.executable, "-m", "mpcrl", "compare", "--out", str(tmp_path / "out"), *SWEEP.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        timeout=120,
    )
    path.chmod(mode)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert str(path) in refused.stderr
    assert files(tmp_path / "out") == {}


def test_a_result_that_cannot_be_read_is_bad_input(done, tmp_path, capsys) -> None:
    shutil.copytree(done, tmp_path / "out")
    path = sorted((tmp_path / "out" / "runs").glob("*/0.json"))[0]
    path.unlink()
    path.mkdir()
    for command in (compare, lambda out: main(["report", str(out)])):
        assert command(tmp_path / "out") == 2
        assert f"cannot read the result {str(path)!r}: Is a directory" in capsys.readouterr().err


def test_no_more_workers_than_threads_unless_asked_for(tmp_path, monkeypatch) -> None:
    asked: list[int | None] = []

    def noting(backend: str, workers: int | None, scheduler: str | None) -> Any:
        asked.append(workers)
        raise InvalidInput("enough")

    monkeypatch.setattr(sweep, "workers_of", noting)
    for more in ("--threads 1", "--threads 2", "--threads 1 --workers 3"):
        main(["compare", "--out", str(tmp_path), *SWEEP.split(), *more.split()])
    assert asked == [1, min(2, available_threads()), 3]


def test_real_time_on_other_threads_is_another_configuration(done) -> None:
    results, _, _ = Store(done, {}).records()
    record = results[0]
    config = {**record["config"], "conditions": {**record["config"]["conditions"], "mode": "realtime"}}
    found = [
        {
            **record,
            "config": config,
            "hash": "realtime",
            "seed": seed,
            "machine": {**record["machine"], "threads": count},
        }
        for count in (1, 2)
        for seed in (0, 1)
    ]
    assert [group.method for group in grouped(found)] == [f"{config['planner']}, threads {count}" for count in (1, 2)]
    lockstep = [{**each, "config": record["config"], "seed": seed} for seed, each in enumerate(found)]
    assert len(grouped(lockstep)) == 1


OWN_XML = """<mujoco><option timestep="0.02"/>
<worldbody><body><joint name="slide" type="slide"/><geom size="0.1" mass="MASS"/></body></worldbody>
<actuator><motor joint="slide" ctrlrange="-1 1"/></actuator></mujoco>"""

OWN = """
from pathlib import Path

import mpcrl

def cost(before, u, after, t, p):
    return (after.qpos[0] - 1.0) ** 2

def task():
    path = Path(__file__).with_name("own.xml")
    return mpcrl.xml_task(path, cost=cost, episode_steps=20, preset={"planner": "icem", "budget": 16, "horizon": 5})
"""


def test_a_task_of_ones_own_is_compared_and_run_again_when_it_changes(tmp_path, capsys) -> None:
    pytest.importorskip("mujoco")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.xml").write_text(OWN_XML.replace("MASS", "1"))
    own, out = f"{tmp_path / 'own.py'}:task", tmp_path / "out"
    assert compare(out, f"--tasks {own},lqr --planners icem,mppi --budgets 16 --horizons 5 --seeds 2 --steps 3") == 0
    table = rows(out / "results.csv")
    assert sorted((row["task"], row["planner"]) for row in table) == sorted(
        (task, planner) for task in (own, "lqr") for planner in ("icem", "mppi") for _ in range(2)
    )
    again = f"--tasks {own} --planners icem --budgets 16 --horizons 5 --seeds 2 --steps 3"
    assert compare(out, again) == 0
    assert "0 runs of 1 configurations; 2 are there already" in capsys.readouterr().out
    (tmp_path / "own.xml").write_text(OWN_XML.replace("MASS", "2"))
    assert compare(out, again) == 0
    assert "2 runs of 1 configurations\n" in capsys.readouterr().out
    methods = {row["method"] for row in rows(out / "results.csv") if row["task"] == own and row["planner"] == "icem"}
    assert len(methods) == 2
    assert compare(out, f"--tasks {tmp_path / 'none.py'}:task") == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_diverged_world_of_ones_own_is_a_failure_and_in_no_mean(tmp_path, capsys) -> None:
    pytest.importorskip("mujoco")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "own.xml").write_text(OWN_XML.replace("MASS", "1"))
    stronger = "--seeds 1 --steps 20 --plant-scale gear=1e16"  # than the planner knows
    assert compare(tmp_path / "out", f"--tasks {tmp_path / 'own.py'}:task {stronger}") == 1
    assert "FloatingPointError: the return is -inf: the world diverged" in capsys.readouterr().err
    assert rows(tmp_path / "out" / "results.csv") == []
