"""mbrl-lib's PETS on one of our tasks, `cartpole-pets`: `python benchmarks/pets_beside_mbrl.py` starts it.

The environment is the task's own (`mpcrl.TaskEnv` needs nothing but NumPy and Gymnasium), so that physics, starts and
rewards are ours to the last bit, and the first trial has the very controls of our first trial.

The algorithm is mbrl-lib's, put together from its parts as its notebooks/pets_example.ipynb does. Taken from there:
the ensemble's size and propagation, normalised inputs, batches of 32, Adam's rate 1e-3 and weight decay 5e-5, 5% for
validation, 50 epochs and a patience of 50 after every trial, CEM with 5 iterations, 0.1 elites, alpha 0.1 and the mean
of the elites as its answer. (conf/overrides/pets_cartpole.yaml has batches of 256, a rate of 7.5e-4, 25 epochs and a
training every 50 steps; once per trial that would be a sixteenth of the updates.) As in its configurations rather than
the notebook: SiLU, and sines and cosines of the angle for inputs, of conf/overrides/pets_cartpole_paper_version.yaml.
From our study: horizon, particles, and as many trajectories per control step.

Planning maximises mbrl-lib's own `reward_fns.cartpole_pets`, of the state after each control; returns are those of the
environment, of the state before it.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import omegaconf
import torch
from mbrl.env import reward_fns, termination_fns
from mbrl.models import GaussianMLP, ModelEnv, ModelTrainer, OneDTransitionRewardModel
from mbrl.planning import create_trajectory_optim_agent_for_model
from mbrl.util import ReplayBuffer
from mbrl.util.common import train_model_and_save_model_and_data

from mpcrl.tasks.cartpole_pets import cartpole_pets
from mpcrl.tasks.environment import TaskEnv

MEMBERS, ITERATIONS, CAPACITY = 5, 5, 100_000
FIT = {
    "model_batch_size": 32,
    "validation_ratio": 0.05,
    "num_epochs_train_model": 50,
    "patience": 50,
}
COLUMNS = ("seed", "kind", "trial", "steps", "return", "wall_s", "cpu_s", "plan_ms", "learning_s")


def features(states: Any) -> Any:
    """Positions, speeds, and the angle as sine and cosine, of an array or a tensor of states [..., 4]."""
    library: Any = torch if isinstance(states, torch.Tensor) else np
    join = torch.cat if library is torch else np.concatenate
    angle = states[..., 1:2]
    return join([library.sin(angle), library.cos(angle), states[..., :1], states[..., 2:]], -1)


class Peer:
    """The agent and its world."""

    def __init__(self, seed: int, budget: int, particles: int, horizon: int) -> None:
        torch.manual_seed(seed)
        self.env = TaskEnv(cartpole_pets())
        nx, nu = self.env.task.nx, self.env.task.nu
        network = GaussianMLP(
            nx + 1 + nu, nx, "cpu", num_layers=3, ensemble_size=MEMBERS, hid_size=200,
            propagation_method="fixed_model", activation_fn_cfg={"_target_": "torch.nn.SiLU"},
        )  # fmt: skip
        self.model = OneDTransitionRewardModel(
            network, target_is_delta=True, normalize=True, learned_rewards=False, obs_process_fn=features
        )
        self.trainer = ModelTrainer(self.model, optim_lr=1e-3, weight_decay=5e-5)
        self.replay = ReplayBuffer(
            CAPACITY, (nx,), (nu,), obs_type=np.float64, action_type=np.float64, rng=np.random.default_rng(seed)
        )
        model_env = ModelEnv(
            self.env, self.model, termination_fns.no_termination, reward_fns.cartpole_pets,
            torch.Generator().manual_seed(seed),
        )  # fmt: skip
        optimizer = {
            "_target_": "mbrl.planning.CEMOptimizer", "num_iterations": ITERATIONS, "elite_ratio": 0.1,
            "population_size": -(-budget // ITERATIONS), "alpha": 0.1, "device": "cpu", "lower_bound": "???",
            "upper_bound": "???", "return_mean_elites": True, "clipped_normal": False,
        }  # fmt: skip
        about = {
            "_target_": "mbrl.planning.TrajectoryOptimizerAgent", "planning_horizon": horizon, "replan_freq": 1,
            "verbose": False, "action_lb": "???", "action_ub": "???", "optimizer_cfg": optimizer, "_recursive_": False,
        }  # fmt: skip
        self.agent = create_trajectory_optim_agent_for_model(model_env, omegaconf.OmegaConf.create(about), particles)

    def episode(self, key: int, rng: np.random.Generator | None = None, learn: bool = True) -> tuple[int, float, float]:
        """Steps, return and median time of a plan (ms); controls are random if there is a `rng`."""
        state, _ = self.env.reset(seed=key)
        self.agent.reset()
        total, times, over = 0.0, [], False
        while not over:
            begin = time.perf_counter()
            if rng is None:
                control = self.agent.act(state)
            else:
                control = rng.uniform(self.env.task.control_low, self.env.task.control_high)
            times.append(1000 * (time.perf_counter() - begin))
            after, reward, terminated, truncated, _ = self.env.step(control)
            if learn:
                self.replay.add(state, control, after, reward, terminated, truncated)
            state, total, over = after, total + reward, terminated or truncated
        return len(times), total, statistics.median(times)

    def fit(self) -> float:
        """Train on all that was seen; seconds."""
        begin = time.perf_counter()
        train_model_and_save_model_and_data(self.model, self.trainer, omegaconf.OmegaConf.create(FIT), self.replay)
        return time.perf_counter() - begin


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    scratch = path.with_suffix(".part")
    with scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    scratch.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the CSV, written anew after every trial")
    for name in ("seed", "budget", "particles", "horizon"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("trials", "evaluation"):
        parser.add_argument(f"--{name}", type=int, nargs="+", required=True, help="seeds of the episodes")
    o = parser.parse_args()
    torch.set_num_threads(1)
    peer = Peer(o.seed, o.budget, o.particles, o.horizon)
    rows: list[dict[str, Any]] = []
    begin, cpu, steps = time.perf_counter(), time.process_time(), 0
    for trial, key in enumerate(o.trials):
        done, total, plan_ms = peer.episode(key, rng=None if trial else np.random.default_rng(key))
        learning_s, steps = peer.fit(), steps + done
        row = {
            "seed": o.seed, "kind": "trial", "trial": trial, "steps": steps, "return": total,
            "wall_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu,
            "plan_ms": plan_ms if trial else "", "learning_s": learning_s,
        }  # fmt: skip
        rows.append(row)
        write(o.out, rows)
        print(f"mbrl-lib seed {o.seed}: {steps} steps, {total:.1f}, {row['wall_s']:.0f} s", flush=True)
    returns = [peer.episode(key, learn=False)[1] for key in o.evaluation]
    last = {name: rows[-1][name] for name in ("seed", "steps", "wall_s", "cpu_s")}
    write(o.out, [*rows, {**last, "kind": "evaluation", "return": statistics.mean(returns)}])


if __name__ == "__main__":
    main()
