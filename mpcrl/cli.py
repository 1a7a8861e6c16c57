"""The command `mpcrl`: parse, call, print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from mpcrl import __version__
from mpcrl.core.errors import MpcrlError, missing


def shown(metavar: str, text: str) -> Any:
    """How `--help` shows an argument. Annotations are evaluated by tyro alone, so that without it they do no harm."""
    import tyro

    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


_MODE = "lockstep (the default: the world waits for the plan) or realtime (it does not)"
_DELAY = "dead time in s, a multiple of the control period: the controller sees the state of so long ago"
_NOISE = "standard deviation of noise on what the controller sees of the state"
_PLANT_SCALE = "the plant's quantity over the model's, such as mass=1.3; may be given several times"


def run(
    task: Annotated[str, shown("TASK", "one of those that `mpcrl list` shows")],
    /,
    *,
    planner: Annotated[
        str | None,
        shown("NAME", "one of those that `mpcrl list` shows; by default the task's own, or the policy in --model"),
    ] = None,
    model: Annotated[
        str,
        shown(
            "NAME",
            "what predicts: auto (the task's own), analytic, mujoco, mujoco-coarse, or a folder of `train`; where that "
            "holds a policy (pilco, mc-pilco) the policy acts, and its model predicts if a --planner is given",
        ),
    ] = "auto",
    budget: Annotated[int | None, shown("N", "trajectories simulated per control step")] = None,
    horizon: Annotated[int | None, shown("N", "control steps that a plan looks ahead")] = None,
    option: Annotated[
        tuple[str, ...], shown("NAME=VALUE", "an option of the planner, such as beta=0.25; may be given several times")
    ] = (),
    budget_ms: Annotated[float | None, shown("MS", "time limit of each plan; the best found by then is taken")] = None,
    dtype: Annotated[str | None, shown("TYPE", "of an analytic model: float32 (the default) or float64")] = None,
    episodes: Annotated[int, shown("N", "how many, 1 by default; episode i is reset with seed + i, from i = 0")] = 1,
    steps: Annotated[int | None, shown("N", "control steps per episode; the whole episode by default")] = None,
    seed: Annotated[int, shown("N", "the same seed gives the same controls; 0 by default")] = 0,
    threads: Annotated[int | None, shown("N", "to plan with; all that there are by default")] = None,
    controls_per_plan: Annotated[
        int | None, shown("N", "controls taken of each plan; as in the task by default")
    ] = None,
    mode: Annotated[str, shown("MODE", _MODE)] = "lockstep",
    delay: Annotated[float, shown("S", _DELAY)] = 0.0,
    noise: Annotated[float, shown("X", _NOISE)] = 0.0,
    plant_scale: Annotated[tuple[str, ...], shown("NAME=X", _PLANT_SCALE)] = (),
    json: Annotated[Path | None, shown("FILE", "write the result to a file")] = None,
    out: Annotated[Path | None, shown("DIR", "write the result, a plot and the video to a folder")] = None,
    video: Annotated[bool, shown("", "make a video of the first episode; needs --out")] = False,
) -> int:
    """Control a task and show how it goes, by plans or by a learned policy. What is not given is as in the preset."""
    from mpcrl.experiments import display
    from mpcrl.experiments.conditions import Conditions, parse_scales
    from mpcrl.experiments.configure import acting_for, parse_options
    from mpcrl.experiments.outputs import Outputs
    from mpcrl.experiments.run import run_task
    from mpcrl.experiments.video import settle_rendering
    from mpcrl.tasks.registry import make_task

    console, _ = display.consoles()
    conditions = Conditions(mode=mode, delay=delay, noise=noise, plant_scale=parse_scales(plant_scale))
    outputs = Outputs(json=json, folder=out, video=video)
    no_video = settle_rendering(task, video)
    problem = make_task(task)
    chosen = acting_for(problem, planner, model=model, budget=budget, horizon=horizon, options=parse_options(option))
    console.print(display.heading(problem, chosen, threads))
    with display.LiveLine(console) as line:
        result = run_task(
            problem,
            chosen,
            model=model,
            dtype=dtype,
            episodes=episodes,
            steps=steps,
            seed=seed,
            threads=threads,
            budget_ms=budget_ms,
            controls_per_plan=controls_per_plan,
            conditions=conditions,
            on_step=line,
        )
    console.print(display.closing_table(result))
    for sentence in outputs.write(problem, result, no_video=no_video):
        console.print(sentence, soft_wrap=True)
    return 130 if result.interrupted else 0


def compare(
    file: Annotated[Path | None, shown("FILE", "a sweep in TOML; flags go before what it says")] = None,
    /,
    *,
    out: Annotated[Path, shown("DIR", "where results are kept; what is there already is not run again")],
    tasks: Annotated[
        str | None, shown("A,B", "tasks, file.py:name, or suites: analytic, gym, robotics, dmc, dmc-easy")
    ] = None,
    planners: Annotated[
        str | None,
        shown("A,B", "such as icem,mppi:width=0.5, or suites: sampling, all; by default the tasks' own"),
    ] = None,
    models: Annotated[str | None, shown("A,B", "what predicts; auto by default")] = None,
    budgets: Annotated[str | None, shown("N,M", "trajectories per control step; the tasks' own by default")] = None,
    horizons: Annotated[str | None, shown("N,M", "control steps ahead; the tasks' own by default")] = None,
    seeds: Annotated[str | None, shown("N", "how many (5 by default), or which: 0,3,7 or 100-119")] = None,
    steps: Annotated[int | None, shown("N", "control steps per episode; the whole episode by default")] = None,
    dtype: Annotated[str | None, shown("TYPE", "of analytic models: float32 (the default) or float64")] = None,
    controls_per_plan: Annotated[
        int | None, shown("N", "controls taken of each plan; as in the task by default")
    ] = None,
    time_share: Annotated[
        float | None, shown("X", "time limit of each plan, over the time until the next one is due; none by default")
    ] = None,
    mode: Annotated[str | None, shown("MODE", _MODE)] = None,
    delay: Annotated[float | None, shown("S", _DELAY)] = None,
    noise: Annotated[float | None, shown("X", _NOISE)] = None,
    plant_scale: Annotated[tuple[str, ...], shown("NAME=X", _PLANT_SCALE)] = (),
    backend: Annotated[str, shown("NAME", "loky (processes here, the default), dask or ray")] = "loky",
    scheduler: Annotated[str | None, shown("ADDRESS", "of a Dask or Ray cluster; a local one by default")] = None,
    workers: Annotated[int | None, shown("N", "processes; one per core by default")] = None,
    threads: Annotated[int | None, shown("N", "divided among the workers; all that there are by default")] = None,
) -> int:
    """Run tasks x planners x models x budgets x horizons x seeds, and keep every result. Goes on where it stopped."""
    from mpcrl.experiments import board, display
    from mpcrl.experiments.machine import versions
    from mpcrl.experiments.matrix import matrix_of, read_toml
    from mpcrl.experiments.store import Store
    from mpcrl.experiments.sweep import Sweep, sweep_fields
    from mpcrl.experiments.tables import grouped, write_tables
    from mpcrl.experiments.video import settle_rendering

    console, errors = display.consoles()
    flags = {
        "tasks": tasks,
        "planners": planners,
        "models": models,
        "budgets": budgets,
        "horizons": horizons,
        "seeds": seeds,
        "steps": steps,
        "dtype": dtype,
        "controls_per_plan": controls_per_plan,
        "time_share": time_share,
        "mode": mode,
        "delay": delay,
        "noise": noise,
        "plant_scale": plant_scale or None,
    }
    entries = read_toml(file) if file else {}
    settle_rendering("", False)
    matrix = matrix_of({**entries, **{key: value for key, value in flags.items() if value is not None}})
    store = Store(out, versions())
    sweep = Sweep(
        configs=matrix.configs(),
        seeds=matrix.seeds,
        store=store,
        backend=backend,
        workers=workers,
        threads=threads,
        scheduler=scheduler,
    )
    with store.locked():
        store.write_sweep(sweep_fields(sweep))
        done, left = sweep.missing()
        with board.SweepBoard(console, sweep.configs, done, len(left)) as told:
            for record in sweep.execute(left) if left else ():
                told(record)
        results, _, damaged = store.records()
        groups = grouped(results)
        write_tables(groups, out)
    console.print(board.sweep_table(groups))
    for sentence in board.sweep_notes(out, told.failed, damaged):
        errors.print(sentence)
    console.print(f"tables: {out}/results.csv, summary.csv, timing.csv; next: mpcrl report {out}", soft_wrap=True)
    return 1 if told.failed else 0


def report(
    folder: Annotated[Path, shown("DIR", "of the results, as `mpcrl compare --out` made it")],
    /,
    *,
    tensorboard: Annotated[bool, shown("", "write events for TensorBoard as well")] = False,
) -> int:
    """Make pages and tables of a sweep's results: report.html, report.md, CSV, and Parquet where pyarrow is there."""
    from mpcrl.experiments import display
    from mpcrl.experiments.report import write_report

    console, _ = display.consoles()
    for sentence in write_report(folder, tensorboard=tensorboard):
        console.print(sentence, soft_wrap=True)
    return 0


