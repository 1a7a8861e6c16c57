"""`cart-double-pendulum`: two rods, one on the other, on a cart; `cart-double-pendulum-pilco`: that of PILCO.

State: position (m), angle_1, angle_2 (rad, both from upright, clockwise, not wrapped), velocity (m/s), rate_1, rate_2
(rad/s). Control: force on the cart (N). Uniform rods without friction, on a cart with viscous friction b or without.
With the accelerations (a, b1, b2), c_i = cos(angle_i), s_i = sin(angle_i), c = cos(angle_1 - angle_2), s =
sin(angle_1 - angle_2) (Bogdanov, "Optimal control of a double inverted pendulum on a cart", 2004):

    [d1     d2 c1  d3 c2] [a ]   [force - b velocity + d2 s1 rate_1^2 + d3 s2 rate_2^2]
    [d2 c1  d4     d5 c ] [b1] = [f1 s1 - d5 s rate_2^2                               ]
    [d3 c2  d5 c   d6   ] [b2]   [f2 s2 + d5 s rate_1^2                               ]

One step of the classical Runge-Kutta method per control period, which keeps the energy of free whirling to two percent
over ten seconds. As in `acrobot-swingup` the terminal cost is that of the optimal linear feedback near the top, capped,
and the energy of the rods leads there.

The other task has the numbers of the scenario `cartDoublePendulum` of version 0.9 of the software that belongs to
Deisenroth, Fox and Rasmussen 2015, "Gaussian processes for data-efficient learning in robotics and control": cart and
rods of 0.5 kg, rods of 0.6 m, a force of [-20, 20] N held for 0.05 s. Starts are normal around hanging at rest, with
0.01 as standard deviation of the angles and 0.1 of the rest; of each number 0.01 is that of the noise of what is seen.
Its goal is PILCO's cost of the tip, but for the software's taking the rods for 1 m long there; plans minimise the cost
that both tasks share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mpcrl.core.vecmath import smooth_abs, wrap_to_pi
from mpcrl.tasks.canvas import BLUE, GREEN, GREY, INK, ORANGE, RED, Canvas
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.riccati import linearise, riccati
from mpcrl.tasks.task import AnalyticTask

_SUBSTEPS = 5
"""Of the Runge-Kutta method in PILCO's control period of 0.05 s, where one step is off by 0.05 at 6 rad/s."""


class CartDoublePendulumParams(NamedTuple):
    """SI units; `rail` is how far the cart may go to either side before it costs."""

    value: np.ndarray
    """[6, 6] P of the terminal cost, in the order of the state."""
    dt: float = 0.02
    gravity: float = 9.8
    cart_mass: float = 1.0
    mass_1: float = 0.3
    mass_2: float = 0.15
    length_1: float = 1.0
    length_2: float = 1.0
    friction: float = 0.0
    rail: float = 2.0
    angle_weight: float = 1.0
    energy_weight: float = 3.0
    position_weight: float = 0.2
    velocity_weight: float = 0.02
    force_weight: float = 0.0002
    rail_weight: float = 20.0
    terminal_cap: float = 100.0


class CartDoublePendulumCost(NamedTuple):
    """Terms of the stage cost."""

    angle: float
    energy: float
    position: float
    velocity: float
    force: float
    rail: float


def acceleration(
    angle_1: float, angle_2: float, rate_1: float, rate_2: float, force: float, p: CartDoublePendulumParams
) -> tuple[float, float, float]:
    """Accelerations of cart (m/s^2) and rods (rad/s^2): the linear system above, solved by elimination."""
    s1, c1, s2, c2 = math.sin(angle_1), math.cos(angle_1), math.sin(angle_2), math.cos(angle_2)
    s, c = math.sin(angle_1 - angle_2), math.cos(angle_1 - angle_2)
    d1 = p.cart_mass + p.mass_1 + p.mass_2
    d2, d3 = (0.5 * p.mass_1 + p.mass_2) * p.length_1, 0.5 * p.mass_2 * p.length_2
    d4, d6 = (p.mass_1 / 3.0 + p.mass_2) * p.length_1**2, p.mass_2 * p.length_2**2 / 3.0
    d5 = 0.5 * p.mass_2 * p.length_1 * p.length_2
    r1 = force + d2 * s1 * rate_1**2 + d3 * s2 * rate_2**2
    r2 = p.gravity * d2 * s1 - d5 * s * rate_2**2
    r3 = p.gravity * d3 * s2 + d5 * s * rate_1**2
    # the last two rows without the first unknown
    m22, m23, m33 = d4 - (d2 * c1) ** 2 / d1, d5 * c - d2 * c1 * d3 * c2 / d1, d6 - (d3 * c2) ** 2 / d1
    r2, r3 = r2 - d2 * c1 * r1 / d1, r3 - d3 * c2 * r1 / d1
    determinant = m22 * m33 - m23**2
    b1, b2 = (m33 * r2 - m23 * r3) / determinant, (m22 * r3 - m23 * r2) / determinant
    return (r1 - d2 * c1 * b1 - d3 * c2 * b2) / d1, b1, b2


