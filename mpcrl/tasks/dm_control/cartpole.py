"""Poles on a cart."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, gaussian, inside, small_control, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class CartpoleParams(NamedTuple):
    """Where soft indicators fall to 0.1 (cart position in m, angular velocities in rad/s), what the sparse reward asks
    for (position in m, cosine of the angle), and its share in the planning cost."""

    position_margin: float = 2.0
    velocity_margin: float = 5.0
    max_position: float = 0.25
    min_cosine: float = 0.995
    sparse_weight: float = 1.0


# Angles, not xmat: under Runge-Kutta, derived fields of the state after the step would need a step of their own.
def smooth_cost(before: Any, u: Any, after: Any, t: int, p: CartpoleParams) -> float:
    """Poles upright, times (weakly) a centred cart, a small control and slow poles."""
    poles = after.qpos.shape[0] - 1
    upright, slow, angle = 0.0, 1.0, 0.0
    for pole in range(1, poles + 1):
        angle += after.qpos[pole]
        upright += (math.cos(angle) + 1.0) / 2.0 / poles
        slow = min(slow, gaussian(after.qvel[pole], p.velocity_margin))
    centred = (1.0 + gaussian(after.qpos[0], p.position_margin)) / 2.0
    return -upright * centred * small_control(u) * (1.0 + slow) / 2.0


def sparse_cost(before: Any, u: Any, after: Any, t: int, p: CartpoleParams) -> float:
    """-1 while the pole is upright and the cart in the middle."""
    return -inside(after.qpos[0], -p.max_position, p.max_position) * inside(math.cos(after.qpos[1]), p.min_cosine, 1.0)


def planning_cost(before: Any, u: Any, after: Any, t: int, p: CartpoleParams) -> float:
    """The smooth cost, a cart that returns to the middle, and a share of the sparse one."""
    centred = gaussian(after.qpos[0], 0.5)
    smooth = smooth_cost(before, u, after, t, p) * (3.0 + centred) / 4.0
    return smooth + p.sparse_weight * sparse_cost(before, u, after, t, p)


_SWING = {**COARSE, "budget": 240, "horizon": 120, "iterations": 3, "knots": 12, "beta": 0.0, "width": 1.0}
_BALANCE = {
    **COARSE,
    "budget": 80,
    "horizon": 100,
    "iterations": 3,
    "knots": 8,
    "beta": 0.0,
    "width": 0.3,
    "execute": "mean",
}


def balance() -> MujocoTask:
    """Keep an almost upright pole up. The control is a force in units of 10 N."""
    return suite_task(
        "cartpole-balance", fields=("qpos", "qvel"), cost=smooth_cost, params=CartpoleParams(), preset=_BALANCE
    )


def balance_sparse() -> MujocoTask:
    """Keep an almost upright pole up, with a reward near the goal only."""
    return suite_task(
        "cartpole-balance_sparse",
        fields=("qpos", "qvel"),
        cost=sparse_cost,
        planning_cost=planning_cost,
        params=CartpoleParams(),
        preset=_BALANCE,
    )


def swingup() -> MujocoTask:
    """Swing a hanging pole up and hold it. The control is a force in units of 10 N."""
    return suite_task(
        "cartpole-swingup", fields=("qpos", "qvel"), cost=smooth_cost, params=CartpoleParams(), preset=_SWING
    )


def swingup_sparse() -> MujocoTask:
    """Swing a hanging pole up and hold it, with a reward near the goal only."""
    return suite_task(
        "cartpole-swingup_sparse",
        fields=("qpos", "qvel"),
        cost=sparse_cost,
        planning_cost=planning_cost,
        params=CartpoleParams(),
        preset={**_SWING, "budget": 320, "horizon": 95, "iterations": 4, "knots": 8},
    )


def two_poles() -> MujocoTask:
    """Swing up two poles, one on the other."""
    return suite_task(
        "cartpole-two_poles",
        fields=("qpos", "qvel"),
        cost=smooth_cost,
        params=CartpoleParams(),
        preset={**_SWING, "budget": 300, "iterations": 4, "knots": 10},
    )
