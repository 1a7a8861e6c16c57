"""`cartpole-swingup` and `cartpole-balance`: a pole hinged on a cart, pushed from hanging to upright, or kept there.

State: position (m), angle (rad, 0 upright, clockwise, not wrapped), velocity (m/s), rate (rad/s). Control: force on the
cart (N). A uniform pole of mass m and half length l without friction (Barto, Sutton and Anderson 1983, in the form that
Florian 2007, "Correct equations for the dynamics of the cart-pole system", derives):

    (M + m) a + m l cos(angle) alpha = force + m l rate^2 sin(angle)
    m l cos(angle) a + 4/3 m l^2 alpha = m g l sin(angle)

for the accelerations a and alpha; stepped by the classical Runge-Kutta method. Sizes are Gymnasium's CartPole-v1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core.vecmath import smooth_abs, wrap_to_pi
from mpcrl.tasks.canvas import BLUE, GREEN, GREY, INK, ORANGE, RED, Canvas
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.task import AnalyticTask


class CartpoleParams(NamedTuple):
    """SI units; `rail` is how far the cart may go to either side before it costs."""

    dt: float = 0.04
    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    rail: float = 2.0
    angle_weight: float = 1.0
    position_weight: float = 0.2
    velocity_weight: float = 0.02
    rate_weight: float = 0.01
    force_weight: float = 0.0005
    rail_weight: float = 20.0


class CartpoleCost(NamedTuple):
    """Terms of the stage cost."""

    angle: float
    position: float
    speed: float
    force: float
    rail: float


def acceleration(angle: float, rate: float, force: float, p: CartpoleParams | BalanceParams) -> tuple[float, float]:
    """Accelerations of cart (m/s^2) and pole (rad/s^2)."""
    s, c = math.sin(angle), math.cos(angle)
    total = p.cart_mass + p.pole_mass
    push = (force + p.pole_mass * p.half_length * rate**2 * s) / total
    turn = (p.gravity * s - c * push) / (p.half_length * (4.0 / 3.0 - p.pole_mass * c**2 / total))
    return push - p.pole_mass * p.half_length * c * turn / total, turn


def step(x: tuple[float, ...], u: tuple[float, ...], p: CartpoleParams | BalanceParams) -> tuple[float, ...]:
    """The state after one control period."""
    position, angle, velocity, rate = x
    h = p.dt
    a1, b1 = acceleration(angle, rate, u[0], p)
    a2, b2 = acceleration(angle + 0.5 * h * rate, rate + 0.5 * h * b1, u[0], p)
    a3, b3 = acceleration(angle + 0.5 * h * rate + 0.25 * h**2 * b1, rate + 0.5 * h * b2, u[0], p)
    a4, b4 = acceleration(angle + h * rate + 0.5 * h**2 * b2, rate + h * b3, u[0], p)
    return (
        position + h * velocity + h**2 / 6.0 * (a1 + a2 + a3),
        angle + h * rate + h**2 / 6.0 * (b1 + b2 + b3),
        velocity + h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4),
        rate + h / 6.0 * (b1 + 2.0 * b2 + 2.0 * b3 + b4),
    )


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: CartpoleParams) -> CartpoleCost:
    """Distance from standing upright in the middle of the rail."""
    position, angle, velocity, rate = x
    return CartpoleCost(
        p.angle_weight * (1.0 - math.cos(angle)),
        p.position_weight * smooth_abs(position, 0.3),
        p.velocity_weight * velocity**2 + p.rate_weight * rate**2,
        p.force_weight * u[0] ** 2,
        p.rail_weight * max(abs(position) - p.rail, 0.0) ** 2,
    )


def solved(x: tuple[float, ...], p: CartpoleParams) -> bool:
    """Upright within 0.2 rad, turning at less than 0.5 rad/s, within half a metre of the middle."""
    return abs(wrap_to_pi(x[1])) < 0.2 and abs(x[3]) < 0.5 and abs(x[0]) < 0.5


def energy(x: tuple[float, ...], p: CartpoleParams) -> float:
    """Kinetic and potential energy, J; zero at rest with the pole level."""
    _, angle, velocity, rate = x
    m, l = p.pole_mass, p.half_length
    kinetic = 0.5 * (p.cart_mass + m) * velocity**2 + m * l * math.cos(angle) * velocity * rate
    return kinetic + 2.0 / 3.0 * m * l**2 * rate**2 + m * p.gravity * l * math.cos(angle)


def reset(rng: np.random.Generator) -> np.ndarray:
    """The pole hanging almost still, the cart near the middle."""
    return np.array([0.0, math.pi, 0.0, 0.0]) + rng.uniform(-0.1, 0.1, 4)


def draw(canvas: Canvas, x: tuple[float, ...], p: CartpoleParams | BalanceParams) -> None:
    """Cart, pole, rail and its ends."""
    canvas.view(-2.6, 2.6, -1.5, 1.75)
    canvas.line([(-2.6, 0.0), (2.6, 0.0)], 0.02, GREY)
    for end in (-p.rail, p.rail):
        canvas.line([(end, -0.15), (end, 0.15)], 0.03, RED)
    canvas.circle((0.0, 2.0 * p.half_length), 0.11, GREEN)
    canvas.box((x[0], 0.0), 0.6, 0.3, 0.0, BLUE)
    tip = (x[0] + 2.0 * p.half_length * math.sin(x[1]), 2.0 * p.half_length * math.cos(x[1]))
    canvas.line([(x[0], 0.0), tip], 0.09, ORANGE)
    canvas.circle((x[0], 0.0), 0.04, INK)


def cartpole_swingup() -> AnalyticTask:
    """Swing a pole up by moving its cart, and hold it in the middle of the rail."""
    params = CartpoleParams()
    return AnalyticTask(
        name="cartpole-swingup",
        dt=params.dt,
        control_low=np.array([-10.0]),
        control_high=np.array([10.0]),
        params=params,
        cost=cost,
        episode_steps=250,
        preset={"planner": "icem", "budget": 128, "horizon": 30, "beta": 2.0},
        state_names=("position", "angle", "velocity", "rate"),
        control_names=("force",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
        angles=("angle",),
        speeds={"position": "velocity", "angle": "rate"},
        goal=Goal(
            terms=({"position": 1.0, "sin angle": 2 * params.half_length}, {"cos angle": 2 * params.half_length}),
            target=(0.0, 2 * params.half_length),
            width=0.25,
        ),
    )


class BalanceParams(NamedTuple):
    """SI units, as CartPole-v1; an episode ends beyond `rail` and `max_angle`."""

    dt: float = 0.02
    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    rail: float = 2.4
    max_angle: float = 12 * math.pi / 180
    lean_weight: float = 20.0
    away_weight: float = 1.0


class BalanceCost(NamedTuple):
    """The one term of the stage cost."""

    standing: float


def fallen(x: tuple[float, ...], p: BalanceParams) -> bool:
    """Whether the pole leans too far, or the cart has left the rail."""
    return abs(x[0]) > p.rail or abs(x[1]) > p.max_angle


def balance_cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: BalanceParams) -> BalanceCost:
    """-1 for each control step that begins with the pole up."""
    return BalanceCost(0.0 if fallen(x, p) else -1.0)


def standing(x: tuple[float, ...], p: BalanceParams) -> bool:
    """Whether the episode goes on."""
    return not fallen(x, p)


def balance_terminal(x: tuple[float, ...], p: BalanceParams) -> float:
    """Where a plan ends, leaning and being away from the middle, both as they will be half a second later: what leads
    to a fall comes before it."""
    position, angle, velocity, rate = x
    return p.lean_weight * (angle + 0.5 * rate) ** 2 + p.away_weight * (position + 0.5 * velocity) ** 2


def balance_reset(rng: np.random.Generator) -> np.ndarray:
    """Almost upright, almost at rest."""
    return rng.uniform(-0.05, 0.05, 4)


def cartpole_balance() -> AnalyticTask:
    """CartPole-v1 with a force that is any between its two: stay up for 200 control steps."""
    params = BalanceParams()
    return AnalyticTask(
        name="cartpole-balance",
        dt=params.dt,
        control_low=np.array([-10.0]),
        control_high=np.array([10.0]),
        params=params,
        cost=balance_cost,
        terminal=balance_terminal,
        terminated=fallen,
        episode_steps=200,
        preset={"planner": "icem", "budget": 128, "horizon": 25, "beta": 1.0},
        state_names=("position", "angle", "velocity", "rate"),
        control_names=("force",),
        step=step,
        reset=balance_reset,
        solved=standing,
        draw=draw,
        angles=("angle",),
        speeds={"position": "velocity", "angle": "rate"},
        goal=Goal(
            terms=({"position": 1.0, "sin angle": 2 * params.half_length}, {"cos angle": 2 * params.half_length}),
            target=(0.0, 2 * params.half_length),
            width=0.25,
        ),
    )
