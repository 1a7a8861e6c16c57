"""PILCO: probabilistic inference for learning control.

Deisenroth and Rasmussen: PILCO: a model-based and data-efficient approach to policy search, ICML 2011, algorithm 1:

    one trial of random controls
    for each trial:
        fit Gaussian processes to all transitions so far
        search for the policy whose expected cost over the horizon is least: the belief about the state goes through
            policy and processes by moment matching, and L-BFGS follows the exact gradient
            (a policy that is good is then made so for first states farther apart: one normal belief hardly counts
            the few that end in a fall)
        apply that policy, store what came of it

The policy sees what the processes see: numbers, and sines and cosines of angles. The cost is the task's goal (`Goal`),
whose expectation is known; the belief about the first state is that of the task's own resets, less the processes' noise
in what is seen of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mpcrl.agents.agent import FITTED
from mpcrl.agents.policy_agent import OnEvaluation, PolicyAgent, Said, numbered
from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.belief import Chain
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.gaussian_process import fit
from mpcrl.learning.policies import LinearPolicy, Policy, RBFPolicy
from mpcrl.learning.policy_search import Found, SearchProgress, belief_predictor, chain_of, forecast, search
from mpcrl.learning.replay import Transitions
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.tasks.task import Task

POLICIES = ("rbf", "linear")

_WIDEST = 100.0
"""Margin beyond which a number is a mistake."""
_SHARE = 0.5
"""Of `evaluations`, for each search from first states that are farther apart."""


@dataclass(frozen=True, kw_only=True)
class PILCOConfig:
    """Settings of the algorithm.

    Attributes
    ----------
    policy : {"rbf", "linear"}
    basis : int
        Basis functions of an RBF policy.
    horizon : int or None
        Control steps that beliefs look ahead; those of an episode, at most 40, if None.
    trial_steps : int or None
        Control steps of a trial; as many as the horizon, if None.
    evaluations : int
        Of cost and gradient, from each start of a search; half as many for each width of the `margin`.
    restarts : int
        Starts at random policies, of the first search, and of others that from the policy before find none that is
        `enough`.
    enough : float
        Expected cost of a good policy, per step: of 1 at most, or 0.5 at a distance of one width (`Goal.saturating`).
    margin : float
        Deviations of the first states that a policy that is `enough` is searched again for, over the task's own, as far
        as it stays so; 1 for none.
    points : int
        Transitions that the processes are conditioned on at most, the last ones.
    inducing : int or None
        Inputs that each process sums more transitions up by (FITC); none, so that processes are exact, if None.
    """

    policy: str = "rbf"
    basis: int = 50
    horizon: int | None = None
    trial_steps: int | None = None
    evaluations: int = 150
    restarts: int = 2
    enough: float = 0.5
    margin: float = 2.0
    points: int = 600
    inducing: int | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidInput(f"policy must be {' or '.join(POLICIES)}, got {self.policy!r}")
        for name in ("basis", "evaluations", "restarts", "points"):
            positive_integer(name, getattr(self, name))
        positive_number("enough", self.enough)
        positive_number("margin", self.margin)
        if not 1 <= self.margin <= _WIDEST:
            raise InvalidInput(f"margin must be from 1 to {_WIDEST:g}, got {self.margin!r}")
        for name in ("horizon", "trial_steps", "inducing"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))

    @property
    def widths(self) -> tuple[float, ...]:
        """Deviations of the first states over the task's own, of the searches after the first."""
        return (math.sqrt(self.margin), self.margin) if self.margin > 1 else ()


