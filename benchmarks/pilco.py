"""How soon PILCO solves the cart-pole of its papers: `python benchmarks/pilco.py --out DIR`.

Trains ten seeds, one after the other on one thread, by the protocol of the papers: a random trial and then trials of
the policy, 25 control steps of 0.1 s each, beliefs over 40 steps. The policy of each trial is also tested in ten
episodes of 40 steps that nobody learns from; one is solved if the true tip is within 10 cm of upright in the middle
during all of its last second. What is in DIR goes on where it was interrupted. Writes
benchmarks/results/pilco_cartpole.csv: a row per trial of the policy, with the seconds of interaction at its end, and
those of the process's own computing for it.

Asked is a policy that solves at least 9 of 10 tests in trial 6 (17.5 s of interaction) of 8 of 10 seeds, in trial 5 of
7 of them, and at most 3 minutes of one core per seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import pathlib
import sys
import time
from typing import Any

from mpcrl.agents.agent import Trial, episode_key
from mpcrl.agents.pilco import PILCO, PILCOConfig
from mpcrl.core.files import written
from mpcrl.experiments.machine import machine
from mpcrl.experiments.training import EVALUATION, Point, train
from mpcrl.experiments.worlds import world_of
from mpcrl.tasks.registry import make_task

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
TRIALS, TRIAL_STEPS, TESTS, SEEDS = 6, 25, 10, 10
WITHIN = 0.1  # m
MINUTES = 3.0


def solved_tests(agent: PILCO, tests: int = TESTS) -> int:
    """Episodes whose tip is within 10 cm of its target for all of the last second, by the true states' costs."""
    task = agent.task
    world, last = world_of(task), round(1 / task.dt)
    most = 1 - math.exp(-0.5 * (WITHIN / task.params.width) ** 2)
    count = 0
    for number in range(tests):
        state, costs, ended = world.reset(episode_key(agent.seed, 3 * EVALUATION + number)), [], ""
        while not ended:
            outcome = world.step(agent.act(state))
            state, ended = outcome.state, outcome.ended
            costs.append(-outcome.reward)
        count += max(costs[-last:]) <= most
    return count


def learned(seed: int, folder: pathlib.Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one training, one per trial, the random one first."""
    agent = PILCO(make_task("cartpole-pilco"), config=PILCOConfig(**settings), seed=seed, threads=1)
    log = folder / f"{seed}.json"
    rows: list[dict[str, Any]] = json.loads(log.read_text()) if log.exists() else []
    began = time.process_time()

    def told(trial: Trial, point: Point) -> None:
        nonlocal began
        used = time.process_time() - began
        solved = solved_tests(agent)
        # What was learned after a trial is the policy of the next one.
        seconds = round((point.steps + TRIAL_STEPS) * agent.task.dt, 6)
        row = {"seed": seed, "trial": trial.number + 1, "interaction_s": seconds, "solved": solved}
        row |= {"expected_cost": round(point.loss, 3), "cpu_s": round(used, 1)}
        del rows[trial.number :]  # of a process that ended between its log and its checkpoint
        rows.append(row)
        with written(log) as scratch:
            scratch.write_text(json.dumps(rows))
        print(row, flush=True)
        began = time.process_time()

    train("pilco", agent, steps=TRIALS * TRIAL_STEPS, folder=folder / str(seed), on_trial=told)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="checkpoints; goes on from what is there")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    settings = {"trial_steps": TRIAL_STEPS, "horizon": 40}
    runs = [learned(seed, arguments.out, settings) for seed in range(arguments.seeds)]
    computer = machine()
    path = RESULTS / "pilco_cartpole.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*runs[0][0], "tests", "cpu"], lineterminator="\n")
        writer.writeheader()
        about = {"tests": TESTS, "cpu": f"{computer['cpu']} ({computer['microarchitecture']})"}
        writer.writerows({**row, **about} for run in runs for row in run)
    finals = {trial: [run[trial - 1]["solved"] >= 0.9 * TESTS for run in runs] for trial in (5, TRIALS)}
    seconds = [sum(row["cpu_s"] for row in run) for run in runs]
    for trial, solved in finals.items():
        print(f"trial {trial}: {sum(solved)} of {len(runs)} seeds solved")
    print(f"computing: {max(seconds):.0f} s of one core at most, {sum(seconds) / len(runs):.0f} s in the mean; {path}")
    short = [f"trial {trial}" for trial, least in ((5, 0.7), (TRIALS, 0.8)) if sum(finals[trial]) < least * len(runs)]
    if short or max(seconds) > 60 * MINUTES:
        sys.exit(f"missed: {', '.join([*short, *(['the time'] if max(seconds) > 60 * MINUTES else [])])}")


if __name__ == "__main__":
    main()
