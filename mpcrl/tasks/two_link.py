"""Two rods in a plane, the second hinged on the first: the mechanics of `acrobot-swingup` and `reacher-2link`.

State: angle_1 (rad, 0 along gravity), angle_2 (rad, relative to the first rod), and their rates (rad/s). With the
generalised torques tau (Murray, Li and Sastry, "A Mathematical Introduction to Robotic Manipulation", 1994, chapter 4;
Spong 1995):

    [alpha + 2 beta cos q2,  delta + beta cos q2] [q1'']   [tau_1 + beta sin q2 (2 w1 w2 + w2^2)]
    [delta + beta cos q2,    delta              ] [q2''] = [tau_2 - beta sin q2 w1^2            ]  - gravity - damping

`p` has the fields gravity (m/s^2; 0 in a horizontal plane), damping (N m s), mass_1, mass_2 (kg), length_1, length_2
(m), inertia_1, inertia_2 (kg m^2, about the centre of each rod, which is its middle).
"""

from __future__ import annotations

import math
from typing import Any


def acceleration(
    angle_1: float, angle_2: float, rate_1: float, rate_2: float, torque_1: float, torque_2: float, p: Any
) -> tuple[float, float]:
    """Angular accelerations of the joints, rad/s^2."""
    delta = 0.25 * p.mass_2 * p.length_2**2 + p.inertia_2
    alpha = 0.25 * p.mass_1 * p.length_1**2 + p.inertia_1 + p.mass_2 * p.length_1**2 + delta
    beta = 0.5 * p.mass_2 * p.length_1 * p.length_2
    c, s = math.cos(angle_2), math.sin(angle_2)
    m11, m12 = alpha + 2.0 * beta * c, delta + beta * c
    weight_2 = 0.5 * p.mass_2 * p.gravity * p.length_2 * math.sin(angle_1 + angle_2)
    weight_1 = (0.5 * p.mass_1 + p.mass_2) * p.gravity * p.length_1 * math.sin(angle_1) + weight_2
    force_1 = torque_1 + beta * s * (2.0 * rate_1 + rate_2) * rate_2 - weight_1 - p.damping * rate_1
    force_2 = torque_2 - beta * s * rate_1**2 - weight_2 - p.damping * rate_2
    determinant = m11 * delta - m12**2
    return (delta * force_1 - m12 * force_2) / determinant, (m11 * force_2 - m12 * force_1) / determinant


def advance(x: tuple[float, ...], torque_1: float, torque_2: float, h: float, p: Any) -> tuple[float, ...]:
    """The state after h seconds under constant torques (N m), by one step of the classical Runge-Kutta method."""
    q1, q2, w1, w2 = x
    g = 0.5 * h
    a1, b1 = acceleration(q1, q2, w1, w2, torque_1, torque_2, p)
    a2, b2 = acceleration(q1 + g * w1, q2 + g * w2, w1 + g * a1, w2 + g * b1, torque_1, torque_2, p)
    a3, b3 = acceleration(
        q1 + g * w1 + g**2 * a1, q2 + g * w2 + g**2 * b1, w1 + g * a2, w2 + g * b2, torque_1, torque_2, p
    )
    a4, b4 = acceleration(
        q1 + h * w1 + h * g * a2, q2 + h * w2 + h * g * b2, w1 + h * a3, w2 + h * b3, torque_1, torque_2, p
    )
    return (
        q1 + h * w1 + h**2 / 6.0 * (a1 + a2 + a3),
        q2 + h * w2 + h**2 / 6.0 * (b1 + b2 + b3),
        w1 + h / 6.0 * (a1 + 2.0 * a2 + 2.0 * a3 + a4),
        w2 + h / 6.0 * (b1 + 2.0 * b2 + 2.0 * b3 + b4),
    )


def energy(x: tuple[float, ...], p: Any) -> float:
    """Kinetic and potential energy, J; zero at rest with both rods level."""
    q1, q2, w1, w2 = x
    delta = 0.25 * p.mass_2 * p.length_2**2 + p.inertia_2
    alpha = 0.25 * p.mass_1 * p.length_1**2 + p.inertia_1 + p.mass_2 * p.length_1**2 + delta
    beta = 0.5 * p.mass_2 * p.length_1 * p.length_2 * math.cos(q2)
    kinetic = 0.5 * (alpha + 2.0 * beta) * w1**2 + (delta + beta) * w1 * w2 + 0.5 * delta * w2**2
    height_1 = -(0.5 * p.mass_1 + p.mass_2) * p.length_1 * math.cos(q1)
    return kinetic + p.gravity * (height_1 - 0.5 * p.mass_2 * p.length_2 * math.cos(q1 + q2))
