"""`cartpole-pilco`: the cart-pole of the PILCO papers, swung up and held with its tip over the middle.

State: position (m), angle (rad, 0 hanging, counterclockwise, not wrapped), velocity (m/s), rate (rad/s). Control: a
force of [-10, 10] N, held for 0.1 s. Deisenroth, Fox and Rasmussen 2015, "Gaussian processes for data-efficient
learning in robotics and control", with the numbers of their own scenario: a cart of 0.5 kg under viscous friction, and
a uniform rod of 0.5 kg and 0.5 m on it, so that

    (M + m) a + (m l / 2) (cos(angle) alpha - rate^2 sin(angle)) = u - b velocity
    (m l^2 / 3) alpha + (m l / 2) (cos(angle) a + g sin(angle)) = 0

The tip is at (position + l sin(angle), -l cos(angle)). Starts are normal around hanging at rest, with 0.1 as standard
deviation of each number; of each number 0.01 is that of the noise of what is seen. There is no end of the rail.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.tasks.canvas import BLUE, GREEN, GREY, INK, ORANGE, Canvas
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.task import AnalyticTask

_SUBSTEPS = 10
"""Of the Runge-Kutta method in a control period: 1e-6 of what an adaptive one gives."""


class PilcoCartpoleParams(NamedTuple):
    """SI units. `width` is that of the cost, in m."""

    dt: float = 0.1
    gravity: float = 9.82
    cart_mass: float = 0.5
    pole_mass: float = 0.5
    length: float = 0.5
    friction: float = 0.1
    width: float = 0.25


class PilcoCartpoleCost(NamedTuple):
    """Terms of the stage cost."""

    tip: float


def acceleration(angle: float, velocity: float, rate: float, u: float, p: PilcoCartpoleParams) -> tuple[float, float]:
    """Accelerations of cart (m/s^2) and pole (rad/s^2)."""
    s, c = math.sin(angle), math.cos(angle)
    push = u - p.friction * velocity + 0.5 * p.pole_mass * p.length * rate * rate * s
    a = (push + 0.75 * p.pole_mass * p.gravity * s * c) / (p.cart_mass + p.pole_mass - 0.75 * p.pole_mass * c * c)
    return a, -1.5 * (c * a + p.gravity * s) / p.length


def step(x: tuple[float, ...], u: tuple[float, ...], p: PilcoCartpoleParams) -> tuple[float, ...]:
    """The state after one control period, by the classical Runge-Kutta method."""
    position, angle, velocity, rate = x
    h = p.dt / _SUBSTEPS
    for _ in range(_SUBSTEPS):
        a1, b1 = acceleration(angle, velocity, rate, u[0], p)
        v2, r2 = velocity + 0.5 * h * a1, rate + 0.5 * h * b1
        a2, b2 = acceleration(angle + 0.5 * h * rate, v2, r2, u[0], p)
        v3, r3 = velocity + 0.5 * h * a2, rate + 0.5 * h * b2
        a3, b3 = acceleration(angle + 0.5 * h * r2, v3, r3, u[0], p)
        v4, r4 = velocity + h * a3, rate + h * b3
        a4, b4 = acceleration(angle + h * r3, v4, r4, u[0], p)
        position += h / 6.0 * (velocity + 2.0 * v2 + 2.0 * v3 + v4)
        angle += h / 6.0 * (rate + 2.0 * r2 + 2.0 * r3 + r4)
        velocity += h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4)
        rate += h / 6.0 * (b1 + 2.0 * b2 + 2.0 * b3 + b4)
    return position, angle, velocity, rate


def off_target(x: tuple[float, ...], p: PilcoCartpoleParams) -> float:
    """Squared distance (m^2) of the tip from upright in the middle."""
    return (x[0] + p.length * math.sin(x[1])) ** 2 + (p.length + p.length * math.cos(x[1])) ** 2


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: PilcoCartpoleParams) -> PilcoCartpoleCost:
    """1 - exp(-d^2 / (2 width^2)) for the tip's distance d from upright in the middle."""
    return PilcoCartpoleCost(1.0 - math.exp(-0.5 * off_target(x, p) / p.width**2))


def solved(x: tuple[float, ...], p: PilcoCartpoleParams) -> bool:
    """The tip within 10 cm of upright in the middle."""
    return off_target(x, p) < 0.01


def reset(rng: np.random.Generator) -> np.ndarray:
    """Hanging at rest, but for 0.1 in each number."""
    return rng.normal(0.0, 0.1, 4)


def draw(canvas: Canvas, x: tuple[float, ...], p: PilcoCartpoleParams) -> None:
    """Cart, pole, and where its tip should be."""
    canvas.view(-2.4, 2.4, -1.4, 1.6)
    canvas.line([(-2.4, 0.0), (2.4, 0.0)], 0.02, GREY)
    canvas.circle((0.0, p.length), 0.08, GREEN)
    canvas.box((x[0], 0.0), 0.3, 0.15, 0.0, BLUE)
    tip = (x[0] + p.length * math.sin(x[1]), -p.length * math.cos(x[1]))
    canvas.line([(x[0], 0.0), tip], 0.05, ORANGE)
    canvas.circle((x[0], 0.0), 0.04, INK)


def cartpole_pilco() -> AnalyticTask:
    """Swing a pole up and hold its tip over the middle, as in the PILCO papers."""
    params = PilcoCartpoleParams()
    return AnalyticTask(
        name="cartpole-pilco",
        dt=params.dt,
        control_low=np.array([-10.0]),
        control_high=np.array([10.0]),
        params=params,
        cost=cost,
        episode_steps=40,
        preset={"planner": "icem", "budget": 128, "horizon": 15},
        state_names=("position", "angle", "velocity", "rate"),
        control_names=("force",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
        angles=("angle",),
        speeds={"position": "velocity", "angle": "rate"},
        sensor_noise=(0.01, 0.01, 0.01, 0.01),
        goal=Goal(
            terms=({"position": 1.0, "sin angle": params.length}, {"cos angle": -params.length}),
            target=(0.0, params.length),
            width=params.width,
        ),
    )
