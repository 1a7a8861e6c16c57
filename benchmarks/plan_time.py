"""Whether presets keep up with the world: `python benchmarks/plan_time.py [TASK ...] [--threads 2] [--steps 80]`.

Each task under its own preset for some control steps; TASK is a name or a suite, `dmc` if none is given. The ratio is
the median plan time over the time until the next plan is due: real time is up to 1. It means something on a machine
that does nothing else meanwhile. Rows of other tasks stay in benchmarks/results/plan_time.csv.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import platform
from typing import Any

import numpy as np

from mpcrl.experiments.config import run_config
from mpcrl.experiments.files import atomic
from mpcrl.experiments.machine import processor, versions
from mpcrl.experiments.run import run_task
from mpcrl.experiments.suites import expanded, task_suites
from mpcrl.experiments.video import settle_rendering
from mpcrl.tasks.registry import TASKS, make_task

PATH = pathlib.Path(__file__).parent / "results" / "plan_time.csv"
SEED = 5


def measured(name: str, threads: int, steps: int) -> dict[str, Any]:
    """Plan times of a task's preset."""
    task = make_task(name)
    config = run_config(task)
    result = run_task(
        task,
        config.build_planner(),
        seed=SEED,
        steps=min(steps, task.episode_steps),
        threads=threads,
        model=config.model,
    )
    times = result.records[0].plan_ms
    median = float(np.median(times[np.isfinite(times)]))
    return {
        "task": name,
        "planner": config.planner,
        "model": config.model,
        "budget": config.budget,
        "horizon": config.horizon,
        "hash": config.hash,
        "plans": int(np.isfinite(times).sum()),
        "plan_p50_ms": round(median, 3),
        "control_period_ms": round(result.control_period_ms, 6),
        "controls_per_plan": result.controls_per_plan,
        "ratio": round(median / (result.control_period_ms * result.controls_per_plan), 4),
        "threads": threads,
        "machine": f"{processor()}, {platform.system()}, {result.machine['usable_cores']} cores",
        "mpcrl": versions()["mpcrl"],
        "mujoco": versions().get("mujoco", ""),
    }


def kept(row: dict[str, Any]) -> None:
    """Put a row in the place of the last one of its task and number of threads."""
    rows: list[dict[str, Any]] = []
    if PATH.exists():
        with PATH.open(newline="") as file:
            rows = list(csv.DictReader(file))
    same = (row["task"], str(row["threads"]))
    rows = [other for other in rows if (other["task"], str(other["threads"])) != same]
    rows = sorted([*rows, row], key=lambda each: (each["task"], str(each["threads"])))
    with atomic(PATH) as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["dmc"], metavar="TASK", help="names or suites")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=80)
    arguments = parser.parse_args()
    settle_rendering("", False)
    print(f"{'task':40} {'plan p50':>10} {'period':>9} {'controls':>9} {'ratio':>6}")
    for name in expanded("task", arguments.tasks, task_suites(), TASKS):
        row = measured(name, arguments.threads, arguments.steps)
        kept(row)
        period, controls = f"{row['control_period_ms']:g} ms", row["controls_per_plan"]
        print(f"{name:40} {row['plan_p50_ms']:7.1f} ms {period:>9} {controls:>9} {row['ratio']:6.2f}", flush=True)


if __name__ == "__main__":
    main()
