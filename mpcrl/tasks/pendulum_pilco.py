"""`pendulum-pilco`: the pendulum of the PILCO software, swung up by a motor too weak to lift it.

State: angle (rad, 0 upright, not wrapped), rate (rad/s), as in `pendulum-swingup`; PILCO counts from hanging. Control:
a torque of [-2.5, 2.5] N m, held for 0.1 s, where gravity pulls with up to m g l / 2 = 4.9 N m. A uniform rod of 1 kg
and 1 m under viscous friction, with the numbers of the scenario `pendulum` of version 0.9 of the software that belongs
to Deisenroth, Fox and Rasmussen 2015, "Gaussian processes for data-efficient learning in robotics and control":

    (m l^2 / 3) alpha = u - b rate + (m g l / 2) sin(angle)

The step of `pendulum-swingup`, Gymnasium's semi-implicit Euler with a bound on the rate, is not that equation at 0.1 s;
this one is. Starts are normal around hanging at rest, with 0.1 as standard deviation of each number; 0.01 rad and
0.1 rad/s are those of the noise of what is seen.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.tasks.goal import Goal
from mpcrl.tasks.pendulum import draw, solved
from mpcrl.tasks.task import AnalyticTask

_SUBSTEPS = 4
"""Of the Runge-Kutta method in a control period: up to 15 rad/s within 2e-5 of what an adaptive one gives."""


class PilcoPendulumParams(NamedTuple):
    """SI units. `width` is that of the cost, in m."""

    dt: float = 0.1
    gravity: float = 9.82
    mass: float = 1.0
    length: float = 1.0
    friction: float = 0.01
    width: float = 0.5


class PilcoPendulumCost(NamedTuple):
    """Terms of the stage cost."""

    tip: float


def acceleration(angle: float, rate: float, u: float, p: PilcoPendulumParams) -> float:
    """Angular acceleration (rad/s^2)."""
    torque = u - p.friction * rate + 0.5 * p.mass * p.gravity * p.length * math.sin(angle)
    return 3.0 * torque / (p.mass * p.length**2)


def step(x: tuple[float, ...], u: tuple[float, ...], p: PilcoPendulumParams) -> tuple[float, ...]:
    """The state after one control period, by the classical Runge-Kutta method."""
    angle, rate = x
    h = p.dt / _SUBSTEPS
    for _ in range(_SUBSTEPS):
        a1 = acceleration(angle, rate, u[0], p)
        r2 = rate + 0.5 * h * a1
        a2 = acceleration(angle + 0.5 * h * rate, r2, u[0], p)
        r3 = rate + 0.5 * h * a2
        a3 = acceleration(angle + 0.5 * h * r2, r3, u[0], p)
        r4 = rate + h * a3
        a4 = acceleration(angle + h * r3, r4, u[0], p)
        angle += h / 6.0 * (rate + 2.0 * r2 + 2.0 * r3 + r4)
        rate += h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4)
    return angle, rate


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: PilcoPendulumParams) -> PilcoPendulumCost:
    """1 - exp(-d^2 / (2 width^2)) for the tip's distance d from upright."""
    squared = 2.0 * p.length**2 * (1.0 - math.cos(x[0]))
    return PilcoPendulumCost(1.0 - math.exp(-0.5 * squared / p.width**2))


def reset(rng: np.random.Generator) -> np.ndarray:
    """Hanging at rest, but for 0.1 in each number."""
    return rng.normal((math.pi, 0.0), 0.1)


def pendulum_pilco() -> AnalyticTask:
    """Swing a rod up with a motor too weak to lift it, as in the PILCO software."""
    params = PilcoPendulumParams()
    return AnalyticTask(
        name="pendulum-pilco",
        dt=params.dt,
        control_low=np.array([-2.5]),
        control_high=np.array([2.5]),
        params=params,
        cost=cost,
        episode_steps=100,
        preset={"planner": "icem", "budget": 128, "horizon": 20},
        state_names=("angle", "rate"),
        control_names=("torque",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
        angles=("angle",),
        speeds={"angle": "rate"},
        sensor_noise=(0.01, 0.1),
        goal=Goal(
            terms=({"sin angle": params.length}, {"cos angle": params.length}),
            target=(0.0, params.length),
            width=params.width,
        ),
    )
