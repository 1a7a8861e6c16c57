"""A planar hopper on one leg."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, below, inside, linear, small_control, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class HopperParams(NamedTuple):
    """Bodies, where sensordata has the velocity of the centre of mass, heights in m, the speed asked for in m/s, and
    weights of the planning cost."""

    torso: int
    foot: int
    velocity: int
    min_height: float = 0.6
    max_height: float = 2.0
    hop_speed: float = 2.0
    height_weight: float = 1.0
    upright_weight: float = 0.5
    balance_weight: float = 0.5
    lead_time: float = 0.3
    speed_weight: float = 0.5
    hop_weight: float = 1.0
    cruise: float = 2.0


def height(after: Any, p: HopperParams) -> float:
    """Of the torso over the foot, m."""
    return after.xipos[p.torso, 2] - after.xipos[p.foot, 2]


def stand_cost(before: Any, u: Any, after: Any, t: int, p: HopperParams) -> float:
    """High enough, times (weakly) a small control."""
    return -inside(height(after, p), p.min_height, p.max_height) * small_control(u)


def hop_cost(before: Any, u: Any, after: Any, t: int, p: HopperParams) -> float:
    """High enough, times forward speed."""
    return -inside(height(after, p), p.min_height, p.max_height) * speed_share(after, p)


def speed_share(after: Any, p: HopperParams) -> float:
    """1 from the hopping speed on, 0 from standing still down."""
    return linear(below(after.sensordata[p.velocity], p.hop_speed), p.hop_speed / 2.0, 0.5)


def rise(after: Any, p: HopperParams) -> float:
    """1 from a little above the least height on, down to -1 upside down."""
    return min(max(height(after, p) / (p.min_height + 0.1), -1.0), 1.0)


def lean(after: Any, p: HopperParams) -> float:
    """0 for a torso upright, 2 for one upside down."""
    return 1.0 - after.xmat[p.torso, 8]


def posture_cost(after: Any, speed: float, p: HopperParams) -> float:
    """Height, a leaning torso, and a capture point (where the mass will be in `lead_time`, by what it moves faster than
    `speed`) away from over the foot."""
    lead = p.lead_time * (after.sensordata[p.velocity] - speed)
    capture = after.subtree_com[p.torso, 0] + lead - after.xipos[p.foot, 0]
    balance = p.balance_weight * min(abs(capture), 1.0)
    return p.upright_weight * lean(after, p) + balance - p.height_weight * rise(after, p)


def stand_planning_cost(before: Any, u: Any, after: Any, t: int, p: HopperParams) -> float:
    """The cost and the posture."""
    return stand_cost(before, u, after, t, p) + posture_cost(after, 0.0, p)


def hop_planning_cost(before: Any, u: Any, after: Any, t: int, p: HopperParams) -> float:
    """The cost, the posture at the speed asked for, and the speed."""
    fast = p.speed_weight * min(max(after.sensordata[p.velocity] / p.hop_speed, -1.0), 1.0)
    return p.hop_weight * hop_cost(before, u, after, t, p) + posture_cost(after, p.cruise, p) - fast


def _params(model: Any, env: Any) -> HopperParams:
    velocity = int(model.sensor("torso_subtreelinvel").adr[0])
    return HopperParams(model.body("torso").id, model.body("foot").id, velocity)


_FIELDS = ("xipos", "xmat", "subtree_com", "sensordata")


def stand() -> MujocoTask:
    """Get up on one leg and stand. Controls are four joint torques."""
    return suite_task(
        "hopper-stand",
        fields=_FIELDS,
        unseen=("qpos[0]", "xipos[*, 0]", "subtree_com[*, 0]"),
        cost=stand_cost,
        planning_cost=stand_planning_cost,
        params=_params,
        preset={**COARSE, "budget": 150, "horizon": 50, "iterations": 3, "knots": 6, "beta": 0.0},
    )


def hop() -> MujocoTask:
    """Get up on one leg and hop forward at 2 m/s. Controls are four joint torques."""
    return suite_task(
        "hopper-hop",
        fields=_FIELDS,
        unseen=("qpos[0]", "xipos[*, 0]", "subtree_com[*, 0]"),
        cost=hop_cost,
        planning_cost=hop_planning_cost,
        params=_params,
        preset={"planner": "icem", "budget": 200, "horizon": 40, "iterations": 4, "knots": 8, "beta": 0.0},
    )
