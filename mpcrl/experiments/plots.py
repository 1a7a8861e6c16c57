"""The picture of a run: return, state and controls over time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.core.errors import missing
from mpcrl.core.files import atomic
from mpcrl.experiments.episode import Episode
from mpcrl.experiments.run import RunResult
from mpcrl.experiments.worlds import Signals
from mpcrl.tasks.task import Task

_STEPS = 3
"""More controls than this, which jump, cannot be told apart as lines."""

# Okabe and Ito's palette (Color Universal Design, 2008), which colour-blind readers can tell apart, and two greys.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#999999")

STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}


def save_plot(task: Task, result: RunResult, path: Path) -> None:
    """Draw the returns of all episodes, and state and controls of the first, into a PNG file.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed.
    """
    episode = result.records[0]
    panels = _panels(episode)
    with drawing(path, (10.0, 4.9 + 1.9 * len(panels))) as figure:
        heights = [2.3, *(1.9 for _ in panels), 2.3]
        axes = figure.subplots(len(heights), sharex=True, height_ratios=heights)
        _draw_returns(axes[0], task, result)
        for panel, signals in zip(axes[1:-1], panels, strict=True):
            _draw_lines(panel, signals, task.dt)
        _draw_controls(axes[-1], task, episode)
        axes[-1].set_xlabel("time, s")
        axes[0].set_xlim(0.0, max(len(record.controls) for record in result.records) * task.dt)
        figure.align_ylabels()


@contextlib.contextmanager
def drawing(path: Path, size: tuple[float, float]) -> Iterator[Any]:
    """A Matplotlib figure of a size in inches, in the project's style, that is written to a PNG file if all goes well.

    Raises
    ------
    MissingDependency
        Matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", "plots") from error
    with mpl.rc_context({**mpl.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic(path) as scratch:
            figure.savefig(scratch, dpi=120)


def _draw_returns(axes: Any, task: Task, result: RunResult) -> None:
    for number, record in enumerate(result.records):
        so_far = np.append(0.0, np.cumsum(record.rewards))
        time = np.arange(so_far.size) * task.dt
        colour = COLOURS[0] if number == 0 else "#9CBBD3"
        axes.plot(time, so_far, color=colour, linewidth=1.8 if number == 0 else 1.0, zorder=3 if number == 0 else 2)
    first = result.records[0]
    title = f"{result.task}   {result.planner['name']}"
    if result.budget:
        title += f", {result.budget} trajectories x {result.horizon} steps"
    last = result.seed + len(result.records) - 1
    seeds = f"seed {result.seed}" if last == result.seed else f"seed {result.seed} (pale: to {last})"
    axes.set_title(f"{title}, {seeds}")
    axes.set_ylabel("return so far")
    axes.annotate(
        f"{first.total:,.1f}".replace("-", "\N{MINUS SIGN}"),
        (len(first.rewards) * task.dt, first.total),
        xytext=(6, 0),
        textcoords="offset points",
        color=COLOURS[0],
        weight="bold",
        va="center",
        annotation_clip=False,
    )


def _draw_lines(axes: Any, signals: Signals, dt: float) -> None:
    """One line per signal, and a legend beside them."""
    time = np.arange(len(signals.values)) * dt
    for name, colour, column in zip(signals.names, COLOURS, signals.values.T, strict=False):
        axes.plot(time, column, color=colour, linewidth=_line_width(time.size), label=name)
    axes.set_ylabel(signals.title)
    _legend(axes)


def _draw_controls(axes: Any, task: Task, episode: Episode) -> None:
    """Few controls as steps between their bounds; many as a band of colour each, where lines would hide each other."""
    low, high = task.control_low, task.control_high
    edges = np.arange(len(episode.controls) + 1) * task.dt
    if task.nu > _STEPS:
        shares = (2 * episode.controls - low - high) / (high - low)
        rows = np.arange(task.nu + 1) - 0.5
        bands = axes.pcolormesh(edges, rows, shares.T, cmap="RdBu_r", vmin=-1.0, vmax=1.0, rasterized=True)
        every = -(-task.nu // 12)
        axes.set_yticks(range(0, task.nu, every), episode.control_names[::every])
        axes.invert_yaxis()
        axes.grid(False)
        axes.set_ylabel("controls")
        beside = axes.inset_axes((1.012, 0.0, 0.014, 1.0))
        bar = axes.figure.colorbar(bands, cax=beside, ticks=(-1.0, 0.0, 1.0))
        bar.ax.set_yticklabels(("lowest", "middle", "highest"))
        bar.outline.set_visible(False)
        return
    alike = np.ptp(low) == 0 and np.ptp(high) == 0
    values = episode.controls if alike else (2 * episode.controls - low - high) / (high - low)
    width = _line_width(len(values))
    for name, colour, column in zip(episode.control_names, COLOURS, values.T, strict=False):
        axes.stairs(column, edges, baseline=None, color=colour, linewidth=width, label=name)
    for bound in (low[0], high[0]) if alike else (-1.0, 1.0):
        axes.axhline(bound, color="#777777", linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.set_ylabel("control" if alike else "control, share of range")
    _legend(axes)


def _line_width(points: int) -> float:
    return 1.4 if points <= 300 else 0.9


def _legend(axes: Any) -> None:
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0, handlelength=1.4)
    for line in legend.get_lines():
        line.set_linewidth(2.0)


def _panels(episode: Episode) -> list[Signals]:
    """The signals, each in a panel with those of its magnitude: a few would dwarf the others."""
    panels = []
    for signals in episode.signals:
        span = np.abs(signals.values).max(axis=0)
        large = span > 8 * np.median(span)
        for part in (~large, large):
            if part.any():
                names = tuple(name for name, taken in zip(signals.names, part, strict=True) if taken)
                panels.append(Signals(signals.title, names, signals.values[:, part]))
    return panels
