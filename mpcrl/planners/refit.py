"""What a planner concludes from the costs of its samples."""

from __future__ import annotations

from dataclasses import dataclass

from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.kernels import refit as kernels


@dataclass(frozen=True, kw_only=True)
class Best:
    """The cheapest sample becomes the mean; the width stays."""


@dataclass(frozen=True, kw_only=True)
class Elites:
    """Mean and spread of the cheapest samples (cross-entropy method).

    Attributes
    ----------
    count : int
        Elites; at most half of an iteration's samples are taken.
    momentum : float
        Share of the old mean and width that is kept, in [0, 1).
    smooth_variance : bool
        Momentum on the variance (PETS) instead of the standard deviation (iCEM).
    least_width : float
        Below this standard deviation, in half ranges, the width does not fall.
    cap_at_bounds : bool
        Half the distance of the mean to the nearer bound caps the standard deviation (PETS).
    stop_width : float
        Iterations end when the largest variance is below the square of this, in half ranges (PETS: variance .001).
    """

    count: int
    momentum: float = 0.1
    smooth_variance: bool = False
    least_width: float = 0.0
    cap_at_bounds: bool = False
    stop_width: float = 0.0

    def __post_init__(self) -> None:
        positive_integer("elites", self.count)
        if not 0 <= self.momentum < 1:
            raise InvalidInput(f"momentum must lie in [0, 1), got {self.momentum!r}")
        if self.least_width < 0 or self.stop_width < 0:
            raise InvalidInput(f"widths must not be negative, got {self.least_width!r} and {self.stop_width!r}")


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """The mean of all samples, weighted by exp(-cost / temperature) (path integrals); the width stays.

    Attributes
    ----------
    temperature : float
        Lambda. "fixed": in units of cost. "normalised": in standard deviations of the costs. "effective_samples": the
        temperature is found at which the effective sample size is this share of all samples.
    kind : str
        One of the three above.
    action_cost : bool
        Charge lambda mean' Sigma^-1 noise, as MPPI's free-energy derivation does.
    """

    temperature: float = 1.0
    kind: str = "fixed"
    action_cost: bool = False

    def __post_init__(self) -> None:
        positive_number("temperature", self.temperature)
        if self.kind not in TEMPERATURE_KINDS:
            raise InvalidInput(f"temperature kind must be one of {list(TEMPERATURE_KINDS)}, got {self.kind!r}")
        if self.kind == "effective_samples" and self.temperature > 1:
            raise InvalidInput(f"a share of effective samples lies in (0, 1], got {self.temperature!r}")


TEMPERATURE_KINDS = {
    "fixed": kernels.FIXED,
    "normalised": kernels.NORMALISED,
    "effective_samples": kernels.EFFECTIVE_SAMPLES,
}

Refit = Best | Elites | Softmax
