"""MC-PILCO: PILCO with particles in the place of normal beliefs.

Amadio, Dalla Libera, Antonello, Nikovski, Carli and Romeres: Model-based policy search using Monte Carlo gradient
estimation with real systems application, IEEE Transactions on Robotics 2022, algorithm 1:

    one trial of random controls
    for each trial:
        fit Gaussian processes to the changes of speeds in all transitions so far; positions are integrals of speeds
        search for the policy whose mean cost over particles is least, by Adam, with dropout of its basis functions
        apply that policy, store what came of it

Particles need not be normally distributed, nor a cost have a known expectation; here it is the task's goal, which is
what other methods for few data minimise, too. Dropout smooths the cost and finds ways out of poor policies. The noise
of particles is common to all evaluations of a search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from mpcrl.agents.agent import FITTED
from mpcrl.agents.policy_agent import OnEvaluation, PolicyAgent, Said, numbered
from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.configuration import configuration
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.cascade import Cascade
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.gaussian_process import fit, spread_out
from mpcrl.learning.particle_search import (
    Noise,
    Particles,
    ParticleSearchConfig,
    cascade_of,
    first_states,
    search,
    seen_states,
)
from mpcrl.learning.policies import Policy, WeightedRBFPolicy
from mpcrl.learning.policy_search import Found, policy_inputs
from mpcrl.learning.replay import Transitions
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.speed_integration import integrated, outputs_of, predicted, sight
from mpcrl.tasks.features import speeds_of
from mpcrl.tasks.task import Task

_DRAWN = 100
"""Particles of a calibration."""

_VIGOUR = 0.5
"""Deviation of a first policy's weights: under small ones all particles rest, and no gradient tells them to move."""


@dataclass(frozen=True, kw_only=True)
class MCPILCOConfig:
    """Settings of the algorithm.

    Attributes
    ----------
    search : ParticleSearchConfig
    basis : int
        Basis functions of the policy.
    horizon : int or None
        Control steps that particles look ahead; those of an episode, at most 40, if None.
    trial_steps : int or None
        Control steps of a trial; as many as the horizon, if None.
    restarts : int
        Random policies that the first search begins from, and others that from the policy before find none that is
        `enough`.
    enough : float
        Cost of a good policy, over the most that there can be.
    integrate : bool
        Whether numbers whose speeds the task names follow from these, or have processes of their own.
    points : int
        Transitions that the processes' hyper-parameters are fitted to at most, the last ones.
    told : int
        Of these that the processes are conditioned on at most: those that tell most of the others (the paper's subset
        of data), for a search takes as long as their number's square.
    """

    search: ParticleSearchConfig = field(default_factory=ParticleSearchConfig)
    basis: int = 100
    horizon: int | None = None
    trial_steps: int | None = None
    restarts: int = 2
    enough: float = 0.3
    integrate: bool = True
    points: int = 400
    told: int = 150

    def __post_init__(self) -> None:
        for name in ("basis", "restarts", "points", "told"):
            positive_integer(name, getattr(self, name))
        positive_number("enough", self.enough)
        for name in ("horizon", "trial_steps"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))


