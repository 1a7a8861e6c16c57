"""How few decisions describe many controls: step by step, as derivatives, by splines, by kernels.

Each is a curve over time that is linear in its decisions theta [K, nu]: `weights(times)` [T, K] gives its value at any
time, in control steps. That one matrix makes controls of decisions, and moves a plan on as time passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput


class Parametrisation(Protocol):
    """See the module's docstring."""

    def times(self, horizon: int) -> np.ndarray:
        """Times [K] of the decisions, in control steps from the start of the plan."""
        ...

    def weights(self, times: np.ndarray, horizon: int) -> np.ndarray:
        """Matrix [T, K] that gives the curve at `times` [T], which lie within the horizon."""
        ...


@dataclass(frozen=True, kw_only=True)
class PerStep:
    """One decision per control step, held until the next."""

    def times(self, horizon: int) -> np.ndarray:
        return np.arange(horizon, dtype=np.float64)

    def weights(self, times: np.ndarray, horizon: int) -> np.ndarray:
        return _held(times, self.times(horizon))


@dataclass(frozen=True, kw_only=True)
class Derivative(PerStep):
    """Decisions are the rates at which the plan itself changes: SMPPI's lifted controls.

    Each iteration moves the planned controls a by theta dt (Kim, Park, Lee, Choi: Smooth model predictive path integral
    control without smoothing, RA-L 2022, eq. 12), and pays for |a_t - a_{t-1}|^2.

    Attributes
    ----------
    change_weight : float
        Cost of a squared change of control from step to step, in units of half ranges.
    """

    change_weight: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.change_weight) and self.change_weight >= 0):
            raise InvalidInput(f"change_weight must be a number of at least 0, got {self.change_weight!r}")


@dataclass(frozen=True, kw_only=True)
class Spline:
    """Knots at equal distances, the first and last at the plan's ends.

    Attributes
    ----------
    knots : int
    order : {0, 1, 3}
        Held, linear, or natural cubic (which may overshoot its knots: controls are clipped).
    """

    knots: int
    order: int = 3

    def __post_init__(self) -> None:
        positive_integer("knots", self.knots)
        if self.order not in (0, 1, 3):
            raise InvalidInput(f"order of a spline must be 0, 1 or 3, got {self.order!r}")
        if self.knots <= self.order and self.order > 0:
            raise InvalidInput(f"a spline of order {self.order} needs more than {self.order} knots, got {self.knots}")

    def times(self, horizon: int) -> np.ndarray:
        if self.knots > horizon:
            raise InvalidInput(f"a horizon of {horizon} steps cannot have {self.knots} knots; use at most {horizon}")
        return np.linspace(0, horizon - 1, self.knots) if self.order else np.arange(self.knots) * (horizon / self.knots)

    def weights(self, times: np.ndarray, horizon: int) -> np.ndarray:
        knots = self.times(horizon)
        if self.order == 0:
            return _held(times, knots)
        if self.order == 1:
            return np.stack([np.interp(times, knots, unit) for unit in np.eye(self.knots)], axis=1)
        from scipy.interpolate import CubicSpline

        return CubicSpline(knots, np.eye(self.knots), bc_type="natural")(times)


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Support points joined by radial basis functions, as in KMPPI (pytorch_mppi).

    The curve is k(t, T) k(T, T)^-1 theta with k(a, b) = exp(-(a - b)^2 / (2 width^2)) and support times T.

    Attributes
    ----------
    points : int
    width : float
        Of the basis functions, in control steps.
    """

    points: int
    width: float

    def __post_init__(self) -> None:
        positive_integer("points", self.points)
        positive_number("width", self.width)

    def times(self, horizon: int) -> np.ndarray:
        if self.points > horizon:
            raise InvalidInput(f"a horizon of {horizon} steps cannot have {self.points} points; use at most {horizon}")
        return np.linspace(0, horizon - 1, self.points)

    def weights(self, times: np.ndarray, horizon: int) -> np.ndarray:
        support = self.times(horizon)
        gram = self._kernel(support, support) + 1e-9 * np.eye(self.points)
        return np.linalg.solve(gram, self._kernel(times, support).T).T

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-0.5 * ((a[:, None] - b[None, :]) / self.width) ** 2)


def _held(times: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Zero-order hold: the last knot that is not after each time, the first one before all."""
    index = np.clip(np.searchsorted(knots, times + 1e-9, side="right") - 1, 0, knots.size - 1)
    return np.eye(knots.size)[index]