def advanced(x: tuple[float, ...], u: tuple[float, ...], h: float, p: CartDoublePendulumParams) -> tuple[float, ...]:
    """The state `h` seconds later, by one step of the classical Runge-Kutta method."""
    position, q1, q2, velocity, w1, w2 = x
    g, force, b = 0.5 * h, u[0], p.friction
    push = force - b * velocity
    a1, b1, c1 = acceleration(q1, q2, w1, w2, push, p)
    push = force - b * (velocity + g * a1)
    a2, b2, c2 = acceleration(q1 + g * w1, q2 + g * w2, w1 + g * b1, w2 + g * c1, push, p)
    push = force - b * (velocity + g * a2)
    a3, b3, c3 = acceleration(q1 + g * w1 + g**2 * b1, q2 + g * w2 + g**2 * c1, w1 + g * b2, w2 + g * c2, push, p)
    push = force - b * (velocity + h * a3)
    a4, b4, c4 = acceleration(q1 + h * w1 + h * g * b2, q2 + h * w2 + h * g * c2, w1 + h * b3, w2 + h * c3, push, p)
    return (
        position + h * velocity + h**2 / 6.0 * (a1 + a2 + a3),
        q1 + h * w1 + h**2 / 6.0 * (b1 + b2 + b3),
        q2 + h * w2 + h**2 / 6.0 * (c1 + c2 + c3),
        velocity + h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4),
        w1 + h / 6.0 * (b1 + 2.0 * b2 + 2.0 * b3 + b4),
        w2 + h / 6.0 * (c1 + 2.0 * c2 + 2.0 * c3 + c4),
    )


def step(x: tuple[float, ...], u: tuple[float, ...], p: CartDoublePendulumParams) -> tuple[float, ...]:
    """The state after one control period."""
    return advanced(x, u, p.dt, p)


def step_finely(x: tuple[float, ...], u: tuple[float, ...], p: CartDoublePendulumParams) -> tuple[float, ...]:
    """The state after one control period of PILCO's task."""
    for _ in range(_SUBSTEPS):
        x = advanced(x, u, p.dt / _SUBSTEPS, p)
    return x


def rod_energy(angle_1: float, angle_2: float, rate_1: float, rate_2: float, p: CartDoublePendulumParams) -> float:
    """Kinetic and potential energy of the rods with the cart held, J; zero at rest with both rods level."""
    d2, d3 = (0.5 * p.mass_1 + p.mass_2) * p.length_1, 0.5 * p.mass_2 * p.length_2
    d4, d6 = (p.mass_1 / 3.0 + p.mass_2) * p.length_1**2, p.mass_2 * p.length_2**2 / 3.0
    d5 = 0.5 * p.mass_2 * p.length_1 * p.length_2
    kinetic = 0.5 * d4 * rate_1**2 + 0.5 * d6 * rate_2**2 + d5 * math.cos(angle_1 - angle_2) * rate_1 * rate_2
    return kinetic + p.gravity * (d2 * math.cos(angle_1) + d3 * math.cos(angle_2))


def energy(x: tuple[float, ...], p: CartDoublePendulumParams) -> float:
    """Kinetic and potential energy of rods and cart, J."""
    _, q1, q2, velocity, w1, w2 = x
    d2, d3 = (0.5 * p.mass_1 + p.mass_2) * p.length_1, 0.5 * p.mass_2 * p.length_2
    cart = 0.5 * (p.cart_mass + p.mass_1 + p.mass_2) * velocity**2
    return cart + velocity * (d2 * math.cos(q1) * w1 + d3 * math.cos(q2) * w2) + rod_energy(q1, q2, w1, w2, p)


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: CartDoublePendulumParams) -> CartDoublePendulumCost:
    """Distance from standing upright in the middle of the rail, and energy that the rods lack or have too much."""
    position, q1, q2, velocity, w1, w2 = x
    top = rod_energy(0.0, 0.0, 0.0, 0.0, p)
    return CartDoublePendulumCost(
        p.angle_weight * (2.0 - math.cos(q1) - math.cos(q2)),
        p.energy_weight * abs(rod_energy(q1, q2, w1, w2, p) / top - 1.0),
        p.position_weight * smooth_abs(position, 0.3),
        p.velocity_weight * velocity**2,
        p.force_weight * u[0] ** 2,
        p.rail_weight * max(abs(position) - p.rail, 0.0) ** 2,
    )


def terminal(x: tuple[float, ...], p: CartDoublePendulumParams) -> float:
    """The capped cost of balancing from here on."""
    error = (x[0], wrap_to_pi(x[1]), wrap_to_pi(x[2]), x[3], x[4], x[5])
    value = 0.0
    for i in range(6):
        for j in range(6):
            value += p.value[i, j] * error[i] * error[j]
    return p.terminal_cap * value / (p.terminal_cap + value)


