"""The presets of the dm_control tasks beside a trained agent, as a page: `python benchmarks/beside_tdmpc2.py DIR ...`.

Each DIR is what `mpcrl compare --tasks dmc --seeds 3 --out DIR` made, or a part of it. Plan times on 2 threads of an
idle machine are those of benchmarks/results/plan_time.csv, which `python benchmarks/plan_time.py` makes. Writes
docs/dm_control.md and benchmarks/results/dm_control.csv; runs that stand there already stay, unless there are runs of
their task's new preset.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import statistics
from typing import Any

from mpcrl.core.files import atomic
from mpcrl.experiments.config import run_config
from mpcrl.experiments.video import settle_rendering
from mpcrl.tasks.registry import make_task

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SHARE = 0.97
THREADS = 2  # of an idle machine, for the column of real time
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

REASONS = {
    "finger-spin": "now and then the finger loses touch. 161 of 200 steps with the preset; 480 of width 0.6: 184 "
    "of 200 and, on another seed, 266 of 300; of width 0.4: 228 and 247 of 300; 12 iterations, longer plans, splines, "
    "coarse physics and a margin on the speed asked for: no better.",
    "hopper-hop": "gets up, hops once, falls, and stays down: 9 of 250 with the preset. With the capture point of the "
    "Gymnasium hopper and four times the weight on speed 66 of 300; a price on drops, and speed that counts only when "
    "up: 35 at most.",
    "humanoid-run": "gets up and stands, 60 of 250: it does not begin to run.",
    "quadruped-run": "0.88 a step when running, at 3.8 of 5 m/s, with 160 or 240 samples, 28 or 36 steps ahead; 320 "
    "samples of width 0.7 in 8 iterations: 0.85; of width 1: 0.78; splines: 0.68.",
    "walker-run": "0.70 a step; 0.76 with width 0.9, and no more with 26 steps ahead, 480 samples, or a plan "
    "at every control: the gait that a horizon of half a second finds is no faster.",
}
"""Why a task is not reached, as far as is known."""

INTRODUCTION = """# The Control Suite with the true model, beside a trained agent

Made by `mpcrl compare --tasks ... --seeds 3 --workers 1 --threads 1 --out DIR`, then `python
benchmarks/beside_tdmpc2.py DIR`. Each task has its own preset, as `mpcrl run TASK` uses it: a planner, a budget and a
horizon. Episodes of 1000 control steps, scored by the environment's own reward. TD-MPC2 learns its model; a planner
that is handed the physics has an advantage, and should not lose.

`plan / real` is the median plan time over the time until the next plan is due: real time is up to 1. It is given twice:
with 2 threads on a machine that does nothing else (`python benchmarks/plan_time.py`, 80 control steps), and as it was
in the runs of this table, on the threads that the last column says, beside other work.
"""


def read(folder: pathlib.Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def merged(folder: pathlib.Path) -> list[dict[str, str]]:
    """The rows of all runs, with their times."""
    times = {(row["hash"], row["seed"]): row for row in read(folder, "timing.csv")}
    return [times[row["hash"], row["seed"]] | row for row in read(folder, "results.csv")]


def of_one_preset(name: str, runs: list[dict[str, str]]) -> tuple[list[dict[str, str]], bool]:
    """The runs of one configuration, and whether it is the task's preset as it is now: presets are never mixed."""
    preset = run_config(make_task(name)).hash
    found = {run["hash"] for run in runs}
    if preset not in found and len(found) > 1:
        raise SystemExit(f"{name} has runs of {len(found)} configurations, and none of its preset {preset}; run that")
    chosen = preset if preset in found else found.pop()
    return [run for run in runs if run["hash"] == chosen], chosen == preset


def idle_ratio(run: dict[str, str]) -> float | None:
    """Plan time over real time on an idle machine, where it was measured for the configuration of this run."""
    if not (RESULTS / "plan_time.csv").exists():
        return None
    rows = read(RESULTS, "plan_time.csv")
    found = [float(row["ratio"]) for row in rows if (row["hash"], row["threads"]) == (run["hash"], str(THREADS))]
    return found[0] if found else None


