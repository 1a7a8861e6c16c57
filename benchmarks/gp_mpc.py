"""How soon GP-MPC solves the tasks of its paper: `python benchmarks/gp_mpc.py STUDY --out DIR`.

`pendulum`: from hanging, 25 steps of random controls and then plans, in one run of 150 control steps. A seed is solved
if the angle stays within 0.1 rad from step 100 to the end. Asked are 9 of 10 seeds, and plans of 15 steps through at
most 150 points in 50 ms, in the median. `pendulum-all` is the same with every point stored and 200 steps, so that plans
see all 150, and a second trial sees nothing less. `pendulum-noisy` is the first with the pendulum of the PILCO
software, in control steps of 0.1 s, and its sensors' noise.

`cartpole`: that of the PILCO papers, in trials of 30 control steps (3 s), the first one random. A trial is solved if
the true tip is within 10 cm of upright in the middle during all of its last second. Asked are 9 of 10 seeds in trial 3.

One seed after the other on one thread. What is in DIR goes on where it was interrupted. Writes
benchmarks/results/gp_mpc_STUDY.csv, a row per seed and trial.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpcrl.agents.agent import StepDone
from mpcrl.agents.gp_mpc import GPMPC, GPMPCConfig
from mpcrl.core.files import written
from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.experiments.machine import machine
from mpcrl.experiments.worlds import world_of
from mpcrl.planners.belief import BeliefPlanner
from mpcrl.tasks.cartpole_pilco import PilcoCartpoleParams
from mpcrl.tasks.registry import make_task

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SHARE = 0.9
MILLISECONDS = 50.0
WITHIN = 0.1  # m


def settled(states: np.ndarray, costs: np.ndarray) -> bool:
    """Upright within 0.1 rad from step 100 on."""
    return bool(max(abs(wrap_to_pi(angle)) for angle in states[100:, 0]) < 0.1)


def held(states: np.ndarray, costs: np.ndarray) -> bool:
    """The tip where it should be during the last second, by the costs: those of the true states, not of the seen."""
    return bool(costs[-10:].max() <= 1 - math.exp(-0.5 * (WITHIN / PilcoCartpoleParams().width) ** 2))


@dataclass(frozen=True)
class Study:
    """A task, the settings, and what is asked: `solved` of states seen [T + 1, nx] and costs [T] of trial `judged`.

    `episode_steps` are the task's own if not given.
    """

    task: str
    config: GPMPCConfig
    trials: int
    judged: int
    solved: Callable[[np.ndarray, np.ndarray], bool]
    milliseconds: float | None = None
    episode_steps: int | None = None


STUDIES = {
    "pendulum": Study("pendulum-swingup", GPMPCConfig(trial_steps=150), 1, 1, settled, MILLISECONDS),
    "pendulum-all": Study("pendulum-swingup", GPMPCConfig(trial_steps=200, unsure=1e-12), 2, 1, settled, MILLISECONDS),
    "pendulum-noisy": Study("pendulum-pilco", GPMPCConfig(trial_steps=150), 1, 1, settled, MILLISECONDS, 150),
    "cartpole": Study(
        "cartpole-pilco",
        GPMPCConfig(planner=BeliefPlanner(horizon=15), random_steps=30, trial_steps=30),
        4,
        3,
        held,
    ),
}


def learned(name: str, seed: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of one seed, one per trial."""
    study, log = STUDIES[name], folder / name / f"{seed}.json"
    if log.exists():
        rows: list[dict[str, Any]] = json.loads(log.read_text())
        return rows
    task = make_task(study.task)
    task = dataclasses.replace(task, episode_steps=study.episode_steps or task.episode_steps)
    agent = GPMPC(task, config=study.config, seed=seed, threads=1)
    world, rows = world_of(agent.task), []
    for number in range(1, study.trials + 1):
        steps: list[StepDone] = []
        began = time.process_time()
        trial = agent.trial(world, on_step=steps.append)
        costs = -np.diff([done.episode_return for done in steps], prepend=0.0)
        plans = [done.plan_ms for done in steps if np.isfinite(done.plan_ms)]
        row = {"seed": seed, "trial": number, "steps": trial.steps, "return": round(trial.returns[-1], 2)}
        row |= {"solved": int(trial.forecast is not None and study.solved(trial.forecast.states, costs))}
        if plans:
            row |= {"plan_ms": round(statistics.median(plans), 2), "plan_ms_worst": round(max(plans), 2)}
        row |= {"points": agent.model.count, "learning_s": round(trial.learning_s, 2)}
        rows.append({**row, "cpu_s": round(time.process_time() - began, 2)})
        print(rows[-1], flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with written(log) as scratch:
        scratch.write_text(json.dumps(rows))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="finished seeds; goes on from what is there")
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    arguments = parser.parse_args()
    name, study = arguments.study, STUDIES[arguments.study]
    runs = [learned(name, seed, arguments.out) for seed in range(arguments.seeds)]
    computer, path = machine(), RESULTS / f"gp_mpc_{name}.csv"
    keys = ["seed", "trial", "steps", "return", "solved", "plan_ms", "plan_ms_worst", "points", "learning_s", "cpu_s"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*keys, "cpu"], restval="", lineterminator="\n")
        writer.writeheader()
        cpu = f"{computer['cpu']} ({computer['microarchitecture']})"
        writer.writerows({**row, "cpu": cpu} for run in runs for row in run)
    counts = [sum(run[trial]["solved"] for run in runs) for trial in range(study.trials)]
    for trial, count in enumerate(counts, 1):
        print(f"trial {trial}: {count} of {len(runs)} seeds solved")
    median = statistics.median(row["plan_ms"] for run in runs for row in run if "plan_ms" in row)
    print(f"a plan: {median:.1f} ms in the median; {path}")
    missed = ["the seeds"] if counts[study.judged - 1] < SHARE * len(runs) else []
    missed += ["the time"] if study.milliseconds is not None and median > study.milliseconds else []
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
