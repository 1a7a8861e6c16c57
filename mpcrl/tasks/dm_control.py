"""Tasks of the DeepMind Control Suite (Tassa et al. 2018); each cost is minus the suite's own reward, to rounding.

Rewards lie in [0, 1] per control step. They read derived fields that belong to the state after the step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task

_EPISODE_STEPS = 1000  # of every task in the suite's benchmark


def gaussian(x: float, margin: float) -> float:
    """The suite's soft indicator of x = 0: 1 there, 0.1 at the margin."""
    return math.exp(math.log(0.1) * (x / margin) ** 2)


class CartpoleParams(NamedTuple):
    """Where the reward's soft indicators fall to 0.1: cart position in m, the pole's angular velocity in rad/s."""

    position_margin: float = 2.0
    velocity_margin: float = 5.0


def cartpole_swingup_cost(before: Any, u: Any, after: Any, t: int, p: CartpoleParams) -> float:
    """Pole upright, times (weakly) a centred cart, a small control and a slow pole."""
    upright = (math.cos(after.qpos[1]) + 1) / 2
    centred = (1 + gaussian(after.qpos[0], p.position_margin)) / 2
    small_control = (4 + max(0.0, 1 - u[0] * u[0])) / 5
    slow = (1 + gaussian(after.qvel[1], p.velocity_margin)) / 2
    return -upright * centred * small_control * slow


def cartpole_swingup() -> MujocoTask:
    """dm_control/cartpole-swingup-v0: swing a hanging pole up and hold it. The control is a force in units of 10 N."""
    return mujoco_task(
        "dm_control/cartpole-swingup-v0",
        fields=("qpos", "qvel"),
        cost=cartpole_swingup_cost,
        params=CartpoleParams(),
        current=True,
        episode_steps=_EPISODE_STEPS,
        preset={"planner": "icem", "budget": 100, "horizon": 100, "iterations": 2, "knots": 6, "beta": 0.0},
    )


class CheetahParams(NamedTuple):
    """Speed in m/s from which the reward is 1."""

    run_speed: float = 10.0


def cheetah_run_cost(before: Any, u: Any, after: Any, t: int, p: CheetahParams) -> float:
    """Forward speed of the centre of mass (the model's one sensor), linear up to `run_speed`."""
    return -min(max(after.sensordata[0] / p.run_speed, 0.0), 1.0)


def cheetah_run() -> MujocoTask:
    """dm_control/cheetah-run-v0: run forward at 10 m/s. Controls are six joint torques in [-1, 1]."""
    return mujoco_task(
        "dm_control/cheetah-run-v0",
        fields=("sensordata",),
        cost=cheetah_run_cost,
        params=CheetahParams(),
        current=True,
        episode_steps=_EPISODE_STEPS,
        preset={"planner": "icem", "budget": 240, "horizon": 56, "iterations": 6, "beta": 2.5, "elites": 6},
    )
