"""The pictures of a learned model: how it learned, and how far to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.agents.agent import Forecasted
from mpcrl.experiments.plots import COLOURS, drawing
from mpcrl.learning.calibration import LEVELS, Calibration
from mpcrl.learning.ensemble import FitReport

_SHOWN = (1, 5, 20)
"""Steps at which the calibration curve is drawn."""

_MOST = 7
"""Lines with a colour and a name of their own; of more numbers, those with the largest errors."""

_PALE = "#D0D0D0"


def save_learning_plot(reports: Sequence[FitReport], path: Path) -> None:
    """Draw the losses of all members over the epochs of all fits into a PNG file.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed.
    """
    held = any(report.held_rows for report in reports)
    with drawing(path, (10.0, 3.8)) as figure:
        axes = figure.subplots(1, 1 + held, squeeze=False)[0]
        _draw_losses(axes[0], reports, "train_loss", "loss in training")
        if held:
            _draw_losses(axes[1], reports, "holdout_error", "squared error on the holdout")
            axes[1].set_yscale("log")


def save_calibration_plot(found: Calibration, path: Path) -> None:
    """Draw coverage against what was predicted, coverage over the horizon, and the error over the horizon.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed.
    """
    steps = np.arange(found.horizon) + 1
    overall = 100 * found.overall
    with drawing(path, (12.0, 3.9)) as figure:
        curve, over_time, error = figure.subplots(1, 3)
        levels = 100 * np.array(LEVELS)
        curve.plot([0, 100], [0, 100], color="#999999", linestyle="--", linewidth=1.0)
        for colour, shown in zip(COLOURS, [h for h in _SHOWN if h <= found.horizon], strict=False):
            label = f"{shown} step{'s' * (shown > 1)}"
            curve.plot(levels, overall[shown - 1], color=colour, marker="o", markersize=4, label=label)
        curve.set(xlim=(40, 100), ylim=(0, 101), title="Coverage", xlabel="predicted, %", ylabel="found, %")
        curve.legend(loc="lower right")

        for colour, level, line in zip(COLOURS, LEVELS, overall.T, strict=False):
            over_time.axhline(100 * level, color=colour, linestyle="--", linewidth=0.8, alpha=0.6)
            over_time.plot(steps, line, color=colour, label=f"{100 * level:g}%")
        over_time.set(ylim=(0, 101), title="Coverage of intervals (dashed: predicted)", xlabel="steps", ylabel="%")
        over_time.legend(loc="lower right", ncols=2)

        scaled = found.scaled_rmse
        moving = np.flatnonzero(found.spread > 0)
        named = moving[np.argsort(-scaled[-1, moving], kind="stable")][:_MOST]
        for i in moving:
            if i not in named:
                error.plot(steps, scaled[:, i], color=_PALE, linewidth=0.8)
        for colour, i in zip(COLOURS, named, strict=False):
            error.plot(steps, scaled[:, i], color=colour, label=found.names[i])
        error.set(title="Error", xlabel="steps", ylabel="RMSE, in standard deviations")
        error.set_yscale("log")
        error.legend(loc="lower right")
        for axes in (over_time, error):
            axes.set_xlim(1, max(found.horizon, 2))


def save_forecast_plot(said: Forecasted, title: str, path: Path) -> None:
    """Draw what a model said of a trial, with bands of one and two standard deviations, and what happened.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed.
    """
    count = len(said.names)
    columns = min(count, 3)
    rows = -(-count // columns)
    times, real = said.dt * np.arange(len(said.means)), said.dt * np.arange(len(said.states))
    with drawing(path, (4.2 * columns, 0.6 + 2.6 * rows)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axes in grid[count:]:
            axes.set_axis_off()
        for i, (axes, name) in enumerate(zip(grid, said.names, strict=False)):
            mean, deviation = said.means[:, i], said.deviations[:, i]
            for wide, alpha in ((2, 0.15), (1, 0.25)):
                low, high = mean - wide * deviation, mean + wide * deviation
                axes.fill_between(times, low, high, color=COLOURS[0], alpha=alpha, linewidth=0)
            axes.plot(times, mean, color=COLOURS[0], label="predicted, 1 and 2 standard deviations")
            axes.plot(real, said.states[:, i], color=COLOURS[1], label="real")
            axes.set(title=name)
            axes.set_xlabel("s")
        grid[0].legend(loc="best", fontsize="small")
        figure.suptitle(title)


def _draw_losses(axes: Any, reports: Sequence[FitReport], name: str, title: str) -> None:
    """A thin line per member, their mean, and where each fit began."""
    losses = np.concatenate([getattr(report, name) for report in reports])
    epochs = np.arange(len(losses)) + 1
    for line in losses.T:
        axes.plot(epochs, line, color="#9CBBD3", linewidth=0.8)
    axes.plot(epochs, losses.mean(axis=1), color=COLOURS[0], linewidth=1.8, label="mean")
    ends = np.cumsum([len(getattr(report, name)) for report in reports])[:-1]
    if len(ends) < 60:
        for end in ends:
            axes.axvline(end + 0.5, color=_PALE, linewidth=0.8, zorder=0)
    fits = f"{len(reports)} fit{'s' * (len(reports) > 1)}"
    axes.set(title=f"{title[0].upper()}{title[1:]}, {fits}", xlabel="epoch", ylabel=title)
    axes.set_xlim(1, max(len(losses), 2))
