"""The presets of the dm_control tasks beside a trained agent, as a page: `python benchmarks/beside_tdmpc2.py DIR`.

DIR is what `mpcrl compare --tasks dmc --seeds 3 --out DIR` made, or a part of it. Writes docs/dm_control.md and
benchmarks/results/dm_control.csv.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import statistics
from typing import Any

from mpcrl.core.files import atomic

ROOT = pathlib.Path(__file__).parent.parent
SHARE = 0.97
SEEDS = 3  # fewer are shown, and not counted

TDMPC2 = {
    "acrobot-swingup": (361, 663),
    "ball_in_cup-catch": (985, 984),
    "cartpole-balance": (994, 998),
    "cartpole-swingup": (876, 877),
    "cartpole-swingup_sparse": (845, 850),
    "cheetah-run": (758, 896),
    "finger-spin": (985, 991),
    "finger-turn_easy": (855, 982),
    "finger-turn_hard": (876, 977),
    "hopper-hop": (303, 449),
    "hopper-stand": (936, 955),
    "humanoid-run": (108, 603),
    "humanoid-stand": (422, 906),
    "humanoid-walk": (278, 900),
    "pendulum-swingup": (842, 838),
    "quadruped-run": (940, 954),
    "quadruped-walk": (957, 971),
    "reacher-easy": (919, 987),
    "reacher-hard": (914, 982),
    "walker-run": (820, 877),
    "walker-walk": (979, 981),
}
"""Mean returns of TD-MPC2 (Hansen, Su, Wang, ICLR 2024) after 500k steps and at the end of training, from the result
files that its authors publish."""

INTRODUCTION = """# The Control Suite with the true model, beside a trained agent

Made by `mpcrl compare --tasks ... --seeds 3 --workers 1 --threads 1 --out DIR`, then `python
benchmarks/beside_tdmpc2.py DIR`. Each task has its own preset, as `mpcrl run TASK` uses it: a planner, a budget and a
horizon. Episodes of 1000 control steps, scored by the environment's own reward. TD-MPC2 learns its model; a planner
that is handed the physics has an advantage, and should not lose.
"""


def read(folder: pathlib.Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def merged(folder: pathlib.Path) -> list[dict[str, str]]:
    """The rows of all runs, with their times."""
    times = {(row["hash"], row["seed"]): row for row in read(folder, "timing.csv")}
    return [times[row["hash"], row["seed"]] | row for row in read(folder, "results.csv")]


def row_of(name: str, runs: list[dict[str, str]]) -> dict[str, Any]:
    """A task's line of the table."""
    returns = [float(run["return"]) for run in runs]
    first = runs[0]
    between = float(first["control_period_ms"]) * int(first["controls_per_plan"])
    return {
        "task": name,
        "mean": statistics.mean(returns),
        "runs": len(returns),
        "returns": ", ".join(f"{value:.0f}" for value in returns),
        "plan": f"{first['budget']} x {first['horizon']}, {first['model']}",
        "times_real": statistics.median(float(run["plan_p50_ms"]) for run in runs) / between,
        "threads": first["threads"],
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    known = [row for row in rows if row["task"] in TDMPC2 and row["runs"] >= SEEDS]
    won = [row for row in known if row["mean"] >= SHARE * TDMPC2[row["task"]][1]]
    in_time = sum(row["times_real"] <= 1 for row in won)
    columns = ("task", "mean return", "seeds", "TD-MPC2 500k", "final", "share of final")
    columns += ("budget x horizon, model", "plan / real", "threads")
    lines = [
        INTRODUCTION,
        f"{len(won)} of {len(known)} tasks with {SEEDS} seeds reach {SHARE:.0%} of TD-MPC2's final "
        f"return, {in_time} of them in real time.\n"
        "`plan / real` is the median plan time over the time until the next plan is due: real time is up to 1.\n",
        f"| {' | '.join(columns)} |",
        "|---|---:|---|---:|---:|---:|---|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row["task"]):
        early, final = TDMPC2.get(row["task"], (None, None))
        share = f"{row['mean'] / final:.0%}" if final else ""
        share = f"**{share}**" if row in won else share
        lines.append(
            f"| {row['task']} | {row['mean']:.0f} | {row['returns']} | {early or ''} | {final or ''} | {share} | "
            f"{row['plan']} | {row['times_real']:.2f} | {row['threads']} |"
        )
    missing = sorted(set(TDMPC2) - {row["task"] for row in rows})
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="results of mpcrl compare")
    runs = merged(parser.parse_args().folder)
    by_task: dict[str, list[dict[str, str]]] = {}
    for run in runs:
        by_task.setdefault(run["task"].removeprefix("dm_control/").removesuffix("-v0"), []).append(run)
    text = page([row_of(name, group) for name, group in by_task.items()])
    with atomic(ROOT / "docs" / "dm_control.md") as scratch:
        scratch.write_text(text)
    with atomic(ROOT / "benchmarks" / "results" / "dm_control.csv") as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, runs[0])
        writer.writeheader()
        writer.writerows(runs)
    print(text)


if __name__ == "__main__":
    main()
