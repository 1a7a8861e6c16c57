"""What a training leaves behind: its numbers, its learning curve, and what the time went into."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mpcrl.agents.agent import Agent, Trial
from mpcrl.core.errors import MissingDependency, MpcrlError
from mpcrl.core.files import writable_folder, written
from mpcrl.experiments.configure import MODEL_FOLDER, planner_for, policy_folder
from mpcrl.experiments.export import event_writer, training_events
from mpcrl.experiments.learning_plots import save_calibration_plot, save_forecast_plot
from mpcrl.experiments.plots import COLOURS, drawing
from mpcrl.experiments.training import RESULT, TrainResult
from mpcrl.learning.calibration import Calibration


def write_training(
    result: TrainResult,
    calibrated: Calibration | None,
    folder: Path,
    *,
    json: Path | None = None,
    tensorboard: bool = False,
) -> Iterator[str]:
    """Write the learning curve as CSV and picture, and what else is asked for; one sentence about each."""
    if json is not None:
        with written(json) as scratch:
            scratch.write_text(result.to_json())
    yield f"result: {json or folder / RESULT}"
    with written(folder / "curve.csv") as scratch, scratch.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([*result.curve[0].row(), "interaction_s"])
        rows.writerows([*point, round(point.steps * result.dt, 9)] for point in result.curve)
    yield f"curve: {folder / 'curve.csv'}"
    try:
        save_curve(result, folder / "curve.png")
        yield f"plot: {folder / 'curve.png'}"
        if calibrated is not None:
            save_calibration_plot(calibrated, folder / "calibration.png")
            yield f"how far to trust the model: {folder / 'calibration.png'} and calibration.csv"
    except MpcrlError as error:
        yield f"no plot: {error}"
    if tensorboard:
        yield f"TensorBoard: {training_events(result, folder / 'tensorboard')}"


def how_to_run(agent: Agent, task: str, folder: Path, options: Sequence[str]) -> Iterator[str]:
    """The commands that use what was learned, a sentence each.

    Parameters
    ----------
    agent : Agent
    task : str
        As it was given.
    folder : path
        Of the training.
    options : sequence of str
        Of the agent's planner, as they were given.
    """
    again, acts_by = f"mpcrl run {task} --model {folder}", agent.acts_by
    if not isinstance(acts_by, str):
        sizes = f"--planner {acts_by.name} --budget {acts_by.budget} --horizon {acts_by.horizon}"
        yield f"run it with: {again} {sizes}" + "".join(f" --option {text}" for text in options)
        return
    yield f"what it learned: {folder / MODEL_FOLDER}"
    if policy_folder(str(folder)) is None:
        yield f"plan through its model with: {again}"
    else:
        yield f"run its policy with: {again}"
        yield f"plan through its model with: {again} --planner {planner_for(agent.task).name}"


def write_forecast(trial: Trial, task: str, folder: Path) -> None:
    """Draw what was predicted of a trial beside what happened, where the agent's model predicts trials."""
    if trial.forecast is not None:
        with contextlib.suppress(MissingDependency):  # which the end of the training tells of
            path = folder / f"trial_{trial.number:02d}.png"
            save_forecast_plot(trial.forecast, f"{task}   trial {trial.number}", path)


def check_outputs(json: Path | None, tensorboard: bool) -> None:
    """Refuse before hours of training what could not be written after them."""
    if json is not None:
        writable_folder(json.parent)
    if tensorboard:
        event_writer()


def save_curve(result: TrainResult, path: Path) -> None:
    """Draw returns, losses and time over control steps into a PNG file.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed.
    """
    steps = np.array([point.steps for point in result.curve])
    returns = [point.return_ for point in result.curve]
    with drawing(path, (9.0, 7.5)) as figure:
        top, middle, bottom = figure.subplots(3, sharex=True, height_ratios=(3.0, 1.4, 1.4))
        top.plot(steps, returns, color=COLOURS[0], marker="o", markersize=4)
        top.axhline(result.final_return, color=COLOURS[1], linewidth=1.2, linestyle=(0, (5, 3)))
        top.annotate(
            f"evaluation {result.final_return:,.1f}".replace("-", "\N{MINUS SIGN}"),
            (0.0, result.final_return),
            xycoords=("axes fraction", "data"),
            xytext=(4, 4),
            textcoords="offset points",
            color=COLOURS[1],
        )
        top.set_title(f"{result.task}   {result.algo}, seed {result.seed}; the first trial is random")
        top.margins(y=0.12)  # room for what is written above the line
        top.set_ylabel("return of a trial")
        middle.plot(steps, [point.loss for point in result.curve], color=COLOURS[2], marker="o", markersize=3)
        middle.set_ylabel("training loss")
        bottom.plot(steps, [point.wall_s / 60 for point in result.curve], color=COLOURS[6], marker="o", markersize=3)
        bottom.set_ylabel("computing, min")
        bottom.set_xlabel("control steps")
        bottom.set_xlim(0, None)
        seconds = top.secondary_xaxis("top", functions=(lambda step: result.dt * step, lambda time: time / result.dt))
        seconds.set_xlabel("seconds of interaction")
