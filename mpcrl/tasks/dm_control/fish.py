"""A fish in water."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import gaussian, long_tail, outside, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.scalars import distance


class FishParams(NamedTuple):
    """The torso, mouth and target, the sum of the radii of the last two in m, and weights."""

    torso: int
    mouth: int
    target: int
    radii: float
    distance_weight: float = 0.5


def upright_cost(before: Any, u: Any, after: Any, t: int, p: FishParams) -> float:
    """The torso upright, softly."""
    return -gaussian(outside(after.xmat[p.torso, 8], 1.0, 1.0), 1.0)


def swim_cost(before: Any, u: Any, after: Any, t: int, p: FishParams) -> float:
    """The mouth at the target, softly, and a little for being upright."""
    away = distance(after.geom_xpos[p.mouth], after.geom_xpos[p.target])
    in_target = gaussian(outside(away, 0.0, p.radii), 2.0 * p.radii)
    upright = 0.5 * (after.xmat[p.torso, 8] + 1.0)
    return -(7.0 * in_target + upright) / 8.0


def swim_planning_cost(before: Any, u: Any, after: Any, t: int, p: FishParams) -> float:
    """The cost, and the distance, which still leads where the reward is flat."""
    away = distance(after.geom_xpos[p.mouth], after.geom_xpos[p.target])
    slope = long_tail(outside(away, 0.0, p.radii), 5.0 * p.radii)
    return swim_cost(before, u, after, t, p) + p.distance_weight * (away - slope)


def _params(model: Any, env: Any) -> FishParams:
    mouth, target = model.geom("mouth"), model.geom("target")
    return FishParams(model.body("torso").id, mouth.id, target.id, radii=mouth.size[0] + target.size[0])


_FIELDS = ("xmat", "geom_xpos")


def upright() -> MujocoTask:
    """Turn upright in the water. Controls are set angles of tail and fins."""
    return suite_task(
        "fish-upright",
        fields=_FIELDS,
        cost=upright_cost,
        params=_params,
        preset={"planner": "icem", "budget": 80, "horizon": 20, "iterations": 2},
    )


def swim() -> MujocoTask:
    """Swim to a random place. Controls are set angles of tail and fins."""
    return suite_task(
        "fish-swim",
        fields=_FIELDS,
        cost=swim_cost,
        planning_cost=swim_planning_cost,
        params=_params,
        preset={"planner": "icem", "budget": 160, "horizon": 50, "iterations": 4},
    )
