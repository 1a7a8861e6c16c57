"""Acrobot: two links, a motor at the elbow."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import gaussian, inside, outside, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class AcrobotParams(NamedTuple):
    """Lengths of the links, the target's height over the shoulder, its radius and the reward's margin, m."""

    upper: float
    lower: float
    target: float
    radius: float
    margin: float = 1.0
    sparse_weight: float = 1.0


def to_target(after: Any, p: AcrobotParams) -> float:
    """Distance from the tip to the target, m.

    By hand: under Runge-Kutta, derived fields of the state after the step would need a step of their own.
    """
    shoulder, elbow = after.qpos[0], after.qpos[0] + after.qpos[1]
    x = p.upper * math.sin(shoulder) + p.lower * math.sin(elbow)
    z = p.upper * math.cos(shoulder) + p.lower * math.cos(elbow)
    return math.sqrt(x * x + (z - p.target) ** 2)


def swingup_cost(before: Any, u: Any, after: Any, t: int, p: AcrobotParams) -> float:
    """The tip at the target, softly."""
    return -gaussian(outside(to_target(after, p), 0.0, p.radius), p.margin)


def swingup_sparse_cost(before: Any, u: Any, after: Any, t: int, p: AcrobotParams) -> float:
    """The tip in the target."""
    return -inside(to_target(after, p), 0.0, p.radius)


def planning_cost(before: Any, u: Any, after: Any, t: int, p: AcrobotParams) -> float:
    """Distance and the smooth reward, which has no slope when hanging, and slow near the target."""
    away = to_target(after, p)
    near = gaussian(outside(away, 0.0, p.radius), p.margin)
    slow = 1.0 / (1.0 + 0.05 * (after.qvel[0] ** 2 + after.qvel[1] ** 2))
    sparse = p.sparse_weight * inside(away, 0.0, p.radius)
    return 0.25 * away - near * (0.5 + 0.5 * slow) - sparse


def _params(model: Any, env: Any) -> AcrobotParams:
    shoulder = model.body("upper_arm").pos[2]
    return AcrobotParams(
        upper=model.body("lower_arm").pos[2],
        lower=model.site("tip").pos[2],
        target=model.site("target").pos[2] - shoulder,
        radius=model.site("target").size[0],
    )


_PRESET = {"planner": "icem", "controls_per_plan": 4, "budget": 300, "horizon": 200, "iterations": 6}


def swingup() -> MujocoTask:
    """Bring the tip of two links up by a motor between them, and hold it there."""
    return suite_task(
        "acrobot-swingup",
        fields=("qpos", "qvel"),
        cost=swingup_cost,
        planning_cost=planning_cost,
        params=_params,
        preset=_PRESET,
    )


def swingup_sparse() -> MujocoTask:
    """Bring the tip of two links into a target by a motor between them, with a reward there only."""
    return suite_task(
        "acrobot-swingup_sparse",
        fields=("qpos", "qvel"),
        cost=swingup_sparse_cost,
        planning_cost=planning_cost,
        params=_params,
        preset=_PRESET,
    )