class PILCO(PolicyAgent[PILCOConfig]):
    """An agent that learns a task of few numbers within a few trials, as the module's docstring says.

    Parameters
    ----------
    task : Task
        With a goal.
    config : PILCOConfig
    seed : int
        Keys everything that is random: the same seed gives the same trials, also when they are interrupted between two
        of them, saved and loaded.
    threads : int, optional
        To search with, a start each.

    Attributes
    ----------
    features : Features
        What states consist of.
    trials, steps, episodes : int
        Done so far.

    Raises
    ------
    NoGoal
        The task has none.
    """

    head: ClassVar = {"format": "mpcrl-pilco", "version": 1}

    def __init__(
        self, task: Task, *, config: PILCOConfig | None = None, seed: int = 0, threads: int | None = None
    ) -> None:
        super().__init__(task, config or PILCOConfig(), seed, threads)
        self._chain: Chain | None = None

    def _learned(self, rows: Transitions, on_evaluation: OnEvaluation) -> Found:
        threads = ThreadBudget.of(self.threads).count
        inputs = self.features.inputs(rows.states, rows.controls)
        targets = self.features.targets(rows.states, rows.next_states)
        config = dataclasses.replace(FITTED, inducing=self.config.inducing)
        self._use(fit(inputs, targets, config, seed=self.seed, threads=threads))
        chain = self._known(self._chain)
        mean, cov = _normal(self._known(self._starts), chain.noise)

        searches = 0

        def told(progress: SearchProgress) -> None:
            nonlocal searches
            searches = progress.starts
            on_evaluation(progress)

        def searched(starts: Iterable[Policy], tell: OnEvaluation, width: float = 1.0, share: float = 1.0) -> Found:
            return search(
                chain,
                list(starts),
                mean=mean,
                cov=width**2 * cov,
                horizon=self.horizon,
                evaluations=math.ceil(share * self.config.evaluations),
                threads=threads,
                on_evaluation=tell,
            )

        rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.trials, 2)))
        found = self._best(searched, rows.states, rng, told)
        for width in self.config.widths if cov.any() else ():
            if not self._enough(found):
                break
            wider = searched([found.policy], numbered(told, searches, 1), width, _SHARE)
            own = wider._replace(cost=forecast(chain, wider.policy, mean, cov, self.horizon).total)
            if not (self._enough(wider) and self._enough(own)):
                break
            found = own
        return found

    def _random_policy(self, states: np.ndarray, rng: np.random.Generator) -> Policy:
        z, scale = self._scales(states)
        if self.config.policy == "linear":
            return LinearPolicy.random(z, self.task.nu, rng)
        return RBFPolicy.random(z, self.task.nu, rng, count=self.config.basis, lengthscale=scale)

    @property
    def acts_by(self) -> str:
        """Its kind of policy, and how far it was made to look ahead."""
        return f"linear policy, {self.horizon} steps ahead" if self.config.policy == "linear" else super().acts_by

    def _use(self, model: GaussianProcess) -> None:
        self._model = model
        self._chain = chain_of(model, self.features, self.goal, self.task.control_low, self.task.control_high)

    def _said(self, starts: np.ndarray, horizon: int) -> Said:
        chain = self._known(self._chain)
        said = forecast(chain, self.policy, *_normal(starts, chain.noise), horizon)
        seen = np.diagonal(said.covs, axis1=1, axis2=2) + chain.noise
        return Said(said.means, np.sqrt(np.maximum(seen, 0)))

    def _expected(self, start: np.ndarray, horizon: int) -> float:
        nothing = np.zeros((len(start), len(start)))
        return forecast(self._known(self._chain), self.policy, start, nothing, horizon).total

    def predictor(self) -> Predictor:
        """Draws from beliefs under given controls."""
        return belief_predictor(self._known(self._chain), seed=self.seed)


def _normal(seen: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [nx] and covariance [nx, nx] of states that were seen [N, nx] with noise of this variance [nx].

    Each number's spread is less by the noise, or 0: whoever looks at the belief adds the noise again.
    """
    cov = np.cov(seen.T).reshape(seen.shape[1], -1)
    variance = np.diagonal(cov)
    share = np.sqrt(np.maximum(variance - noise, 0.0) / np.maximum(variance, noise))
    return seen.mean(axis=0), share[:, None] * cov * share
