"""The presets of Gymnasium's MuJoCo tasks beside target returns: `python benchmarks/gym_mujoco.py DIR ...`.

Each DIR is what `mpcrl compare --tasks gym --seeds 3 --out DIR` made, or a part of it. Writes docs/gym_mujoco.md and
benchmarks/results/gym_mujoco.csv; runs that stand there already stay, unless there are runs of their task's new preset.
"""

from __future__ import annotations

import math
from typing import Any

from beside_tdmpc2 import SEEDS, chosen_runs, publish, row_of

TARGETS = {
    "InvertedDoublePendulum-v5": 9300,
    "Reacher-v5": -4,
    "Pusher-v5": -25,
    "Swimmer-v5": 200,
    "HalfCheetah-v5": 8000,
    "Hopper-v5": 3000,
    "Walker2d-v5": 4000,
    "Ant-v5": 5000,
    "Humanoid-v5": 5000,
    "HumanoidStandup-v5": 150_000,
}
"""Mean returns over whole episodes."""

REASONS = {
    "Hopper-v5": "until drops had a price it fell in two ways: it landed at 3 to 4 m/s, and the leg gave way, or a leg "
    "that trails tripped it. Now it stands on the two seeds that the price was chosen on, falls on two of these three, "
    "after 481 and 652 steps, and is slow: 1.5 to 1.8 m/s.",
    "Pusher-v5": "the object reaches the goal late. On two other seeds twice the samples gain 0.6, and more knots, "
    "shorter plans and wider samples lose.",
}
"""Why a target is not reached, as far as is known."""

INTRODUCTION = """# Gymnasium's MuJoCo tasks with the true model

Made by `mpcrl compare --tasks ... --seeds 3 --workers 1 --threads 1 --out DIR`, then `python benchmarks/gym_mujoco.py
DIR`. Each task has its own preset, as `mpcrl run TASK` uses it. Whole episodes, scored by the environment's own reward.
The world waits for the plan: `plan / real` is the median plan time over the time until the next plan is due, on one
thread and beside other work; real time is up to 1.

| task | mean return | target | seeds | budget x horizon, model | plan / real |
|---|---:|---:|---|---|---:|"""


def page(rows: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    reached = {
        row["task"] for row in rows if row["runs"] >= SEEDS and row["mean"] >= TARGETS.get(row["task"], math.inf)
    }
    lines = [INTRODUCTION]
    for row in sorted(rows, key=lambda row: row["task"]):
        mean = f"**{row['mean']:.1f}**" if row["task"] in reached else f"{row['mean']:.1f}"
        lines.append(
            f"| {row['task']} | {mean} | {TARGETS.get(row['task'], '')} | {row['returns']} | {row['plan']} | "
            f"{row['times_real']:.2f} |"
        )
    older = sorted(row["task"] for row in rows if not row["current"])
    if older:
        lines += ["", f"Made with a preset that has changed since: {', '.join(older)}."]
    missing = sorted(set(TARGETS) - {row["task"] for row in rows})
    if missing:
        lines += ["", f"Not run whole with the present preset: {', '.join(missing)}."]
    lines += ["", *(f"{task}: {reason}" for task, reason in REASONS.items() if task not in reached)]
    return "\n".join(lines) + "\n"


def main() -> None:
    chosen = chosen_runs("gym_mujoco", __doc__ or "")
    publish("gym_mujoco", page([row_of(task, *found) for task, found in chosen.items()]), chosen)


if __name__ == "__main__":
    main()