def list_names() -> int:
    """Show all tasks, planners, models and agents."""
    from mpcrl.experiments import display

    display.consoles()[0].print(display.catalogue())
    return 0


def doctor() -> int:
    """Show what this machine and installation can do, and what is missing."""
    from mpcrl.experiments import display

    display.consoles()[0].print(display.examination())
    return 0


def warmup(
    task: Annotated[str, shown("TASK", "one of those that `mpcrl list` shows")],
    /,
    *,
    planner: Annotated[str | None, shown("NAME", "the task's own by default")] = None,
    dtype: Annotated[str | None, shown("TYPE", "of an analytic model: float32 (the default) or float64")] = None,
) -> int:
    """Compile the kernels of a task and keep them, so that later runs start at once."""
    from mpcrl.experiments import display
    from mpcrl.experiments.configure import planner_for
    from mpcrl.experiments.run import warm_up
    from mpcrl.experiments.video import settle_rendering
    from mpcrl.tasks.registry import make_task

    settle_rendering(task, False)
    problem = make_task(task)
    chosen = planner_for(problem, planner)
    seconds = warm_up(problem, chosen, dtype=dtype)
    display.consoles()[0].print(f"{task} with {chosen.name}: ready in {seconds:.1f} s")
    return 0


def export(
    task: Annotated[str, shown("TASK", "one of those that `mpcrl list` shows, or file.py:name")],
    /,
    *,
    out: Annotated[Path, shown("DIR", "the folder to write; an older export in it is replaced")],
    planner: Annotated[str | None, shown("NAME", "the task's own by default")] = None,
    model: Annotated[
        str, shown("NAME", "what predicts: auto (the task's own), analytic, mujoco or mujoco-coarse")
    ] = "auto",
    budget: Annotated[int | None, shown("N", "trajectories simulated per control step")] = None,
    horizon: Annotated[int | None, shown("N", "control steps that a plan looks ahead")] = None,
    option: Annotated[
        tuple[str, ...], shown("NAME=VALUE", "an option of the planner, such as beta=0.25; may be given several times")
    ] = (),
    dtype: Annotated[str | None, shown("TYPE", "of an analytic model: float32 (the default) or float64")] = None,
    seed: Annotated[int, shown("N", "the same seed gives the same controls; 0 by default")] = 0,
    threads: Annotated[int | None, shown("N", "to plan with; all that there are by default")] = None,
    controls_per_plan: Annotated[
        int | None, shown("N", "controls taken of each plan; as in the task by default")
    ] = None,
    rate_limit: Annotated[float | None, shown("X", "largest change of a control per second")] = None,
    safe_control: Annotated[
        str | None, shown("U,V", "given when there is no plan left; the middle of the bounds by default")
    ] = None,
    file: Annotated[
        tuple[Path, ...], shown("FILE", "what a file.py reads or imports, such as its XML; may be given several times")
    ] = (),
    kernels: Annotated[
        bool, shown("", "add the compiled kernels, for machines with the same CPU and versions")
    ] = False,
) -> int:
    """Write a controller to a folder, from which `mpcrl.load` makes it on the robot."""
    from mpcrl.control.controller import Controller
    from mpcrl.control.export import export as export_controller
    from mpcrl.experiments import display
    from mpcrl.experiments.configure import (
        controls_per_plan_for,
        parse_numbers,
        parse_options,
        planner_for,
        predictor_for,
    )
    from mpcrl.experiments.video import settle_rendering
    from mpcrl.tasks.registry import is_file, make_task

    settle_rendering(task, False)
    problem = make_task(task)
    controller = Controller(
        problem,
        planner_for(problem, planner, budget=budget, horizon=horizon, options=parse_options(option)),
        model=predictor_for(problem, model, dtype).model,
        seed=seed,
        threads=threads,
        rate_limit=rate_limit,
        safe_control=None if safe_control is None else parse_numbers("safe-control", safe_control),
        controls_per_plan=controls_per_plan_for(problem, controls_per_plan),
    )
    source = task if is_file(task) else None
    folder = export_controller(controller, out, source=source, files=file, kernels=kernels)
    named = f", source={str(folder / 'source' / Path(task).name)!r}" if source else ""
    display.consoles()[0].print(
        f"{problem.name} with {controller.planner.name} is in {out}; load it with mpcrl.load({str(out)!r}{named})",
        soft_wrap=True,
    )
    return 0


