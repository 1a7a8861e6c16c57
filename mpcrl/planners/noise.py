"""How candidates differ from the mean: white, uniform, coloured or log-normal noise.

All is made of the same standard normals in `kernels.propose`: a matrix correlates them over the decisions, a table of
quantiles reshapes them, a factor widens them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpcrl.core.checks import positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.kernels.propose import TRUNCATION_RANGE

_NO_MATRIX = np.zeros((0, 0), np.float32)
_NO_TABLE = np.zeros(0, np.float32)
_TABLE_SIZE = 4097


class Noise(Protocol):
    """What a planner draws."""

    @property
    def log_sigma(self) -> float:
        """Spread of the log-normal factor; 0 for none."""
        ...

    def colour(self, decisions: int) -> np.ndarray:
        """Matrix [K, K] that correlates the decisions; [0, 0] for none."""
        ...

    def table(self) -> np.ndarray:
        """Quantile table of another distribution than the normal; [0] for none."""
        ...


@dataclass(frozen=True, kw_only=True)
class White:
    """Independent normals.

    Attributes
    ----------
    truncate : float, optional
        Standard deviations at which the normal is cut off, as in PETS' CEM (2).
    """

    truncate: float | None = None
    log_sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.truncate is not None:
            positive_number("truncate", self.truncate)

    def colour(self, decisions: int) -> np.ndarray:
        return _NO_MATRIX

    def table(self) -> np.ndarray:
        if self.truncate is None:
            return _NO_TABLE
        from scipy.special import ndtr, ndtri

        below = ndtr(-self.truncate)
        return ndtri(below + (1 - 2 * below) * _normal_quantiles()).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Independent, uniform over mean +- scale."""

    log_sigma: float = 0.0

    def colour(self, decisions: int) -> np.ndarray:
        return _NO_MATRIX

    def table(self) -> np.ndarray:
        return (2 * _normal_quantiles() - 1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Coloured:
    """Noise with the power spectrum f^-beta (Timmer, Koenig: On generating power law noise, A&A 300, 1995).

    Attributes
    ----------
    beta : float
        0 white, 1 pink, 2 Brownian; iCEM uses .25 to 4.
    """

    beta: float
    log_sigma: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.beta) and self.beta >= 0):
            raise InvalidInput(f"beta must be a number of at least 0, got {self.beta!r}")

    def colour(self, decisions: int) -> np.ndarray:
        return power_law_matrix(self.beta, decisions).astype(np.float32) if self.beta and decisions > 1 else _NO_MATRIX

    def table(self) -> np.ndarray:
        return _NO_TABLE


@dataclass(frozen=True, kw_only=True)
class LogNormal:
    """Normal times log-normal noise: most samples near the mean, some far (Mohamed, Yin, Liu: Autonomous navigation of
    AGVs in unknown cluttered environments: log-MPPI control strategy, RA-L 2022).

    Attributes
    ----------
    log_sigma : float
        Standard deviation of the logarithm of the factor, whose own mean is 1.
    """

    log_sigma: float = 0.5

    def __post_init__(self) -> None:
        positive_number("log_sigma", self.log_sigma)

    def colour(self, decisions: int) -> np.ndarray:
        return _NO_MATRIX

    def table(self) -> np.ndarray:
        return _NO_TABLE


def power_law_matrix(beta: float, steps: int) -> np.ndarray:
    """The matrix [steps, steps] that makes noise of unit variance with spectrum f^-beta of white noise.

    The inverse Fourier transform of independent normals scaled by f^(-beta/2), written as a matrix: one column for the
    real and one for the imaginary part of each frequency. The zero frequency gets the power of the lowest other one.
    """
    frequencies = np.fft.rfftfreq(steps)
    frequencies[0] = 1 / steps
    amplitude = frequencies ** (-beta / 2)
    columns = []
    for k, size in enumerate(amplitude):
        alone = k == 0 or (steps % 2 == 0 and k == steps // 2)  # frequencies without an imaginary part
        for part in (np.sqrt(2),) if alone else (1, 1j):
            spectrum = np.zeros(amplitude.size, complex)
            spectrum[k] = size * part
            columns.append(np.fft.irfft(spectrum, steps))
    matrix = np.stack(columns, axis=1)
    return matrix / np.sqrt((matrix**2).sum(axis=1).mean())


def _normal_quantiles() -> np.ndarray:
    """The normal distribution function at the nodes of a table."""
    from scipy.special import ndtr

    return ndtr(np.linspace(-TRUNCATION_RANGE, TRUNCATION_RANGE, _TABLE_SIZE))
