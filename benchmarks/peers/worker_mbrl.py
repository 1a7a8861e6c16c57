"""mbrl-lib: its ensemble of Gaussian networks through `ModelEnv.evaluate_action_sequences`, as its planners call it."""

from __future__ import annotations

from typing import Any

import gym
import numpy as np
import torch
from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
from worker import clock, describe, serve


class Shape(gym.Env):
    """What ModelEnv asks an environment: how long states and controls are."""

    def __init__(self, nx: int, nu: int) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (nx,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (nu,), np.float32)


def reward(controls: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return -(states[:, :1] ** 2)


def never(controls: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(states), 1, dtype=torch.bool)


class Worker:
    def setup(self, bench: dict[str, Any], threads: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        nx, nu, members, width, depth = (bench[name] for name in ("nx", "nu", "members", "width", "depth"))
        network = GaussianMLP(
            nx + nu,
            nx,
            "cpu",
            num_layers=depth,
            ensemble_size=members,
            hid_size=width,
            propagation_method="fixed_model",
            activation_fn_cfg={"_target_": "torch.nn.SiLU"},
        )
        arrays = np.load(bench["arrays"])
        layers = [layer[0] for layer in network.hidden_layers] + [network.mean_and_logvar]
        with torch.no_grad():
            for i, layer in enumerate(layers):
                layer.weight.copy_(torch.from_numpy(arrays[f"w{i}"]))
                layer.bias.copy_(torch.from_numpy(arrays[f"b{i}"])[:, None])
            network.min_logvar.copy_(torch.from_numpy(arrays["least"]))
            network.max_logvar.copy_(torch.from_numpy(arrays["most"]))
        model = OneDTransitionRewardModel(network, target_is_delta=True, normalize=False, learned_rewards=False)
        self.env = ModelEnv(Shape(nx, nu), model, never, reward, torch.Generator().manual_seed(0))
        self.start, self.particles = arrays["start"], bench["particles"]
        self.controls = torch.from_numpy(arrays["controls"])
        for _ in range(2):
            self.evaluate()
        return describe("mbrl", "torch")

    def evaluate(self) -> torch.Tensor:
        return self.env.evaluate_action_sequences(self.controls, self.start, self.particles)

    def costs(self) -> dict[str, Any]:
        return {"costs": [-float(value) for value in self.evaluate()]}

    def time(self, repeats: int) -> dict[str, Any]:
        return {"seconds": clock(self.evaluate, repeats)}


if __name__ == "__main__":
    serve(Worker())
