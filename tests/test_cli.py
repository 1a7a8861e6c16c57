"""The command `mpcrl`, and the runs, pictures and videos behind it."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mpcrl
from mpcrl.cli import main
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import InvalidInput, UnknownName
from mpcrl.core.files import atomic, writable_folder
from mpcrl.experiments import display, machine, outputs, plots, video
from mpcrl.experiments.configure import parse_options, planner_for
from mpcrl.experiments.episode import Counts, Episode, Progress
from mpcrl.experiments.outputs import Outputs
from mpcrl.experiments.run import RunResult, run_task
from mpcrl.experiments.worlds import world_of
from mpcrl.planners import PLANNERS
from mpcrl.tasks.registry import ANALYTIC_TASKS, TASKS, make_task

ROOT = Path(__file__).resolve().parent.parent
STEPS = 25


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "mpcrl", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def pendulum():
    return make_task("pendulum-swingup")


@pytest.fixture(scope="module")
def result(pendulum) -> RunResult:
    return run_task(pendulum, steps=STEPS, threads=1, seed=3)


# The command, end to end.


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, dict]:
    """The JSON of one run with 1 thread and of one with 2, each in a process of its own."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for threads in (1, 2):
        done = command(
            *("run", "pendulum-swingup", "--steps", str(STEPS), "--seed", "3", "--threads", str(threads)),
            *("--json", f"made/{threads}.json"),
            folder=folder,
        )
        assert done.returncode == 0, done.stderr
        assert "real time" in done.stdout
        assert "\x1b" not in done.stdout  # no terminal, no colours
        found[threads] = json.loads((folder / "made" / f"{threads}.json").read_text())
    return found


def test_json_says_what_was_run(runs, pendulum) -> None:
    run = runs[2]
    expected = {
        "task": "pendulum-swingup",
        "model": "analytic",
        "dtype": "float32",
        "budget": pendulum.preset["budget"],
        "horizon": pendulum.preset["horizon"],
        "seed": 3,
        "episodes": 1,
        "steps": STEPS,
        "episode_steps": [STEPS],
        "failed_samples": 0,
        "fallbacks": 0,
        "interrupted": False,
        "planner": json.loads(json.dumps(configuration(planner_for(pendulum)))),
    }
    assert {key: run[key] for key in expected} == expected
    assert run["returns"] == [run["return_mean"]]
    assert 0 < run["plan_ms"]["p50"] <= run["plan_ms"]["p99"] <= run["plan_ms"]["max"]
    assert 0 < run["samples"] <= STEPS * run["budget"]
    assert run["versions"]["mpcrl"] == mpcrl.__version__
    assert {"python", "numpy", "numba"} <= set(run["versions"])
    assert {"cpu", "cores", "usable_cores", "vector_bits"} <= set(run["machine"])
    assert run["machine"]["threads"] == 2


def test_planner_configuration_is_complete(runs) -> None:
    planner = runs[1]["planner"]
    assert planner["type"] == "SamplingPlanner"
    assert planner["name"] == "icem"
    assert planner["noise"]["type"] == "Coloured"
    assert planner["refit"]["count"] >= 2
    assert planner["schedule"]["budget"] == runs[1]["budget"]


def test_same_seed_same_controls_with_1_and_2_threads_in_3_processes(runs, result) -> None:
    assert runs[1]["control_hash"] == runs[2]["control_hash"] == result.control_hash
    assert runs[1]["returns"] == runs[2]["returns"] == list(result.returns)


