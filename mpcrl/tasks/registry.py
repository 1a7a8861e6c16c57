"""The tasks that mpcrl brings along, by name."""

from __future__ import annotations

from collections.abc import Callable

from mpcrl.core.errors import unknown_name
from mpcrl.tasks import dm_control, gym_mujoco
from mpcrl.tasks.acrobot import acrobot_swingup
from mpcrl.tasks.cart_double_pendulum import cart_double_pendulum
from mpcrl.tasks.cartpole import cartpole_swingup
from mpcrl.tasks.diffdrive import diffdrive_costmap
from mpcrl.tasks.lqr import lqr
from mpcrl.tasks.mountain_car import mountain_car
from mpcrl.tasks.pendulum import pendulum_swingup
from mpcrl.tasks.quadrotor import quadrotor_obstacles
from mpcrl.tasks.racecar import racecar
from mpcrl.tasks.reacher import reacher_2link
from mpcrl.tasks.task import AnalyticTask, Task

ANALYTIC_TASKS: dict[str, Callable[[], AnalyticTask]] = {
    "lqr": lqr,
    "pendulum-swingup": pendulum_swingup,
    "cartpole-swingup": cartpole_swingup,
    "acrobot-swingup": acrobot_swingup,
    "cart-double-pendulum": cart_double_pendulum,
    "mountain-car": mountain_car,
    "reacher-2link": reacher_2link,
    "quadrotor-obstacles": quadrotor_obstacles,
    "diffdrive-costmap": diffdrive_costmap,
    "racecar": racecar,
}


TASKS: dict[str, Callable[[], Task]] = {
    **ANALYTIC_TASKS,
    "InvertedPendulum-v5": gym_mujoco.inverted_pendulum,
    "InvertedDoublePendulum-v5": gym_mujoco.inverted_double_pendulum,
    "Reacher-v5": gym_mujoco.reacher,
    "Pusher-v5": gym_mujoco.pusher,
    "Swimmer-v5": gym_mujoco.swimmer,
    "HalfCheetah-v5": gym_mujoco.half_cheetah,
    "Hopper-v5": gym_mujoco.hopper,
    "Walker2d-v5": gym_mujoco.walker2d,
    "Ant-v5": gym_mujoco.ant,
    "Humanoid-v5": gym_mujoco.humanoid,
    "HumanoidStandup-v5": gym_mujoco.humanoid_standup,
    "dm_control/cartpole-swingup-v0": dm_control.cartpole_swingup,
    "dm_control/cheetah-run-v0": dm_control.cheetah_run,
}


def make_task(name: str) -> Task:
    """Build the task of this name.

    Raises
    ------
    UnknownName
        There is none; the message offers the nearest names.
    MissingDependency
        The task needs a package that is not installed.
    """
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]()
