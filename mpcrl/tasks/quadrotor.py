"""`quadrotor-obstacles`: a quadrotor flies between spheres to a goal.

State: position x, y, z (m, z up), velocity vx, vy, vz (m/s), attitude quaternion qw, qx, qy, qz (unit, body to world),
body rates wx, wy, wz (rad/s). Controls: total thrust (N) along the body's z axis, and three body torques (N m). A
rigid body with linear drag (Mahony, Kumar and Corke, "Multirotor aerial vehicles", 2012):

    m v' = thrust R(q) e3 - m g e3 - drag v,    q' = q * (0, w) / 2,    J w' = torque - w x (J w)

stepped semi-implicitly (rates, then attitude by the exact rotation of constant rates, then velocity, then position).
Obstacles: rows x, y, z, radius (m) in the parameters; they may move at run time, their number is fixed. A collision
costs and does not end the episode: after an end nothing more is paid, so that a crash would look cheap to a planner.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core.vecmath import smooth_abs
from mpcrl.tasks.canvas import BLUE, GREEN, GREY, INK, ORANGE, PALE, RED, Canvas
from mpcrl.tasks.task import AnalyticTask

OBSTACLES = np.array(
    [
        [-2.1, 0.35, 1.2, 0.55],
        [-1.6, -1.15, 1.4, 0.5],
        [-0.6, -0.35, 0.9, 0.5],
        [-0.3, 1.2, 1.5, 0.6],
        [0.7, 0.45, 1.7, 0.55],
        [0.9, -0.95, 1.1, 0.5],
        [2.0, -0.1, 1.1, 0.5],
        [2.1, 1.25, 1.4, 0.45],
    ]
)
"""[8, 4] x, y, z, radius, m."""


class QuadrotorParams(NamedTuple):
    """SI units; `half_length`, `half_width` and `ceiling` bound the space that may be flown in."""

    obstacles: np.ndarray
    """[8, 4] x, y, z, radius of each sphere, m."""
    goal_x: float = 3.4
    goal_y: float = 0.0
    goal_z: float = 1.3
    dt: float = 0.04
    gravity: float = 9.81
    mass: float = 1.0
    inertia_x: float = 0.01
    inertia_y: float = 0.01
    inertia_z: float = 0.018
    drag: float = 0.1
    body_radius: float = 0.25
    half_length: float = 4.0
    half_width: float = 2.2
    ceiling: float = 2.8
    goal_weight: float = 1.0
    speed_weight: float = 0.05
    tilt_weight: float = 0.5
    rate_weight: float = 0.02
    obstacle_weight: float = 20.0
    margin: float = 0.3
    effort_weight: float = 0.01


class QuadrotorCost(NamedTuple):
    """Terms of the stage cost."""

    goal: float
    speed: float
    attitude: float
    obstacles: float
    effort: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: QuadrotorParams) -> tuple[float, ...]:
    """The state after one control period."""
    px, py, pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = x
    thrust, tx, ty, tz = u
    ax = (tx - (p.inertia_z - p.inertia_y) * wy * wz) / p.inertia_x
    ay = (ty - (p.inertia_x - p.inertia_z) * wz * wx) / p.inertia_y
    az = (tz - (p.inertia_y - p.inertia_x) * wx * wy) / p.inertia_z
    wx, wy, wz = wx + p.dt * ax, wy + p.dt * ay, wz + p.dt * az

    # q * (cos, sin * axis); 1e-12 keeps the axis finite at rest
    rate = math.sqrt(wx**2 + wy**2 + wz**2 + 1e-12)
    c, s = math.cos(0.5 * p.dt * rate), math.sin(0.5 * p.dt * rate) / rate
    ew, ex, ey, ez = (
        c * qw - s * (wx * qx + wy * qy + wz * qz),
        c * qx + s * (wx * qw + wz * qy - wy * qz),
        c * qy + s * (wy * qw - wz * qx + wx * qz),
        c * qz + s * (wz * qw + wy * qx - wx * qy),
    )
    norm = math.sqrt(ew**2 + ex**2 + ey**2 + ez**2)
    qw, qx, qy, qz = ew / norm, ex / norm, ey / norm, ez / norm

    push = thrust / p.mass
    vx = vx + p.dt * (push * 2.0 * (qx * qz + qw * qy) - p.drag / p.mass * vx)
    vy = vy + p.dt * (push * 2.0 * (qy * qz - qw * qx) - p.drag / p.mass * vy)
    vz = vz + p.dt * (push * (1.0 - 2.0 * (qx**2 + qy**2)) - p.gravity - p.drag / p.mass * vz)
    return px + p.dt * vx, py + p.dt * vy, pz + p.dt * vz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz


def obstacle_cost(px: float, py: float, pz: float, p: QuadrotorParams) -> float:
    """1 per sphere that the body touches, plus how deep it is in the margins around spheres and bounds."""
    total = 0.0
    for i in range(8):
        dx, dy, dz = px - p.obstacles[i, 0], py - p.obstacles[i, 1], pz - p.obstacles[i, 2]
        gap = math.sqrt(dx**2 + dy**2 + dz**2) - p.obstacles[i, 3] - p.body_radius
        total += max(1.0 - gap / p.margin, 0.0) ** 2 / 4.0 + (1.0 if gap < 0.0 else 0.0)
    total += max(abs(px) - p.half_length + p.margin, 0.0) ** 2 + max(abs(py) - p.half_width + p.margin, 0.0) ** 2
    return total + max(pz - p.ceiling + p.margin, 0.0) ** 2 + max(p.body_radius + p.margin - pz, 0.0) ** 2


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: QuadrotorParams) -> QuadrotorCost:
    """Distance to the goal, speed, tilt, closeness to obstacles, and effort."""
    px, py, pz, vx, vy, vz, qw, qx, qy, qz, wx, wy, wz = x
    distance = math.sqrt((px - p.goal_x) ** 2 + (py - p.goal_y) ** 2 + (pz - p.goal_z) ** 2)
    return QuadrotorCost(
        p.goal_weight * smooth_abs(distance, 0.3),
        p.speed_weight * (vx**2 + vy**2 + vz**2),
        p.tilt_weight * 2.0 * (qx**2 + qy**2) + p.rate_weight * (wx**2 + wy**2 + wz**2),
        p.obstacle_weight * obstacle_cost(px, py, pz, p),
        p.effort_weight * ((u[0] - p.mass * p.gravity) ** 2 + 100.0 * (u[1] ** 2 + u[2] ** 2 + u[3] ** 2)),
    )


def solved(x: tuple[float, ...], p: QuadrotorParams) -> bool:
    """Within 25 cm of the goal, slower than 0.5 m/s."""
    near = math.sqrt((x[0] - p.goal_x) ** 2 + (x[1] - p.goal_y) ** 2 + (x[2] - p.goal_z) ** 2) < 0.25
    return near and math.sqrt(x[3] ** 2 + x[4] ** 2 + x[5] ** 2) < 0.5


def reset(rng: np.random.Generator) -> np.ndarray:
    """Hovering level on the far side of the obstacles."""
    state = np.zeros(13)
    state[6] = 1.0
    state[:3] = (-3.4, 0.0, 1.2) + rng.uniform(-0.2, 0.2, 3)
    return state


def draw(canvas: Canvas, x: tuple[float, ...], p: QuadrotorParams) -> None:
    """The same scene from above (x, y) and from the side (x, z)."""
    qw, qx, qy, qz = x[6:10]
    # the columns of the rotation matrix: the body's axes in the world
    forward = (1 - 2 * (qy**2 + qz**2), 2 * (qx * qy + qw * qz), 2 * (qx * qz - qw * qy))
    left = (2 * (qx * qy - qw * qz), 1 - 2 * (qx**2 + qz**2), 2 * (qy * qz + qw * qx))
    up = (2 * (qx * qz + qw * qy), 2 * (qy * qz - qw * qx), 1 - 2 * (qx**2 + qy**2))
    arm = 0.7 * p.body_radius
    rotors = [
        tuple(x[k] + arm * (a * forward[k] + b * left[k]) + 0.05 * up[k] for k in range(3))
        for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))
    ]
    split = 0.01 + 0.96 * 2 * p.half_width / (2 * p.half_width + p.ceiling)  # one scale in both panels
    panels = (
        ("from above", 1, -p.half_width, p.half_width, (0.01, 0.01, 0.99, split)),
        ("from the side", 2, 0.0, p.ceiling, (0.01, split + 0.02, 0.99, 0.99)),
    )
    for label, axis, bottom, top, area in panels:
        canvas.view(-p.half_length, p.half_length, bottom, top, area)
        canvas.box((0.0, (bottom + top) / 2), 2 * p.half_length, top - bottom, 0.0, PALE)
        canvas.circle((p.goal_x, (p.goal_y, p.goal_z)[axis - 1]), 0.25, GREEN)
        for row in sorted(p.obstacles.tolist(), key=lambda row: row[2] if axis == 1 else -row[1]):
            near = row[:3] if axis == 1 else [row[0], row[2], row[1]]
            canvas.circle((near[0], near[1]), row[3], GREY)
            canvas.circle((near[0] - 0.2 * row[3], near[1] + 0.2 * row[3]), 0.6 * row[3], (190, 195, 200))
        centre = (x[0], x[axis])
        for rotor in rotors:
            canvas.line([centre, (rotor[0], rotor[axis])], 0.05, INK)
            ring = [
                (
                    rotor[0] + 0.1 * (math.cos(a) * forward[0] + math.sin(a) * left[0]),
                    rotor[axis] + 0.1 * (math.cos(a) * forward[axis] + math.sin(a) * left[axis]),
                )
                for a in np.linspace(0.0, 2.0 * math.pi, 12).tolist()
            ]
            canvas.polygon(ring, BLUE)
        canvas.arrow(centre, (0.4 * x[3], 0.4 * x[3 + axis]), 0.04, ORANGE)
        canvas.circle(centre, 0.06, RED)
        canvas.text((-p.half_length + 0.1, top - 0.18), label, 13, INK)


def quadrotor_obstacles() -> AnalyticTask:
    """Fly a quadrotor between spheres and hover at the goal."""
    params = QuadrotorParams(OBSTACLES.copy())
    return AnalyticTask(
        name="quadrotor-obstacles",
        dt=params.dt,
        control_low=np.array([0.0, -0.05, -0.05, -0.02]),
        control_high=np.array([20.0, 0.05, 0.05, 0.02]),
        params=params,
        cost=cost,
        episode_steps=250,
        preset={"planner": "icem", "budget": 128, "horizon": 35, "beta": 2.0, "width": 0.25},
        state_names=("x", "y", "z", "vx", "vy", "vz", "qw", "qx", "qy", "qz", "wx", "wy", "wz"),
        control_names=("thrust", "torque_x", "torque_y", "torque_z"),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )
