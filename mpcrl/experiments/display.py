"""What the command shows: progress, results, lists and the machine, on a terminal by rich."""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mpcrl.control.feedback import Feedback
from mpcrl.experiments import machine as computer
from mpcrl.experiments.configure import AGENTS, MODELS, planner_options
from mpcrl.experiments.episode import Progress
from mpcrl.experiments.run import RunResult
from mpcrl.experiments.suites import planner_suites, task_suites
from mpcrl.experiments.video import working_renderer
from mpcrl.planners import PLANNERS
from mpcrl.planners.planner import Planner
from mpcrl.tasks.registry import ANALYTIC_TASKS, TASKS
from mpcrl.tasks.task import Task

REFRESH_S, LINE_S = 0.2, 5.0
"""Time between two states of progress: on a terminal, and where each is a line of its own."""

_FILE_WIDTH = 140  # of what no terminal shows
_RECENT = 25  # plans that the rate is the median of


class LiveDisplay:
    """Shows how long work goes on: a picture that changes on a terminal, a new line every few seconds elsewhere.

    Drawn by the thread that tells of progress, so that it takes no time from the work itself.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def _due(self, now: float) -> bool:
        """Whether it is time to show something new; if so, from `now` on it is not."""
        if now - self._shown < (REFRESH_S if self._live else LINE_S):
            return False
        self._shown = now
        return True


class LiveLine(LiveDisplay):
    """Shows how a run goes on, in one line."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def __call__(self, progress: Progress) -> None:
        """Take note of a control step."""
        self._recent.append(progress.plan_ms)
        now = time.monotonic()
        self._shown = self._shown or now  # compiling before the first step is no reason for a line
        if not self._due(now):
            return
        plan_ms = float(np.median(self._recent))
        line = Text.assemble(
            f"episode {progress.episode}/{progress.episodes}  step {progress.step:>4}/{progress.steps}  ",
            ("return ", "dim"),
            (f"{progress.episode_return:,.1f}", "bold"),
            ("  plan ", "dim"),
            f"{plan_ms:.2f} ms, {1e3 / plan_ms:,.0f} Hz",
        )
        if self._live:
            self._live.update(line, refresh=True)
        else:
            self._console.print(line)


def heading(task: Task, planner: Planner | Feedback | str, threads: int | None) -> Text:
    """What is about to run: a planner, a policy, or something else in words."""
    count = computer.machine(threads)["threads"]
    if isinstance(planner, Feedback):
        planner = f"learned {planner.name}"
    if not isinstance(planner, str):
        planner = f"{planner.name}, {planner.budget} trajectories x {planner.horizon} steps"
    return Text.assemble(
        (task.name, "bold"),
        f"  {planner}, ",
        f"{count} thread{'s' * (count != 1)}, control period {1e3 * task.dt:g} ms",
    )


def closing_table(result: RunResult) -> RenderableType:
    """Returns, plan times and how they compare with real time."""
    table = columns()
    for number, record in enumerate(result.records, 1):
        about = f"{len(record.controls)} steps, {record.ended}, seed {record.seed}"
        table.add_row(f"return of episode {number}", f"{record.total:,.2f}", about)
        if record.planning_cost == record.planning_cost != -record.total:
            table.add_row("planning cost", f"{record.planning_cost:,.2f}", "the task's own, which plans keep low")
    if result.return_mean is not None and len(result.returns) > 1:
        table.add_row("mean return", f"{result.return_mean:,.2f}", "of whole episodes" if result.interrupted else "")
    p50, p99, most = (result.plan_ms[key] for key in ("p50", "p99", "max"))
    if p50 is not None and p99 is not None and most is not None:
        table.add_row("plan time p50", f"{p50:.2f} ms", f"p99 {p99:.2f} ms, max {most:.2f} ms")
        table.add_row("plan rate", f"{1e3 / p50:,.0f} Hz", _pace(result))
    failed = f"of {result.samples:,}"
    if result.fallbacks:
        failed += f"; {result.fallbacks} controls without a fresh plan"
    if result.budget or result.fallbacks:
        table.add_row("failed samples", f"{result.failed_samples:,}", failed)
    if result.interrupted:
        table.add_row("interrupted", "", "by Ctrl-C: what was done by then is shown here and written")
    table.add_row("warm-up", f"{result.warmup_s:.1f} s", "model, kernels; not in the plan times")
    return table


def _pace(result: RunResult) -> Text:
    """Whether planning keeps up with the world, said plainly."""
    share = result.period_share
    period = f"{result.control_period_ms:g} ms control period"
    if result.controls_per_plan > 1:
        period = f"{result.controls_per_plan} control periods of {result.control_period_ms:g} ms that a plan serves"
    if share > 1:
        return Text(f"{share:.1f} times slower than real time ({period})", style="yellow")
    return Text(f"real time: p50 is {share:.0%} of the {period}", style="green")


