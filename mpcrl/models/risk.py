"""How the costs of one candidate under several scenarios become one number.

A risk folds costs [P, N] of P equally likely scenarios into [N], per trajectory: the costs of a scenario are summed
over the horizon first. A failed scenario costs +inf. It makes `Mean`, `Worst`, `CVaR` and a risk-averse `Entropic`
infinite; `Best` and a risk-seeking `Entropic` look past it while another scenario is finite, `VaR` while no more than
its fraction of the scenarios failed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpcrl.core.errors import InvalidInput


class Risk(Protocol):
    """Costs [P, N] of N candidates under P scenarios, finite or +inf, to [N]."""

    def __call__(self, costs: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Mean:
    """The expected cost: risk-neutral."""

    def __call__(self, costs: np.ndarray) -> np.ndarray:
        return costs.mean(axis=0)


@dataclass(frozen=True)
class Worst:
    """The largest cost: robust."""

    def __call__(self, costs: np.ndarray) -> np.ndarray:
        return costs.max(axis=0)


@dataclass(frozen=True)
class Best:
    """The smallest cost: optimistic."""

    def __call__(self, costs: np.ndarray) -> np.ndarray:
        return costs.min(axis=0)


@dataclass(frozen=True)
class Entropic:
    """log(mean(exp(theta costs))) / theta: averse to risk for theta > 0, seeking it for theta < 0.

    Close to the mean plus theta/2 times the variance where theta is small, to `Worst` where it is large
    (Howard and Matheson 1972).

    Parameters
    ----------
    theta : float
        In 1/cost, not 0.
    """

    theta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.theta) and self.theta != 0):
            raise InvalidInput(f"theta must be finite and not 0, got {self.theta!r}; for risk-neutral use Mean()")

    def __call__(self, costs: np.ndarray) -> np.ndarray:
        # The largest exponent is shifted to 0, so that exp cannot overflow and at least one term is 1.
        peak = costs.max(axis=0) if self.theta > 0 else costs.min(axis=0)
        shift = np.where(np.isfinite(peak), peak, 0.0)
        with np.errstate(over="ignore", divide="ignore"):  # only where the peak is +inf, and so the result
            spread = np.log(np.exp(self.theta * (costs - shift)).mean(axis=0)) / self.theta
        return np.where(np.isfinite(peak), shift + spread, np.inf)


@dataclass(frozen=True)
class VaR:
    """Value at risk: the cost exceeded with a probability of at most alpha. VaR(0) is the worst, VaR(1) the best.

    Parameters
    ----------
    alpha : float
        In [0, 1].
    """

    alpha: float

    def __post_init__(self) -> None:
        _check_fraction(self.alpha)

    def __call__(self, costs: np.ndarray) -> np.ndarray:
        count = costs.shape[0]
        exceeding = min(int(_scenarios(self.alpha, count)), count - 1)
        return np.sort(costs, axis=0)[count - 1 - exceeding]


@dataclass(frozen=True)
class CVaR:
    """Conditional value at risk: the mean of the worst fraction alpha. CVaR(0) is the worst, CVaR(1) the mean.

    Where alpha P is not whole, the last scenario of the tail counts in part (Rockafellar and Uryasev 2002).

    Parameters
    ----------
    alpha : float
        In [0, 1].
    """

    alpha: float

    def __post_init__(self) -> None:
        _check_fraction(self.alpha)

    def __call__(self, costs: np.ndarray) -> np.ndarray:
        count = costs.shape[0]
        tail = max(_scenarios(self.alpha, count), 1.0)
        weights = np.clip(tail - np.arange(count), 0.0, 1.0) / tail
        used = np.flatnonzero(weights)  # 0 * inf would be NaN
        worst_first = np.sort(costs, axis=0)[::-1]
        return np.tensordot(weights[used], worst_first[used], axes=1)


RISKS = {kind.__name__: kind for kind in (Mean, Worst, Best, Entropic, VaR, CVaR)}
"""Those that files can name."""


def _check_fraction(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise InvalidInput(f"alpha is the fraction of worst scenarios, between 0 and 1; got {alpha!r}")


def _scenarios(alpha: float, count: int) -> float:
    """alpha P; a whole number where only rounding keeps it from being one (0.29 x 100)."""
    product = alpha * count
    return float(round(product)) if math.isclose(product, round(product), rel_tol=1e-12) else product
