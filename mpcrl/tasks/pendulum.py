"""`pendulum-swingup`: Gymnasium's Pendulum-v1, started hanging.

State: angle (rad, 0 upright, not wrapped), rate (rad/s). Control: torque (N m). A uniform rod of mass m and length l,
stepped semi-implicitly (gymnasium/envs/classic_control/pendulum.py, version 1):

    rate'  = rate + (3 g / (2 l) sin(angle) + 3 / (m l^2) torque) dt, held within +-max_rate
    angle' = angle + rate' dt

The cost is minus Gymnasium's reward, angle^2 + 0.1 rate^2 + 0.001 torque^2 with the angle wrapped. Gravity pulls with
up to m g l / 2 = 5 N m against 2 N m of torque, so the rod has to be swung up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.tasks.canvas import GREEN, INK, ORANGE, PALE, Canvas
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.task import AnalyticTask


class PendulumParams(NamedTuple):
    """SI units; the weights are Gymnasium's."""

    dt: float = 0.05
    gravity: float = 10.0
    mass: float = 1.0
    length: float = 1.0
    max_rate: float = 8.0
    angle_weight: float = 1.0
    rate_weight: float = 0.1
    torque_weight: float = 0.001


class PendulumCost(NamedTuple):
    """Terms of the stage cost."""

    angle: float
    rate: float
    torque: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: PendulumParams) -> tuple[float, ...]:
    """The state after one control period."""
    angle, rate = x
    acceleration = 1.5 * p.gravity / p.length * math.sin(angle) + 3.0 / (p.mass * p.length**2) * u[0]
    rate = min(max(rate + acceleration * p.dt, -p.max_rate), p.max_rate)
    return angle + rate * p.dt, rate


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: PendulumParams) -> PendulumCost:
    """Minus the reward of Pendulum-v1."""
    angle, rate = x
    return PendulumCost(p.angle_weight * wrap_to_pi(angle) ** 2, p.rate_weight * rate**2, p.torque_weight * u[0] ** 2)


def solved(x: tuple[float, ...], p: PendulumParams) -> bool:
    """Upright within 0.2 rad, turning at less than 0.5 rad/s."""
    return abs(wrap_to_pi(x[0])) < 0.2 and abs(x[1]) < 0.5


def energy(x: tuple[float, ...], p: PendulumParams) -> float:
    """Kinetic and potential energy, J; zero at rest at half height."""
    angle, rate = x
    return p.mass * (p.length**2 * rate**2 / 6.0 + 0.5 * p.gravity * p.length * math.cos(angle))


def reset(rng: np.random.Generator) -> np.ndarray:
    """Hanging almost still."""
    return np.array([math.pi, 0.0]) + rng.uniform(-0.1, 0.1, 2)


def draw(canvas: Canvas, x: tuple[float, ...], p: PendulumParams) -> None:
    """The rod, and upright as a mark."""
    canvas.view(-2.0, 2.0, -1.25, 1.25)
    canvas.circle((0.0, 0.0), p.length + 0.1, PALE)
    canvas.circle((0.0, p.length), 0.16, GREEN)
    tip = (p.length * math.sin(x[0]), p.length * math.cos(x[0]))
    canvas.line([(0.0, 0.0), tip], 0.13, ORANGE)
    canvas.circle((0.0, 0.0), 0.05, INK)


def pendulum_swingup() -> AnalyticTask:
    """Swing a rod up with a motor too weak to lift it."""
    params = PendulumParams()
    return AnalyticTask(
        name="pendulum-swingup",
        dt=params.dt,
        control_low=np.array([-2.0]),
        control_high=np.array([2.0]),
        params=params,
        cost=cost,
        episode_steps=200,
        preset={"planner": "icem", "budget": 128, "horizon": 30, "beta": 2.0},
        state_names=("angle", "rate"),
        angles=("angle",),
        speeds={"angle": "rate"},
        control_names=("torque",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
        goal=Goal(terms=({"sin angle": 1.0}, {"cos angle": 1.0}, {"rate": 0.1}), target=(0.0, 1.0, 0.0), width=1.0),
    )