def catalogue() -> RenderableType:
    """All tasks, planners, models, agents and suites by name."""
    tasks = columns("bold cyan", justify="left")
    for name, builder in TASKS.items():
        kind = "analytic" if name in ANALYTIC_TASKS else "MuJoCo"
        tasks.add_row(name, kind, _summary(builder))
    planners = columns("bold cyan", justify="left")
    for name, function in PLANNERS.items():
        options = ", ".join(f"{key}={value}" for key, value in planner_options(name).items())
        planners.add_row(name, Text.assemble(_summary(function), *([("\n" + options, "dim")] if options else [])))
    models = columns("bold cyan", justify="left")
    for name, meaning in MODELS.items():
        models.add_row(name, meaning)
    agents = columns("bold cyan", justify="left")
    for name, meaning in AGENTS.items():
        agents.add_row(name, meaning)
    suites = columns("bold cyan", justify="left")
    for kind, found in (("tasks", task_suites()), ("planners", planner_suites())):
        for name, names in found.items():
            suites.add_row(name, f"{len(names)} {kind}: {', '.join(names)}")
    return Group(
        *_section("Tasks", tasks),
        *_section("Planners, and what --option may set, with its default", planners),
        *_section("Models", models),
        *_section("Agents, for `mpcrl train`", agents),
        *_section("Suites, for `mpcrl compare`", suites),
    )


def examination() -> RenderableType:
    """What this machine and installation can do, and how to get what is missing."""
    facts = computer.machine()
    cores = columns(justify="left")
    cores.add_row("CPU", f"{facts['cpu']} ({facts['microarchitecture']}, {facts['architecture']})")
    cores.add_row("cores", f"{facts['cores']}, of which this process may use {facts['usable_cores']}")
    limit = os.environ.get("NUMBA_NUM_THREADS")
    cores.add_row("planning threads", f"{facts['threads']}" + (f" (NUMBA_NUM_THREADS={limit})" if limit else ""))
    bits = facts["vector_bits"]
    cores.add_row("vectors", f"{bits} bit: {bits // 32} float32 or {bits // 64} float64 at once" if bits else "unknown")
    layers = computer.threading_layers()
    cores.add_row("thread layers", ", ".join(layers) + f" (Numba takes {layers[0]})" if layers else _bad("none"))
    cores.add_row("BLAS", ", ".join(computer.blas()) or "none loaded")

    cache = computer.kernel_cache()
    kernels = columns(justify="left")
    kernels.add_row("folder", str(cache.folder))
    kernels.add_row("holds", f"{cache.files} compiled kernels, {cache.megabytes:.1f} MB")
    hint = "no: kernels compile in every process; set MPCRL_CACHE_DIR to a private, writable folder"
    kernels.add_row("writable", "yes" if cache.writable else _bad(hint))

    rendering = columns(justify="left")
    drawing = "mujoco" in computer.versions()
    backend = working_renderer() if drawing else None
    without = "no way to draw without a screen; on Debian or Ubuntu: apt install libosmesa6"
    absent = "MuJoCo is not installed"
    rendering.add_row("MuJoCo", f"by {backend}" if backend else _bad(without) if drawing else absent)
    video = computer.installed("imageio-ffmpeg")
    rendering.add_row("video", f"imageio-ffmpeg {video}" if video else _bad("imageio-ffmpeg is not installed"))

    packages = columns(justify="left")
    for name, number in computer.versions().items():
        packages.add_row(name, number)
    missing = columns(justify="left")
    for extra, names in computer.missing_packages().items():
        missing.add_row(", ".join(names), Text(f"pip install 'mpcrl[{extra}]'", style="yellow"))
    if not missing.row_count:
        missing.add_row("nothing")
    return Group(
        *_section("Processor", cores),
        *_section("Kernel cache", kernels),
        *_section("Drawing", rendering),
        *_section("Versions", packages),
        *_section("Missing", missing),
    )


def consoles() -> tuple[Console, Console]:
    """Where results go, and where errors go."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _FILE_WIDTH
    results = Console(width=width, markup=False, highlight=False)
    return results, Console(stderr=True, markup=False, highlight=False, soft_wrap=True)


def columns(style: str = "dim", justify: str = "right") -> Table:
    """A table without lines; the second column is for numbers where it is flushed right."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style=style, no_wrap=True)
    table.add_column(justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    if justify == "right":
        table.add_column()
    return table


def _bad(text: str) -> Text:
    return Text(text, style="yellow")


def _section(title: str, content: RenderableType) -> tuple[RenderableType, RenderableType]:
    return Text(title, style="bold"), Padding(content, (0, 0, 1, 2), expand=False)


def _summary(function: object) -> str:
    """The first sentence of a docstring, without its source."""
    text = " ".join((inspect.getdoc(function) or "").split())
    return text.split(" (")[0].split(". ")[0].rstrip(".")
