"""Gymnasium's MuJoCo tasks; each cost is minus the environment's own reward, to rounding.

Their rewards read derived fields as mj_step leaves them, one physics step behind the state.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task


class HalfCheetahParams(NamedTuple):
    """Weights of HalfCheetah-v5's reward, and the control period in s."""

    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.1
    dt: float = 0.05


def half_cheetah_cost(before: Any, u: Any, after: Any, t: int, p: HalfCheetahParams) -> float:
    """Forward speed of the root, paid for by squared controls."""
    speed = (after.qpos[0] - before.qpos[0]) / p.dt
    return p.ctrl_cost_weight * squared(u) - p.forward_reward_weight * speed


def half_cheetah() -> MujocoTask:
    """HalfCheetah-v5: run forward. Controls are six joint torques in [-1, 1]."""
    return mujoco_task(
        "HalfCheetah-v5",
        fields=("qpos",),
        cost=half_cheetah_cost,
        params=HalfCheetahParams(),
        preset={"planner": "icem", "budget": 100, "horizon": 30, "beta": 0.5, "elites": 5},
    )


class InvertedPendulumParams(NamedTuple):
    """The pole's angle from upright at which an episode of InvertedPendulum-v5 ends, rad."""

    max_angle: float = 0.2


def inverted_pendulum_cost(before: Any, u: Any, after: Any, t: int, p: InvertedPendulumParams) -> float:
    """-1 for each control step after which the pole stands."""
    return 0.0 if inverted_pendulum_terminated(after, p) else -1.0


def inverted_pendulum_terminated(after: Any, p: InvertedPendulumParams) -> bool:
    """Whether the pole has fallen."""
    finite = math.isfinite(after.qpos[0] + after.qpos[1] + after.qvel[0] + after.qvel[1])
    return not finite or abs(after.qpos[1]) > p.max_angle


def inverted_pendulum() -> MujocoTask:
    """InvertedPendulum-v5: keep a pole on a cart upright by a force on the cart in [-3, 3]."""
    return mujoco_task(
        "InvertedPendulum-v5",
        fields=("qpos", "qvel"),
        cost=inverted_pendulum_cost,
        terminated=inverted_pendulum_terminated,
        params=InvertedPendulumParams(),
        preset={"planner": "icem", "budget": 40, "horizon": 25},
    )


class ReacherParams(NamedTuple):
    """Weights of Reacher-v5's reward."""

    reward_dist_weight: float = 1.0
    reward_control_weight: float = 1.0


_FINGERTIP, _TARGET = 3, 4  # bodies


def reacher_cost(before: Any, u: Any, after: Any, t: int, p: ReacherParams) -> float:
    """Distance in m from fingertip to target, and squared controls. The target's place is part of qpos."""
    tip, target = after.xpos[_FINGERTIP], after.xpos[_TARGET]
    distance = math.sqrt((tip[0] - target[0]) ** 2 + (tip[1] - target[1]) ** 2 + (tip[2] - target[2]) ** 2)
    return p.reward_dist_weight * distance + p.reward_control_weight * squared(u)


def reacher() -> MujocoTask:
    """Reacher-v5: bring a two-link arm's tip to a random target. Controls are two torques in [-1, 1]."""
    return mujoco_task(
        "Reacher-v5",
        fields=("xpos",),
        cost=reacher_cost,
        params=ReacherParams(),
        preset={"planner": "icem", "budget": 60, "horizon": 15},
    )


def squared(u: Any) -> float:
    """Sum of squares of a vector."""
    total = 0.0
    for i in range(u.shape[0]):
        total += u[i] * u[i]
    return total