def row_of(name: str, runs: list[dict[str, str]], current: bool) -> dict[str, Any]:
    """A task's line of the table."""
    returns = [float(run["return"]) for run in runs]
    first = runs[0]
    between = float(first["control_period_ms"]) * int(first["controls_per_plan"])
    return {
        "task": name.removeprefix("dm_control/").removesuffix("-v0"),
        "mean": statistics.mean(returns),
        "runs": len(returns),
        "returns": ", ".join(f"{value:.0f}" for value in returns),
        "plan": f"{first['budget']} x {first['horizon']}, {first['model']}",
        "times_real": statistics.median(float(run["plan_p50_ms"]) for run in runs) / between,
        "threads": first["threads"],
        "idle": idle_ratio(first),
        "current": current,
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    known = [row for row in rows if row["task"] in TDMPC2 and row["runs"] >= SEEDS]
    won = [row for row in known if row["mean"] >= SHARE * TDMPC2[row["task"]][1]]
    in_time = sum(row["idle"] is not None and row["idle"] <= 1 for row in won)
    columns = ("task", "mean return", "seeds", "TD-MPC2 500k", "final", "share of final")
    columns += (
        "budget x horizon, model",
        f"plan / real, {THREADS} threads, idle",
        "plan / real in the runs",
        "threads",
    )
    lines = [
        INTRODUCTION,
        f"{len(won)} of its {len(TDMPC2)} tasks reach {SHARE:.0%} of TD-MPC2's final return, as a mean of {SEEDS} "
        f"seeds or more, {in_time} of them in real time with {THREADS} threads on an idle machine; {len(known)} have "
        "so many seeds.\n",
        f"| {' | '.join(columns)} |",
        "|---|---:|---|---:|---:|---:|---|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: row["task"]):
        early, final = TDMPC2.get(row["task"], (None, None))
        share = f"{row['mean'] / final:.0%}" if final else ""
        share = f"**{share}**" if row in won else share
        idle = "" if row["idle"] is None else f"{row['idle']:.2f}"
        lines.append(
            f"| {row['task']} | {row['mean']:.0f} | {row['returns']} | {early or ''} | {final or ''} | {share} | "
            f"{row['plan']} | {idle} | {row['times_real']:.2f} | {row['threads']} |"
        )
    older = sorted(row["task"] for row in rows if not row["current"])
    if older:
        lines += ["", f"Made with a preset that has changed since: {', '.join(older)}."]
    reached = {row["task"] for row in won}
    lines += ["", "## Not reached", "", "What was seen in parts of episodes on other seeds, and why it seems so.", ""]
    lines += [f"- {task}: {REASONS.get(task, 'not enough seeds were run.')}" for task in TDMPC2 if task not in reached]
    return "\n".join(lines) + "\n"


def chosen_runs(name: str, description: str) -> dict[str, tuple[list[dict[str, str]], bool]]:
    """By task the runs of one configuration and whether that is its preset: of benchmarks/results/`name`.csv, and of
    the folders that the command names."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=pathlib.Path, nargs="*", help="results of mpcrl compare")
    by_task: dict[str, dict[tuple[str, str], dict[str, str]]] = {}
    before = read(RESULTS, f"{name}.csv") if (RESULTS / f"{name}.csv").exists() else []
    for runs in (before, *(merged(folder) for folder in parser.parse_args().folders)):
        for run in runs:
            by_task.setdefault(run["task"], {})[run["hash"], run["seed"]] = run
    chosen = {task: of_one_preset(task, list(group.values())) for task, group in by_task.items()}
    for task, (group, _) in chosen.items():
        versions = sorted({f"mpcrl {run['mpcrl']}, MuJoCo {run['mujoco']}" for run in group})
        if len(versions) > 1:
            raise SystemExit(
                f"runs of {task} are of {' and of '.join(versions)}, which are never averaged; leave out one"
            )
    return chosen


def publish(name: str, text: str, chosen: dict[str, tuple[list[dict[str, str]], bool]]) -> None:
    """Write a page of docs/ and the runs behind it, and show the page."""
    runs = [run for group, _ in chosen.values() for run in group]
    with atomic(ROOT / "docs" / f"{name}.md") as scratch:
        scratch.write_text(text)
    with atomic(RESULTS / f"{name}.csv") as scratch, scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, runs[0])
        writer.writeheader()
        writer.writerows(runs)
    print(text)


def main() -> None:
    settle_rendering("", False)
    chosen = chosen_runs("dm_control", __doc__ or "")
    publish("dm_control", page([row_of(task, *found) for task, found in chosen.items()]), chosen)


if __name__ == "__main__":
    main()
