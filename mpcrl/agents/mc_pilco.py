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
of particles is common to all evaluations of a search. What is said of a trial before it is by particles of another
kind, whose errors do not average out (`mpcrl.learning.function_particles`).
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
from mpcrl.learning.function_particles import FunctionParticles
from mpcrl.learning.gaussian_process import fit, spread_out
from mpcrl.learning.particle_search import (
    Noise,
    Particles,
    ParticleSearchConfig,
    cascade_of,
    first_states,
    search,
)
from mpcrl.learning.policies import Policy, WeightedRBFPolicy, controls
from mpcrl.learning.policy_search import Found, policy_inputs
from mpcrl.learning.replay import Transitions
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.speed_integration import integrated, outputs_of, predicted, sight
from mpcrl.tasks.features import speeds_of
from mpcrl.tasks.task import Task

_SAID, _DRAWN = 400, 100
"""Particles of what is said of a trial, and of a calibration."""

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
        Mean cost of a good policy, per step: of 1 at most, or 0.5 at a distance of one width (`Goal.saturating`).
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
        rng, network, task = self._rng(3), self.policy.network(), self.task
        first = starts[rng.integers(len(starts), size=_SAID)]

        def act(t: int, seen: np.ndarray) -> np.ndarray:
            return controls(network, policy_inputs(self.features, seen), task.control_low, task.control_high)

        seen = self._functions(_SAID).seen(first[:, None], horizon, act, rng)[:, 0]
        return Said(seen.mean(axis=0), seen.std(axis=0))

    def predictor(self) -> Predictor:
        """Particles under given controls."""
        functions, seed = self._functions(_DRAWN), self.seed

        def predict(state: np.ndarray, plans: np.ndarray) -> np.ndarray:
            first = np.broadcast_to(state, (_DRAWN, len(plans), len(state)))

            def act(t: int, seen: np.ndarray) -> np.ndarray:
                return np.broadcast_to(plans[:, t], (*seen.shape[:2], plans.shape[-1]))

            return functions.seen(first, plans.shape[1], act, np.random.default_rng(seed))

        return predict

    def _functions(self, count: int) -> FunctionParticles:
        return FunctionParticles(
            outputs_of(self.model, predicted(self.features, self.integrals)),
            self.features,
            self.integrals,
            dt=self.task.dt,
            sight=self._known(self._cascade).sight,
            count=count,
            seed=self.seed,
        )

    def _expected(self, start: np.ndarray, horizon: int) -> float:
        cascade = self._known(self._cascade)
        first = first_states(start[None], self.config.search.particles, self._rng(3))
        noise = Noise.drawn(cascade, horizon, first.shape[1], self._rng(4))
        return Particles(cascade, first, noise).rolled(self.policy)[1]
