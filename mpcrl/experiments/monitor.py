"""What `mpcrl monitor` shows: the plans of a controller in another process, as they are made."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mpcrl.control.plan import Status
from mpcrl.control.telemetry import STATUSES, Counter, Telemetry
from mpcrl.core.checks import finite_vector, positive_integer, positive_number
from mpcrl.core.errors import BadTelemetry
from mpcrl.experiments.display import columns

_CONTROLS = 12  # that are shown
_SILENT_S = 1.0  # without a plan, after which that is said
_BAR = 24
_MOST_RATE = 4  # plans per control period that are looked for: reading more takes time from the controller's machine
_STYLES = {Status.PLANNED: "green", Status.SHIFTED: "yellow", Status.SAFE: "red", Status.STOPPED: "bold red"}


class _About(NamedTuple):
    """What the picture tells of the controller."""

    task: str
    planner: str
    budget: int
    horizon: int
    dt: float
    low: list[float]
    high: list[float]
    pid: int


def monitor(console: Console, path: Path, *, once: bool, window: float, refresh: float) -> None:
    """Show a controller's telemetry until Ctrl-C, or `once`.

    Parameters
    ----------
    console : Console
    path : path
        Of the file that the controller was given as `telemetry`; read only. A controller that starts anew is followed.
    once : bool
    window, refresh : float
        Seconds of plans that are counted, and between two pictures.
    """
    positive_number("window", window), positive_number("refresh", refresh)
    telemetry = Telemetry.attach(path)
    if once:
        console.print(picture(telemetry, window))
        return
    file = os.stat(path)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(picture(telemetry, window), refresh=True)
            time.sleep(refresh)
            if path.exists() and not os.path.samestat(file, os.stat(path)):
                telemetry, file = Telemetry.attach(path), os.stat(path)


def picture(telemetry: Telemetry, window: float) -> RenderableType:
    """The plans of the last `window` seconds, and what came since the reset.

    Raises
    ------
    BadTelemetry
        It is not of a controller: its description lacks something.
    """
    about, now = _about(telemetry), time.monotonic()
    title = Text.assemble(
        (about.task, "bold"),
        f"  {about.planner}, {about.budget} trajectories x {about.horizon} steps, ",
        f"control period {1e3 * about.dt:g} ms, process {about.pid}",
    )
    log = telemetry.read(min(telemetry.capacity, math.ceil(_MOST_RATE * min(window / about.dt, telemetry.capacity))))
    if not len(log):
        return Group(title, Text("no plan yet", style="yellow"))
    newest = log.values[-1]
    recent = log["time"] >= log["time"][-1] - window
    tried = recent & (log["planned"] > 0)
    table = columns(justify="left")
    table.add_row("plan rate", _rate(log["time"][tried], now - log["time"][-1]))
    if tried.any():
        p50, p99, most = np.percentile(log["milliseconds"][tried], (50, 99, 100))
        table.add_row("plan time", f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {most:.2f} ms")
        samples, failed = log["samples"][tried], log["failed"][tried].sum()
        effective = np.median(log["effective_sample_size"][tried])
        table.add_row("samples", f"{np.median(samples):.0f} per plan, {failed:.0f} of {samples.sum():.0f} failed")
        table.add_row("effective size", f"{effective:.1f}")
        table.add_row("cost", f"{log['cost'][tried][-1]:.5g}")
    seen = np.bincount(log["status"][recent].astype(int), minlength=len(STATUSES))
    table.add_row(f"status, {window:g} s", _statuses(dict(zip(STATUSES, seen.tolist(), strict=True))))
    table.add_row("since reset", _statuses(telemetry.status_counts()))
    answers = telemetry.status_counts(Counter.ANSWERS)
    if any(answers.values()):
        table.add_row("answers", _statuses(answers))
    table.add_row("age", f"{newest[log.columns.index('age')]:.3f} s")
    stage = ", ".join(f"{name} {value:.4g}" for name, value in zip(log.names("stage"), log["stage"][-1], strict=True))
    if stage:
        table.add_row("stage cost", stage)
    return Group(title, table, _controls(log.names("control"), log["control"][-1], about.low, about.high))


def _about(telemetry: Telemetry) -> _About:
    given, nu = telemetry.description, sum(name.startswith("control_") for name in telemetry.columns)
    try:
        return _About(
            task=str(given["task"]),
            planner=str(given["planner"]),
            budget=positive_integer("budget", given["budget"]),
            horizon=positive_integer("horizon", given["horizon"]),
            dt=positive_number("dt", given["dt"]),
            low=finite_vector("control_low", given["control_low"], nu).tolist(),
            high=finite_vector("control_high", given["control_high"], nu).tolist(),
            pid=positive_integer("pid", given["pid"]),
        )
    except KeyError as error:
        raise BadTelemetry(f"the telemetry does not tell its {error.args[0]}; give that of a controller") from error
    except ValueError as error:
        raise BadTelemetry(f"the telemetry is damaged: {error}; start the controller again") from error


def _rate(times: np.ndarray, silent: float) -> Text:
    rate = (len(times) - 1) / np.ptp(times) if len(times) > 1 and np.ptp(times) > 0 else 0.0
    text = Text(f"{rate:,.1f} Hz over {np.ptp(times) if len(times) else 0:.1f} s")
    return text.append(f"; silent for {silent:.1f} s", style="bold yellow") if silent > _SILENT_S else text


def _statuses(counts: dict[Status, int]) -> Text:
    parts = [(f"{status.value} {counts.get(status, 0):,}", _STYLES[status]) for status in Status]
    return Text("  ").join(Text(text, style=style if not text.endswith(" 0") else "dim") for text, style in parts)


def _controls(names: list[str], values: np.ndarray, low: list[float], high: list[float]) -> Table:
    """Each control, and where it lies between its bounds."""
    table = columns()
    for name, value, least, most in list(zip(names, values, low, high, strict=True))[:_CONTROLS]:
        place = round((_BAR - 1) * float(np.clip((value - least) / (most - least), 0, 1)))
        bar = "·" * place + "●" + "·" * (_BAR - 1 - place)
        table.add_row(f"control {name}", f"{value:.4g}", f"{least:g} {bar} {most:g}")
    if len(names) > _CONTROLS:
        table.add_row("", "", f"and {len(names) - _CONTROLS} more")
    return table
