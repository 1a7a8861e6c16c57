"""Tasks of Gymnasium-Robotics. A control is not `data.ctrl`: it moves a mocap body that the gripper is welded to."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mpcrl.tasks.mujoco_task import MujocoTask, mujoco_task
from mpcrl.tasks.scalars import distance


class FetchParams(NamedTuple):
    """Goal of the episode in m, sites, where a finger is in qpos, how close is close in m, weights of the planning
    cost."""

    goal: np.ndarray
    object: int
    grip: int
    finger: int
    threshold: float
    bring_weight: float = 4.0
    reach_weight: float = 2.0
    open_weight: float = 4.0
    near: float = 0.02


def to_goal(after: Any, p: FetchParams) -> float:
    """Distance from the object to the goal, m."""
    return distance(after.site_xpos[p.object], p.goal)


def sparse_cost(before: Any, u: Any, after: Any, t: int, p: FetchParams) -> float:
    """1 while the object is not at the goal."""
    return 1.0 if to_goal(after, p) > p.threshold else 0.0


def dense_cost(before: Any, u: Any, after: Any, t: int, p: FetchParams) -> float:
    """Distance from the object to the goal."""
    return to_goal(after, p)


def planning_cost(before: Any, u: Any, after: Any, t: int, p: FetchParams) -> float:
    """Distances of the object from the goal and of the gripper from the object, and fingers open until it is there."""
    reach = distance(after.site_xpos[p.object], after.site_xpos[p.grip])
    fingers = after.qpos[p.finger]  # m, open when large
    hand = p.open_weight * (fingers if reach < p.near else -fingers)
    away = to_goal(after, p)
    arrived = 1.0 if away > p.threshold else 0.0
    return arrived + p.bring_weight * away + p.reach_weight * reach + hand


def apply(model: Any, data: Any, u: np.ndarray) -> None:
    """Move the mocap body by up to 5 cm from where the gripper is, and the fingers, as the environment does."""
    from gymnasium_robotics.utils import mujoco_utils

    u = np.clip(u, -1.0, 1.0)
    action = np.concatenate([0.05 * u[:3], (1.0, 0.0, 1.0, 0.0), u[3:], u[3:]])
    mujoco_utils.ctrl_set_action(model, data, action)
    mujoco_utils.mocap_set_action(model, data, action)


def _fetch(name: str, cost: Any) -> MujocoTask:
    def params(model: Any, env: Any) -> FetchParams:
        return FetchParams(
            goal=env.unwrapped.goal.copy(),
            object=model.site("object0").id,
            grip=model.site("robot0:grip").id,
            finger=int(model.joint("robot0:r_gripper_finger_joint").qposadr[0]),
            threshold=env.unwrapped.distance_threshold,
        )

    return mujoco_task(
        f"gymnasium_robotics:{name}",
        fields=("site_xpos", "qpos"),
        cost=cost,
        planning_cost=planning_cost,
        apply=apply,
        params=params,
        preset={"planner": "icem", "budget": 60, "horizon": 12, "iterations": 3, "beta": 2.0},
    )


def fetch_pick_and_place() -> MujocoTask:
    """Grasp a block and bring it to a place on the table or above it. Controls move the gripper
    along three axes, and its fingers."""
    return _fetch("FetchPickAndPlace-v4", sparse_cost)


def fetch_pick_and_place_dense() -> MujocoTask:
    """Grasp a block and bring it to a place, with the distance as the reward."""
    return _fetch("FetchPickAndPlaceDense-v4", dense_cost)
