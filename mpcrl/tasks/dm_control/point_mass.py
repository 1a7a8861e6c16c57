"""A point mass in the plane."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import gaussian, outside, small_control, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.scalars import distance


class PointMassParams(NamedTuple):
    """Geoms, the target's radius in m, and the weight of the distance in the planning cost."""

    mass: int
    target: int
    radius: float
    distance_weight: float = 3.0


def cost(before: Any, u: Any, after: Any, t: int, p: PointMassParams) -> float:
    """The mass at the target, softly, times (weakly) a small control."""
    away = distance(after.geom_xpos[p.mass], after.geom_xpos[p.target])
    return -gaussian(outside(away, 0.0, p.radius), p.radius) * small_control(u)


def planning_cost(before: Any, u: Any, after: Any, t: int, p: PointMassParams) -> float:
    """The cost, and the distance, which still leads where the reward is flat."""
    away = distance(after.geom_xpos[p.mass], after.geom_xpos[p.target])
    return cost(before, u, after, t, p) + p.distance_weight * away


def _task(name: str) -> MujocoTask:
    def params(model: Any, env: Any) -> PointMassParams:
        target = model.geom("target")
        return PointMassParams(model.geom("pointmass").id, target.id, target.size[0])

    return suite_task(
        f"point_mass-{name}",
        fields=("geom_xpos",),
        cost=cost,
        planning_cost=planning_cost,
        params=params,
        preset={"planner": "icem", "budget": 60, "horizon": 40, "iterations": 2},
    )


def easy() -> MujocoTask:
    """Bring a mass to the middle by two forces, one per axis."""
    return _task("easy")


def hard() -> MujocoTask:
    """Bring a mass to the middle by two forces whose directions each episode draws anew."""
    return _task("hard")
