"""Covariances of Gaussian processes over their own data, and what their evidence's gradient needs of them.

Rows of a lower triangle are filled from left to right, so that neighbouring columns lie in neighbouring lanes; nothing
is summed across lanes.
"""

from __future__ import annotations

import math

import numpy as np

from mpcrl.core import vecmath
from mpcrl.core.compile import kernel

SE, MATERN = 0, 1

_exp = vecmath.lane_functions(np.float64)["exp"]


@kernel
def smooth(kind, points, square, values, slopes):
    """The smooth part k(r) of a covariance, and -2 dk/d(r^2), both [n, n] with the lower triangles filled.

    Parameters
    ----------
    kind : int
        SE or MATERN; see `models.gaussian_process`.
    points : ndarray [D, n]
        Inputs over length scales.
    square : float
        signal^2.
    values, slopes : ndarray [n, n]
        Out; of SE they are equal, and `slopes` is left alone.
    """
    width, count = points.shape
    for i in range(count):
        row, slope = values[i, : i + 1], slopes[i, : i + 1]
        for j in range(i + 1):
            row[j] = 0.0
        for d in range(width):
            here, there = points[d, i], points[d, : i + 1]
            for j in range(i + 1):
                away = there[j] - here
                row[j] += away * away
        if kind == SE:
            for j in range(i + 1):
                row[j] = square * _exp(-0.5 * row[j])
        else:
            for j in range(i + 1):
                r = math.sqrt(5.0 * row[j])
                decay = square * _exp(-r)
                slope[j] = 5.0 / 3.0 * (1.0 + r) * decay
                row[j] = (1.0 + r + r * r / 3.0) * decay


@kernel
def add_square(basis, values, roots):
    """Add (b_i . b_j)^2 of columns of `basis` [D, n] to the lower triangle of `values`; `roots` get the products."""
    width, count = basis.shape
    for i in range(count):
        row, root = values[i, : i + 1], roots[i, : i + 1]
        for j in range(i + 1):
            root[j] = 0.0
        for d in range(width):
            here, there = basis[d, i], basis[d, : i + 1]
            for j in range(i + 1):
                root[j] += here * there[j]
        for j in range(i + 1):
            row[j] += root[j] * root[j]


@kernel
def weigh(beta, inverse, values):
    """Lower triangle of `values` times that of beta beta' - inverse, in place."""
    for i in range(beta.size):
        here, row, left = inverse[i, : i + 1], values[i, : i + 1], beta[i]
        for j in range(i + 1):
            row[j] *= left * beta[j] - here[j]
