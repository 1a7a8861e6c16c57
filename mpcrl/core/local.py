"""What gradient planners and models say to each other: a trajectory's expansion, and a policy around it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Expansion(NamedTuple):
    """A problem around a trajectory: the dynamics to first order, the cost to second.

    Coordinates z = (x, u), n = nx + nu of them; one row per control step.
    """

    jacobian: np.ndarray
    """[H, nx, n] of `step`"""
    gradient: np.ndarray
    """[H, n] of `cost`"""
    hessian: np.ndarray
    """[H, n, n] of `cost`"""
    last_gradient: np.ndarray
    """[nx] of `terminal`; zero without one"""
    last_hessian: np.ndarray
    """[nx, nx] of `terminal`; zero without one"""


class Policy(NamedTuple):
    """u_t = controls_t + size * feedforward_t + gains_t (x_t - states_t), for a step size between 0 and 1."""

    states: np.ndarray
    """[H + 1, nx]"""
    controls: np.ndarray
    """[H, nu]"""
    feedforward: np.ndarray
    """[H, nu]"""
    gains: np.ndarray
    """[H, nu, nx]"""