def solved(x: tuple[float, ...], p: CartDoublePendulumParams) -> bool:
    """Both rods upright within 0.25 rad, turning at less than 1 rad/s, within half a metre of the middle."""
    position, q1, q2, _, w1, w2 = x
    upright = abs(wrap_to_pi(q1)) < 0.25 and abs(wrap_to_pi(q2)) < 0.25
    return upright and abs(w1) < 1.0 and abs(w2) < 1.0 and abs(position) < 0.5


def reset(rng: np.random.Generator) -> np.ndarray:
    """Both rods hanging almost still, the cart near the middle."""
    return np.array([0.0, math.pi, math.pi, 0.0, 0.0, 0.0]) + rng.uniform(-0.1, 0.1, 6)


def reset_pilco(rng: np.random.Generator) -> np.ndarray:
    """Hanging at rest, but for 0.01 rad in the angles and 0.1 in the rest."""
    return rng.normal((0.0, math.pi, math.pi, 0.0, 0.0, 0.0), (0.1, 0.01, 0.01, 0.1, 0.1, 0.1))


def draw(canvas: Canvas, x: tuple[float, ...], p: CartDoublePendulumParams) -> None:
    """Cart, rods, rail and its ends."""
    canvas.view(-3.6, 3.6, -2.2, 2.3)
    canvas.line([(-2.6, 0.0), (2.6, 0.0)], 0.02, GREY)
    for end in (-p.rail, p.rail):
        canvas.line([(end, -0.15), (end, 0.15)], 0.03, RED)
    canvas.circle((0.0, p.length_1 + p.length_2), 0.11, GREEN)
    canvas.box((x[0], 0.0), 0.6, 0.3, 0.0, BLUE)
    middle = (x[0] + p.length_1 * math.sin(x[1]), p.length_1 * math.cos(x[1]))
    tip = (middle[0] + p.length_2 * math.sin(x[2]), middle[1] + p.length_2 * math.cos(x[2]))
    canvas.line([(x[0], 0.0), middle], 0.09, ORANGE)
    canvas.line([middle, tip], 0.09, ORANGE)
    canvas.circle((x[0], 0.0), 0.04, INK)
    canvas.circle(middle, 0.04, INK)


def balanced(params: CartDoublePendulumParams, step: Callable[..., tuple[float, ...]]) -> CartDoublePendulumParams:
    """The same with the terminal cost of balancing by this step."""
    A, B = linearise(step, np.zeros(6), np.zeros(1), params)
    weights = np.diag([0.2, 1.0, 1.0, 0.05, 0.1, 0.1])
    return params._replace(value=riccati(A, B, weights, np.diag([1e-4])))


def cart_double_pendulum() -> AnalyticTask:
    """Swing two rods up by moving their cart, and balance them."""
    params = balanced(CartDoublePendulumParams(np.zeros((6, 6))), step)
    return AnalyticTask(
        name="cart-double-pendulum",
        dt=params.dt,
        control_low=np.array([-20.0]),
        control_high=np.array([20.0]),
        params=params,
        cost=cost,
        terminal=terminal,
        episode_steps=500,
        preset={"planner": "icem", "budget": 128, "horizon": 30, "beta": 2.0},
        state_names=("position", "angle_1", "angle_2", "velocity", "rate_1", "rate_2"),
        angles=("angle_1", "angle_2"),
        speeds={"position": "velocity", "angle_1": "rate_1", "angle_2": "rate_2"},
        goal=tip_over_the_middle(params),
        control_names=("force",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )


def cart_double_pendulum_pilco() -> AnalyticTask:
    """Swing two rods up by moving their cart, and balance them, as in the PILCO papers."""
    params = CartDoublePendulumParams(
        np.zeros((6, 6)),
        dt=0.05,
        gravity=9.82,
        cart_mass=0.5,
        mass_1=0.5,
        mass_2=0.5,
        length_1=0.6,
        length_2=0.6,
        friction=0.1,
    )
    params = balanced(params, step_finely)
    return replace(
        cart_double_pendulum(),
        name="cart-double-pendulum-pilco",
        dt=params.dt,
        params=params,
        episode_steps=200,
        preset={"planner": "icem", "budget": 128, "horizon": 7, "iterations": 6, "beta": 1.0},
        goal=tip_over_the_middle(params),
        step=step_finely,
        reset=reset_pilco,
        sensor_noise=(0.01,) * 6,
    )


def tip_over_the_middle(params: CartDoublePendulumParams) -> Goal:
    """The upper rod's tip upright over the middle, within half a metre or so."""
    l1, l2 = params.length_1, params.length_2
    across = {"position": 1.0, "sin angle_1": l1, "sin angle_2": l2}
    return Goal(terms=(across, {"cos angle_1": l1, "cos angle_2": l2}), target=(0.0, l1 + l2), width=0.5)
