"""Feedback around an equilibrium: the terminal cost that tells a short horizon what balancing costs afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def riccati(A: np.ndarray, B: np.ndarray, Q: np.ndarray, R: np.ndarray) -> np.ndarray:
    """The P [nx, nx] of the optimal cost x^T P x of x' = A x + B u under the stage cost x^T Q x + u^T R u.

    Value iteration on the discrete algebraic Riccati equation (Bertsekas, "Dynamic Programming and Optimal Control",
    volume 1, section on linear systems and quadratic cost). The optimal control is u = -(R + B^T P B)^-1 B^T P A x.

    Parameters
    ----------
    A, B : ndarray [nx, nx], [nx, nu]
        Stabilisable.
    Q, R : ndarray [nx, nx], [nu, nu]
        Positive definite.
    """
    P = Q
    for _ in range(10_000):
        K = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        new = Q + A.T @ P @ (A - B @ K)
        new = 0.5 * (new + new.T)
        if np.abs(new - P).max() <= 1e-13 * np.abs(new).max():
            break
        P = new
    return new


def linearise(
    step: Callable[..., tuple[float, ...]], x: np.ndarray, u: np.ndarray, p: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The derivatives A [nx, nx] and B [nx, nu] of `step` at a state and control, by central differences."""
    point, nx = np.concatenate([x, u]), x.size
    columns = []
    for i in range(point.size):
        ahead, behind = point.copy(), point.copy()
        ahead[i] += 1e-5
        behind[i] -= 1e-5
        ends = [np.array(step(tuple(z[:nx].tolist()), tuple(z[nx:].tolist()), p)) for z in (ahead, behind)]
        columns.append((ends[0] - ends[1]) / 2e-5)
    jacobian = np.stack(columns, 1)
    return jacobian[:, :nx], jacobian[:, nx:]
