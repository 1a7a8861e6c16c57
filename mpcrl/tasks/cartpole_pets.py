"""`cartpole-pets`: the cart-pole of the PETS paper, swung up and held within 0.6 m of where it started.

State: position (m), angle (rad, 0 hanging, not wrapped), velocity (m/s), rate (rad/s). Control: [-3, 3], 100 N each.
Chua, Calandra, McAllister and Levine: Deep reinforcement learning in a handful of trials using probabilistic dynamics
models, NeurIPS 2018, simulate it with MuJoCo: capsules of 1000 kg/m^3, viscous friction in both joints. The same sizes
here as equations of motion, stepped by the same Runge-Kutta method at the same 0.02 s, two steps per control:

    (M + m) a - m l cos(angle) alpha = 100 u - b velocity - m l rate^2 sin(angle)
    J alpha - m l cos(angle) a = -m g l sin(angle) - b rate

The tip is at (position - 2 l sin(angle), -2 l cos(angle)). At an end of the rail the cart stops.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.tasks.canvas import BLUE, GREEN, GREY, INK, ORANGE, RED, Canvas
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.task import AnalyticTask


class PetsCartpoleParams(NamedTuple):
    """SI units. `inertia` is that of the pole about its hinge, `length` the distance of its tip from there."""

    dt: float = 0.04
    gravity: float = 9.81
    gear: float = 100.0
    cart_mass: float = 1000 * math.pi * (0.1**2 * 0.2 + 4 / 3 * 0.1**3)
    pole_mass: float = 1000 * math.pi * (0.049**2 * 0.6 + 4 / 3 * 0.049**3)
    inertia: float = 0.6404218
    length: float = 0.6
    friction: float = 1.0
    rail: float = 2.5
    control_weight: float = 0.01


class PetsCartpoleCost(NamedTuple):
    """Terms of the stage cost."""

    tip: float
    control: float


def acceleration(angle: float, velocity: float, rate: float, u: float, p: PetsCartpoleParams) -> tuple[float, float]:
    """Accelerations of cart (m/s^2) and pole (rad/s^2)."""
    s, c = math.sin(angle), math.cos(angle)
    lever = 0.5 * p.length * p.pole_mass
    total = p.cart_mass + p.pole_mass
    push = p.gear * u - p.friction * velocity - lever * rate**2 * s
    turn = -lever * p.gravity * s - p.friction * rate
    determinant = total * p.inertia - (lever * c) ** 2
    return (p.inertia * push + lever * c * turn) / determinant, (total * turn + lever * c * push) / determinant


def runge_kutta(x: tuple[float, ...], u: float, h: float, p: PetsCartpoleParams) -> tuple[float, ...]:
    """The state after h seconds, by the classical method, on the rail."""
    position, angle, velocity, rate = x
    a1, b1 = acceleration(angle, velocity, rate, u, p)
    v2, r2 = velocity + 0.5 * h * a1, rate + 0.5 * h * b1
    a2, b2 = acceleration(angle + 0.5 * h * rate, v2, r2, u, p)
    v3, r3 = velocity + 0.5 * h * a2, rate + 0.5 * h * b2
    a3, b3 = acceleration(angle + 0.5 * h * r2, v3, r3, u, p)
    v4, r4 = velocity + h * a3, rate + h * b3
    a4, b4 = acceleration(angle + h * r3, v4, r4, u, p)
    place = position + h / 6.0 * (velocity + 2.0 * v2 + 2.0 * v3 + v4)
    speed = velocity + h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4)
    beyond = abs(place) > p.rail
    return (
        min(max(place, -p.rail), p.rail),
        angle + h / 6.0 * (rate + 2.0 * r2 + 2.0 * r3 + r4),
        0.0 if beyond else speed,
        rate + h / 6.0 * (b1 + 2.0 * b2 + 2.0 * b3 + b4),
    )


def step(x: tuple[float, ...], u: tuple[float, ...], p: PetsCartpoleParams) -> tuple[float, ...]:
    """The state after one control period."""
    return runge_kutta(runge_kutta(x, u[0], 0.5 * p.dt, p), u[0], 0.5 * p.dt, p)


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: PetsCartpoleParams) -> PetsCartpoleCost:
    """-exp(-d^2 / length^2) for the tip's distance d from upright in the middle, and the control."""
    along = x[0] - p.length * math.sin(x[1])
    below = p.length + p.length * math.cos(x[1])
    return PetsCartpoleCost(-math.exp(-(along**2 + below**2) / p.length**2), p.control_weight * u[0] ** 2)


def solved(x: tuple[float, ...], p: PetsCartpoleParams) -> bool:
    """The tip within a quarter of its length of upright in the middle."""
    return (x[0] - p.length * math.sin(x[1])) ** 2 + (p.length + p.length * math.cos(x[1])) ** 2 < (p.length / 4) ** 2


def reset(rng: np.random.Generator) -> np.ndarray:
    """Hanging, near the middle."""
    return rng.normal(0.0, 0.1, 4)


def draw(canvas: Canvas, x: tuple[float, ...], p: PetsCartpoleParams) -> None:
    """Cart, pole, rail and its ends."""
    canvas.view(-2.8, 2.8, -1.6, 1.9)
    canvas.line([(-p.rail, 0.0), (p.rail, 0.0)], 0.02, GREY)
    for end in (-p.rail, p.rail):
        canvas.line([(end, -0.15), (end, 0.15)], 0.03, RED)
    canvas.circle((0.0, p.length), 0.08, GREEN)
    canvas.box((x[0], 0.0), 0.4, 0.2, 0.0, BLUE)
    tip = (x[0] - p.length * math.sin(x[1]), -p.length * math.cos(x[1]))
    canvas.line([(x[0], 0.0), tip], 0.08, ORANGE)
    canvas.circle((x[0], 0.0), 0.04, INK)


def cartpole_pets() -> AnalyticTask:
    """Swing a heavy pole up and hold its tip over the middle of the rail, as in the PETS paper."""
    params = PetsCartpoleParams()
    return AnalyticTask(
        name="cartpole-pets",
        dt=params.dt,
        control_low=np.array([-3.0]),
        control_high=np.array([3.0]),
        params=params,
        cost=cost,
        episode_steps=200,
        preset={"planner": "icem", "budget": 128, "horizon": 25, "beta": 2.0},
        state_names=("position", "angle", "velocity", "rate"),
        control_names=("push",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
        angles=("angle",),
        speeds={"position": "velocity", "angle": "rate"},
        goal=Goal(
            terms=({"position": 1.0, "sin angle": -params.length}, {"cos angle": -params.length}),
            target=(0.0, params.length),
            width=0.25,
        ),
    )
