"""`reacher-2link`: an arm of two rods in a horizontal plane brings its tip to a target.

State: angle_1 (rad, from the axis that points down in the picture), angle_2 (rad, relative to the first rod), rate_1,
rate_2 (rad/s), angles not wrapped. Controls: torques of shoulder and elbow (N m). Mechanics: `two_link` without
gravity, with viscous damping in the joints. The target stands in the parameters and may move at run time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core.vecmath import smooth_abs
from mpcrl.tasks import two_link
from mpcrl.tasks.canvas import BLUE, GREEN, INK, ORANGE, PALE, Canvas
from mpcrl.tasks.task import AnalyticTask


class ReacherParams(NamedTuple):
    """SI units; the target (m) lies in the plane of the arm, its shoulder at the origin."""

    dt: float = 0.04
    target_x: float = 0.45
    target_y: float = 0.55
    gravity: float = 0.0
    damping: float = 0.1
    mass_1: float = 1.0
    mass_2: float = 1.0
    length_1: float = 0.5
    length_2: float = 0.5
    inertia_1: float = 1.0 / 48.0
    inertia_2: float = 1.0 / 48.0
    distance_weight: float = 1.0
    rate_weight: float = 0.01
    torque_weight: float = 0.01


class ReacherCost(NamedTuple):
    """Terms of the stage cost."""

    distance: float
    rate: float
    torque: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: ReacherParams) -> tuple[float, ...]:
    """The state after one control period."""
    return two_link.advance(x, u[0], u[1], p.dt, p)


def tip(x: tuple[float, ...], p: ReacherParams) -> tuple[float, float]:
    """Where the arm ends, m."""
    return (
        p.length_1 * math.sin(x[0]) + p.length_2 * math.sin(x[0] + x[1]),
        -p.length_1 * math.cos(x[0]) - p.length_2 * math.cos(x[0] + x[1]),
    )


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: ReacherParams) -> ReacherCost:
    """Distance of the tip from the target, speed, and effort."""
    tip_x, tip_y = tip(x, p)
    return ReacherCost(
        p.distance_weight * smooth_abs(math.hypot(tip_x - p.target_x, tip_y - p.target_y), 0.05),
        p.rate_weight * (x[2] ** 2 + x[3] ** 2),
        p.torque_weight * (u[0] ** 2 + u[1] ** 2),
    )


def solved(x: tuple[float, ...], p: ReacherParams) -> bool:
    """The tip within 3 cm of the target, the joints slower than 0.3 rad/s."""
    tip_x, tip_y = tip(x, p)
    near = math.hypot(tip_x - p.target_x, tip_y - p.target_y) < 0.03
    return near and abs(x[2]) < 0.3 and abs(x[3]) < 0.3


def reset(rng: np.random.Generator) -> np.ndarray:
    """Any pose, almost still."""
    return rng.uniform((-math.pi, -0.9 * math.pi, -0.1, -0.1), (math.pi, 0.9 * math.pi, 0.1, 0.1))


def draw(canvas: Canvas, x: tuple[float, ...], p: ReacherParams) -> None:
    """The arm from above, and its target."""
    reach = p.length_1 + p.length_2
    canvas.view(-1.3 * reach, 1.3 * reach, -1.15 * reach, 1.15 * reach)
    canvas.circle((0.0, 0.0), reach, PALE)
    canvas.circle((p.target_x, p.target_y), 0.06, GREEN)
    elbow = (p.length_1 * math.sin(x[0]), -p.length_1 * math.cos(x[0]))
    canvas.line([(0.0, 0.0), elbow], 0.08, BLUE)
    canvas.line([elbow, tip(x, p)], 0.08, ORANGE)
    canvas.circle((0.0, 0.0), 0.03, INK)
    canvas.circle(elbow, 0.03, INK)
    canvas.circle(tip(x, p), 0.02, INK)


def reacher_2link() -> AnalyticTask:
    """Bring the tip of a two-link arm to a target and hold it there."""
    params = ReacherParams()
    return AnalyticTask(
        name="reacher-2link",
        dt=params.dt,
        control_low=np.array([-2.0, -1.0]),
        control_high=np.array([2.0, 1.0]),
        params=params,
        cost=cost,
        episode_steps=100,
        preset={"planner": "icem", "budget": 128, "horizon": 12, "beta": 2.0},
        state_names=("angle_1", "angle_2", "rate_1", "rate_2"),
        angles=("angle_1", "angle_2"),
        speeds={"angle_1": "rate_1", "angle_2": "rate_2"},
        control_names=("shoulder", "elbow"),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )
