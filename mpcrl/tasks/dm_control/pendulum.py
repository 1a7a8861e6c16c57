"""A pendulum with a weak motor."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import inside, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class PendulumParams(NamedTuple):
    """The pole, the cosine of the angle within which it counts as upright, and weights of the planning cost."""

    pole: int
    min_cosine: float = math.cos(math.radians(8.0))
    height_weight: float = 0.5
    rate_weight: float = 0.01


def swingup_cost(before: Any, u: Any, after: Any, t: int, p: PendulumParams) -> float:
    """-1 while the pole is upright."""
    return -inside(after.xmat[p.pole, 8], p.min_cosine, 1.0)


def swingup_planning_cost(before: Any, u: Any, after: Any, t: int, p: PendulumParams) -> float:
    """The cost, the pole's height on the way there, and its rate once it is up."""
    cosine = after.xmat[p.pole, 8]
    rate = p.rate_weight * max(cosine, 0.0) * after.qvel[0] ** 2
    return swingup_cost(before, u, after, t, p) + rate - p.height_weight * cosine


def swingup() -> MujocoTask:
    """Swing up a pole with a motor too weak to lift it, and hold it."""
    return suite_task(
        "pendulum-swingup",
        fields=("xmat", "qvel"),
        cost=swingup_cost,
        planning_cost=swingup_planning_cost,
        params=lambda model, env: PendulumParams(pole=model.body("pole").id),
        preset={"planner": "icem", "budget": 80, "horizon": 60, "iterations": 2},
    )
