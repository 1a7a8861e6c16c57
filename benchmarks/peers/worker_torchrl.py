"""torchrl: its MPPIPlanner over an environment that holds the differential drive.

One optimisation step in which every candidate counts is MPPI. The planner starts from zero mean and unit standard
deviation each time, so the environment's actions are controls in units of their standard deviation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import systems_torch
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import MPPIPlanner
from worker import SystemWorker, describe, serve


class SystemEnvironment(EnvBase):
    """A system as torchrl sees it: reward is minus the cost."""

    batch_locked = False

    def __init__(self, system: Any) -> None:
        super().__init__(device="cpu", batch_size=[])
        self.sigma = torch.tensor(system.sigma)
        self.start = torch.tensor(system.start)
        self.advance, self.cost = systems_torch.functions(system.name, system.params)
        self.observation_spec = Composite(state=Unbounded((len(system.start),)))
        self.action_spec = Bounded(torch.tensor(system.low) / self.sigma, torch.tensor(system.high) / self.sigma)
        self.reward_spec = Unbounded((1,))

    def _reset(self, tensordict: TensorDictBase | None) -> TensorDict:
        return TensorDict({"state": self.start.clone()}, batch_size=[])

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        controls = tensordict["action"] * self.sigma
        state = self.advance(tensordict["state"], controls)
        ended = torch.zeros(*tensordict.shape, 1, dtype=torch.bool)
        reward = -self.cost(state, controls).unsqueeze(-1)
        return TensorDict({"state": state, "reward": reward, "done": ended, "terminated": ended}, tensordict.shape)

    def _set_seed(self, seed: int | None) -> None:
        torch.manual_seed(0 if seed is None else seed)


class Return(torch.nn.Module):
    """The advantage of plain MPPI: the candidate's return less that of the best, with nothing learned.

    The planner's weights are exp(temperature x advantage); without the best's they would underflow.
    """

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        reward = tensordict["next", "reward"]
        total = reward.sum(dim=-2, keepdim=True)
        return tensordict.set("advantage", (total - total.amax(dim=-3, keepdim=True)).expand_as(reward))


class Worker(SystemWorker):
    def build(self, samples: int, horizon: int, threads: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        self.environment = SystemEnvironment(self.system)
        self.planner = MPPIPlanner(
            self.environment,
            Return(),
            temperature=1.0 / self.system.temperature,
            planning_horizon=horizon,
            optim_steps=1,
            num_candidates=samples,
            top_k=samples,
        )
        return describe("torchrl", "tensordict", "torch")

    @torch.inference_mode()
    def plan(self, state: tuple[float, ...]) -> np.ndarray:
        answer = self.planner(TensorDict({"state": torch.tensor(state)}, batch_size=[]))
        return (answer["action"] * self.environment.sigma).numpy()

    def forget(self) -> None:
        """It keeps nothing between plans."""

    def total(self, controls: np.ndarray) -> np.ndarray:
        return systems_torch.costs(self.environment.advance, self.environment.cost, self.system.start, controls)


if __name__ == "__main__":
    serve(Worker())
