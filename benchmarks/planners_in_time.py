"""Planners side by side on every MuJoCo task, in a quarter of real time: `python benchmarks/planners_in_time.py DIR`.

DIR is what the command on the page made: each plan has a quarter of the time until the next one is due, on one thread.
Writes docs/planners_in_time.md, and all runs to benchmarks/results/planners_in_time.csv.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
from collections.abc import Iterable, Mapping

from beside_tdmpc2 import TDMPC2, merged, publish, read

PAGE = """# Planners in a quarter of real time

```
mpcrl compare --tasks gym,robotics,dmc --planners icem,cem,mppi --seeds 3 --time-share 0.25 --threads 2 --out DIR
python benchmarks/planners_in_time.py DIR
```

Every MuJoCo task, whole episodes, scored by the environment's own reward. Each plan has a quarter of the time until the
next one is due, on one thread of {cpu} (two runs at a time): as many samples as fit, up to the budget of the
task's preset of the time (those of Humanoid, Pusher, acrobot and cheetah are others now, and so is
what humanoids that walk or run plan by). Its horizon and model are the same for all planners;
only iCEM has its other options too, which were chosen for iCEM. Mean return of {seeds} seeds, and in brackets the
samples per plan; bold are the best and all whose 95% interval reaches into the best one's.

A quarter of real time leaves this slow CPU a handful of samples, or none on the heaviest tasks: the table says which
planner does most with little, not what planning can reach. For that see the presets in [dm_control.md](dm_control.md),
some of which take many times real time. TD-MPC2 (Hansen, Su, Wang, ICLR 2024) has learned its model and policy for
hours on a GPU. {tally} `plan / real` is the median plan time over the time until the next plan is due.

"""


def text(row: Mapping[str, str], best: Mapping[str, str], samples: float) -> str:
    """A planner's cell."""
    mean = f"{float(row['mean']):.4g}"
    clear = row is best or float(row["mean_high"]) >= float(best["mean_low"])
    return f"{f'**{mean}**' if clear else mean} ({samples:.0f})"


def page(summary: Iterable[Mapping[str, str]], runs: Iterable[Mapping[str, str]]) -> str:
    """The page in Markdown."""
    by_task: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in summary:
        by_task.setdefault(row["task"], {})[row["planner"]] = row
    by_hash: dict[str, list[Mapping[str, str]]] = {}
    for run in runs:
        by_hash.setdefault(run["hash"], []).append(run)
    planners = sorted({planner for rows in by_task.values() for planner in rows})
    lines = [
        f"| task | horizon, model, controls per plan | {' | '.join(planners)} | TD-MPC2 500k | final | plan / real |",
        f"|---|---|{'---:|' * (len(planners) + 3)}",
    ]
    reached, compared = 0, 0
    for task, rows in sorted(by_task.items()):
        best = max(rows.values(), key=lambda row: float(row["mean"]))
        cells = []
        for planner in planners:
            if planner not in rows:
                cells.append("failed")
                continue
            own = by_hash[rows[planner]["hash"]]
            plans = sum(int(run["steps"]) for run in own) / int(rows[planner]["controls_per_plan"])
            cells.append(text(rows[planner], best, sum(int(run["samples"]) for run in own) / plans))
        some = [run for row in rows.values() for run in by_hash[row["hash"]]]
        due = float(some[0]["control_period_ms"]) * int(best["controls_per_plan"])
        share = statistics.median(float(run["plan_p50_ms"]) for run in some) / due
        name = task.removeprefix("dm_control/").removesuffix("-v0")
        early, final = TDMPC2.get(name, (None, None))
        if final is not None:
            compared, reached = compared + 1, reached + (float(best["mean"]) >= 0.97 * final)
        model = f"{best['horizon']}, {best['model']}, {best['controls_per_plan']}"
        returns = [*cells, early or "", final or ""]
        lines.append(f"| {name} | {model} | {' | '.join(map(str, returns))} | {share:.2f} |")
    tally = f"Here the best planner reaches 97% of its final return on {reached} of {compared} tasks."
    any_run = next(iter(by_hash.values()))[0]
    seeds = max(int(row["runs"]) for rows in by_task.values() for row in rows.values())
    return PAGE.format(cpu=f"an {any_run['cpu']}", seeds=seeds, tally=tally) + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="results of mpcrl compare")
    folder = parser.parse_args().folder
    runs = merged(folder)
    publish("planners_in_time", page(read(folder, "summary.csv"), runs), runs)


if __name__ == "__main__":
    main()
