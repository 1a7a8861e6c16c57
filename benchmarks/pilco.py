"""How soon PILCO and MC-PILCO solve the tasks of their papers: `python benchmarks/pilco.py STUDY --out DIR`.

Trains some seeds, one after the other on one thread, by the protocol of the papers: a random trial and then trials of
the policy. The policy of each trial is also tested in ten episodes that nobody learns from; one is solved if the true
state is where the task wants it during all of its last second: the cart-pole, in episodes of 4 s, with its tip within
10 cm of upright in the middle. What is in DIR goes on where it was interrupted. Writes
benchmarks/results/STUDY_TASK.csv: a row per trial of the policy, with the seconds of interaction at its end, those of
the process's own computing for it, and how many of the numbers seen in that trial lie within the 95% intervals that the
model gave before.

    pilco      control steps of 0.1 s, trials of 2.5 s, beliefs over 4 s. Asked is a policy that solves at least 9 of 10
               tests in trial 6 (17.5 s of interaction) of 8 of 10 seeds, in trial 5 of 7, and 3 minutes of one core.
    pilco-alone  the same without a margin; nothing is asked.
    mc-pilco   control steps of 0.05 s, trials of 3 s, particles over 3 s, and the cost of its paper, which is felt from
               afar: that of angle / 3 rad and position / 1 m. Asked is such a policy in trial 5 (18 s) of 5 of 6 seeds,
               and 85% to 99% within the intervals.
    mc-pilco-exact  one seed of that along the exact gradient, which does not fade; nothing is asked.
    pilco-double  two rods on a cart, control steps of 0.05 s, trials of 4 s and beliefs over as long, one seed; hoped
               for is a policy that solves 9 of 10 tests of 10 s after 60 s of interaction.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import pathlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpcrl.agents.agent import Forecasted, Trial, episode_key
from mpcrl.agents.policy_agent import PolicyAgent
from mpcrl.core.files import written
from mpcrl.experiments.configure import agent_for
from mpcrl.experiments.machine import machine
from mpcrl.experiments.training import EVALUATION, Point, train
from mpcrl.tasks.environment import TaskEnv
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
TESTS = 10
SURE = 1.96  # deviations: 95% of normal numbers


@dataclass(frozen=True)
class Study:
    """What is asked of an algorithm.

    Attributes
    ----------
    algo : str
    trials, trial_steps, horizon, seeds : int
    bars : mapping of int to float
        Of a trial, the share of seeds whose policy solves nine of ten tests by then.
    dt : float
        Control period, s.
    goal : Goal, optional
        The task's own if not given.
    minutes : float, optional
        Of one core for a seed, at most.
    covered : pair of float, optional
        Between which the share of numbers within 95% intervals is to lie.
    of : str
        The task.
    settings : mapping
        What differs from the agent's defaults.
    """

    algo: str
    trials: int
    trial_steps: int
    horizon: int
    seeds: int
    bars: Mapping[int, float]
    dt: float = 0.1
    goal: Goal | None = None
    minutes: float = math.inf
    covered: tuple[float, float] = (0.0, 1.0)
    settings: Mapping[str, str] = field(default_factory=dict)
    of: str = "cartpole-pilco"

    def task(self) -> AnalyticTask:
        """The task with this control period and goal."""
        task = make_task(self.of)
        assert isinstance(task, AnalyticTask)
        steps, params = round(task.episode_steps * task.dt / self.dt), task.params._replace(dt=self.dt)
        return dataclasses.replace(task, dt=self.dt, params=params, episode_steps=steps, goal=self.goal or task.goal)


PARTICLES = Study(
    "mc-pilco",
    5,
    60,
    60,
    6,
    {5: 5 / 6},
    dt=0.05,
    goal=Goal(terms=({"angle": 1 / 3}, {"position": 1.0}), target=(math.pi / 3, 0.0), width=math.sqrt(0.5)),
    covered=(0.85, 0.99),
)
BELIEFS = Study("pilco", 6, 25, 40, 10, {5: 0.7, 6: 0.8}, minutes=3.0)
STUDIES = {
    "pilco": BELIEFS,
    "pilco-alone": dataclasses.replace(BELIEFS, bars={}, minutes=math.inf, settings={"margin": "1"}),
    "mc-pilco": PARTICLES,
    "mc-pilco-exact": dataclasses.replace(PARTICLES, seeds=1, bars={}, covered=(0.0, 1.0), settings={"fade": "1"}),
    "pilco-double": Study(
        "pilco", 14, 80, 80, 1, {14: 1.0}, dt=0.05, settings={"basis": "100"}, of="cart-double-pendulum-pilco"
    ),
}


def solved_tests(agent: PolicyAgent, tests: int = TESTS) -> int:
    """Episodes in which the true state is where the task wants it for all of the last second."""
    task, count = agent.task, 0
    assert isinstance(task, AnalyticTask)
    env, last = TaskEnv(task), round(1 / task.dt)
    for number in range(tests):
        state, _ = env.reset(seed=episode_key(agent.seed, 3 * EVALUATION + number))
        solved, over = [], False
        while not over:
            state, _, terminated, truncated, info = env.step(agent.act(state))
            solved.append(info["solved"])
            over = terminated or truncated
        count += all(solved[-last - 1 :])  # with the states that its first control meets and its last one leaves
    return count


def within(said: Forecasted | None) -> float:
    """Share of the numbers that were seen after the first state within the intervals of 95%."""
    if said is None:
        return math.nan
    count = min(len(said.means), len(said.states))
    away = np.abs(said.states[1:count] - said.means[1:count])
    return float((away <= SURE * said.deviations[1:count]).mean())


def learned(study: Study, seed: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of one training, one per trial, the random one first."""
    settings = {"trial_steps": str(study.trial_steps), **study.settings}
    agent = agent_for(study.algo, study.task(), horizon=study.horizon, settings=settings, seed=seed, threads=1)
    assert isinstance(agent, PolicyAgent)
    log = folder / f"{seed}.json"
    rows: list[dict[str, Any]] = json.loads(log.read_text()) if log.exists() else []
    began = time.process_time()

    def told(trial: Trial, point: Point) -> None:
        nonlocal began
        used = time.process_time() - began
        solved = solved_tests(agent)
        # What was learned after a trial is the policy of the next one.
        seconds = round((point.steps + study.trial_steps) * agent.task.dt, 6)
        row = {"seed": seed, "trial": trial.number + 1, "interaction_s": seconds, "solved": solved}
        row |= {"expected_cost": round(point.loss, 3), "within": round(within(trial.forecast), 4)}
        row |= {"cpu_s": round(used, 1)}
        del rows[trial.number :]  # of a process that ended between its log and its checkpoint
        rows.append(row)
        with written(log) as scratch:
            scratch.write_text(json.dumps(rows))
        print(row, flush=True)
        began = time.process_time()

    train(study.algo, agent, steps=study.trials * study.trial_steps, folder=folder / str(seed), on_trial=told)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="checkpoints; goes on from what is there")
    parser.add_argument("--seeds", type=int, help="how many; the study's own by default")
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = [learned(study, seed, arguments.out) for seed in range(arguments.seeds or study.seeds)]
    computer = machine()
    path = RESULTS / f"{arguments.study}_{study.of.removesuffix('-pilco')}.csv".replace("-", "_")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*runs[0][0], "tests", "cpu"], lineterminator="\n")
        writer.writeheader()
        about = {"tests": TESTS, "cpu": f"{computer['cpu']} ({computer['microarchitecture']})"}
        writer.writerows({**row, **about} for run in runs for row in run)
    missed = []
    for trial, least in study.bars.items():
        solved = sum(run[trial - 1]["solved"] >= 0.9 * TESTS for run in runs)
        print(f"trial {trial}: {solved} of {len(runs)} seeds solved")
        missed += [f"trial {trial}"] if solved < least * len(runs) else []
    inside = float(np.nanmean([row["within"] for run in runs for row in run]))
    print(f"within the intervals of 95%: {inside:.1%} of what was seen")
    missed += [] if study.covered[0] <= inside <= study.covered[1] else ["the intervals"]
    seconds = [sum(row["cpu_s"] for row in run) for run in runs]
    print(f"computing: {max(seconds):.0f} s of one core at most, {sum(seconds) / len(runs):.0f} s in the mean; {path}")
    missed += ["the time"] if max(seconds) > 60 * study.minutes else []
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
