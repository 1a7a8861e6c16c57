"""The figures of a report, as SVG."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mpcrl.core.errors import missing
from mpcrl.experiments.plots import COLOURS, STYLE
from mpcrl.experiments.scores import Scores
from mpcrl.experiments.statistics import (
    Estimate,
    interquartile_mean,
    mean,
    performance_profile,
    share_of_wins,
    stratified_interval,
)
from mpcrl.experiments.tables import Group

_MOST_PAIRS = 14
_WIDTH = 9.6


def figures(groups: Sequence[Group], by_budget: Sequence[Group], scores: Scores) -> Iterator[tuple[str, str, bytes]]:
    """Name, caption and SVG of every figure that there are results for.

    Parameters
    ----------
    groups : sequence of Group
    by_budget : sequence of Group
        The same, labelled without the budget.
    scores : Scores
    """
    methods = {group.method for group in groups}
    some = f" Only the best {len(COLOURS)} of {len(methods)} methods are drawn." if len(methods) > len(COLOURS) else ""
    if len(scores.methods) > 1:
        yield "scores", "Mean and interquartile mean of the scores, with 95% intervals.", score_figure(scores)
        caption = f"Performance profiles: share of runs that score above x, with 95% bands.{some}"
        yield "profiles", caption, profile_figure(scores, _palette(groups))
        caption = "Probability of improvement: how often a run of the row scores above one of the column, ties half."
        yield "improvement", caption, improvement_figure(scores)
    budgets: dict[tuple[str, str], set[int]] = {}
    for group in by_budget:
        budgets.setdefault((group.task, group.method), set()).add(group.config["budget"])
    if max(map(len, budgets.values())) > 1:
        yield "budget", "Mean return against budget, with 95% intervals.", budget_figure(by_budget)
    caption = "Mean return against plan time. Grey: what nothing faster beats; dashed: the control period."
    yield "plan_time", caption, pareto_figure(by_budget)
    caption = f"Return so far within an episode: mean over runs, and the range of their middle half.{some}"
    yield "curves", caption, curve_figure(groups)
    yield "histograms", f"Plan times of all plans. Dashed: the control period.{some}", time_figure(groups)


def score_figure(scores: Scores) -> bytes:
    """Mean and interquartile mean of the scores of each method, with intervals."""
    rows = len(scores.methods)
    with _figure(0.9 + 0.32 * rows) as (figure, done):
        axes = figure.subplots(1, 2, sharey=True)
        for panel, title, statistic in zip(
            axes, ("mean score", "interquartile mean"), (mean, interquartile_mean), strict=True
        ):
            for row, method in enumerate(scores.methods):
                found = stratified_interval(scores.values[method], statistic)
                _interval(panel, found, row, COLOURS[0])
            panel.set_title(title)
            panel.set_ylim(rows - 0.5, -0.5)
            panel.grid(axis="y", visible=False)
        axes[0].set_yticks(range(rows), scores.methods)
        return done()


def profile_figure(scores: Scores, palette: Mapping[str, str]) -> bytes:
    """Share of runs above a score, over the score."""
    shown = {method: colour for method, colour in palette.items() if method in scores.values}
    everything = np.concatenate([np.concatenate(scores.values[method]) for method in shown])
    thresholds = np.linspace(min(0.0, everything.min()), max(1.0, everything.max()), 101)
    with _figure(3.6) as (figure, done):
        axes = figure.subplots()
        for method, colour in shown.items():
            found = performance_profile(scores.values[method], thresholds)
            axes.plot(thresholds, found.value, color=colour, label=method, linewidth=1.8)
            axes.fill_between(thresholds, found.low, found.high, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="score", ylabel="share of runs above", ylim=(-0.02, 1.02))
        _legend(figure, [axes], list(palette))
        return done()


def improvement_figure(scores: Scores) -> bytes:
    """How often a run of one method beats one of another, for all pairs."""
    methods = scores.methods[:_MOST_PAIRS]
    table = np.array([[share_of_wins(scores.values[a], scores.values[b]) for b in methods] for a in methods])
    size = len(methods)
    with _figure(0.6 + 0.42 * size) as (figure, done):
        axes = figure.subplots()
        axes.pcolormesh(table, cmap="RdBu", vmin=0.0, vmax=1.0, edgecolor="white", linewidth=1.0)
        for (row, column), share in np.ndenumerate(table):
            if row != column:
                dark = abs(share - 0.5) > 0.35
                axes.text(column + 0.5, row + 0.5, f"{share:.2f}", ha="center", va="center", color="w" if dark else "k")
        ticks = np.arange(size) + 0.5
        axes.set_xticks(ticks, range(1, size + 1))
        axes.set_yticks(ticks, [f"{method}   {number}" for number, method in enumerate(methods, 1)])
        axes.invert_yaxis()
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_aspect("equal")
        axes.grid(False)
        return done()


def budget_figure(groups: Sequence[Group]) -> bytes:
    """Mean return over budget for each task; `groups` are labelled without the budget."""

    def draw(axes: Any, mine: list[Group], colours: Mapping[str, str]) -> None:
        present = {group.method for group in mine}
        for method, colour in ((method, colour) for method, colour in colours.items() if method in present):
            line = sorted((g for g in mine if g.method == method), key=lambda g: g.config["budget"])
            budgets = [g.config["budget"] for g in line]
            found = [stratified_interval([g.returns], mean) for g in line]
            values = np.array([[e.value, e.value - e.low, e.high - e.value] for e in found]).T
            axes.errorbar(
                budgets, values[0], values[1:], color=colour, marker="o", markersize=4, capsize=2, label=method
            )
        _logarithmic(axes, 2)

    return _panels(groups, draw, "trajectories per control step", "mean return")


def pareto_figure(groups: Sequence[Group]) -> bytes:
    """Mean return over median plan time; a line joins those that nothing faster beats."""

    def draw(axes: Any, mine: list[Group], colours: Mapping[str, str]) -> None:
        points = []
        for group in mine:
            times = [r["timing"]["plan_ms"]["p50"] for r in group.records]
            points.append((float(np.median(times)), float(group.returns.mean()), group))
        front, best = [], -math.inf
        for time, value, _ in sorted(points, key=lambda point: (point[0], -point[1])):
            if value > best:
                front.append((time, value))
                best = value
        axes.plot(*np.array(front).T, color="#BBBBBB", linewidth=1.4, zorder=1)
        for time, value, group in points:
            found = stratified_interval([group.returns], mean)
            error = [[value - found.low], [found.high - value]]
            axes.errorbar(time, value, error, color=colours.get(group.method, "#999999"), marker="o", markersize=4.5)
            axes.annotate(
                f"{group.config['budget']}", (time, value), xytext=(4, 3), textcoords="offset points", fontsize=7.5
            )
        for method, colour in colours.items():
            axes.plot([], [], color=colour, marker="o", linestyle="none", label=method)
        _period(axes, mine)
        _logarithmic(axes, 10)

    return _panels(groups, draw, "median plan time, ms (numbers: budget)", "mean return")


def curve_figure(groups: Sequence[Group]) -> bytes:
    """Return so far over control steps: mean over runs, and the range of their middle half."""

    def draw(axes: Any, mine: list[Group], colours: Mapping[str, str]) -> None:
        for group in mine:
            if group.method not in colours:
                continue
            ends = max(record["steps"] for record in group.records)
            steps = np.unique(np.linspace(1, ends, 60).round())
            lines = np.array(
                [np.interp(steps, record["curve"]["steps"], record["curve"]["returns"]) for record in group.records]
            )
            low, high = np.quantile(lines, (0.25, 0.75), axis=0)
            colour = colours[group.method]
            axes.plot(steps, lines.mean(axis=0), color=colour, label=group.method, linewidth=1.6)
            axes.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)

    return _panels(groups, draw, "control step", "return so far")


def time_figure(groups: Sequence[Group]) -> bytes:
    """Histograms of plan times over all plans of each method."""

    def draw(axes: Any, mine: list[Group], colours: Mapping[str, str]) -> None:
        for group in mine:
            if group.method not in colours:
                continue
            found: dict[float, int] = {}
            for histogram in (record["timing"]["plan_ms_histogram"] for record in group.records):
                for lower, count in zip(histogram["lower"], histogram["counts"], strict=True):
                    found[round(lower, 9)] = found.get(round(lower, 9), 0) + count
            ratio = group.records[0]["timing"]["plan_ms_histogram"]["ratio"]
            first, last = min(found), max(found)
            bins = round(math.log(last / first, ratio)) + 1
            edges = first * ratio ** np.arange(bins + 1)
            counts = np.zeros(bins)
            for lower, count in found.items():
                counts[round(math.log(lower / first, ratio))] += count
            axes.stairs(counts / counts.sum(), edges, color=colours[group.method], label=group.method, linewidth=1.5)
        _period(axes, mine)
        _logarithmic(axes, 10)

    return _panels(groups, draw, "plan time, ms", "share of plans")


# ---- parts -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _figure(height: float) -> Iterator[tuple[Any, Callable[[], bytes]]]:
    """A figure of some height in inches, and what makes SVG of it."""
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("matplotlib", "plots") from error
    style = {**mpl.rcParamsDefault, **STYLE, "svg.hashsalt": "mpcrl", "axes.titlesize": 10.5, "font.size": 9.5}
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)

        def done() -> bytes:
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            return file.getvalue()

        yield figure, done


def _panels(
    groups: Sequence[Group], draw: Callable[[Any, list[Group], Mapping[str, str]], None], x: str, y: str
) -> bytes:
    """One panel per task, one legend for all."""
    tasks = list(dict.fromkeys(group.task for group in groups))
    colours = _palette(groups)
    columns = min(3, len(tasks)) if len(tasks) != 4 else 2
    lines = -(-len(tasks) // columns)
    with _figure(0.7 + 2.5 * lines) as (figure, done):
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, task in zip(panels, tasks, strict=False):
            draw(axes, [group for group in groups if group.task == task], colours)
            axes.set_title(task)
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        figure.supxlabel(x, fontsize=9.5)
        figure.supylabel(y, fontsize=9.5)
        _legend(figure, panels, list(colours))
        return done()


def _palette(groups: Sequence[Group]) -> dict[str, str]:
    """Colours of the methods, in the order of how well they do; of no more of them than can be told apart."""
    ranks: dict[str, list[float]] = {}
    for task in {group.task for group in groups}:
        mine = sorted((g for g in groups if g.task == task), key=lambda g: -float(g.returns.mean()))
        for rank, group in enumerate(mine):
            ranks.setdefault(group.method, []).append(rank / len(mine))
    best = sorted(ranks, key=lambda method: (float(np.mean(ranks[method])), method))
    return dict(zip(best, COLOURS, strict=False))


def _interval(axes: Any, found: Estimate, row: int, colour: str) -> None:
    axes.plot([found.low, found.high], [row, row], color=colour, linewidth=6, alpha=0.3, solid_capstyle="butt")
    axes.plot([found.value], [row], marker="|", markersize=13, markeredgewidth=2.2, color=colour)


def _legend(figure: Any, panels: Sequence[Any], order: Sequence[str]) -> None:
    found: dict[str, Any] = {}
    for axes in panels:
        found.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    names = [name for name in order if name in found]
    handles = [found[name] for name in names]
    figure.legend(handles, names, loc="outside upper left", ncols=min(4, len(names)), frameon=False)


def _logarithmic(axes: Any, base: int) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _period(axes: Any, groups: Sequence[Group]) -> None:
    """A line at the control period, beyond which planning does not keep up."""
    for period in {record["timing"]["control_period_ms"] for group in groups for record in group.records}:
        axes.axvline(period, color="#777777", linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
