"""A planar arm with a hand, and a ball."""

from __future__ import annotations

from typing import Any, NamedTuple

from mpcrl.tasks.dm_control.suite import gaussian, outside, suite_task
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.scalars import distance


class ManipulatorParams(NamedTuple):
    """Sites, where the thumb is in qpos, how close is close in m, and weights of the planning cost."""

    ball: int
    target: int
    grasp: int
    pinch: int
    thumb: int
    close: float = 0.01
    bring_weight: float = 1.0
    reach_weight: float = 1.0
    open_weight: float = 0.1
    near: float = 0.05


def bring_ball_cost(before: Any, u: Any, after: Any, t: int, p: ManipulatorParams) -> float:
    """The ball at the target, softly."""
    away = distance(after.site_xpos[p.ball], after.site_xpos[p.target])
    return -gaussian(outside(away, 0.0, p.close), 2.0 * p.close)


def bring_ball_planning_cost(before: Any, u: Any, after: Any, t: int, p: ManipulatorParams) -> float:
    """The cost, the ball's way to the target, the hand's way to the ball, and the hand open until it is there."""
    ball = after.site_xpos[p.ball]
    bring = distance(ball, after.site_xpos[p.target])
    reach = min(distance(ball, after.site_xpos[p.grasp]), distance(ball, after.site_xpos[p.pinch]))
    opened = after.qpos[p.thumb]  # rad; closed when large
    hand = p.open_weight * (opened if reach > p.near else -opened)
    return bring_ball_cost(before, u, after, t, p) + p.bring_weight * bring + p.reach_weight * reach + hand


def bring_ball() -> MujocoTask:
    """Grasp a ball and bring it to a place. Controls: four joints and a grip."""

    def params(model: Any, env: Any) -> ManipulatorParams:
        ball, target, grasp, pinch = (model.site(name).id for name in ("ball", "target_ball", "grasp", "pinch"))
        return ManipulatorParams(ball, target, grasp, pinch, int(model.joint("thumb").qposadr[0]))

    return suite_task(
        "manipulator-bring_ball",
        fields=("site_xpos", "qpos"),
        cost=bring_ball_cost,
        planning_cost=bring_ball_planning_cost,
        params=params,
        preset={"planner": "icem", "budget": 100, "horizon": 30, "iterations": 3},
    )
