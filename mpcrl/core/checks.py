"""Checks at the boundary: coerce what is meant, refuse what is not."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput


def finite_vector(name: str, value: Any, size: int) -> np.ndarray:
    """`value` as a contiguous float64 vector of `size` finite numbers."""
    try:
        vector = np.ascontiguousarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} must be a vector of {size} numbers, got {value!r}") from error
    if vector.shape != (size,):
        raise InvalidInput(f"{name} must be a vector of {size} numbers, got the shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise InvalidInput(f"{name} must be finite, got {vector.tolist()}")
    return vector


def positive_integer(name: str, value: Any) -> int:
    """`value` as an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise InvalidInput(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def positive_number(name: str, value: Any) -> float:
    """`value` as a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise InvalidInput(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)
