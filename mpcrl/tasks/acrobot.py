"""`acrobot-swingup`: two rods like a gymnast on a bar, with a motor in the hip only.

State: angle_1 (rad, 0 hanging), angle_2 (rad, relative to the first rod), rate_1, rate_2 (rad/s), angles not wrapped.
Control: torque between the rods (N m). Mechanics: `two_link`, as in Spong, "The swing up control problem for the
acrobot", 1995, and in Gymnasium's Acrobot-v1 with its sizes (the "book" form; no limits on the rates), two Runge-Kutta
steps per control period.

Near the top the cost of what follows the horizon is that of the optimal linear feedback, x^T P x with P from the
Riccati equation, bent to stay below a cap further away. The energy term leads there from below.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.tasks import two_link
from mpcrl.tasks.canvas import BLUE, GREEN, INK, ORANGE, PALE, Canvas
from mpcrl.tasks.riccati import linearise, riccati
from mpcrl.tasks.task import AnalyticTask


class AcrobotParams(NamedTuple):
    """SI units; inertias are about the middle of each rod."""

    value: np.ndarray
    """[4, 4] P of the terminal cost, in the order of the state."""
    dt: float = 0.05
    gravity: float = 9.8
    damping: float = 0.0
    mass_1: float = 1.0
    mass_2: float = 1.0
    length_1: float = 1.0
    length_2: float = 1.0
    inertia_1: float = 1.0
    inertia_2: float = 1.0
    height_weight: float = 1.0
    energy_weight: float = 3.0
    torque_weight: float = 0.01
    terminal_cap: float = 100.0


class AcrobotCost(NamedTuple):
    """Terms of the stage cost."""

    height: float
    energy: float
    torque: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: AcrobotParams) -> tuple[float, ...]:
    """The state after one control period."""
    return two_link.advance(two_link.advance(x, 0.0, u[0], 0.5 * p.dt, p), 0.0, u[0], 0.5 * p.dt, p)


def energy(x: tuple[float, ...], p: AcrobotParams) -> float:
    """Kinetic and potential energy, 1 at rest upright and -1 at rest hanging."""
    top = p.gravity * ((0.5 * p.mass_1 + p.mass_2) * p.length_1 + 0.5 * p.mass_2 * p.length_2)
    return two_link.energy(x, p) / top


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: AcrobotParams) -> AcrobotCost:
    """Height that the tip lacks, energy that is lacking or too much, and effort."""
    tip = -p.length_1 * math.cos(x[0]) - p.length_2 * math.cos(x[0] + x[1])
    return AcrobotCost(
        p.height_weight * (p.length_1 + p.length_2 - tip),
        p.energy_weight * abs(energy(x, p) - 1.0),
        p.torque_weight * u[0] ** 2,
    )


def terminal(x: tuple[float, ...], p: AcrobotParams) -> float:
    """The capped cost of balancing from here on."""
    error = (wrap_to_pi(x[0] - math.pi), wrap_to_pi(x[1]), x[2], x[3])
    value = 0.0
    for i in range(4):
        for j in range(4):
            value += p.value[i, j] * error[i] * error[j]
    return p.terminal_cap * value / (p.terminal_cap + value)


def solved(x: tuple[float, ...], p: AcrobotParams) -> bool:
    """Both rods upright within 0.25 rad, turning at less than 1 rad/s."""
    q1, q2, w1, w2 = x
    upright = abs(wrap_to_pi(q1 - math.pi)) < 0.25 and abs(wrap_to_pi(q1 + q2 - math.pi)) < 0.25
    return upright and abs(w1) < 1.0 and abs(w1 + w2) < 1.0


def reset(rng: np.random.Generator) -> np.ndarray:
    """Hanging almost still."""
    return rng.uniform(-0.1, 0.1, 4)


def draw(canvas: Canvas, x: tuple[float, ...], p: AcrobotParams) -> None:
    """The rods, and the height of the goal."""
    reach = p.length_1 + p.length_2
    canvas.view(-1.25 * reach, 1.25 * reach, -1.1 * reach, 1.15 * reach)
    canvas.circle((0.0, 0.0), 1.02 * reach, PALE)
    canvas.circle((0.0, reach), 0.16, GREEN)
    hip = (p.length_1 * math.sin(x[0]), -p.length_1 * math.cos(x[0]))
    tip = (hip[0] + p.length_2 * math.sin(x[0] + x[1]), hip[1] - p.length_2 * math.cos(x[0] + x[1]))
    canvas.line([(0.0, 0.0), hip], 0.13, BLUE)
    canvas.line([hip, tip], 0.13, ORANGE)
    canvas.circle((0.0, 0.0), 0.06, INK)
    canvas.circle(hip, 0.06, INK)


def acrobot_swingup() -> AnalyticTask:
    """Swing two rods up by bending in between, and balance them."""
    params = AcrobotParams(np.zeros((4, 4)))
    A, B = linearise(step, np.array([math.pi, 0.0, 0.0, 0.0]), np.zeros(1), params)
    params = params._replace(value=riccati(A, B, np.diag([1.0, 1.0, 0.1, 0.1]), np.diag([params.torque_weight])))
    return AnalyticTask(
        name="acrobot-swingup",
        dt=params.dt,
        control_low=np.array([-6.0]),
        control_high=np.array([6.0]),
        params=params,
        cost=cost,
        terminal=terminal,
        episode_steps=300,
        preset={"planner": "icem", "budget": 128, "horizon": 20, "beta": 2.0},
        state_names=("angle_1", "angle_2", "rate_1", "rate_2"),
        angles=("angle_1", "angle_2"),
        speeds={"angle_1": "rate_1", "angle_2": "rate_2"},
        control_names=("torque",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )
