"""What `mpcrl compare` shows: how a sweep goes on, who leads, what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpcrl.experiments import tables
from mpcrl.experiments.config import RunConfig, labels
from mpcrl.experiments.display import LiveDisplay, columns

_FAILURES = 5  # that are shown


class SweepBoard(LiveDisplay):
    """Shows how a sweep goes on: runs done, time left, and who leads on each task.

    Attributes
    ----------
    failed : list of mapping
        Records of the runs that failed.
    """

    def __init__(
        self, console: Console, configs: Sequence[RunConfig], done: Sequence[Mapping[str, Any]], left: int
    ) -> None:
        self.failed: list[Mapping[str, Any]] = []
        super().__init__(console)
        methods = labels([config.fields for config in configs])
        self._methods = {config.hash: method for config, method in zip(configs, methods, strict=True)}
        self._returns: dict[str, dict[str, list[float]]] = {}
        for record in done:
            self._note(record)
        self._before, self._left, self._ended = len(done), left, 0
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        super().__enter__()
        runs = f"{self._left} runs of {len(self._methods)} configurations"
        self._console.print(runs + (f"; {self._before} are there already" if self._before else ""))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if kind is not None:
            self._console.print(f"{self._ended} of {self._left} runs done; the same command does the others")

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Take note of a run that has ended."""
        self._ended += 1
        if "error" in record:
            self.failed.append(record)
        else:
            self._note(record)
        if not self._due(time.monotonic()):
            return
        left = (self._shown - self._began) / self._ended * (self._left - self._ended)
        line = Text.assemble(
            (f"{self._ended}/{self._left}", "bold"),
            f" runs, {_duration(left)} left",
            (f", {len(self.failed)} failed" if self.failed else "", "yellow"),
        )
        if self._live:
            self._live.update(Group(line, self._leaders()), refresh=True)
        else:
            self._console.print(line.append(self._ahead()))

    def _ahead(self) -> str:
        """Who leads on most tasks, in few words, for a log."""
        if len(set(self._methods.values())) < 2 or not self._returns:
            return ""
        best = Counter(max(methods, key=lambda method: np.mean(methods[method])) for methods in self._returns.values())
        ((method, tasks),) = best.most_common(1)
        return f"; {method} leads" + (f" on {tasks} of {len(self._returns)} tasks" if len(self._returns) > 1 else "")

    def _note(self, record: Mapping[str, Any]) -> None:
        of_task = self._returns.setdefault(record["config"]["task"], {})
        of_task.setdefault(self._methods[record["hash"]], []).append(record["return"])

    def _leaders(self) -> RenderableType:
        table = columns("cyan")
        for task, methods in list(self._returns.items())[: max(1, self._console.height - 4)]:
            best = max(methods, key=lambda method: np.mean(methods[method]))
            runs = len(methods[best])
            table.add_row(task, f"{np.mean(methods[best]):,.1f}", f"{best} ({runs} run{'s' * (runs != 1)})")
        return table


def sweep_table(groups: Sequence[tables.Group]) -> RenderableType:
    """Mean return of every configuration with its interval, the best of each task first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name, justify in (("task", "left"), ("method", "left"), ("runs", "right"), ("mean return", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left")
    table.add_column("95% interval")
    rows = sorted(tables.summary_rows(groups), key=lambda row: (row["task"], -row["mean"]))
    last = ""
    for row in rows:
        known = row["mean_low"] == row["mean_low"]
        interval = f"{row['mean_low']:,.1f} to {row['mean_high']:,.1f}" if known else ""
        first = row["task"] != last
        style = "bold" if first else ""
        table.add_row(
            row["task"] if first else "", Text(row["method"], style), str(row["runs"]), f"{row['mean']:,.1f}", interval
        )
        last = row["task"]
    return table


def sweep_notes(folder: Path, failed: Sequence[Mapping[str, Any]], damaged: Sequence[Path]) -> Iterator[str]:
    """What went wrong in a sweep, one sentence each."""
    for record in failed[:_FAILURES]:
        config = record["config"]
        where = f"{config['task']} with {config['planner']}, budget {config['budget']}, seed {record['seed']}"
        yield f"failed: {where}: {record['error']}"
    if len(failed) > _FAILURES:
        yield f"and {len(failed) - _FAILURES} more failed"
    if failed:
        yield f"tracebacks are in {folder / 'runs'}/*/*.failed.json; the same command tries these runs again"
    for path in damaged:
        yield f"damaged: {path} was not whole; the run was done again"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
