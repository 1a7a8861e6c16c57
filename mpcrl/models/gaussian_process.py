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

With m inducing inputs Z in the place of the observations' own (Quinonero-Candela and Rasmussen 2005):

    L L' = k(Z, Z),   A = L^-1 k(Z, V),   B = I + A S^-1 A'
    S = diag(s),   s_i = noise^2 ("dtc", "variational"), and k(v_i, v_i) - |A_i|^2 more ("fitc")
    beta = L'^-1 B^-1 A S^-1 (y - m(V)),   variance = k(v, v) - k(v, Z) L'^-1 (I - B^-1) L^-1 k(Z, v)

The best normal distribution of f(Z) for the variational bound of Titsias (2009, equation 10), N(m(Z) + L B^-1 A S^-1
(y - m(V)), L B^-1 L'), predicts just what DTC does: the two differ in how Z and the hyper-parameters are found.

So whatever the data are summed up by, what predicts is the same: centers, `beta`, and a lower triangle `root`:

    mean = m(v) + k(v, centers) beta,   variance = k(v, v) - |root k(centers, v)|^2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.linalg

from mpcrl.core.bundle import from_json, from_safetensors, to_json, to_safetensors
from mpcrl.core.errors import DamagedExport, InvalidInput

HEAD = {"format": "mpcrl-gaussian-process", "version": 1}
"""Of a folder that holds processes; see `read_bundle`."""
FILE = "gaussian_process.json"
KERNELS = ("se", "matern52", "se+polynomial")
SPARSE = ("fitc", "dtc", "variational")
_ARRAYS = ("inputs", "targets", "lengthscale", "signal", "noise", "slope", "intercept", "tilt", "bias")
JITTER = 1e-10
"""Added to the covariance of inducing inputs, per variance; they have no noise of their own."""


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
    inducing : ndarray [m, D], optional
        Inputs that sum the data up; without them predictions are exact.
    sparse : {"fitc", "dtc", "variational"}
        How they do; of no meaning without them.
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
    inducing: np.ndarray | None = None
    sparse: str = "fitc"

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise InvalidInput(f"kernel must be one of {', '.join(KERNELS)}, got {self.kernel!r}")
        if self.sparse not in SPARSE:
            raise InvalidInput(f"sparse must be one of {', '.join(SPARSE)}, got {self.sparse!r}")
        if np.ndim(self.inputs) != 2 or np.ndim(self.targets) != 2:
            raise InvalidInput(
                f"inputs and targets must be matrices, got the shapes {np.shape(self.inputs)} and "
                f"{np.shape(self.targets)}"
            )
        count, width, outputs = *self.inputs.shape, self.targets.shape[1]
        shapes: dict[str, tuple[int, ...]] = {"inputs": (count, width), "targets": (count, outputs)}
        shapes |= dict.fromkeys(("lengthscale", "slope", "tilt"), (outputs, width))
        shapes |= dict.fromkeys(("signal", "noise", "intercept", "bias"), (outputs,))
        if self.inducing is not None:
            shapes["inducing"] = (len(self.inducing), width)
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
            factors[e] = self._factor(e, gram)
        return factors

    def _factor(self, output: int, gram: np.ndarray) -> np.ndarray:
        """The lower triangle of a covariance of this output, which may be overwritten."""
        try:
            return scipy.linalg.cholesky(gram, lower=True, overwrite_a=True)
        except np.linalg.LinAlgError as error:
            raise InvalidInput(
                f"the covariance of output {output} is singular in float64: signal {self.signal[output]:g} and noise "
                f"{self.noise[output]:g} are too far apart for {self.count} observations; give more noise"
            ) from error

    @property
    def centers(self) -> np.ndarray:
        """Inputs [m, D] that predictions are sums over: the inducing ones, or those of all observations."""
        return self.inputs if self.inducing is None else self.inducing

    @cached_property
    def beta(self) -> np.ndarray:
        """What covariances with the centers are multiplied with for the mean [E, m]."""
        if self.inducing is not None:
            return np.array([part.beta for part in self._summary])
        residual = (self.targets - self.prior_mean(self.inputs)).T
        return np.array([self._solved(e, r) for e, r in enumerate(residual)]).reshape(self.outputs, self.count)

    def _solved(self, output: int, target: np.ndarray) -> np.ndarray:
        """(K + noise^2 I)^-1 y, refined once with an error in extended precision: the same however L came about."""
        found = scipy.linalg.cho_solve((self.cholesky[output], True), target)
        covariance = self.covariance(output, self.inputs, self.inputs).astype(np.longdouble)
        exact = found.astype(np.longdouble)
        left = target - covariance @ exact - np.longdouble(self.noise[output]) ** 2 * exact
        return found + scipy.linalg.cho_solve((self.cholesky[output], True), left.astype(np.float64))

    @cached_property
    def root(self) -> np.ndarray:
        """Lower triangles [E, m, m] that covariances with the centers are multiplied with for the variance."""
        if self.inducing is not None:
            return np.array([part.root for part in self._summary])
        return np.array([_inverse(factor) for factor in self.cholesky])

    @cached_property
    def _summary(self) -> list[_Summary]:
        return [self._summarised(e) for e in range(self.outputs)]

    def _summarised(self, output: int) -> _Summary:
        """The observations of one output, by the inducing inputs."""
        assert self.inducing is not None
        gram = self.covariance(output, self.inducing, self.inducing)
        gram[np.diag_indices(len(gram))] += JITTER * np.diagonal(gram)
        factor = self._factor(output, gram)
        seen = scipy.linalg.solve_triangular(factor, self.covariance(output, self.inducing, self.inputs), lower=True)
        spread = np.full(self.count, self.noise[output] ** 2)
        if self.sparse == "fitc":
            spread += np.maximum(self.prior_variance(output, self.inputs) - (seen**2).sum(axis=0), 0)
        scaled = seen / np.sqrt(spread)
        gained = self._factor(output, scaled @ scaled.T + np.eye(len(gram)))
        residual = (self.targets - self.prior_mean(self.inputs))[:, output] / np.sqrt(spread)
        weights = scipy.linalg.cho_solve((gained, True), scaled @ residual)
        beta = scipy.linalg.solve_triangular(factor, weights, lower=True, trans=1)
        half = _inverse(gained)
        known = np.eye(len(gram)) * (1 + 1e-13) - half.T @ half  # what is not known at all has rounding errors only
        upwards = self._factor(output, known[::-1, ::-1].copy())
        return _Summary(factor, gained, beta, np.tril(upwards[::-1, ::-1].T @ _inverse(factor)))

    def prior_variance(self, output: int, inputs: np.ndarray) -> np.ndarray:
        """k_e(v, v) [N] of inputs [N, D]."""
        prior = np.full(len(inputs), self.signal[output] ** 2)
        if self.kernel == "se+polynomial":
            prior += (self.bias[output] ** 2 + inputs**2 @ self.tilt[output] ** 2) ** 2
        return prior

    def predict(self, inputs: np.ndarray) -> Latent:
        """Mean and variance of the functions at inputs [..., D]."""
        inputs = np.asarray(inputs, np.float64)
        flat = inputs.reshape(-1, inputs.shape[-1])
        mean, variance = self.prior_mean(flat), np.empty((len(flat), self.outputs))
        for e in range(self.outputs):
            cross = self.covariance(e, self.centers, flat)
            mean[:, e] += self.beta[e] @ cross
            explained = ((self.root[e] @ cross) ** 2).sum(axis=0)
            variance[:, e] = np.maximum(self.prior_variance(e, flat) - explained, 0)
        return Latent(mean.reshape(*inputs.shape[:-1], -1), variance.reshape(*inputs.shape[:-1], -1))

    def slopes(self, inputs: np.ndarray) -> np.ndarray:
        """Derivatives [..., E, D] of the means with respect to inputs [..., D]."""
        inputs = np.asarray(inputs, np.float64)
        flat = inputs.reshape(-1, inputs.shape[-1])
        found = np.tile(self.slope, (len(flat), 1, 1))
        for e in range(self.outputs):
            away = (flat[:, None] - self.centers) / self.lengthscale[e]
            square = (away**2).sum(axis=-1)
            if self.kernel == "matern52":
                r = np.sqrt(5 * square)
                falling = 5 / 3 * (1 + r) * np.exp(-r)  # -dk / d(square / 2), over the variance
            else:
                falling = np.exp(-square / 2)
            weights = -(self.signal[e] ** 2) * self.beta[e] * falling
            found[:, e] += np.einsum("ni,nid->nd", weights, away) / self.lengthscale[e]
            if self.kernel == "se+polynomial":
                tilted = self.centers * self.tilt[e] ** 2
                found[:, e] += 2 * ((self.bias[e] ** 2 + flat @ tilted.T) * self.beta[e]) @ tilted
        return found.reshape(*inputs.shape[:-1], *found.shape[1:])

    def update(self, output: int, drawn: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Factors [P, m] of covariances with the centers that turn functions of the prior into those of the posterior.

        Matheron's rule (Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors").

        Parameters
        ----------
        output : int
        drawn : ndarray [P, m]
            What functions drawn from the prior, without its mean, are at the centers.
        normals : ndarray [P, m]
        """
        if self.inducing is None:
            away = drawn + self.noise[output] * normals
            return self.beta[output] - scipy.linalg.cho_solve((self.cholesky[output], True), away.T).T
        part = self._summary[output]
        random = scipy.linalg.solve_triangular(part.gained, normals.T, lower=True, trans=1)
        random = scipy.linalg.solve_triangular(part.factor, random, lower=True, trans=1)
        return self.beta[output] + (random - scipy.linalg.cho_solve((part.factor, True), drawn.T)).T

    def append(self, inputs: np.ndarray, targets: np.ndarray) -> Self:
        """The same processes conditioned on more observations [m, D], [m, E]; all else stays as it is.

        The factor of an exact process grows by m rows, in O(n^2 m).
        """
        inputs, targets = np.atleast_2d(np.asarray(inputs, np.float64)), np.atleast_2d(np.asarray(targets, np.float64))
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {
            "inputs": np.concatenate([self.inputs, inputs]),
            "targets": np.concatenate([self.targets, targets]),
        }
        grown = type(self)(**fields)
        if self.inducing is not None:
            return grown
        n, more = self.count, len(inputs)
        factors = np.zeros((self.outputs, n + more, n + more))
        for e in range(self.outputs):
            factors[e, :n, :n] = self.cholesky[e]
            side = scipy.linalg.solve_triangular(self.cholesky[e], self.covariance(e, self.inputs, inputs), lower=True)
            corner = self.covariance(e, inputs, inputs) + self.noise[e] ** 2 * np.eye(more) - side.T @ side
            factors[e, n:, :n] = side.T
            factors[e, n:, n:] = grown._factor(e, corner)
        grown.__dict__["cholesky"] = factors
        return grown

    def files(self) -> dict[str, bytes]:
        """JSON and safetensors that `of_files` makes the processes of."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        if self.inducing is not None:
            arrays["inducing"] = self.inducing
        about = {"kernel": self.kernel, "sparse": self.sparse}
        return {FILE: to_json(about), "gaussian_process.safetensors": to_safetensors(arrays)}

    @classmethod
    def of_files(cls, files: Mapping[str, bytes]) -> Self:
        """The processes that `files` wrote.

        Raises
        ------
        DamagedExport
        """
        try:
            values: dict[str, Any] = from_json(files[FILE], FILE)
            values |= from_safetensors(files["gaussian_process.safetensors"], "gaussian_process.safetensors")
            return cls(**values)
        except (KeyError, TypeError, InvalidInput) as error:
            if isinstance(error, DamagedExport):
                raise
            raise DamagedExport(f"the files of Gaussian processes do not fit together: {error!r}") from error


class _Summary(NamedTuple):
    """L and the factor of B of one output, each [m, m]; its `beta` [m] and `root` [m, m]."""

    factor: np.ndarray
    gained: np.ndarray
    beta: np.ndarray
    root: np.ndarray


def _inverse(factor: np.ndarray) -> np.ndarray:
    """Of a lower triangle [n, n]."""
    return np.tril(scipy.linalg.solve_triangular(factor, np.eye(len(factor)), lower=True))
