"""Search for the policy whose mean cost over particles is least, by Adam along its faded gradient, with dropout.

Amadio et al. 2022, "Model-based policy search using Monte Carlo gradient estimation with real systems application",
sections III and IV.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.kernels.cascade import ROWS, WIDTH, Bells, Cascade, Rule, Sampled, roll
from mpcrl.kernels.moments import Network
from mpcrl.learning.policies import Policy
from mpcrl.learning.policy_search import Found, SearchProgress, loop_of
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp_functions import lower_panels
from mpcrl.models.speed_integration import Integrals, predicted
from mpcrl.tasks.features import Features
from mpcrl.tasks.goal import Goal

_DECAYS, _SMALL = (0.9, 0.999), 1e-8  # of Adam

_LARGEST = 1e150
"""Derivative whose square is still a number."""


@dataclass(frozen=True, kw_only=True)
class ParticleSearchConfig:
    """Settings of a search; the paper's, but for fewer particles and steps, a fixed schedule, and `fade`.

    Attributes
    ----------
    particles : int
    evaluations : int
        Steps of Adam. Rate and dropout stay for half of them and fall to 0 along a line over the others.
    rate : float
        Of learning, at first.
    dropout : float
        Share of basis functions that do not count, at first, for each particle and step anew.
    fade : float
        The cost of the state right after a control counts wholly in the gradient, that of k steps later by fade^k: 1
        for the exact gradient, less for systems that are unstable or chaotic; see `mpcrl.kernels.cascade`.
    """

    particles: int = 200
    evaluations: int = 400
    rate: float = 0.01
    dropout: float = 0.25
    fade: float = 0.9

    def __post_init__(self) -> None:
        for name in ("particles", "evaluations"):
            positive_integer(name, getattr(self, name))
        positive_number("rate", self.rate)
        if not 0 <= self.dropout < 1:
            raise InvalidInput(f"dropout must be at least 0 and below 1, got {self.dropout!r}")
        if not 0 <= self.fade <= 1:
            raise InvalidInput(f"fade must be between 0 and 1, got {self.fade!r}")


class Noise(NamedTuple):
    """What is random of particles but their dropout: drawn once, so that a policy's cost is a function of it.

    Attributes
    ----------
    normals, sights : ndarray [H, E, M], [H, nx, M]
        See `kernels.cascade.roll`; M is a multiple of `WIDTH`.
    """

    normals: np.ndarray
    sights: np.ndarray

    @classmethod
    def drawn(cls, cascade: Cascade, horizon: int, count: int, rng: np.random.Generator) -> Noise:
        """For at least `count` particles."""
        whole, nx = whole_tiles(count), len(cascade.kept)
        outputs = rng.standard_normal((horizon, len(cascade.outputs), whole))
        return cls(outputs, rng.standard_normal((horizon, nx, whole)))


def whole_tiles(count: int) -> int:
    """The number of particles that fill the tiles of at least so many."""
    return -(-count // WIDTH) * WIDTH


def first_states(starts: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Of some of the starts [N, nx], drawn with replacement, at least `count` particles [nx, M]."""
    return np.ascontiguousarray(starts[rng.integers(len(starts), size=whole_tiles(count))].T)


def bells_of(centres: np.ndarray, scale: np.ndarray) -> Bells:
    """K sets of functions around centres [n, D], of widths 1 / scale [K, D], as kernels take them."""
    count = len(centres)
    scaled = centres * scale[:, None]
    ones = np.ones((len(scale), count, 1))
    exponents = np.concatenate([scaled, -0.5 * (scaled**2).sum(axis=-1, keepdims=True), ones], axis=-1)
    moments = np.concatenate([scaled, ones], axis=-1).transpose(0, 2, 1)
    return Bells(scale, _panels(exponents), _panels(moments), np.zeros(ROWS), count)