def test_out_gets_numbers_and_plot_and_the_reason_without_video(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(video, "imageio_ffmpeg", None, raising=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    out = tmp_path / "deep" / "out"
    arguments = ["run", "pendulum-swingup", "--steps", "8", "--threads", "1", "--out", str(out), "--video"]
    assert main([*arguments, "--option", "elites=4", "--option", "beta=0.5", "--budget", "64"]) == 0
    shown = capsys.readouterr().out
    assert "no video: imageio-ffmpeg is not installed; install it with: pip install 'mpcrl[video]'" in shown
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "run.png"]
    planner = json.loads((out / "run.json").read_text())["planner"]
    assert (planner["refit"]["count"], planner["noise"]["beta"], planner["schedule"]["budget"]) == (4, 0.5, 64)


def test_anytime_planning_from_the_command(tmp_path, capsys) -> None:
    file = tmp_path / "run.json"
    assert main(["run", "pendulum-swingup", "--steps", "5", "--budget-ms", "20", "--json", str(file)]) == 0
    assert json.loads(file.read_text())["budget_ms"] == 20


def test_conditions_from_the_command(tmp_path) -> None:
    file = tmp_path / "run.json"
    flags = "--mode realtime --delay 0.1 --noise 0.01 --plant-scale mass=1.2 --plant-scale gravity=0.9"
    arguments = ["run", "pendulum-swingup", "--steps", "6", *flags.split(), "--controls-per-plan", "2"]
    assert main([*arguments, "--json", str(file)]) == 0
    run = json.loads(file.read_text())
    assert run["controls_per_plan"] == 2
    assert {key: value for key, value in run["conditions"].items() if key != "type"} == {
        "mode": "realtime",
        "delay": 0.1,
        "noise": 0.01,
        "plant_scale": {"gravity": 0.9, "mass": 1.2},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run pendulm-swingup", "unknown task 'pendulm-swingup'; did you mean 'pendulum-swingup'"),
        ("run halfcheetah-v5", "did you mean 'HalfCheetah-v5'"),
        ("warmup catrpole-swingup", "did you mean 'cartpole-swingup'"),
        ("run lqr --planner icm", "unknown planner 'icm'; did you mean 'icem'"),
        ("run lqr --model mujocco", "unknown model 'mujocco'; did you mean 'mujoco'"),
        ("run lqr --model mujoco", "task 'lqr' has no mujoco model; use --model analytic"),
        (
            "run lqr --planner icem --option betta=1",
            "no option 'betta'; did you mean 'beta'? options and their defaults: ",
        ),
        ("run lqr --planner icem --option beta=much", "option beta of planner 'icem' must be float, got 'much'"),
        ("run lqr --option beta", "written name=value"),
        ("run lqr --dtype float16", "dtype must be float32 or float64, got 'float16'"),
        ("run lqr --steps 0", "steps must be an integer of at least 1, got 0"),
        ("run lqr --steps 100000", "an episode of 'lqr' has 60 control steps; got steps=100000"),
        ("run lqr --threads 4096", "threads must be an integer between 1 and"),
        ("run lqr --mode realtme", "unknown mode 'realtme'; did you mean 'realtime'"),
        ("run lqr --plant-scale weight=2", "task 'lqr' has no quantity 'weight' to scale"),
        ("run lqr --plant-scale weight", "a plant scale is written name=factor, such as mass=1.3; got 'weight'"),
        ("run pendulum-swingup --delay 0.07", "must be a multiple of the control period of 0.05 s"),
        ("run lqr --controls-per-plan 0", "controls_per_plan must be an integer of at least 1"),
        ("run lqr --video", "add --out DIR"),
        ("run lqr --json .", "'.' is a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: str, message: str, capsys) -> None:
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("error: ")


def test_bad_input_shows_no_traceback_in_a_process(tmp_path) -> None:
    done = command("run", "pendulm", folder=tmp_path)
    assert done.returncode == 2
    assert "pendulum-swingup" in done.stderr
    assert "Traceback" not in done.stderr
    assert command("rum", folder=tmp_path).returncode == 2


def test_list_shows_all_names(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in (*TASKS, *PLANNERS, "analytic", "mujoco") if name not in shown] == []
    assert "Swing a rod up with a motor too weak to lift it" in shown
    assert "beta=2.0" in shown


def test_doctor_names_what_is_missing_and_how_to_get_it(capsys, monkeypatch) -> None:
    monkeypatch.setattr(machine, "EXTRAS", {**machine.EXTRAS, "plots": ("no-such-package",)})
    monkeypatch.setattr(display, "working_renderer", lambda: None)
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["no-such-package", "pip", "install", "'mpcrl[plots]'"] in lines
    assert ["numpy", np.__version__] in lines
    for title in ("cores", "thread layers", "vectors", "BLAS", "folder", "writable", "libosmesa6"):
        assert title in shown


def test_warmup_says_how_long_it_took(capsys) -> None:
    assert main(["warmup", "pendulum-swingup"]) == 0
    assert "pendulum-swingup with icem: ready in " in capsys.readouterr().out


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mpcrl {mpcrl.__version__}\n"


def test_progress_is_told_in_lines_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    clock = itertools.count(start=1.0, step=2.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    console, _ = display.consoles()
    with display.LiveLine(console) as line:
        for step in range(1, 11):
            line(Progress(1, 2, step, 10, -1.5 * step, 4.0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # one every 5 s, at 2 s per step
    assert lines[0] == "episode 1/2  step    4/10  return -6.0  plan 4.00 ms, 250 Hz"


# Runs.


def test_numbers_follow_from_the_records(pendulum, result) -> None:
    (record,) = result.records
    assert record.states.shape == (STEPS + 1, 2)
    assert record.controls.shape == (STEPS, 1)
    assert result.returns == (sum(record.rewards.tolist()),)
    assert result.control_hash == hashlib.sha256(record.controls.astype("<f8").tobytes()).hexdigest()
    assert result.plan_ms["max"] == record.plan_ms.max()
    assert record.ended == "steps done"
    assert result.period_share == pytest.approx(result.plan_ms["p50"] / 50.0)
    assert dataclasses.replace(result, controls_per_plan=2).period_share == pytest.approx(result.plan_ms["p50"] / 100.0)
    assert "records" not in json.loads(result.to_json())


@pytest.mark.parametrize("name", ["pendulum-swingup", "quadrotor-obstacles", "mountain-car"])
def test_reward_is_that_of_the_gymnasium_environment(name: str) -> None:
    pytest.importorskip("gymnasium")
    task = ANALYTIC_TASKS[name]()
    world, env = world_of(task), mpcrl.TaskEnv(task)
    np.testing.assert_array_equal(world.reset(5), env.reset(seed=5)[0])
    rng = np.random.default_rng(0)
    for _ in range(40):
        control = rng.uniform(task.control_low, task.control_high)
        state, reward, _, ended = world.step(control)
        observation, expected, terminated, truncated, _ = env.step(control)
        np.testing.assert_array_equal(state, observation)
        assert reward == expected
        assert bool(ended) == (terminated or truncated)
        if ended:
            break


def test_an_episode_is_repeated_by_its_own_seed(pendulum) -> None:
    two = run_task(pendulum, steps=6, threads=1, seed=7, episodes=2)
    alone = run_task(pendulum, steps=6, threads=1, seed=8)
    assert [record.seed for record in two.records] == [7, 8]
    assert two.returns[1] == alone.returns[0]
    np.testing.assert_array_equal(two.records[1].controls, alone.records[0].controls)
    assert two.return_mean == pytest.approx(np.mean(two.returns))


def test_progress_is_reported_after_every_step(pendulum) -> None:
    seen: list[Progress] = []
    result = run_task(pendulum, steps=4, threads=1, episodes=2, on_step=seen.append)
    assert [(p.episode, p.step, p.steps) for p in seen] == [(e, s, 4) for e in (1, 2) for s in (1, 2, 3, 4)]
    assert seen[3].episode_return == result.returns[0]


def test_ctrl_c_ends_the_run_after_a_step_and_keeps_what_there_is(pendulum, tmp_path) -> None:
    def interrupt(progress) -> None:
        if (progress.episode, progress.step) == (2, 3):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = run_task(pendulum, steps=6, threads=1, episodes=4, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert result.interrupted
    assert result.episode_steps == (6, 3)
    assert [record.ended for record in result.records] == ["steps done", "interrupted"]
    assert result.return_mean == result.returns[0]
    sentences = list(Outputs(json=None, folder=tmp_path, video=True).write(pendulum, result))
    assert sentences[-1] == "no video: the run was interrupted"
    assert (tmp_path / "run.json").exists()
    assert (tmp_path / "run.png").exists()


def test_a_second_ctrl_c_is_not_waited_for(pendulum) -> None:
    def interrupt(progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_task(pendulum, steps=6, threads=1, on_step=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_a_mujoco_task_gives_the_same_controls_with_1_and_2_threads() -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    task = make_task("InvertedPendulum-v5")
    planner = planner_for(task, budget=24, horizon=8)
    one, two = (run_task(task, planner, steps=12, threads=threads, episodes=2) for threads in (1, 2))
    assert one.model == "mujoco"
    assert one.control_hash == two.control_hash
    assert one.returns == two.returns == (12.0, 12.0)
    (position, velocity) = one.records[0].signals
    assert position.names == velocity.names == ("slider", "hinge")
    np.testing.assert_array_equal(position.values, one.records[0].states[:, 1:3])


def test_an_episode_ends_where_the_environment_says() -> None:
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    world = world_of(make_task("InvertedPendulum-v5"))
    world.reset(0)
    outcomes = [world.step(np.array([3.0])) for _ in range(30)]
    world.close()
    first = next(i for i, outcome in enumerate(outcomes) if outcome.ended)
    assert outcomes[first].ended == "terminated"
    assert [outcome.reward for outcome in outcomes[: first + 1]] == [1.0] * first + [0.0]


def test_preset_gives_what_is_not_given(pendulum) -> None:
    planner = planner_for(pendulum)
    assert (planner.name, planner.budget, planner.horizon) == ("icem", 128, 30)
    assert planner_for(pendulum, "mppi").budget == 128  # sizes go with the task
    assert configuration(planner_for(pendulum, "mppi", horizon=9)) == configuration(
        PLANNERS["mppi"](budget=128, horizon=9)
    )


def test_options_are_read_by_the_types_of_the_planner(pendulum) -> None:
    options = parse_options(["temperature=2", "kind=normalised", "action_cost=no", "iterations=3"])
    planner = planner_for(pendulum, "mppi", options=options)
    resolved = configuration(planner)
    softmax = {"type": "Softmax", "temperature": 2.0, "kind": "normalised", "action_cost": False}
    assert resolved["refit"] == softmax
    assert resolved["schedule"]["iterations"] == 3
    assert planner_for(pendulum, "kmppi", options={"points": "none"}) == planner_for(pendulum, "kmppi")
    with pytest.raises(InvalidInput, match="twice"):
        parse_options(["a=1", "a=2"])
    with pytest.raises(InvalidInput, match="must be int, got"):
        planner_for(pendulum, "mppi", options={"iterations": "2.5"})
    with pytest.raises(UnknownName):
        planner_for(pendulum, "mpppi")


def test_json_has_no_nan() -> None:
    assert configuration({"a": [np.nan, np.float64(1.5), np.array([np.inf, 1])]}) == {"a": [None, 1.5, [None, 1.0]]}


# Files.


def test_a_file_is_whole_or_as_it_was(tmp_path) -> None:
    path = tmp_path / "a.json"
    with atomic(path) as scratch:
        scratch.write_text("first")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic(path) as scratch:
        scratch.write_text("half of the sec")
        raise RuntimeError
    assert path.read_text() == "first"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="cannot make the folder"):
        writable_folder(tmp_path / "file" / "folder")


# Pictures and videos.


def wandering(name: str, steps: int) -> tuple:
    """A task, and a result with one episode of smooth random controls: a run without a planner."""
    task = make_task(name)
    world, rng = world_of(task), np.random.default_rng(0)
    states, controls, rewards, costs = [world.reset(0)], [], [], []
    share = np.zeros(task.nu)
    for _ in range(steps):
        share = np.clip(share + rng.normal(0.0, 0.3, task.nu), -1.0, 1.0)
        controls.append(task.control_low + (share + 1) / 2 * (task.control_high - task.control_low))
        outcome = world.step(controls[-1])
        states.append(outcome.state)
        rewards.append(outcome.reward)
        costs.append(outcome.planning_cost)
    episode = Episode(
        seed=0,
        states=np.array(states),
        controls=np.array(controls),
        rewards=np.array(rewards),
        planning_costs=np.array(costs),
        plan_ms=np.ones(steps),
        counts=Counts(),
        ended="steps done",
        signals=world.signals(np.array(states)),
        control_names=world.control_names,
    )
    world.close()
    unknown: dict[str, Any] = dict.fromkeys(RunResult.__dataclass_fields__)
    known = {"task": name, "planner": {"name": "none"}, "budget": 1, "horizon": 1, "seed": 0, "records": (episode,)}
    return task, RunResult(**{**unknown, **known})


@pytest.mark.parametrize("name", ["pendulum-swingup", "diffdrive-costmap", "quadrotor-obstacles", "HalfCheetah-v5"])
def test_plot_is_not_blank(name: str, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    if "-v5" in name:
        pytest.importorskip("gymnasium")
        pytest.importorskip("mujoco")
    from matplotlib import image

    task, result = wandering(name, 30)
    plots.save_plot(task, result, tmp_path / "a.png")
    pixels = image.imread(tmp_path / "a.png")[..., :3]
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    coloured = (np.ptp(pixels, axis=2) > 0.2).any(axis=1)  # rows with a line in them
    assert (coloured.reshape(-1)[: len(coloured) // 3].any(), coloured[-len(coloured) // 3 :].any()) == (True, True)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_signals_of_different_magnitudes_get_panels_of_their_own() -> None:
    _, result = wandering("quadrotor-obstacles", 20)
    episode = result.records[0]
    assert [signals.names for signals in episode.signals] == [
        ("x", "y", "z", "vx", "vy", "vz"),
        ("qw", "qx", "qy", "qz", "wx", "wy", "wz"),
    ]
    panels = plots._panels(episode)
    assert sum(len(panel.names) for panel in panels) == 13
    for panel in panels:
        span = np.abs(panel.values).max(axis=0)
        assert span.max() <= 8 * max(np.median(span), span.min())


def frames_of(path: Path) -> tuple[dict, list[np.ndarray]]:
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


def test_video_shows_every_state_in_real_time(tmp_path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("PIL")
    task, result = wandering("pendulum-swingup", 20)
    video.save_video(task, result.records[0], tmp_path / "a.mp4")
    meta, frames = frames_of(tmp_path / "a.mp4")
    assert meta["fps"] == 20
    assert len(frames) == 21 == video.picture_count(task, result.records[0])
    assert frames[0].std() > 10
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_video_of_a_mujoco_task_where_drawing_works(tmp_path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    pytest.importorskip("gymnasium")
    pytest.importorskip("mujoco")
    code = """
import sys
from pathlib import Path
from mpcrl.experiments import video
if why := video.settle_rendering("InvertedPendulum-v5", True):
    sys.exit(why)
from tests.test_cli import wandering
task, result = wandering("InvertedPendulum-v5", 4)
video.save_video(task, result.records[0], Path(sys.argv[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.mp4")], cwd=ROOT, text=True, capture_output=True, timeout=300
    )
    if "cannot draw" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    _, frames = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 5
    assert frames[0].std() > 5


def test_what_cannot_be_drawn_is_said_in_one_line(tmp_path, monkeypatch) -> None:
    task, result = wandering("pendulum-swingup", 3)
    result = RunResult(**{**vars(result), "interrupted": False})

    def last_sentence(no_video: str = "") -> str:
        return list(Outputs(json=None, folder=tmp_path, video=True).write(task, result, no_video=no_video))[-1]

    def broken(*arguments: object) -> None:
        raise AttributeError("'NoneType' object has\nno attribute 'glGetError'")

    assert last_sentence("it is dark") == "no video: it is dark"
    monkeypatch.setattr(outputs, "save_video", broken)
    assert last_sentence() == "no video: 'NoneType' object has no attribute 'glGetError'"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert any(
        sentence == "no plot: matplotlib is not installed; install it with: pip install 'mpcrl[plots]'"
        for sentence in Outputs(json=None, folder=tmp_path, video=False).write(task, result)
    )


@pytest.mark.parametrize(
    ("chosen", "works", "drawing", "backend", "reason"),
    [
        (None, {"osmesa"}, True, "osmesa", ""),
        (None, {"egl", "osmesa"}, True, "egl", ""),
        ("osmesa", {"egl", "osmesa"}, True, "osmesa", ""),  # the user's choice comes first
        ("osmesa", {"egl"}, True, "disable", "MUJOCO_GL=osmesa does not work here"),
        (None, set(), True, "disable", "neither EGL nor OSMesa works here"),
        ("osmesa", {"egl"}, False, "disable", ""),  # nothing is drawn: no driver is loaded
    ],
)
def test_rendering_is_settled_before_mujoco_loads(chosen, works, drawing, backend, reason, monkeypatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MUJOCO_GL", chosen or "")
    monkeypatch.setattr(video, "renderer_works", works.__contains__)
    why = video.settle_rendering("HalfCheetah-v5", drawing)
    assert os.environ["MUJOCO_GL"] == backend
    assert reason in why
    assert bool(reason) == bool(why)


# The machine.


def test_extras_are_those_of_the_distribution() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(machine.EXTRAS) == set(extras) - {"all", "dev"}
    for extra, names in machine.EXTRAS.items():
        listed = {requirement.split(">")[0].split(";")[0].strip() for requirement in extras[extra]}
        assert set(names) <= listed


def test_kernel_cache_is_looked_at_without_making_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MPCRL_CACHE_DIR", str(tmp_path / "none" / "yet"))
    cache = machine.kernel_cache()
    assert (cache.files, cache.megabytes, cache.writable) == (0, 0.0, True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a.nbc").write_bytes(bytes(500_000))
    monkeypatch.setenv("MPCRL_CACHE_DIR", str(tmp_path))
    assert machine.kernel_cache().megabytes == 0.5
