"""Search for the policy whose expected cost under a learned model is least, by L-BFGS along the exact gradient.

Deisenroth and Rasmussen 2011, "PILCO: a model-based and data-efficient approach to policy search", section 2.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

from mpcrl.core.errors import InvalidInput
from mpcrl.kernels.belief import Chain, Expected, propagate
from mpcrl.kernels.moments import Network, Processes, Waves
from mpcrl.kernels.pairs import padded
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.policies import Policy, squash_waves
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.planners.belief import believed
from mpcrl.tasks.features import Features
from mpcrl.tasks.goal import Goal

_FAR = 1e3
"""A parameter that is farther from 0 than this is on its way to infinity."""
_BEYOND = 1e10
"""In the place of a cost that is no number: line searches step back from it."""


class Forecast(NamedTuple):
    """Normal beliefs about H steps under a policy.

    Attributes
    ----------
    means, covs : ndarray [H + 1, nx], [H + 1, nx, nx]
        Of the states.
    costs, deviations : ndarray [H + 1]
        Expectation and standard deviation of the cost of each.
    """

    means: np.ndarray
    covs: np.ndarray
    costs: np.ndarray
    deviations: np.ndarray

    @property
    def total(self) -> float:
        """Expected cost of all states but the first: what a search minimises."""
        return float(self.costs[1:].sum())


class SearchProgress(NamedTuple):
    """Where a search stands after an evaluation of cost and gradient."""

    start: int
    starts: int
    evaluation: int
    cost: float
    seconds: float

    def __str__(self) -> str:
        where = f"policy search {self.start + 1}/{self.starts}: evaluation {self.evaluation}"
        return f"{where}, expected cost {self.cost:.3f}, {self.seconds:.1f} s"


class Found(NamedTuple):
    """What a search came to."""

    policy: Policy
    cost: float
    evaluations: int


def processes_of(model: GaussianProcess) -> Processes:
    """A model as the moment kernels take it.

    Raises
    ------
    InvalidInput
        Its kernels have no moments in closed form here.
    """
    if model.kernel != "se":
        raise InvalidInput(f"moments are known for processes of the kernel 'se', got {model.kernel!r}")
    explaining = np.einsum("eki,ekj->eij", model.root, model.root, optimize=True)
    gain = model.beta[:, :, None] * model.beta[:, None, :] - explaining
    rest = padded(len(model.centers)) - len(model.centers)

    def filled(matrices: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.pad(matrices, ((0, 0), (0, rest), (0, rest))))  # else a kernel of its own

    return Processes(
        model.centers,
        model.lengthscale**-2.0,
        model.signal**2,
        model.beta,
        filled(np.tril(gain) + np.tril(gain, -1)),
        filled(model.root.transpose(0, 2, 1)),
        model.slope,
        model.intercept,
    )


def loop_of(features: Features, goal: Goal, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """The fields of `Chain` and `Cascade` that no model changes: what policy and processes see, and what it costs."""
    count, plain = len(features.angles), policy_plain(features)
    angles = np.array(features.angles, np.int64)
    width = len(plain) + 2 * count + features.nu
    unseen = {plain.tolist().index(i) for i in features.unseen}
    return {
        "seen": np.array([i for i in range(width) if i not in unseen]),
        "plain": plain,
        "waves": Waves(
            np.tile(angles, 2), np.ones(2 * count), np.repeat([-0.5 * np.pi, 0.0], count), np.ones(2 * count)
        ),
        "squash": squash_waves(low, high),
        "middle": 0.5 * (low + high),
        "kept": np.array([float(i not in features.absolute) for i in range(features.nx)]),
        "cost": Expected(*goal.matrix(features.names, features.angles), goal.saturating),
    }


def chain_of(model: GaussianProcess, features: Features, goal: Goal, low: np.ndarray, high: np.ndarray) -> Chain:
    """All that a belief goes through in a step but the policy.

    Parameters
    ----------
    model : GaussianProcess
        Over `features.inputs`; its outputs are the changes of a state's numbers, or those that are `absolute`.
    features : Features
    goal : Goal
    low, high : ndarray [nu]
        Bounds of the controls.
    """
    loop = loop_of(features, goal, low, high)
    # a change is the difference of two that are seen
    return Chain(model=processes_of(model), noise=model.noise**2 / (1 + loop["kept"]), **loop)


def policy_plain(features: Features) -> np.ndarray:
    """Numbers of a state that policies see as they are: also those that the dynamics do not depend on."""
    return np.array([i for i in range(features.nx) if i not in features.angles], np.int64)


def policy_inputs(features: Features, states: np.ndarray) -> np.ndarray:
    """What policies see [..., nz] of states [..., nx]: numbers, sines, cosines."""
    angles = states[..., list(features.angles)]
    return np.concatenate([states[..., policy_plain(features)], np.sin(angles), np.cos(angles)], axis=-1)


def forecast(chain: Chain, policy: Policy, mean: np.ndarray, cov: np.ndarray, horizon: int) -> Forecast:
    """Beliefs about `horizon` steps from N(mean [nx], cov [nx, nx])."""
    return _propagated(chain, policy, mean, cov, horizon)[0]


def cost_and_gradient(
    chain: Chain, policy: Policy, mean: np.ndarray, cov: np.ndarray, horizon: int
) -> tuple[float, np.ndarray]:
    """The expected cost of `horizon` steps, and its derivatives with respect to the policy's parameters [P].

    Infinite, with a gradient of 0, where the belief spreads beyond what numbers hold.
    """
    found, gradient = _propagated(chain, policy, mean, cov, horizon, gradient=True)
    if not (np.isfinite(found.total) and all(np.isfinite(part).all() for part in gradient)):
        return np.inf, np.zeros_like(policy.parameters)
    return found.total, policy.pull(gradient)


def search(
    chain: Chain,
    starts: Sequence[Policy],
    *,
    mean: np.ndarray,
    cov: np.ndarray,
    horizon: int,
    evaluations: int,
    threads: int = 1,
    on_evaluation: Callable[[SearchProgress], None] = lambda progress: None,
) -> Found:
    """The best of what L-BFGS finds from each of some policies.

    Parameters
    ----------
    chain : Chain
    starts : sequence of Policy
    mean, cov : ndarray [nx], [nx, nx]
        The belief about the first state.
    horizon : int
    evaluations : int
        Of cost and gradient from each start, at most.
    threads : int
        Starts at work at the same time; what is found does not depend on it.
    on_evaluation : callable
        Told after each, from any thread.
    """
    began = time.perf_counter()

    def descend(number: int) -> Found:
        best, best_cost, count = starts[number].parameters, np.inf, 0

        def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best, best_cost, count
            cost, gradient = _BEYOND, np.zeros_like(parameters)
            if np.abs(parameters).max() < _FAR:
                policy = starts[number].with_parameters(parameters)
                cost, gradient = cost_and_gradient(chain, policy, mean, cov, horizon)
            count += 1
            if not np.isfinite(cost):
                return _BEYOND, gradient
            if cost < best_cost:
                best, best_cost = parameters.copy(), cost
            on_evaluation(SearchProgress(number, len(starts), count, best_cost, time.perf_counter() - began))
            return cost, gradient

        scipy.optimize.minimize(
            objective,
            best,
            jac=True,
            method="L-BFGS-B",
            options={"maxfun": evaluations, "maxiter": evaluations, "maxcor": 50, "ftol": 1e-9, "gtol": 1e-6},
        )
        return Found(starts[number].with_parameters(best), best_cost, count)

    if threads == 1:
        found = [descend(number) for number in range(len(starts))]
    else:
        with ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(descend, range(len(starts))))
    return min(found, key=lambda one: one.cost)


def belief_predictor(chain: Chain, *, particles: int = 100, seed: int = 0) -> Predictor:
    """Draws of what is seen, from the beliefs of each step under given controls, for `calibration`."""

    def predict(state: np.ndarray, controls: np.ndarray) -> np.ndarray:
        count, horizon, nx = len(controls), controls.shape[1], len(state)
        drawn = np.random.default_rng(seed).standard_normal((particles, count, horizon + 1, nx))
        for n in range(count):
            said = believed(chain, state, np.zeros((nx, nx)), controls[n])
            spread = np.sqrt(np.maximum(np.diagonal(said.covs, axis1=1, axis2=2), 0) + chain.noise)
            spread[0] = 0
            drawn[:, n] = said.means + spread * drawn[:, n]
        return drawn

    return predict


def _propagated(
    chain: Chain,
    policy: Policy,
    mean: np.ndarray,
    cov: np.ndarray,
    horizon: int,
    *,
    gradient: bool = False,
) -> tuple[Forecast, Network]:
    """Beliefs under a policy, and the gradient of their cost by the network."""
    means, covs = np.zeros((horizon + 1, len(mean))), np.zeros((horizon + 1, len(mean), len(mean)))
    means[0], covs[0] = mean, cov
    net = policy.network()
    sums = Network(*(np.zeros_like(part) for part in net))
    costs, deviations = np.empty(horizon + 1), np.empty(horizon + 1)
    propagate(chain, net, means, covs, costs, deviations, gradient, sums)
    return Forecast(means, covs, costs, deviations), sums
