"""A humanoid with 21 joints."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, below, gaussian, linear, small_control, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class HumanoidParams(NamedTuple):
    """Bodies, where sensordata has the velocity of the centre of mass, the speed asked for in m/s, the head's height
    when standing in m, and weights of the planning cost."""

    torso: int
    head: int
    left_foot: int
    right_foot: int
    velocity: int
    speed: float
    stand_height: float = 1.4
    height_weight: float = 1.0
    upright_weight: float = 0.5
    balance_weight: float = 0.5
    lead_time: float = 0.3


def head_high(after: Any, p: HumanoidParams) -> float:
    """1 from the height when standing on, 0.1 a quarter below."""
    return gaussian(below(after.xpos[p.head, 2], p.stand_height), p.stand_height / 4.0)


def standing(u: Any, after: Any, p: HumanoidParams) -> float:
    """1 with the head high, the torso upright and no control."""
    upright = linear(below(after.xmat[p.torso, 8], 0.9), 1.9, 0.0)
    return head_high(after, p) * upright * small_control(u)


def speed_over_ground(after: Any, p: HumanoidParams) -> float:
    """Of the centre of mass, m/s."""
    return math.sqrt(after.sensordata[p.velocity] ** 2 + after.sensordata[p.velocity + 1] ** 2)


def speed_share(after: Any, p: HumanoidParams) -> float:
    """1 from the speed asked for on, 0 when still."""
    return linear(below(speed_over_ground(after, p), p.speed), p.speed, 0.0)


def cost(before: Any, u: Any, after: Any, t: int, p: HumanoidParams) -> float:
    """Head high, torso upright and small controls, times the speed asked for, or stillness."""
    if p.speed == 0.0:
        vx, vy = after.sensordata[p.velocity], after.sensordata[p.velocity + 1]
        moving = (gaussian(vx, 2.0) + gaussian(vy, 2.0)) / 2.0
    else:
        moving = (5.0 * speed_share(after, p) + 1.0) / 6.0
    return -standing(u, after, p) * moving


def planning_cost(before: Any, u: Any, after: Any, t: int, p: HumanoidParams) -> float:
    """The cost, or for a speed a kinder one; the head's height and the torso's uprightness one by one; and the distance
    of the capture point (where the mass will be in `lead_time`, by what it moves faster than asked for) from the middle
    of the feet.

    Who is asked for a speed has to get up first: standing still is charged half of what moving is, not a sixth, and
    while the head is low the capture point counts as if stillness were asked for.
    """
    paid = cost(before, u, after, t, p) if p.speed == 0.0 else -standing(u, after, p) * (1.0 + speed_share(after, p))
    low = below(after.xpos[p.head, 2], p.stand_height) / p.stand_height
    lean = 1.0 - after.xmat[p.torso, 8]
    lead = p.lead_time * (1.0 - head_high(after, p) * min(1.0, p.speed / max(speed_over_ground(after, p), 1e-6)))
    away = 0.0
    for axis in range(2):
        middle = (after.xpos[p.left_foot, axis] + after.xpos[p.right_foot, axis]) / 2.0
        away += (after.subtree_com[p.torso, axis] + lead * after.sensordata[p.velocity + axis] - middle) ** 2
    posture = p.height_weight * low + p.upright_weight * lean + p.balance_weight * min(math.sqrt(away), 1.0)
    return paid + posture


def _task(name: str, speed: float, **preset: Any) -> MujocoTask:
    def params(model: Any, env: Any) -> HumanoidParams:
        torso, head, left, right = (model.body(part).id for part in ("torso", "head", "left_foot", "right_foot"))
        return HumanoidParams(torso, head, left, right, int(model.sensor("torso_subtreelinvel").adr[0]), speed)

    return suite_task(
        f"humanoid-{name}",
        fields=("xpos", "xmat", "subtree_com", "sensordata"),
        unseen=("qpos[0]", "qpos[1]", "xpos[*, 0]", "xpos[*, 1]", "subtree_com[*, 0]", "subtree_com[*, 1]"),
        cost=cost,
        planning_cost=planning_cost,
        params=params,
        preset={**COARSE, "budget": 240, "horizon": 20, "iterations": 4, **preset},
    )


def stand() -> MujocoTask:
    """Get up and stand still. Controls are 21 joint torques."""
    return _task("stand", 0.0)


def walk() -> MujocoTask:
    """Get up and walk at 1 m/s, whichever way."""
    return _task("walk", 1.0)


def run() -> MujocoTask:
    """Get up and run at 10 m/s, whichever way."""
    return _task("run", 10.0)
