"""Gaussian processes conditioned on data: their numbers, and what they predict, in plain NumPy.

Output e of E, all independent and over the same inputs v [D] (Rasmussen and Williams 2006, algorithm 2.1):

    f_e(v) ~ GP(m_e(v), k_e(v, v')),   m_e(v) = intercept_e + slope_e . v,   y_e = f_e(v) + noise_e normal
    r^2 = sum_d (v_d - v'_d)^2 / lengthscale_e,d^2
    "se"             k_e = signal_e^2 exp(-r^2 / 2)
    "matern52"       k_e = signal_e^2 (1 + sqrt(5) r + 5 r^2 / 3) exp(-sqrt(5) r)
    "se+polynomial"  k_e = signal_e^2 exp(-r^2 / 2) + (bias_e^2 + sum_d tilt_e,d^2 v_d v'_d)^2

    L L' = K + noise_e^2 I,   beta_e = L'^-1 L^-1 (y_e - m_e(V))
    mean = m_e(v) + k_e(v, V) beta_e,   variance = k_e(v, v) - |L^-1 k_e(V, v)|^2

The variance is that of f, the latent function; of an observation it is noise_e^2 more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import scipy.linalg

from mpcrl.core.errors import InvalidInput

KERNELS = ("se", "matern52", "se+polynomial")


class Latent(NamedTuple):
    """Of the functions' values, without noise.

    Attributes
    ----------
    mean, variance : ndarray [..., E]
    """

    mean: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianProcess:
    """E Gaussian processes over inputs of D numbers, conditioned on n observations; all in the data's own units.

    Attributes
    ----------
    kernel : {"se", "matern52", "se+polynomial"}
    inputs : ndarray [n, D]
    targets : ndarray [n, E]
    lengthscale : ndarray [E, D]
    signal, noise : ndarray [E]
        Standard deviations.
    slope : ndarray [E, D]
    intercept : ndarray [E]
        Of the mean functions.
    tilt : ndarray [E, D]
    bias : ndarray [E]
        Of the polynomial part; of no meaning to the other kernels.
    """

    kernel: str = "se"
    inputs: np.ndarray
    targets: np.ndarray
    lengthscale: np.ndarray
    signal: np.ndarray
    noise: np.ndarray
    slope: np.ndarray
    intercept: np.ndarray
    tilt: np.ndarray
    bias: np.ndarray

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise InvalidInput(f"kernel must be one of {', '.join(KERNELS)}, got {self.kernel!r}")
        if np.ndim(self.inputs) != 2 or np.ndim(self.targets) != 2:
            raise InvalidInput(
                f"inputs and targets must be matrices, got the shapes {np.shape(self.inputs)} and "
                f"{np.shape(self.targets)}"
            )
        count, width, outputs = *self.inputs.shape, self.targets.shape[1]
        shapes: dict[str, tuple[int, ...]] = {"inputs": (count, width), "targets": (count, outputs)}
        shapes |= dict.fromkeys(("lengthscale", "slope", "tilt"), (outputs, width))
        shapes |= dict.fromkeys(("signal", "noise", "intercept", "bias"), (outputs,))
        for name, shape in shapes.items():
            value = np.array(getattr(self, name), np.float64, order="C")
            if value.shape != shape:
                raise InvalidInput(f"{name} must have the shape {shape}, got {value.shape}")
            if not np.isfinite(value).all():
                raise InvalidInput(f"{name} must be finite")
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        for name in ("lengthscale", "signal", "noise"):
            if not (getattr(self, name) > 0).all():
                raise InvalidInput(f"{name} must be above 0, got {getattr(self, name).tolist()}")

    @property
    def count(self) -> int:
        """n, observations."""
        return self.inputs.shape[0]

    @property
    def outputs(self) -> int:
        """E."""
        return self.targets.shape[1]

    def covariance(self, output: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """k_e(a, b) [N, M] of the output e between inputs a [N, D] and b [M, D]."""
        u, v = a / self.lengthscale[output], b / self.lengthscale[output]
        square = ((u[:, None] - v[None]) ** 2).sum(axis=-1)
        if self.kernel == "matern52":
            r = np.sqrt(5 * square)
            return self.signal[output] ** 2 * (1 + r + r**2 / 3) * np.exp(-r)
        smooth = self.signal[output] ** 2 * np.exp(-square / 2)
        if self.kernel == "se":
            return smooth
        return smooth + (self.bias[output] ** 2 + (a * self.tilt[output] ** 2) @ b.T) ** 2

    def prior_mean(self, inputs: np.ndarray) -> np.ndarray:
        """m(v) [..., E] of inputs [..., D]."""
        return inputs @ self.slope.T + self.intercept

    @cached_property
    def cholesky(self) -> np.ndarray:
        """L [E, n, n], lower triangular."""
        factors = np.empty((self.outputs, self.count, self.count))
        for e in range(self.outputs):
            gram = self.covariance(e, self.inputs, self.inputs)
            gram[np.diag_indices(self.count)] += self.noise[e] ** 2
            try:
                factors[e] = scipy.linalg.cholesky(gram, lower=True, overwrite_a=True)
            except np.linalg.LinAlgError as error:
                raise InvalidInput(
                    f"the covariance of output {e} is singular in float64: signal {self.signal[e]:g} and noise "
                    f"{self.noise[e]:g} are too far apart for {self.count} observations; give more noise"
                ) from error
        return factors

    @cached_property
    def beta(self) -> np.ndarray:
        """(K + noise^2 I)^-1 (y - m) [E, n]."""
        residual = (self.targets - self.prior_mean(self.inputs)).T
        return np.array(
            [scipy.linalg.cho_solve((l, True), r) for l, r in zip(self.cholesky, residual, strict=True)]
        ).reshape(self.outputs, self.count)

    def predict(self, inputs: np.ndarray) -> Latent:
        """Mean and variance of the functions at inputs [..., D]."""
        inputs = np.asarray(inputs, np.float64)
        flat = inputs.reshape(-1, inputs.shape[-1])
        mean, variance = self.prior_mean(flat), np.empty((len(flat), self.outputs))
        for e in range(self.outputs):
            cross = self.covariance(e, self.inputs, flat)
            mean[:, e] += self.beta[e] @ cross
            explained = scipy.linalg.solve_triangular(self.cholesky[e], cross, lower=True)
            prior = np.full(len(flat), self.signal[e] ** 2)
            if self.kernel == "se+polynomial":
                prior += (self.bias[e] ** 2 + flat**2 @ self.tilt[e] ** 2) ** 2
            variance[:, e] = np.maximum(prior - (explained**2).sum(axis=0), 0)
        return Latent(mean.reshape(*inputs.shape[:-1], -1), variance.reshape(*inputs.shape[:-1], -1))

    def append(self, inputs: np.ndarray, targets: np.ndarray) -> Self:
        """The same processes conditioned on more observations [m, D], [m, E]; hyper-parameters stay.

        The factor grows by m rows, in O(n^2 m).
        """
        inputs, targets = np.atleast_2d(np.asarray(inputs, np.float64)), np.atleast_2d(np.asarray(targets, np.float64))
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {
            "inputs": np.concatenate([self.inputs, inputs]),
            "targets": np.concatenate([self.targets, targets]),
        }
        grown = type(self)(**fields)
        n, more = self.count, len(inputs)
        factors = np.zeros((self.outputs, n + more, n + more))
        for e in range(self.outputs):
            factors[e, :n, :n] = self.cholesky[e]
            side = scipy.linalg.solve_triangular(self.cholesky[e], self.covariance(e, self.inputs, inputs), lower=True)
            corner = self.covariance(e, inputs, inputs) + self.noise[e] ** 2 * np.eye(more) - side.T @ side
            factors[e, n:, :n] = side.T
            factors[e, n:, n:] = scipy.linalg.cholesky(corner, lower=True)
        grown.__dict__["cholesky"] = factors
        return grown
