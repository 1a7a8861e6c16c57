"""Scalar Python that costs of MuJoCo tasks share."""

from __future__ import annotations

import math
from typing import Any


def squared(vector: Any) -> float:
    """Sum of squares of a vector."""
    total = 0.0
    for i in range(vector.shape[0]):
        total += vector[i] * vector[i]
    return total


def distance(a: Any, b: Any) -> float:
    """Between two points in space, m."""
    return math.sqrt((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2)
