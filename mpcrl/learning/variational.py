"""The bound on the evidence that inducing inputs are moved along, by gpytorch's kernels and torch's gradient.

Of one output on standardised data, with m inducing inputs Z (Titsias 2009, "Variational learning of inducing variables
in sparse Gaussian processes", equation 9), and the mean function H w of weights w ~ N(0, 10^2):

    bound F = log N(r; 0, Q + noise^2 I) - tr(K - Q) / (2 noise^2) - |w|^2 / 200
    Q = k(V, Z) k(Z, Z)^-1 k(Z, V),   r = y - H w

F is what stochastic variational inference would reach with the best normal q(f(Z)) = N(m, S) at its every step; this q
gives the predictions of DTC (equation 6), so that what is learned is a `GaussianProcess` like all others. Unlike the
evidence of FITC or DTC, F never exceeds that of the exact process with the same hyper-parameters, so that Z is never
moved to where it only seems to explain more.

gpytorch's own form of F is the same number (`tests/test_gaussian_process.py`); here k(Z, Z) has the jitter with which
`GaussianProcess` predicts, and w the best value for each of the other numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mpcrl.core.errors import missing
from mpcrl.models.gaussian_process import JITTER

try:
    import gpytorch
    import torch
except ImportError as error:
    raise missing((error.name or "gpytorch").partition(".")[0], "learning") from error


class Found(NamedTuple):
    """F, its gradients by the logarithms [size] and by the inducing inputs [m, D], and the weights w."""

    value: float
    logs: np.ndarray
    inducing: np.ndarray
    weights: np.ndarray


class Bound:
    """F of one output.

    Parameters
    ----------
    kernel : {"se", "matern52", "se+polynomial"}
    inputs : ndarray [n, D]
    target : ndarray [n]
    means : ndarray [n, q]
        H.
    deviation : float
        Of the weights.
    stretch, shift : ndarray [D]
        inputs * stretch + shift is what the polynomial sees.

    Notes
    -----
    Logarithms stand in the order of `Evidence`. All work is the calling thread's: outputs may take turns or not.
    """

    def __init__(
        self,
        kernel: str,
        inputs: np.ndarray,
        target: np.ndarray,
        means: np.ndarray,
        deviation: float,
        stretch: np.ndarray,
        shift: np.ndarray,
    ) -> None:
        width = inputs.shape[1]
        self._inputs, self._means = torch.tensor(inputs), torch.tensor(means)
        self._seen = torch.cat([self._means, torch.tensor(target)[:, None]], dim=1)
        self._deviation = deviation
        self._stretch, self._shift = torch.tensor(stretch), torch.tensor(shift)
        logarithmic = gpytorch.constraints.Positive(torch.exp, torch.log)
        inner = (
            gpytorch.kernels.MaternKernel(2.5, ard_num_dims=width, lengthscale_constraint=logarithmic)
            if kernel == "matern52"
            else gpytorch.kernels.RBFKernel(ard_num_dims=width, lengthscale_constraint=logarithmic)
        )
        self._smooth = gpytorch.kernels.ScaleKernel(inner, outputscale_constraint=logarithmic).double()
        self._parameters = [inner.raw_lengthscale, self._smooth.raw_outputscale]
        self._polynomial: Any = None
        if kernel == "se+polynomial":
            self._polynomial = gpytorch.kernels.PolynomialKernel(2, offset_constraint=logarithmic).double()
            self._parameters.append(self._polynomial.raw_offset)

    def _covariance(self, a: Any, b: Any, tilt: Any, diag: bool = False) -> Any:
        found = self._smooth(a, b, diag=diag)
        if self._polynomial is not None:
            ends = ((x * self._stretch + self._shift) * tilt for x in (a, b))
            found = found + self._polynomial(*ends, diag=diag)
        return found if diag else found.to_dense()

    def value(self, logs: np.ndarray, inducing: np.ndarray) -> Found | None:
        """F there; None where a covariance is singular."""
        count, width = self._inputs.shape
        points = torch.tensor(inducing, requires_grad=True)
        noise = torch.tensor(logs[width + 1], requires_grad=True)
        slopes = torch.tensor(logs[width + 2 : -1] if self._polynomial is not None else [], requires_grad=True)
        with torch.no_grad():
            sizes = [logs[:width], 2 * logs[width], 2 * logs[-1]]  # of what gpytorch takes: variances and b^2
            for parameter, size in zip(self._parameters, sizes, strict=False):
                parameter.copy_(torch.as_tensor(size).reshape(parameter.shape))
        tilt, deviation = torch.exp(slopes), torch.exp(noise)
        gram = self._covariance(points, points, tilt)
        gram = gram + JITTER * torch.diag(gram.diagonal())
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            return None
        cross = self._covariance(points, self._inputs, tilt)
        scaled = torch.linalg.solve_triangular(factor, cross, upper=False) / deviation
        gained = torch.linalg.cholesky(scaled @ scaled.T + torch.eye(len(points), dtype=torch.float64))
        explained = torch.linalg.solve_triangular(gained, scaled @ self._seen, upper=False) / deviation
        products = self._seen.T @ self._seen / deviation**2 - explained.T @ explained
        with torch.no_grad():  # at the best w, F does not change with it
            normal = products[:-1, :-1] + torch.eye(self._means.shape[1], dtype=torch.float64) / self._deviation**2
            weights = torch.linalg.solve(normal, products[:-1, -1])
        side = torch.cat([-weights, torch.ones(1, dtype=torch.float64)])
        prior = self._covariance(self._inputs, self._inputs, tilt, diag=True)
        value = -0.5 * side @ products @ side - torch.log(gained.diagonal()).sum()
        value = value - count * (noise + 0.5 * math.log(2 * math.pi))
        value = value - 0.5 * (prior.sum() / deviation**2 - (scaled**2).sum())
        value = value - 0.5 * weights @ weights / self._deviation**2
        if not torch.isfinite(value):
            return None
        lengthscale, signal, *bias, noise, slopes, points = torch.autograd.grad(
            value, [*self._parameters, noise, slopes, points], allow_unused=self._polynomial is None
        )
        parts = [lengthscale.ravel(), 2 * signal.ravel(), noise.ravel()]
        if self._polynomial is not None:
            parts += [slopes, 2 * bias[0].ravel()]
        return Found(value.item(), torch.cat(parts).numpy(), points.numpy(), weights.numpy())
