"""The systems on batches of torch tensors: `step(x [K, nx], u [K, nu]) -> [K, nx]`, `cost(x, u) -> [K]`.

Written for torch's speed: few large operations, no Python scalars made on the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def functions(name: str, p: Any) -> tuple[Step, Step]:
    """`step` and `cost` of the system called `name` with parameters `p`."""
    return {"pendulum": pendulum, "quadrotor": quadrotor, "diffdrive": diffdrive}[name](p)


def pendulum(p: Any) -> tuple[Step, Step]:
    pull, push = 1.5 * p.gravity / p.length * p.dt, 3.0 / (p.mass * p.length**2) * p.dt

    def step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        angle, speed = x[:, 0:1], x[:, 1:2]
        speed = (speed + pull * torch.sin(angle) + push * u).clamp(-p.max_speed, p.max_speed)
        return torch.cat((angle + p.dt * speed, speed), dim=1)

    def cost(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        angle, speed = x[:, 0], x[:, 1]
        angle = torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
        return angle**2 + 0.1 * speed**2 + 0.001 * u[:, 0] ** 2

    return step, cost


def quadrotor(p: Any) -> tuple[Step, Step]:
    goal, obstacles = torch.as_tensor(p.goal), torch.as_tensor(p.obstacles)
    weights = torch.tensor([2.0] * 3 + [0.5] * 3 + [0.0] + [2.0] * 3 + [0.05] * 3)
    control_weights = torch.tensor([0.002] + [0.0005] * 3)
    target = torch.zeros(13)
    target[:3] = goal
    gravity = torch.tensor([0.0, 0.0, -p.gravity * p.dt])
    gyration = torch.tensor([p.gyration, -p.gyration]) * p.dt

    def step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        position, velocity, q, rate = x[:, 0:3], x[:, 3:6], x[:, 6:10], x[:, 10:13]
        qw, qx, qy, qz = q.unbind(1)
        wx, wy, wz = rate.unbind(1)
        axis = torch.stack((qx * qz + qw * qy, qy * qz - qw * qx, 0.5 - qx * qx - qy * qy), dim=1)
        spin = torch.stack(
            (
                -(qx * wx + qy * wy + qz * wz),
                qw * wx + qy * wz - qz * wy,
                qw * wy + qz * wx - qx * wz,
                qw * wz + qx * wy - qy * wx,
            ),
            dim=1,
        )
        turned = torch.nn.functional.normalize(q + 0.5 * p.dt * spin, dim=1)
        rate = rate + p.dt * u[:, 1:4]
        rate[:, 0:2] += gyration * torch.stack((wy * wz, wx * wz), dim=1)
        return torch.cat(
            (
                position + p.dt * velocity,
                velocity * (1.0 - p.dt * p.drag) + (2.0 * p.dt) * (u[:, 0:1] + p.gravity) * axis + gravity,
                turned,
                rate,
            ),
            dim=1,
        )

    def cost(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        away = x - target
        total = (away * away) @ weights + (u * u) @ control_weights
        depth = obstacles[:, 2] - torch.linalg.vector_norm(x[:, None, 0:2] - obstacles[:, 0:2], dim=2)
        return total + torch.where(depth > 0, 20.0 + 100.0 * depth, 0.0).sum(dim=1)

    return step, cost


def diffdrive(p: Any) -> tuple[Step, Step]:
    goal, cells = torch.as_tensor(p.goal), torch.as_tensor(p.costmap).reshape(-1)
    columns = p.costmap.shape[1]

    def step(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        heading = x[:, 2:3]
        way = p.dt * u[:, 0:1]
        return x + torch.cat((way * torch.cos(heading), way * torch.sin(heading), p.dt * u[:, 1:2]), dim=1)

    def cost(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        cell = torch.floor(x[:, 0:2] / p.resolution).clamp(0.0, p.last).long()
        occupied = cells[cell[:, 1] * columns + cell[:, 0]]
        away = x[:, 0:2] - goal
        distance = torch.sqrt((away * away).sum(dim=1) + 1e-4)
        return distance + 2.0 * occupied + 0.02 * u[:, 0] ** 2 + 0.01 * u[:, 1] ** 2

    return step, cost


@torch.inference_mode()
def costs(step: Step, cost: Step, start: tuple[float, ...], controls: np.ndarray) -> np.ndarray:
    """Cost [N] of controls [N, H, nu], the state's cost counted after each step."""
    batch = torch.tensor(controls)
    x, total = torch.tensor(start).expand(len(batch), -1), torch.zeros(len(batch))
    for u in batch.unbind(1):
        x = step(x, u)
        total = total + cost(x, u)
    return total.numpy()
