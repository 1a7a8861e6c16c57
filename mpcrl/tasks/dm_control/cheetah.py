"""A planar cheetah."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import below, linear, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask


class CheetahParams(NamedTuple):
    """Where sensordata has the velocity of the centre of mass, and the speed in m/s from which the reward is 1."""

    velocity: int
    run_speed: float = 10.0


def run_cost(before: Any, u: Any, after: Any, t: int, p: CheetahParams) -> float:
    """Forward speed, linear up to `run_speed`."""
    return -linear(below(after.sensordata[p.velocity], p.run_speed), p.run_speed, 0.0)


def run() -> MujocoTask:
    """Run forward at 10 m/s. Controls are six joint torques."""
    return suite_task(
        "cheetah-run",
        fields=("sensordata",),
        unseen=("qpos[0]",),
        cost=run_cost,
        params=lambda model, env: CheetahParams(velocity=int(model.sensor("torso_subtreelinvel").adr[0])),
        preset={
            "planner": "icem",
            "controls_per_plan": 2,
            "budget": 480,
            "horizon": 56,
            "iterations": 8,
            "decay": 1.0,
            "elites": 8,
            "width": 0.8,
        },
    )
