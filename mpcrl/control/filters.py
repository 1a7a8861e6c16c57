"""What may happen to a plan between the planner and the robot, beside the limits of `ControlSpace`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput

_MOST_ORDER = 12  # beyond it powers of long windows overflow, and nothing is smoothed any more

Validator = Callable[[np.ndarray, np.ndarray], bool]
"""`validator(states, controls) -> bool`: whether a trajectory, states [H + 1, nx] under controls [H, nu], may be
used."""


@dataclass(frozen=True, kw_only=True)
class SavitzkyGolay:
    """Smooths a plan by polynomials over a moving window (Savitzky and Golay 1964; the coefficients are SciPy's).

    The window of the first controls reaches back over those that were applied before, so that plan follows plan
    smoothly. The last half window is one polynomial.

    Attributes
    ----------
    window : int
        Control steps, odd.
    order : int
        Of the polynomials, below `window` and at most 12; less is smoother.
    """

    window: int
    order: int = 2

    def __post_init__(self) -> None:
        if positive_integer("window", self.window) % 2 == 0:
            raise InvalidInput(f"window must be odd, got {self.window}")
        whole = isinstance(self.order, int) and not isinstance(self.order, bool)
        most = min(self.window - 1, _MOST_ORDER)
        if not (whole and 0 <= self.order <= most):
            raise InvalidInput(f"order must be an integer from 0 to {most}, got {self.order!r}")

    @property
    def past(self) -> int:
        """Applied controls that a plan is smoothed with."""
        return self.window // 2

    def matrix(self, horizon: int) -> np.ndarray:
        """Takes `past` applied controls and a plan to the smooth plan [H, past + H]."""
        if self.past + horizon < self.window:
            raise InvalidInput(f"a window of {self.window} steps is too long for a horizon of {horizon}")
        from scipy.signal import savgol_filter

        return savgol_filter(np.eye(self.past + horizon), self.window, self.order, axis=0, mode="interp")[self.past :]
