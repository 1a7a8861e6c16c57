"""`lqr`: a double integrator with a quadratic cost, the one task whose optimal control is known in closed form.

State: position (m), velocity (m/s). Control: acceleration (m/s^2), held over the control period h:

    x' = A x + B u,    A = [[1, h], [0, 1]],    B = [[h^2 / 2], [h]]            (exact discretisation)
    cost = x^T Q x + R u^2,    terminal = x^T P x

P solves the discrete algebraic Riccati equation, so that the optimum over any horizon is the infinite-horizon one: u =
-K x, K = (R + B^T P B)^-1 B^T P A (`riccati`). From a start within 1 m and 0.5 m/s that control stays within its
bounds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpcrl.tasks.canvas import BLUE, GREEN, GREY, INK, ORANGE, Canvas
from mpcrl.tasks.riccati import riccati
from mpcrl.tasks.task import AnalyticTask


class LqrParams(NamedTuple):
    """Control period (s) and the entries of the symmetric matrices Q, R and P."""

    dt: float
    q_position: float
    q_velocity: float
    r_control: float
    p_position: float
    p_cross: float
    p_velocity: float


class LqrMatrices(NamedTuple):
    """x' = A x + B u with stage cost x^T Q x + u^T R u and terminal cost x^T P x; the optimum is u = -K x."""

    A: np.ndarray
    """[2, 2]"""
    B: np.ndarray
    """[2, 1]"""
    Q: np.ndarray
    """[2, 2]"""
    R: np.ndarray
    """[1, 1]"""
    P: np.ndarray
    """[2, 2]"""
    K: np.ndarray
    """[1, 2]"""


class LqrCost(NamedTuple):
    """Terms of the stage cost."""

    state: float
    control: float


def step(x: tuple[float, ...], u: tuple[float, ...], p: LqrParams) -> tuple[float, ...]:
    """The state after one control period."""
    position, velocity = x
    return position + p.dt * velocity + 0.5 * p.dt**2 * u[0], velocity + p.dt * u[0]


def cost(x: tuple[float, ...], u: tuple[float, ...], t: int, p: LqrParams) -> LqrCost:
    """x^T Q x + R u^2."""
    position, velocity = x
    return LqrCost(p.q_position * position**2 + p.q_velocity * velocity**2, p.r_control * u[0] ** 2)


def terminal(x: tuple[float, ...], p: LqrParams) -> float:
    """x^T P x, the cost of all that follows under the optimal control."""
    position, velocity = x
    return p.p_position * position**2 + 2.0 * p.p_cross * position * velocity + p.p_velocity * velocity**2


def solved(x: tuple[float, ...], p: LqrParams) -> bool:
    """At rest at the origin, within 10 cm and 10 cm/s."""
    return abs(x[0]) < 0.1 and abs(x[1]) < 0.1


def reset(rng: np.random.Generator) -> np.ndarray:
    """Up to 1 m from the origin and up to 0.5 m/s."""
    return rng.uniform((-1.0, -0.5), (1.0, 0.5))


def lqr_matrices(p: LqrParams) -> LqrMatrices:
    """The matrices of the problem that `p` states, and its optimal feedback."""
    A = np.array([[1.0, p.dt], [0.0, 1.0]])
    B = np.array([[0.5 * p.dt**2], [p.dt]])
    P = np.array([[p.p_position, p.p_cross], [p.p_cross, p.p_velocity]])
    R = np.array([[p.r_control]])
    K = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    return LqrMatrices(A, B, np.diag([p.q_position, p.q_velocity]), R, P, K)


def draw(canvas: Canvas, x: tuple[float, ...], p: LqrParams) -> None:
    """The mass on its rail, its velocity, and the origin."""
    canvas.view(-1.6, 1.6, -1.0, 1.0)
    canvas.line([(-1.6, -0.2), (1.6, -0.2)], 0.01, GREY)
    for mark in (-1.0, -0.5, 0.5, 1.0):
        canvas.line([(mark, -0.2), (mark, -0.25)], 0.01, GREY)
    canvas.text((1.0, -0.33), "1 m", 13, GREY, "mm")
    canvas.line([(0.0, -0.2), (0.0, 0.35)], 0.015, GREEN)
    canvas.polygon([(0.0, 0.35), (0.16, 0.29), (0.0, 0.23)], GREEN)
    canvas.box((x[0], -0.06), 0.26, 0.26, 0.0, BLUE)
    canvas.arrow((x[0], -0.06), (0.5 * x[1], 0.0), 0.03, ORANGE)
    canvas.text((-1.5, 0.85), f"position {x[0]:+.2f} m   velocity {x[1]:+.2f} m/s", 15, INK)


def lqr() -> AnalyticTask:
    """Bring a mass on a line to rest at the origin."""
    weights = LqrParams(0.1, 1.0, 0.1, 1.0, 0.0, 0.0, 0.0)
    A, B, Q, R, _, _ = lqr_matrices(weights)
    P = riccati(A, B, Q, R)
    params = weights._replace(p_position=float(P[0, 0]), p_cross=float(P[0, 1]), p_velocity=float(P[1, 1]))
    return AnalyticTask(
        name="lqr",
        dt=params.dt,
        control_low=np.array([-2.0]),
        control_high=np.array([2.0]),
        params=params,
        cost=cost,
        terminal=terminal,
        episode_steps=60,
        preset={"planner": "icem", "budget": 128, "horizon": 20, "width": 0.2},
        state_names=("position", "velocity"),
        control_names=("acceleration",),
        step=step,
        reset=reset,
        solved=solved,
        draw=draw,
    )
