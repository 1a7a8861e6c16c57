"""A planar walker on two legs."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, below, gaussian, linear, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class WalkerParams(NamedTuple):
    """The torso, where sensordata has the velocity of the centre of mass, the speed asked for in m/s, the torso height
    when standing in m, and weights of the planning cost."""

    torso: int
    velocity: int
    speed: float
    stand_height: float = 1.2
    height_weight: float = 0.5
    upright_weight: float = 0.25
    speed_weight: float = 0.5


def cost(before: Any, u: Any, after: Any, t: int, p: WalkerParams) -> float:
    """The torso high and upright, times forward speed where that is asked for."""
    high = gaussian(below(after.xpos[p.torso, 2], p.stand_height), p.stand_height / 2.0)
    standing = (3.0 * high + (1.0 + after.xmat[p.torso, 8]) / 2.0) / 4.0
    if p.speed == 0.0:
        return -standing
    moving = linear(below(after.sensordata[p.velocity], p.speed), p.speed / 2.0, 0.5)
    return -standing * (5.0 * moving + 1.0) / 6.0


def planning_cost(before: Any, u: Any, after: Any, t: int, p: WalkerParams) -> float:
    """The cost, and height, uprightness and speed one by one: the reward's product is flat while any is missing."""
    low = below(after.xpos[p.torso, 2], p.stand_height) / p.stand_height
    lean = 1.0 - after.xmat[p.torso, 8]
    slow = 0.0
    if p.speed > 0.0:
        slow = min(below(after.sensordata[p.velocity], p.speed) / p.speed, 2.0)
    posture = p.height_weight * low + p.upright_weight * lean + p.speed_weight * slow
    return cost(before, u, after, t, p) + posture


def _task(name: str, speed: float, **preset: Any) -> MujocoTask:
    def params(model: Any, env: Any) -> WalkerParams:
        return WalkerParams(model.body("torso").id, int(model.sensor("torso_subtreelinvel").adr[0]), speed)

    return suite_task(
        f"walker-{name}",
        fields=("xpos", "xmat", "sensordata"),
        unseen=("qpos[1]", "xpos[*, 0]"),
        cost=cost,
        planning_cost=planning_cost,
        params=params,
        preset={**COARSE, "budget": 40, "horizon": 18, "iterations": 2, "elites": 5, **preset},
    )


def stand() -> MujocoTask:
    """Get up on two legs and stand. Controls are six joint torques."""
    return _task("stand", 0.0)


def walk() -> MujocoTask:
    """Get up on two legs and walk at 1 m/s."""
    return _task("walk", 1.0)


def run() -> MujocoTask:
    """Get up on two legs and run at 8 m/s."""
    return _task("run", 8.0, budget=360, iterations=6)
