"""A ball on a string under a cup."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class BallInCupParams(NamedTuple):
    """The ball, the site inside of the cup, and how far the ball's middle may be from the site's, m."""

    ball: int
    target: int
    half_width: float
    half_height: float
    distance_weight: float = 0.5
    below_weight: float = 1.0


def catch_cost(before: Any, u: Any, after: Any, t: int, p: BallInCupParams) -> float:
    """-1 while the ball is in the cup."""
    target, ball = after.site_xpos[p.target], after.xpos[p.ball]
    caught = abs(target[0] - ball[0]) < p.half_width and abs(target[2] - ball[2]) < p.half_height
    return -1.0 if caught else 0.0


def catch_planning_cost(before: Any, u: Any, after: Any, t: int, p: BallInCupParams) -> float:
    """The cost, distance, and depth of the ball below the cup, from where it must not come in."""
    target, ball = after.site_xpos[p.target], after.xpos[p.ball]
    away = math.sqrt((target[0] - ball[0]) ** 2 + (target[2] - ball[2]) ** 2)
    below = max(0.0, target[2] - ball[2] - p.half_height)
    return catch_cost(before, u, after, t, p) + p.distance_weight * away + p.below_weight * below


def catch() -> MujocoTask:
    """Swing a ball on a string into a cup."""

    def params(model: Any, env: Any) -> BallInCupParams:
        size, radius = model.site("target").size, model.geom("ball").size[0]
        return BallInCupParams(model.body("ball").id, model.site("target").id, size[0] - radius, size[2] - radius)

    return suite_task(
        "ball_in_cup-catch",
        fields=("site_xpos", "xpos"),
        cost=catch_cost,
        planning_cost=catch_planning_cost,
        params=params,
        preset={**COARSE, "budget": 40, "horizon": 24, "iterations": 2},
    )
