"""A quadruped with twelve joints."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import COARSE, below, linear, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class QuadrupedParams(NamedTuple):
    """The torso, where sensordata has its velocity in its own frame, and the speed asked for in m/s."""

    torso: int
    velocity: int
    speed: float


def cost(before: Any, u: Any, after: Any, t: int, p: QuadrupedParams) -> float:
    """The torso upright, times its forward speed."""
    upright = linear(below(after.xmat[p.torso, 8], 1.0), 2.0, 0.0)
    return -upright * linear(below(after.sensordata[p.velocity], p.speed), p.speed, 0.5)


def _task(name: str, speed: float, **preset: Any) -> MujocoTask:
    def params(model: Any, env: Any) -> QuadrupedParams:
        return QuadrupedParams(model.body("torso").id, int(model.sensor("velocimeter").adr[0]), speed)

    return suite_task(
        f"quadruped-{name}",
        fields=("xmat", "sensordata"),
        unseen=("qpos[0]", "qpos[1]", "sensordata[33]", "sensordata[34]"),  # the last two of the centre of mass
        cost=cost,
        params=params,
        preset={**COARSE, "budget": 40, "horizon": 20, "iterations": 2, "elites": 5, **preset},
    )


def walk() -> MujocoTask:
    """Get up on four legs and walk at 0.5 m/s. Controls are twelve set lengths."""
    return _task("walk", 0.5, budget=100, horizon=24, iterations=3, elites=8)


def run() -> MujocoTask:
    """Get up on four legs and run at 5 m/s."""
    return _task("run", 5.0, budget=160, iterations=4)
