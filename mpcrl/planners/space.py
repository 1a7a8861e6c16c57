"""The set that controls are chosen from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mpcrl.core.checks import finite_vector, positive_number
from mpcrl.core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlSpace:
    """Bounds and rates of controls.

    Attributes
    ----------
    low, high : ndarray [nu]
        Bounds; they may be asymmetric.
    dt : float
        Seconds per control step.
    rate : ndarray [nu]
        Largest change of a control per second; +inf where it is free.
    dtype : numpy dtype
        Float type of the candidates. In float32 the bounds are rounded inwards, so that no candidate exceeds them.
    """

    low: np.ndarray
    high: np.ndarray
    dt: float
    rate: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(
        cls, low: np.ndarray, high: np.ndarray, dt: float, rate: Any = None, dtype: np.typing.DTypeLike = np.float64
    ) -> ControlSpace:
        """Checked; `rate` may be None (free), one number, or a vector [nu]."""
        nu = np.size(low)
        low, high = finite_vector("control_low", low, nu), finite_vector("control_high", high, nu)
        if not (low < high).all():
            raise InvalidInput(f"control_low must lie below control_high, got {low.tolist()} and {high.tolist()}")
        limit = np.full(nu, np.inf) if rate is None else np.broadcast_to(np.asarray(rate, np.float64), nu).copy()
        if not (limit > 0).all():
            raise InvalidInput(f"rate must be above 0 (or None for no limit), got {limit.tolist()}")
        return cls(low=low, high=high, dt=positive_number("dt", dt), rate=limit, dtype=np.dtype(dtype))

    @property
    def nu(self) -> int:
        """Number of controls."""
        return self.low.size

    @property
    def middle(self) -> np.ndarray:
        """Centre of the bounds [nu], where plans start from."""
        return (self.low + self.high) / 2

    @property
    def half_range(self) -> np.ndarray:
        """Half the width of the bounds [nu], the unit of all noise."""
        return (self.high - self.low) / 2

    @cached_property
    def rate_limited(self) -> bool:
        """Whether any control may not jump."""
        return bool(np.isfinite(self.rate).any())

    def inner_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds as float64 that rounding to `dtype` cannot exceed."""
        low, high = self.low.astype(self.dtype), self.high.astype(self.dtype)
        low = np.where(low < self.low, np.nextafter(low, self.dtype.type(np.inf)), low)
        high = np.where(high > self.high, np.nextafter(high, self.dtype.type(-np.inf)), high)
        return low.astype(np.float64), high.astype(np.float64)

    def admit(self, control: np.ndarray, applied: np.ndarray, elapsed: float) -> np.ndarray:
        """The nearest control [nu] within bounds, and within the rates `elapsed` seconds after `applied`."""
        if self.rate_limited:
            change = self.rate * elapsed
            control = np.minimum(np.maximum(control, applied - change), applied + change)
        return np.minimum(np.maximum(control, self.low), self.high)
