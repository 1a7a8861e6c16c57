"""Checks at the boundary: coerce what is meant, refuse what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mpcrl.core.errors import InvalidInput


def numbers(name: str, value: Any, expected: str = "numbers") -> np.ndarray:
    """A copy of `value` as a contiguous float64 array of any shape."""
    try:
        return np.array(value, np.float64, order="C")
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name} must be {expected}, got {value!r}") from error


def vector(name: str, value: Any, size: int) -> np.ndarray:
    """A copy of `value` as a contiguous float64 vector of `size` numbers, finite or not."""
    expected = f"a vector of {size} numbers"
    found = numbers(name, value, expected)
    if found.shape != (size,):
        raise InvalidInput(f"{name} must be {expected}, got the shape {found.shape}")
    return found


def finite_vector(name: str, value: Any, size: int) -> np.ndarray:
    """A copy of `value` as a contiguous float64 vector of `size` finite numbers."""
    found = vector(name, value, size)
    if not finite(found):
        raise InvalidInput(f"{name} must be finite, got {found.tolist()}")
    return found


def finite(found: np.ndarray) -> bool:
    """Whether all numbers of a vector are; quicker than NumPy for the few of a state or a control."""
    return all(map(math.isfinite, found.tolist()))


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