def monitor(
    path: Annotated[Path, shown("PATH", "that a controller was given: Controller(..., telemetry=PATH)")],
    /,
    *,
    once: Annotated[bool, shown("", "print one picture and end")] = False,
    window: Annotated[float, shown("S", "seconds of plans that are counted; 5 by default")] = 5.0,
    refresh: Annotated[float, shown("S", "seconds between two pictures; 0.25 by default")] = 0.25,
) -> int:
    """Show the plans of a controller in another process as they are made."""
    from mpcrl.experiments import display
    from mpcrl.experiments.monitor import monitor as watch

    watch(display.consoles()[0], path, once=once, window=window, refresh=refresh)
    return 0


def view(
    task: Annotated[str, shown("TASK", "a MuJoCo task of those that `mpcrl list` shows")],
    /,
    *,
    planner: Annotated[str | None, shown("NAME", "one of those that `mpcrl list` shows")] = None,
    budget: Annotated[int | None, shown("N", "trajectories simulated per control step")] = None,
    horizon: Annotated[int | None, shown("N", "control steps that a plan looks ahead")] = None,
    option: Annotated[
        tuple[str, ...], shown("NAME=VALUE", "an option of the planner, such as beta=0.25; may be given several times")
    ] = (),
    seed: Annotated[int, shown("N", "of the first episode and the controller; 0 by default")] = 0,
    threads: Annotated[int | None, shown("N", "to plan with; all that there are by default")] = None,
    host: Annotated[str, shown("ADDRESS", "that the page is served at; 127.0.0.1 by default: here only")] = "127.0.0.1",
    port: Annotated[int, shown("N", "that the page is served at; 8080 by default, 0 for a free one")] = 8080,
    steps: Annotated[int | None, shown("N", "control steps after which to end; at Ctrl-C by default")] = None,
) -> int:
    """Show a MuJoCo task under control in the browser, with its plans, and sliders for the planner and the task."""
    from mpcrl.experiments import display
    from mpcrl.experiments.configure import parse_options
    from mpcrl.experiments.video import settle_rendering
    from mpcrl.experiments.view import Settings, View
    from mpcrl.tasks.registry import make_task

    console, _ = display.consoles()
    settle_rendering(task, False)
    settings = Settings(planner=planner, budget=budget, horizon=horizon, options=parse_options(option))
    with View(make_task(task), settings, seed=seed, threads=threads, host=host, port=port) as viewed:
        console.print(f"{task} with {viewed.controller.planner.name}: {viewed.address} (Ctrl-C ends)")
        viewed.run(steps)
    return 0


