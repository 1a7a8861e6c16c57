"""pytorch_mppi: its MPPI on the systems in torch, in eager mode or with its `compile`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import systems_torch
import torch
from pytorch_mppi import MPPI
from worker import SystemWorker, describe, serve


class Worker(SystemWorker):
    def __init__(self, compiled: bool) -> None:
        self.compiled = compiled

    def build(self, samples: int, horizon: int, threads: int) -> dict[str, Any]:
        torch.set_num_threads(threads)
        system = self.system
        self.step, self.cost = systems_torch.functions(system.name, system.params)
        self.mppi = MPPI(
            self.step,
            self.cost,
            len(system.start),
            torch.diag(torch.tensor(system.sigma) ** 2),
            num_samples=samples,
            horizon=horizon,
            lambda_=system.temperature,
            u_min=torch.tensor(system.low),
            u_max=torch.tensor(system.high),
            U_init=torch.zeros(horizon, len(system.low)),
        )
        if self.compiled:
            self.mppi.compile()
        return describe("pytorch-mppi", "torch")

    @torch.inference_mode()
    def plan(self, state: tuple[float, ...]) -> np.ndarray:
        return self.mppi.command(torch.tensor(state)).numpy()

    def forget(self) -> None:
        self.mppi.U = torch.zeros_like(self.mppi.U)

    def total(self, controls: np.ndarray) -> np.ndarray:
        return systems_torch.costs(self.step, self.cost, self.system.start, controls)


if __name__ == "__main__":
    serve(Worker(compiled="--compile" in sys.argv))
