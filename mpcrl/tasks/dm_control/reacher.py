"""A planar arm with two links."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class ReacherParams(NamedTuple):
    """Geoms, the sum of their radii in m, and weights of the planning cost."""

    finger: int
    target: int
    radii: float
    distance_weight: float = 3.0
    rate_weight: float = 0.002


def to_target(after: Any, p: ReacherParams) -> float:
    """Distance in the plane from finger to target, m."""
    finger, target = after.geom_xpos[p.finger], after.geom_xpos[p.target]
    return math.sqrt((finger[0] - target[0]) ** 2 + (finger[1] - target[1]) ** 2)


def cost(before: Any, u: Any, after: Any, t: int, p: ReacherParams) -> float:
    """-1 while the finger touches the target."""
    return -1.0 if to_target(after, p) <= p.radii else 0.0


def planning_cost(before: Any, u: Any, after: Any, t: int, p: ReacherParams) -> float:
    """The cost, the distance, and the joints' rates, which carry the arm past the target."""
    rates = p.rate_weight * (after.qvel[0] ** 2 + after.qvel[1] ** 2)
    return cost(before, u, after, t, p) + p.distance_weight * to_target(after, p) + rates


def _task(name: str) -> MujocoTask:
    def params(model: Any, env: Any) -> ReacherParams:
        finger, target = model.geom("finger"), model.geom("target")
        return ReacherParams(finger.id, target.id, finger.size[0] + target.size[0])

    return suite_task(
        f"reacher-{name}",
        fields=("geom_xpos", "qvel"),
        cost=cost,
        planning_cost=planning_cost,
        params=params,
        preset={"planner": "icem", "budget": 120, "horizon": 24, "iterations": 3},
    )


def easy() -> MujocoTask:
    """Bring the tip of a two-link arm to a target of 5 cm. Controls are two torques."""
    return _task("easy")


def hard() -> MujocoTask:
    """Bring the tip of a two-link arm to a target of 1.5 cm."""
    return _task("hard")
