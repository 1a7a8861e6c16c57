"""A finger and a body that spins on a hinge."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class FingerParams(NamedTuple):
    """Where sensordata has what the name says, the target's radius in m, the speed asked for in rad/s, weights."""

    tip: int
    target: int
    fingertip: int
    hinge: int
    hinge_velocity: int
    radius: float
    spin_velocity: float = 15.0
    spin_weight: float = 0.5
    distance_weight: float = 2.0
    reach_weight: float = 0.2


def spin_cost(before: Any, u: Any, after: Any, t: int, p: FingerParams) -> float:
    """-1 while the body spins fast enough."""
    return -1.0 if after.sensordata[p.hinge_velocity] <= -p.spin_velocity else 0.0


def spin_planning_cost(before: Any, u: Any, after: Any, t: int, p: FingerParams) -> float:
    """The cost, the speed on the way there, and the finger within reach."""
    share = min(max(-after.sensordata[p.hinge_velocity] / p.spin_velocity, -1.0), 1.0)
    return spin_cost(before, u, after, t, p) - p.spin_weight * share + p.reach_weight * _to_body(after, p)


def turn_cost(before: Any, u: Any, after: Any, t: int, p: FingerParams) -> float:
    """-1 while the body's tip is in the target."""
    return -1.0 if _to_target(after, p) - p.radius <= 0.0 else 0.0


def turn_planning_cost(before: Any, u: Any, after: Any, t: int, p: FingerParams) -> float:
    """The cost, the tip's distance from the target, and, while that is left, the finger within reach of the body."""
    away = max(0.0, _to_target(after, p) - 0.5 * p.radius)
    reach = p.reach_weight * _to_body(after, p) if away > 0.0 else 0.0
    return turn_cost(before, u, after, t, p) + p.distance_weight * away + reach


def _to_target(after: Any, p: FingerParams) -> float:
    data = after.sensordata
    return math.sqrt((data[p.target] - data[p.tip]) ** 2 + (data[p.target + 2] - data[p.tip + 2]) ** 2)


def _to_body(after: Any, p: FingerParams) -> float:
    data = after.sensordata
    return math.sqrt((data[p.fingertip] - data[p.hinge]) ** 2 + (data[p.fingertip + 2] - data[p.hinge + 2]) ** 2)


def _params(model: Any, env: Any) -> FingerParams:
    sensors = ("tip", "target", "touchtop_pos", "spinner", "hinge_velocity")
    tip, target, fingertip, hinge, velocity = (int(model.sensor(name).adr[0]) for name in sensors)
    return FingerParams(tip, target, fingertip, hinge, velocity, model.site("target").size[0])


_TURN = {**COARSE, "budget": 150, "horizon": 30, "iterations": 3}


def spin() -> MujocoTask:
    """Keep a body on a hinge spinning with a two-joint finger."""
    return suite_task(
        "finger-spin",
        fields=("sensordata",),
        cost=spin_cost,
        planning_cost=spin_planning_cost,
        params=_params,
        preset={"planner": "icem", "budget": 240, "horizon": 24, "iterations": 6, "beta": 0.5, "width": 1.0},
    )


def turn_easy() -> MujocoTask:
    """Turn a body on a hinge until its tip is in a target of 7 cm."""
    return suite_task(
        "finger-turn_easy",
        fields=("sensordata",),
        cost=turn_cost,
        planning_cost=turn_planning_cost,
        params=_params,
        preset=_TURN,
    )


def turn_hard() -> MujocoTask:
    """Turn a body on a hinge until its tip is in a target of 3 cm."""
    return suite_task(
        "finger-turn_hard",
        fields=("sensordata",),
        cost=turn_cost,
        planning_cost=turn_planning_cost,
        params=_params,
        preset=_TURN,
    )