def _panels(rows: np.ndarray) -> np.ndarray:
    """Matrices [K, rows, columns] by panels of `ROWS` rows, each [column][row]."""
    sets, count, columns = rows.shape
    padded = np.zeros((sets, -(-count // ROWS) * ROWS, columns))
    padded[:, :count] = rows
    return np.ascontiguousarray(padded.reshape(sets, -1, ROWS, columns).transpose(0, 1, 3, 2).reshape(sets, -1))


def _upper_panels(upper: np.ndarray) -> np.ndarray:
    """An upper triangle [n, n] by panels, each with its columns from the diagonal on."""
    return np.concatenate([_panels(upper[None, at : at + ROWS, at:])[0] for at in range(0, len(upper), ROWS)])


def sampled_of(process: GaussianProcess) -> Sampled:
    """Processes as particles go through them.

    Raises
    ------
    InvalidInput
        Their kernel is another than "se".
    """
    if process.kernel != "se":
        raise InvalidInput(f"particles go through processes of the kernel 'se', got {process.kernel!r}")
    square = process.signal[:, None] ** 2
    roots = process.root * square[:, None]
    return Sampled(
        bells_of(process.centers, 1 / process.lengthscale),
        process.beta * square,
        np.array([lower_panels(root) for root in roots]),
        np.array([_upper_panels(root.T) for root in roots]),
        process.signal**2,
        process.slope.copy(),
        process.intercept.copy(),
    )


def cascade_of(
    process: GaussianProcess,
    features: Features,
    goal: Goal,
    low: np.ndarray,
    high: np.ndarray,
    *,
    integrals: Integrals = (),
    dt: float,
    sight: np.ndarray,
) -> Cascade:
    """All that particles go through in a step but the policy.

    Parameters
    ----------
    process : GaussianProcess
        Over `features.inputs`, with an output for each number of the state that is no integral.
    low, high : ndarray [nu]
        Bounds of the controls.
    integrals : tuple of pairs of int
        Numbers of the state and their speeds.
    dt : float
        Control period, s.
    sight : ndarray [nx]
        Deviations of what is seen.
    """
    return Cascade(
        model=sampled_of(process),
        outputs=np.array(predicted(features, integrals), np.int64),
        integrals=np.array(integrals, np.int64).reshape(-1, 2),
        dt=float(dt),
        sight=np.asarray(sight, np.float64),
        **loop_of(features, goal, low, high),
    )


class Particles:
    """Particles under policies of bells, of which all but the policy stays as it is.

    Parameters
    ----------
    cascade : Cascade
    starts : ndarray [nx, M]
        First states; M is a multiple of `WIDTH`.
    noise : Noise
    threads : int
        Results do not depend on it.
    """

    def __init__(self, cascade: Cascade, starts: np.ndarray, noise: Noise, threads: int = 1) -> None:
        self.cascade, self.starts, self.noise = cascade, starts, noise
        self._horizon, self._count = noise.sights.shape[0], noise.sights.shape[2]
        self._tiles = np.linspace(0, self._count // WIDTH, threads + 1).astype(int).tolist()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def rolled(self, policy: Policy) -> tuple[np.ndarray, float]:
        """States [H + 1, nx, M], and their mean cost.

        Infinite where particles leave what numbers hold, so that no such policy is chosen.
        """
        states, cost, _ = self._rolled(policy.network(), None, 1.0)
        return states, cost

    def cost_and_gradient(
        self, policy: Policy, keep: np.ndarray | None = None, factor: float = 1.0, *, fade: float = 1.0
    ) -> tuple[float, np.ndarray]:
        """The mean over particles of the cost of all steps, and its derivatives by the policy's parameters [P].

        Infinite, with a gradient of 0, where particles leave what numbers hold.

        Parameters
        ----------
        policy : Policy
        keep : ndarray [H, n, M] uint8, optional
            1 where a basis function counts, by `factor`.
        fade : float
            See `ParticleSearchConfig`.
        """
        net = policy.network()
        _, cost, sums = self._rolled(net, keep, factor, fade=fade)
        if not (np.isfinite(cost) and np.isfinite(sums).all()):
            return np.inf, np.zeros_like(policy.parameters)
        sums = sums.sum(axis=0) / self._count
        nz = net.centres.shape[1]
        # sums of d cost / d weight, and of that times (z - c) and (z - c)^2
        one, first, second = sums[..., 0], sums[..., 1 : 1 + nz], sums[..., 1 + nz :]
        away = first - net.centres * one[..., None]
        square = second - net.centres * (first + away)
        centres = (net.weights[..., None] * net.precision[:, None] * away).sum(axis=0)
        precision = -0.5 * (net.weights[..., None] * square).sum(axis=1)
        line = np.zeros_like(net.slope), np.zeros_like(net.intercept)
        return cost, policy.pull(Network(centres, precision, one, *line))

    def _rolled(
        self,
        net: Network,
        keep: np.ndarray | None,
        factor: float,
        *,
        fade: float | None = None,
    ) -> tuple[np.ndarray, float, np.ndarray]:
        """States, mean cost, and where `fade` is given the sums of the gradient; see `roll`."""
        tiles, (nu, basis) = self._count // WIDTH, net.weights.shape
        states = np.empty((self._horizon + 1, *self.starts.shape))
        states[0] = self.starts
        rule = Rule(bells_of(net.centres, np.sqrt(net.precision)), net.weights)
        if keep is None:
            keep = np.ones((self._horizon, basis, self._count), np.uint8)
        gradient, totals = fade is not None, np.empty(tiles)
        sums = np.zeros((tiles if gradient else 0, nu, basis, 1 + 2 * net.centres.shape[1]))

        def part(share: tuple[int, int]) -> None:
            roll(
                self.cascade,
                rule,
                *self.noise,
                keep,
                factor,
                share,
                states,
                totals,
                gradient,
                sums,
                fade or 0.0,
            )

        list((self._pool.map if self._pool else map)(part, itertools.pairwise(self._tiles)))
        cost = float(totals.sum()) / self._count
        return states, cost if math.isfinite(cost) else math.inf, sums


def search(
    cascade: Cascade,
    start: Policy,
    *,
    starts: np.ndarray,
    horizon: int,
    config: ParticleSearchConfig,
    rng: np.random.Generator,
    threads: int = 1,
    on_evaluation: Callable[[SearchProgress], None] = lambda progress: None,
) -> Found:
    """Where Adam comes to from a policy; the policy itself if that is no better.

    Parameters
    ----------
    cascade : Cascade
    start : Policy
        Of bells alone, without a line.
    starts : ndarray [N, nx]
        First states, one of which is drawn for each particle.
    horizon : int
    rng : Generator
        Of first states, of noise, which is common to all evaluations, and of dropout, which is not.
    on_evaluation : callable
        Told after each.
    """
    began = time.perf_counter()
    first = first_states(starts, config.particles, rng)
    count, basis = first.shape[1], len(start.network().centres)
    particles = Particles(cascade, first, Noise.drawn(cascade, horizon, count, rng), threads)
    parameters = start.parameters
    mean, square = np.zeros_like(parameters), np.zeros_like(parameters)
    least = math.inf
    for step in range(1, config.evaluations + 1):
        left = min(1.0, 2 - 2 * (step - 1) / config.evaluations)
        dropout = config.dropout * left
        keep = (rng.random((horizon, basis, count), np.float32) >= dropout).view(np.uint8)
        policy = start.with_parameters(parameters)
        cost, gradient = particles.cost_and_gradient(policy, keep, 1 / (1 - dropout), fade=config.fade)
        least = min(least, cost)
        on_evaluation(SearchProgress(0, 1, step, least, time.perf_counter() - began))
        if not (math.isfinite(cost) and np.abs(gradient).max() < _LARGEST):
            continue  # a step that tells nothing, and that the moments would not forget
        for moment, decay, seen in ((mean, _DECAYS[0], gradient), (square, _DECAYS[1], gradient**2)):
            moment += (1 - decay) * (seen - moment)
        ahead, size = (moment / (1 - decay**step) for moment, decay in zip((mean, square), _DECAYS, strict=True))
        parameters = parameters - config.rate * left * ahead / (np.sqrt(size) + _SMALL)
    ends = (start, start.with_parameters(parameters))
    costs = [particles.rolled(policy)[1] for policy in ends]
    better = int(costs[1] < costs[0])
    return Found(ends[better], costs[better], config.evaluations)
