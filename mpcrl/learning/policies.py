"""Policies whose moments are known: linear functions and radial basis functions, brought within the bounds by a sine.

    u = middle + half (9 sin v + sin 3 v) / 8,   v = policy(z),   z = (numbers, sines, cosines) of a state

The squash rises from the lower bound at v = -pi/2 to the upper one at pi/2, with slope 0 at both (Deisenroth, Fox and
Rasmussen 2015, section 2.3). A network of radial basis functions is given as the mean of a Gaussian process with few
data: its values there, not its weights, are what is searched over, so that a step of one of them changes the control
near one centre only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import scipy.linalg

from mpcrl.core.bundle import from_json, from_safetensors, to_json, to_safetensors
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.kernels.moments import Network, Waves

_RIDGE = 0.01
"""Standard deviation of the noise of a network's values, beside a signal of 1: what keeps close centres apart."""

_WIDEST = 50.0
"""Logarithm of the widest basis function, and minus that of the narrowest: beyond it all are one line, or none."""


FILE = "policy.json"
"""That a folder with a policy has."""


class Policy(Protocol):
    """Functions v [nu] of z [nz] that depend on a vector of parameters.

    Attributes
    ----------
    parameters : ndarray [P]
        What is searched over.
    """

    @property
    def parameters(self) -> np.ndarray: ...

    def with_parameters(self, parameters: np.ndarray) -> Self:
        """The same kind of policy."""
        ...

    def network(self) -> Network:
        """As kernels take it."""
        ...

    def pull(self, gradient: Network) -> np.ndarray:
        """Derivatives [P] with respect to the parameters, of those with respect to the network's numbers."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearPolicy:
    """v = gain z + offset.

    Attributes
    ----------
    gain : ndarray [nu, nz]
    offset : ndarray [nu]
    """

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def random(cls, z: np.ndarray, nu: int, rng: np.random.Generator, size: float = 0.1) -> Self:
        """A policy that is close to 0 where it starts, at inputs like z [N, nz]."""
        scale = np.maximum(z.std(axis=0), 1e-2)
        gain = size * rng.standard_normal((nu, z.shape[1])) / scale / math.sqrt(z.shape[1])
        return cls(gain=gain, offset=-gain @ z.mean(axis=0))

    @property
    def parameters(self) -> np.ndarray:
        """Gain, then offset."""
        return np.concatenate([self.gain.ravel(), self.offset])

    def with_parameters(self, parameters: np.ndarray) -> Self:
        """A linear policy with these [nu nz + nu]."""
        parts = _split(parameters, self.gain, self.offset)
        return type(self)(gain=parts[0], offset=parts[1])

    def network(self) -> Network:
        """No basis functions, and a line."""
        nu, nz = self.gain.shape
        return Network(np.zeros((0, nz)), np.ones((nu, nz)), np.zeros((nu, 0)), self.gain, self.offset)

    def pull(self, gradient: Network) -> np.ndarray:
        """Those of the line."""
        return np.concatenate([gradient.slope.ravel(), gradient.intercept])


@dataclass(frozen=True, kw_only=True, eq=False)
class RBFPolicy:
    """v_a = k_a(z, centres) (K_a + ridge^2)^-1 values_a, k_a = exp(-sum_d (z_d - z'_d)^2 / lengthscale_a,d^2 / 2).

    Attributes
    ----------
    centres : ndarray [n, nz]
    values : ndarray [nu, n]
    lengthscale : ndarray [nu, nz]
        What is searched over is its logarithm.
    """

    centres: np.ndarray
    values: np.ndarray
    lengthscale: np.ndarray

    @classmethod
    def random(
        cls, z: np.ndarray, nu: int, rng: np.random.Generator, *, count: int, lengthscale: np.ndarray, size: float = 0.1
    ) -> Self:
        """A policy with its n centres among inputs z [N, nz], and values of the deviation `size`."""
        rows = rng.choice(len(z), count, replace=len(z) < count)
        jitter = 0.1 * lengthscale * rng.standard_normal((count, z.shape[1]))
        values = size * rng.standard_normal((nu, count))
        return cls(centres=z[rows] + jitter, values=values, lengthscale=np.tile(lengthscale, (nu, 1)))

    @property
    def parameters(self) -> np.ndarray:
        """Centres, values, logarithms of the length scales."""
        return np.concatenate([self.centres.ravel(), self.values.ravel(), np.log(self.lengthscale).ravel()])

    def with_parameters(self, parameters: np.ndarray) -> Self:
        """A network of the same size with these [n nz + nu n + nu nz]."""
        centres, values, logs = _split(parameters, self.centres, self.values, self.lengthscale)
        return type(self)(centres=centres, values=values, lengthscale=np.exp(np.clip(logs, -_WIDEST, _WIDEST)))

    def network(self) -> Network:
        """Its weights (K + ridge^2)^-1 values."""
        nu, nz = self.lengthscale.shape
        weights = np.array([scipy.linalg.cho_solve(self._factor(a), self.values[a]) for a in range(nu)])
        return Network(self.centres, self.lengthscale**-2.0, weights, np.zeros((nu, nz)), np.zeros(nu))

    def pull(self, gradient: Network) -> np.ndarray:
        """Through the weights: w = K^-1 values, so that dw = K^-1 (dvalues - dK w)."""
        centres, logs = gradient.centres.copy(), gradient.precision * -2.0 * self.lengthscale**-2.0
        values = np.empty_like(self.values)
        for a, scale in enumerate(self.lengthscale):
            factor = self._factor(a)
            values[a] = scipy.linalg.cho_solve(factor, gradient.weights[a])
            weights = scipy.linalg.cho_solve(factor, self.values[a])
            pull = -(values[a][:, None] * weights) * self._gram(a)
            pull += pull.T  # of a pair of centres, from either
            centres += (pull @ self.centres - pull.sum(axis=1)[:, None] * self.centres) / scale**2
            square = (self.centres[:, None] - self.centres[None]) ** 2
            logs[a] += 0.5 * np.einsum("ij,ijd->d", pull, square) / scale**2
        return np.concatenate([centres.ravel(), values.ravel(), logs.ravel()])

    def _gram(self, a: int) -> np.ndarray:
        scaled = self.centres / self.lengthscale[a]
        return np.exp(-0.5 * ((scaled[:, None] - scaled[None]) ** 2).sum(axis=-1))

    def _factor(self, a: int) -> tuple[np.ndarray, bool]:
        return scipy.linalg.cho_factor(self._gram(a) + _RIDGE**2 * np.eye(len(self.centres)), lower=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightedRBFPolicy(RBFPolicy):
    """v_a = sum_i values_a,i exp(-sum_d (z_d - centres_i,d)^2 / lengthscale_a,d^2 / 2).

    Its weights are searched over themselves, so that each basis function does its part alone and others may drop out.
    """

    def network(self) -> Network:
        """Itself."""
        nu, nz = self.lengthscale.shape
        return Network(self.centres, self.lengthscale**-2.0, self.values, np.zeros((nu, nz)), np.zeros(nu))

    def pull(self, gradient: Network) -> np.ndarray:
        """Those of the network, with respect to the logarithms of the length scales."""
        logs = gradient.precision * -2.0 * self.lengthscale**-2.0
        return np.concatenate([gradient.centres.ravel(), gradient.weights.ravel(), logs.ravel()])


def controls(net: Network, z: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """u [..., nu] within the bounds, of a policy's network and inputs z [..., nz]."""
    square = ((z[..., None, None, :] - net.centres) ** 2 * net.precision[:, None, :]).sum(axis=-1)
    v = (net.weights * np.exp(-0.5 * square)).sum(axis=-1) + z @ net.slope.T + net.intercept
    return 0.5 * (low + high) + 0.5 * (high - low) * (9 * np.sin(v) + np.sin(3 * v)) / 8


def policy_files(policy: Policy) -> dict[str, bytes]:
    """JSON and safetensors that `policy_of_files` makes the policy of."""
    kind = next(name for name, known in _KINDS.items() if type(policy) is known)
    arrays = {name: getattr(policy, name) for name in _KINDS[kind].__dataclass_fields__}
    return {FILE: to_json({"kind": kind}), "policy.safetensors": to_safetensors(arrays)}


def policy_of_files(files: Mapping[str, bytes]) -> LinearPolicy | RBFPolicy:
    """The policy that `policy_files` wrote.

    Raises
    ------
    DamagedExport
    """
    try:
        kind = _KINDS[from_json(files[FILE], FILE)["kind"]]
        return kind(**from_safetensors(files["policy.safetensors"], "policy.safetensors"))
    except (KeyError, TypeError) as error:
        raise DamagedExport(f"the files of a policy do not fit together: {error!r}") from error


_KINDS: dict[str, type[LinearPolicy] | type[RBFPolicy]] = {
    "linear": LinearPolicy,
    "rbf": RBFPolicy,
    "weighted-rbf": WeightedRBFPolicy,
}


def squash_waves(low: np.ndarray, high: np.ndarray) -> Waves:
    """The sines of `controls`, two for each."""
    nu, half = len(low), 0.5 * (np.asarray(high, np.float64) - low)
    return Waves(
        np.repeat(np.arange(nu), 2),
        np.tile([1.0, 3.0], nu),
        np.full(2 * nu, -0.5 * np.pi),
        np.stack([9 / 8 * half, 1 / 8 * half], axis=1).ravel(),
    )


def _split(vector: np.ndarray, *like: np.ndarray) -> list[np.ndarray]:
    vector = np.asarray(vector, np.float64)
    sizes = [part.size for part in like]
    if vector.shape != (sum(sizes),):
        raise InvalidInput(f"this policy has {sum(sizes)} parameters, got an array of shape {vector.shape}")
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return [part.reshape(shape.shape).copy() for part, shape in zip(parts, like, strict=True)]
