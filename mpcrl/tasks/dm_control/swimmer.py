"""A chain of links that swims in the plane."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import long_tail, outside, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class SwimmerParams(NamedTuple):
    """The head, geoms of nose and target, the target's radius in m, and the weight of the distance in the planning
    cost."""

    head: int
    nose: int
    target: int
    radius: float
    distance_weight: float = 0.1


def to_target(after: Any, p: SwimmerParams) -> float:
    """Distance from nose to target in the head's own plane, m."""
    total = 0.0
    for axis in range(2):
        along = 0.0
        for i in range(3):
            along += (after.geom_xpos[p.target, i] - after.geom_xpos[p.nose, i]) * after.xmat[p.head, 3 * i + axis]
        total += along * along
    return math.sqrt(total)


def cost(before: Any, u: Any, after: Any, t: int, p: SwimmerParams) -> float:
    """The nose at the target, softly."""
    return -long_tail(outside(to_target(after, p), 0.0, p.radius), 5.0 * p.radius)


def planning_cost(before: Any, u: Any, after: Any, t: int, p: SwimmerParams) -> float:
    """The cost, and the distance, which still leads where the reward is flat."""
    return cost(before, u, after, t, p) + p.distance_weight * to_target(after, p)


def _task(links: int) -> MujocoTask:
    def params(model: Any, env: Any) -> SwimmerParams:
        target = model.geom("target")
        return SwimmerParams(model.body("head").id, model.geom("nose").id, target.id, target.size[0])

    return suite_task(
        f"swimmer-swimmer{links}",
        fields=("geom_xpos", "xmat"),
        cost=cost,
        planning_cost=planning_cost,
        params=params,
        preset={"planner": "icem", "budget": 80, "horizon": 30, "iterations": 3},
    )


def swimmer6() -> MujocoTask:
    """Swim to a random place with six links. Controls are five joint torques."""
    return _task(6)


def swimmer15() -> MujocoTask:
    """Swim to a random place with 15 links. Controls are 14 joint torques."""
    return _task(15)