def train(
    algo: Annotated[str, shown("ALGO", "pets, deterministic, random-shooting, pilco, mc-pilco or gp-mpc")],
    task: Annotated[str, shown("TASK", "one of those that `mpcrl list` shows, or file.py:name")],
    /,
    *,
    steps: Annotated[int, shown("N", "control steps to learn from; a trial that has begun is finished")],
    out: Annotated[Path, shown("DIR", "where checkpoints, model and result are kept; goes on from what is there")],
    seed: Annotated[int, shown("N", "the same seed gives the same training; 0 by default")] = 0,
    planner: Annotated[str | None, shown("NAME", "one of those that `mpcrl list` shows")] = None,
    budget: Annotated[int | None, shown("N", "trajectories simulated per control step")] = None,
    horizon: Annotated[int | None, shown("N", "control steps that a plan looks ahead")] = None,
    option: Annotated[
        tuple[str, ...], shown("NAME=VALUE", "an option of the planner, such as beta=0.25; may be given several times")
    ] = (),
    setting: Annotated[
        tuple[str, ...],
        shown(
            "NAME=VALUE",
            "of the agent, such as particles=5 or basis=20; see its page in docs/",
        ),
    ] = (),
    threads: Annotated[int | None, shown("N", "to plan with; all that there are by default")] = None,
    evaluation_episodes: Annotated[int, shown("N", "after the last trial; 1 by default")] = 1,
    json: Annotated[Path | None, shown("FILE", "write the result to a file too")] = None,
    tensorboard: Annotated[bool, shown("", "write the curves as TensorBoard's events as well")] = False,
) -> int:
    """Learn a task by trial and error, with a model of its dynamics. Goes on where it stopped."""
    from mpcrl.agents.agent import Trial
    from mpcrl.experiments import display
    from mpcrl.experiments.configure import agent_for, parse_options
    from mpcrl.experiments.training import Point
    from mpcrl.experiments.training import train as train_agent
    from mpcrl.experiments.training_board import TrainingBoard, closing
    from mpcrl.experiments.training_outputs import check_outputs, how_to_run, write_forecast, write_training
    from mpcrl.experiments.video import settle_rendering
    from mpcrl.tasks.registry import make_task

    console, _ = display.consoles()
    check_outputs(json, tensorboard)
    settle_rendering(task, False)
    agent = agent_for(
        algo,
        make_task(task),
        planner=planner,
        budget=budget,
        horizon=horizon,
        options=parse_options(option),
        settings=parse_options(setting),
        seed=seed,
        threads=threads,
    )
    console.print(display.heading(agent.task, agent.acts_by, threads))
    with TrainingBoard(console, steps, agent.task.dt) as board:

        def told(trial: Trial, point: Point) -> None:
            board.trial(trial, point)
            write_forecast(trial, agent.task.name, out)

        result, calibrated = train_agent(
            algo,
            agent,
            steps=steps,
            folder=out,
            evaluation_episodes=evaluation_episodes,
            on_start=board.started,
            on_step=board.step,
            on_trial=told,
            on_learning=board.learning,
            on_evaluation=board.evaluation,
        )
    console.print(closing(result))
    for sentence in write_training(result, calibrated, out, json=json, tensorboard=tensorboard):
        console.print(sentence, soft_wrap=True)
    for sentence in how_to_run(agent, task, out, option):
        console.print(sentence, soft_wrap=True)
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "run": run,
    "train": train,
    "compare": compare,
    "report": report,
    "list": list_names,
    "doctor": doctor,
    "warmup": warmup,
    "export": export,
    "monitor": monitor,
    "view": view,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code: 0 done, 1 some runs failed, 2 bad input or a missing package, 130 interrupted.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process if not given.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if arguments == ["--version"]:
            print(f"mpcrl {__version__}")
            return 0
        return _command(arguments)
    except MpcrlError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # say, `mpcrl list | head`
        sys.stderr.close()
        return 0


def _command(arguments: Sequence[str]) -> int:
    try:
        import rich  # noqa: F401
        import tyro
    except ImportError as error:
        raise missing(error.name or "tyro", "cli") from error
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="mpcrl",
        description="Model-predictive control by sampling.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.UseAppendAction),
    )
