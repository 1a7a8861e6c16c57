"""What `mpcrl train` shows: the trials so far, their curve, and where the one at hand stands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpcrl.agents.agent import StepDone, Trial
from mpcrl.experiments.display import LiveDisplay
from mpcrl.experiments.episode import Progress
from mpcrl.experiments.training import Point, TrainResult

_ROWS, _HEIGHT, _WIDTH = 8, 10, 60  # trials in the table; lines and columns of the curve
_EIGHTHS = " ▁▂▃▄▅▆▇█"


class TrainingBoard(LiveDisplay):
    """Shows a training on a terminal as it goes on; elsewhere prints a line per trial, and some in between."""

    def __init__(self, console: Console, steps: int, dt: float) -> None:
        super().__init__(console)
        self._steps, self._dt = steps, dt
        self._curve: list[Point] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None and self._curve:
            self._console.print(f"{len(self._curve)} trials are kept; the same command goes on after them")

    def started(self, curve: Sequence[Point]) -> None:
        """Take note of what was done before."""
        self._curve = list(curve)
        if curve:
            self._console.print(f"going on after {len(curve)} trials, {curve[-1].steps:,} steps")

    def step(self, step: StepDone) -> None:
        """Take note of a control step of a trial."""
        planned = f", plan {step.plan_ms:.1f} ms" if np.isfinite(step.plan_ms) else ", random controls"
        self._update(f"trial {step.trial}  step {step.step:>4}  return {step.episode_return:,.1f}{planned}")

    def learning(self, progress: object) -> None:
        """Take note of a step of learning, which prints as a line."""
        self._update(str(progress))

    def trial(self, trial: Trial, point: Point) -> None:
        """Take note of a trial and the training after it."""
        self._curve.append(point)
        if not self._live:
            self._console.print(
                f"trial {trial.number}: {point.steps:,} steps ({self._dt * point.steps:,.1f} s), "
                f"return {point.return_:,.1f}, loss {point.loss:.3f}, computed for {point.wall_s:,.0f} s"
            )
        self._update("", at_once=True)

    def evaluation(self, progress: Progress) -> None:
        """Take note of a control step of an evaluation."""
        self._update(
            f"evaluation {progress.episode}/{progress.episodes}  step {progress.step:>4}/{progress.steps}  "
            f"return {progress.episode_return:,.1f}"
        )

    def _update(self, line: str, at_once: bool = False) -> None:
        if not self._due(time.monotonic()) and not at_once:
            return
        if self._live:
            self._live.update(Group(*self._pictures(), Text(line)), refresh=True)
        elif line:
            self._console.print(line)

    def _pictures(self) -> list[RenderableType]:
        if not self._curve:
            return []
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name in ("trial", "steps", "return", "loss", "plan ms", "learning s"):
            table.add_column(name, justify="right")
        first = max(0, len(self._curve) - _ROWS)
        for number, p in enumerate(self._curve[first:], first):
            plan = f"{p.plan_ms:.1f}" if p.plan_ms == p.plan_ms else "random"
            row = f"{p.steps:,}", f"{p.return_:,.1f}", f"{p.loss:.3f}", plan, f"{p.learning_s:.1f}"
            table.add_row(str(number), *row)
        return [table, Text(curve_text([p.steps for p in self._curve], [p.return_ for p in self._curve], self._steps))]


def curve_text(steps: Sequence[int], returns: Sequence[float], limit: int) -> str:
    """Returns over steps, from 0 to `limit`, as a picture of characters: the last finite return of each column."""
    columns: list[float | None] = [None] * _WIDTH
    finite = [(step, value) for step, value in zip(steps, returns, strict=True) if np.isfinite(value)]
    for step, value in finite:
        columns[min(_WIDTH - 1, int(step / max(limit, 1) * (_WIDTH - 1)))] = value
    low, high = (end((value for _, value in finite), default=0.0) for end in (min, max))
    span = (high - low) or 1.0
    lines = []
    for row in range(_HEIGHT - 1, -1, -1):
        label = f"{high:>12,.1f}" if row == _HEIGHT - 1 else f"{low:>12,.1f}" if row == 0 else " " * 12
        cells = [
            " "
            if value is None
            else _EIGHTHS[int(np.clip(((value - low) / span * (_HEIGHT - 0.5) + 0.5 - row) * 8, 0, 8))]
            for value in columns
        ]
        lines.append(f"{label} │{''.join(cells)}")
    lines.append(" " * 13 + "└" + "─" * _WIDTH)
    lines.append(" " * 14 + "0" + f"{limit:,} steps".rjust(_WIDTH - 1))
    return "\n".join(lines)


def closing(result: TrainResult) -> RenderableType:
    """What a training came to."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column()
    episodes = len(result.evaluation)
    about = f"mean of {episodes} episode{'s' * (episodes != 1)} that nobody learned from"
    table.add_row("final return", f"{result.final_return:,.2f}", about)
    hopeful = "too hopeful" if result.model_gap > 0 else "too gloomy"
    table.add_row(
        "model gap", f"{result.model_gap:+,.2f}", f"predicted minus real return per episode: the model is {hopeful}"
    )
    if result.coverage:
        shares = ", ".join(f"{share:.0%}" for share in result.coverage.values())
        ahead = ", ".join(map(str, result.coverage))
        table.add_row("calibration", shares, f"of states within the model's 90% interval, {ahead} steps ahead")
    seconds = f"{result.steps * result.dt:,.1f} s of interaction, in {len(result.curve)} trials"
    table.add_row("steps", f"{result.steps:,}", seconds)
    table.add_row("time", f"{result.curve[-1].wall_s:,.0f} s", "of acting and learning")
    return table