class MCPILCO(PolicyAgent[MCPILCOConfig]):
    """An agent that learns a task of few numbers within a few trials, as the module's docstring says.

    Parameters
    ----------
    task : Task
        With a goal.
    config : MCPILCOConfig
    seed : int
        Keys everything that is random: the same seed gives the same trials, also when they are interrupted between two
        of them, saved and loaded.
    threads : int, optional
        To fit with, an output each, and to carry particles.

    Attributes
    ----------
    features : Features
        What states consist of.
    integrals : tuple of pairs of int
        Numbers of the state that are integrals, and their speeds.
    trials, steps, episodes : int
        Done so far.

    Raises
    ------
    NoGoal
        The task has none.
    """

    head: ClassVar = {"format": "mpcrl-mc-pilco", "version": 1}

    def __init__(
        self, task: Task, *, config: MCPILCOConfig | None = None, seed: int = 0, threads: int | None = None
    ) -> None:
        super().__init__(task, config or MCPILCOConfig(), seed, threads)
        self.integrals = speeds_of(task, self.features) if self.config.integrate else ()
        self._cascade: Cascade | None = None

    def setup(self) -> dict[str, Any]:
        """Also which numbers are integrals: the processes of a checkpoint are read by that."""
        return super().setup() | {"integrals": configuration(self.integrals)}

    def _learned(self, rows: Transitions, on_evaluation: OnEvaluation) -> Found:
        threads = ThreadBudget.of(self.threads).count
        inputs = self.features.inputs(rows.states, rows.controls)
        targets = self.features.targets(rows.states, rows.next_states)[:, predicted(self.features, self.integrals)]
        process = fit(inputs, targets, FITTED, seed=self.seed, threads=threads)
        if len(inputs) > self.config.told:
            kept = spread_out(process, self.config.told)
            process = dataclasses.replace(process, inputs=inputs[kept], targets=targets[kept])
        self._use(integrated(process, self.features, self.integrals, self.task.dt))
        rng = self._rng(2)

        def searched(policies: Iterable[Policy], told: OnEvaluation) -> Found:
            found = (
                search(
                    self._known(self._cascade),
                    policy,
                    starts=self._known(self._starts),
                    horizon=self.horizon,
                    config=self.config.search,
                    rng=rng,
                    threads=threads,
                    on_evaluation=numbered(told, number, 1),
                )
                for number, policy in enumerate(policies)
            )
            return min(found, key=lambda one: one.cost)

        return self._best(searched, rows.states, rng, on_evaluation)

    def _random_policy(self, states: np.ndarray, rng: np.random.Generator) -> WeightedRBFPolicy:
        """Centres like what was seen, but at angles all round: random controls hardly come near where to hold."""
        spread = states[rng.integers(len(states), size=self.config.basis)]
        angles = list(self.features.angles)
        spread[:, angles] = rng.uniform(-np.pi, np.pi, (len(spread), len(angles)))
        _, scale = self._scales(states)
        z = policy_inputs(self.features, spread)
        return WeightedRBFPolicy.random(z, self.task.nu, rng, count=self.config.basis, lengthscale=scale, size=_VIGOUR)

    def _rng(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence((self.seed, self.trials, purpose)))

    def _use(self, model: GaussianProcess) -> None:
        self._model = model
        process = outputs_of(model, predicted(self.features, self.integrals))
        rows = self._replay.transitions().take(slice(-self.config.points, None))
        self._cascade = cascade_of(
            process,
            self.features,
            self.goal,
            self.task.control_low,
            self.task.control_high,
            integrals=self.integrals,
            dt=self.task.dt,
            sight=sight(process, self.features, self.integrals, self.task.dt, rows.states, rows.next_states),
        )

    def _said(self, starts: np.ndarray, horizon: int) -> Said:
        seen = self._seen(first_states(starts, self.config.search.particles, self._rng(3)), horizon)[0]
        return Said(seen.mean(axis=2), seen.std(axis=2))

    def _expected(self, start: np.ndarray, horizon: int) -> float:
        return self._seen(first_states(start[None], self.config.search.particles, self._rng(3)), horizon)[1]

    def _seen(self, first: np.ndarray, horizon: int) -> tuple[np.ndarray, float]:
        """What will be seen [H + 1, nx, M] under the policy from first states [nx, M], and its mean cost."""
        cascade, rng = self._known(self._cascade), self._rng(4)
        states, cost = Particles(cascade, first, Noise.drawn(cascade, horizon, first.shape[1], rng)).rolled(self.policy)
        return seen_states(cascade, states, rng), cost

    def predictor(self) -> Predictor:
        """Particles under given controls."""
        cascade, policy, seed = self._known(self._cascade), self.policy, self.seed

        def predict(state: np.ndarray, controls: np.ndarray) -> np.ndarray:
            rng = np.random.default_rng(seed)
            first = first_states(state[None], _DRAWN, rng)
            drawn = []
            for plan in controls:
                noise = Noise.drawn(cascade, len(plan), first.shape[1], rng)
                states, _ = Particles(cascade, first, noise).rolled(policy, plan)
                drawn.append(seen_states(cascade, states, rng))
            return np.array(drawn).transpose(3, 0, 1, 2)

        return predict
