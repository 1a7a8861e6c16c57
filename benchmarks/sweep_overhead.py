"""What a sweep costs beside its runs: `python benchmarks/sweep_overhead.py [--runs 200] [--workers 2]`.

The same short run for many seeds; the ratio is the time of the whole command, interpreter and workers started, over the
runs' own times divided by the workers. The bar is 1.15. Kernels are compiled and cached first.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import subprocess
import sys
import tempfile
import time

BAR = 1.15
SECONDS = 0.2
TASK, PLANNER, BUDGET, STEPS = "pendulum-swingup", "icem", 768, 100


def sweep(folder: pathlib.Path, runs: int, workers: int, steps: int) -> tuple[float, list[float]]:
    """Seconds of the command, and of each of its runs."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "mpcrl", "compare", "--out", str(folder), "--tasks", TASK, "--planners", PLANNER]
    sizes = ["--budgets", str(BUDGET), "--steps", str(steps), "--seeds", str(runs), "--workers", str(workers)]
    subprocess.run([*command, *sizes], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    with (folder / "timing.csv").open(newline="") as file:
        return seconds, [float(row["seconds"]) for row in csv.DictReader(file)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _, trial = sweep(folder / "trial", 8, arguments.workers, STEPS)
        steps = min(2 * STEPS, max(1, round(STEPS * SECONDS / sorted(trial)[len(trial) // 2])))
        seconds, own = sweep(folder / "sweep", arguments.runs, arguments.workers, steps)
    share = sum(own) / arguments.workers
    ratio = seconds / share
    print(f"{len(own)} runs of {sum(own) / len(own):.3f} s ({steps} control steps) on {arguments.workers} workers")
    print(f"{seconds:.2f} s, against {share:.2f} s of the runs' own: {ratio:.3f} (bar {BAR})")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
