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
    acceleration : ndarray [nu] or None
        Largest change of a control's rate per second, +inf where it is free; None where all are. Planners do not see
        it: it limits what is made of their plans.
    """

    low: np.ndarray
    high: np.ndarray
    dt: float
    rate: np.ndarray
    dtype: np.dtype
    acceleration: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        low: np.ndarray,
        high: np.ndarray,
        dt: float,
        rate: Any = None,
        dtype: np.typing.DTypeLike = np.float64,
        acceleration: Any = None,
    ) -> ControlSpace:
        """Checked; `rate` and `acceleration` may be None (free), one number, or a vector [nu]."""
        nu = np.size(low)
        low, high = finite_vector("control_low", low, nu), finite_vector("control_high", high, nu)
        if not (low < high).all():
            raise InvalidInput(f"control_low must lie below control_high, got {low.tolist()} and {high.tolist()}")
        return cls(
            low=low,
            high=high,
            dt=positive_number("dt", dt),
            rate=_limit("rate", rate, nu),
            dtype=np.dtype(dtype),
            acceleration=None if acceleration is None else _limit("acceleration", acceleration, nu),
        )

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

    def admit(
        self, control: np.ndarray, applied: np.ndarray, elapsed: float, velocity: np.ndarray | None = None
    ) -> np.ndarray:
        """The nearest control [nu] within bounds, and within the rates `elapsed` seconds after `applied`.

        With the rate of change `velocity` [nu] that was, within the accelerations too; and so slow towards a bound that
        it need not brake harder before it. A bound is kept also where it has come too near for that.
        """
        if self.rate_limited:
            change = self.rate * elapsed if elapsed > 0 else np.where(np.isfinite(self.rate), 0.0, np.inf)
            control = np.minimum(np.maximum(control, applied - change), applied + change)
        if self.acceleration is not None and velocity is not None:
            control = np.where(
                np.isfinite(self.acceleration), self._accelerated(control, applied, elapsed, velocity), control
            )
        return np.minimum(np.maximum(control, self.low), self.high)

    def _accelerated(
        self, control: np.ndarray, applied: np.ndarray, elapsed: float, velocity: np.ndarray
    ) -> np.ndarray:
        if elapsed <= 0:
            return applied
        assert self.acceleration is not None
        limit = np.where(np.isfinite(self.acceleration), self.acceleration, 1.0)
        wanted = (control - applied) / elapsed
        wanted = np.minimum(np.maximum(wanted, velocity - limit * elapsed), velocity + limit * elapsed)
        up = _stopping_speed(np.maximum(self.high - applied, 0.0), limit, elapsed)
        down = _stopping_speed(np.maximum(applied - self.low, 0.0), limit, elapsed)
        return applied + elapsed * np.minimum(np.maximum(wanted, -down), up)


def _limit(name: str, value: Any, nu: int) -> np.ndarray:
    """A limit [nu]; inf is none."""
    try:
        limit = np.full(nu, np.inf) if value is None else np.broadcast_to(np.asarray(value, np.float64), nu).copy()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be a number or a vector of {nu} numbers, got {value!r}") from error
    if not (limit > 0).all():
        raise InvalidInput(f"{name} must be above 0 (or None for no limit), got {limit.tolist()}")
    return limit


def _stopping_speed(room: np.ndarray, limit: np.ndarray, elapsed: float) -> np.ndarray:
    """The largest speed v that may be held for `elapsed` and then braked within the room: v elapsed + v^2 / (2 a)."""
    return np.sqrt((limit * elapsed) ** 2 + 2.0 * limit * room) - limit * elapsed
