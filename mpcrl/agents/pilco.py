"""PILCO: probabilistic inference for learning control.

Deisenroth and Rasmussen: PILCO: a model-based and data-efficient approach to policy search, ICML 2011, algorithm 1:

    one trial of random controls
    for each trial:
        fit Gaussian processes to all transitions so far
        search for the policy whose expected cost over the horizon is least: the belief about the state goes through
            policy and processes by moment matching, and L-BFGS follows the exact gradient
        apply that policy, store what came of it

The policy sees what the processes see: numbers, and sines and cosines of angles. The cost is the task's goal (`Goal`),
whose expectation is known; the belief about the first state is that of the task's own resets.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl.agents.agent import FITTED, Forecasted, StepDone, Surroundings, Trial, episode_key, task_fingerprint
from mpcrl.control.feedback import Feedback
from mpcrl.core.bundle import from_json, read_bundle, to_json, write_bundle
from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.core.vecmath import wrap_to_pi
from mpcrl.kernels.belief import Chain
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.gaussian_process import fit
from mpcrl.learning.policies import LinearPolicy, Policy, RBFPolicy, controls, policy_files, policy_of_files
from mpcrl.learning.policy_search import (
    Found,
    SearchProgress,
    belief_predictor,
    chain_of,
    forecast,
    policy_inputs,
    search,
)
from mpcrl.learning.replay import Replay
from mpcrl.models.gaussian_process import HEAD, GaussianProcess
from mpcrl.tasks.features import features_of, goal_of
from mpcrl.tasks.task import Task

_HEAD = {"format": "mpcrl-pilco", "version": 1}
_RESET, _RESETS = 2_000_000, 500  # episodes that end with their reset: the belief about the first state is made of them
_CAPACITY = 100_000  # transitions that are stored

POLICIES = ("rbf", "linear")


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
        Of cost and gradient, from each start of a search.
    restarts : int
        Starts at random policies, of the first search, and of others that from the policy before find none that is
        `enough`.
    enough : float
        Expected cost of a good policy, over the most that there can be.
    points : int
        Transitions that the processes are conditioned on at most, the last ones.
    """

    policy: str = "rbf"
    basis: int = 50
    horizon: int | None = None
    trial_steps: int | None = None
    evaluations: int = 150
    restarts: int = 2
    enough: float = 0.5
    points: int = 600

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidInput(f"policy must be {' or '.join(POLICIES)}, got {self.policy!r}")
        for name in ("basis", "evaluations", "restarts", "points"):
            positive_integer(name, getattr(self, name))
        positive_number("enough", self.enough)
        for name in ("horizon", "trial_steps"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))


class PILCO:
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

    def __init__(
        self, task: Task, *, config: PILCOConfig | None = None, seed: int = 0, threads: int | None = None
    ) -> None:
        self.task, self.config, self.seed, self.threads = task, config or PILCOConfig(), seed, threads
        self.features = features_of(task)
        self.goal = goal_of(task, self.features)
        self.horizon = self.config.horizon or min(task.episode_steps, 40)
        self.trial_steps = min(self.config.trial_steps or self.horizon, task.episode_steps)
        self.trials = self.steps = self.episodes = 0
        self._replay = Replay(self.features.nx, task.nu, capacity=_CAPACITY, members=1, seed=seed)
        self._policy: Policy | None = None
        self._model: GaussianProcess | None = None
        self._chain: Chain | None = None
        self._start: tuple[np.ndarray, np.ndarray] | None = None

    # ---- algorithm 1 ---------------------------------------------------------------------------------------------
    def trial(
        self,
        world: Surroundings,
        *,
        on_step: Callable[[StepDone], None] = lambda step: None,
        on_learning: Callable[[SearchProgress], None] = lambda progress: None,
    ) -> Trial:
        """One trial in `world`, and the learning after it."""
        if self._start is None:
            resets = np.array([world.reset(episode_key(self.seed, _RESET + number)) for number in range(_RESETS)])
            self._start = resets.mean(axis=0), np.cov(resets.T).reshape(self.features.nx, -1)
        states, total = self._episode(world, on_step)
        said = self._forecasted(states)
        begin = time.perf_counter()
        found = self.learn(on_learning)
        seconds = time.perf_counter() - begin
        self.trials, self.steps = self.trials + 1, self.steps + len(states) - 1
        return Trial(self.trials - 1, len(states) - 1, (total,), np.nan, found.cost, seconds, said)

    def _episode(self, world: Surroundings, on_step: Callable[[StepDone], None]) -> tuple[np.ndarray, float]:
        """Apply the policy, or random controls before there is one, and store what came of it."""
        key, self.episodes = episode_key(self.seed, self.episodes), self.episodes + 1
        rng = np.random.default_rng((key, 1))
        states, ended = [world.reset(key)], ""
        taken: list[np.ndarray] = []
        rewards: list[float] = []
        while not ended and len(taken) < self.trial_steps:
            if self._policy is None:
                control = rng.uniform(self.task.control_low, self.task.control_high)
            else:
                control = self.act(states[-1])
            result = world.step(control)
            ended = result.ended
            states.append(result.state)
            taken.append(control)
            rewards.append(result.reward)
            on_step(StepDone(self.trials, len(taken), sum(rewards), np.nan))
        kept = len(taken) - (ended == "diverged")  # a simulation's last step that came to nothing teaches nothing
        if kept:
            self._replay.add_episode(
                states[: kept + 1], taken[:kept], -np.array(rewards[:kept]), terminated=ended == "terminated"
            )
        return np.array(states[: kept + 1]), float(sum(rewards))

    def learn(self, on_evaluation: Callable[[SearchProgress], None] = lambda progress: None) -> Found:
        """Fit the processes to all that is stored, and search for the policy that they say is best."""
        rows = self._replay.transitions().take(slice(-self.config.points, None))
        threads = ThreadBudget.of(self.threads).count
        inputs = self.features.inputs(rows.states, rows.controls)
        targets = self._targets(rows.states, rows.next_states)
        self._use(fit(inputs, targets, FITTED, seed=self.seed, threads=threads))
        assert self._start is not None and self._chain is not None
        searched = functools.partial(
            search,
            self._chain,
            mean=self._start[0],
            cov=self._start[1],
            horizon=self.horizon,
            evaluations=self.config.evaluations,
            threads=threads,
            on_evaluation=on_evaluation,
        )
        found = None if self._policy is None else searched([self._policy])
        if found is None or found.cost > self.config.enough * self.horizon:
            rng = np.random.default_rng(np.random.SeedSequence((self.seed, self.trials, 2)))
            other = searched([self._random_policy(rows.states, rng) for _ in range(self.config.restarts)])
            found = other if found is None or other.cost < found.cost else found
        self._policy = found.policy
        return found

    def _targets(self, states: np.ndarray, following: np.ndarray) -> np.ndarray:
        """Changes of the numbers, the shorter way round of angles; or the numbers that are predicted themselves."""
        targets = following - states
        angles, absolute = list(self.features.angles), list(self.features.absolute)
        targets[:, angles] = [[wrap_to_pi(angle) for angle in row] for row in targets[:, angles]]
        targets[:, absolute] = following[:, absolute]
        return targets

    def _random_policy(self, states: np.ndarray, rng: np.random.Generator) -> Policy:
        z = policy_inputs(self.features, states)
        if self.config.policy == "linear":
            return LinearPolicy.random(z, self.task.nu, rng)
        waves = 2 * len(self.features.angles)
        scale = np.maximum(z.std(axis=0), 1e-2)
        scale[len(scale) - waves :] = 0.7  # of sines and cosines, whose range is known
        return RBFPolicy.random(z, self.task.nu, rng, count=self.config.basis, lengthscale=scale)

    # ---- what was learned ----------------------------------------------------------------------------------------
    def act(self, state: np.ndarray) -> np.ndarray:
        """The policy's control [nu] for a state [nx]."""
        z = policy_inputs(self.features, np.asarray(state, np.float64))
        return controls(self.policy, z, self.task.control_low, self.task.control_high)

    @property
    def policy(self) -> Policy:
        """As it was last searched for."""
        if self._policy is None:
            raise InvalidInput("the agent has no policy before its first trial; call trial(world) first")
        return self._policy

    @property
    def model(self) -> GaussianProcess:
        """The processes: changes of a state's numbers over `features.inputs`."""
        if self._model is None:
            raise InvalidInput("the agent has no model before its first trial; call trial(world) first")
        return self._model

    @property
    def acts_by(self) -> str:
        """Its kind of policy, and how far it was made to look ahead."""
        kind = "linear policy" if self.config.policy == "linear" else f"policy of {self.config.basis} basis functions"
        return f"{kind}, {self.horizon} steps ahead"

    @property
    def controller(self) -> Feedback:
        """The policy, to act with; using it teaches the agent nothing."""
        _ = self.policy
        return Feedback(self.task, self.act)

    def _use(self, model: GaussianProcess) -> None:
        self._model = model
        self._chain = chain_of(model, self.features, self.goal, self.task.control_low, self.task.control_high)

    def _forecasted(self, states: np.ndarray) -> Forecasted | None:
        """What the model said of a trial of the policy."""
        if self._policy is None:
            return None
        assert self._start is not None and self._chain is not None
        said = forecast(self._chain, self._policy, *self._start, self.horizon)
        seen = np.diagonal(said.covs, axis1=1, axis2=2) + self._chain.noise
        return Forecasted(self.features.names, self.task.dt, said.means, np.sqrt(np.maximum(seen, 0)), states)

    def model_gap(
        self, states: np.ndarray, controls: np.ndarray, rewards: np.ndarray, costs: np.ndarray, params: Any
    ) -> float:
        """Of the goal's cost under the policy, from each state that is a horizon after the last one."""
        assert self._chain is not None
        gap = 0.0
        matrix, target = self.goal.matrix(self.features.names, self.features.angles)
        for t in range(0, len(controls), self.horizon):
            real = states[t + 1 : t + 1 + self.horizon]
            angles = real[:, list(self.features.angles)]
            y = np.concatenate([real, np.sin(angles), np.cos(angles)], axis=1) @ matrix.T - target
            nothing = np.zeros((len(states[t]), len(states[t])))
            said = forecast(self._chain, self.policy, states[t], nothing, len(real))
            gap += float((1 - np.exp(-0.5 * (y**2).sum(axis=1))).sum()) - said.total
        return gap

    def predictor(self) -> Predictor:
        """Draws from beliefs under given controls."""
        assert self._chain is not None
        return belief_predictor(self._chain, seed=self.seed)

    @property
    def spreads(self) -> bool:
        """Beliefs always do."""
        return True

    # ---- files ---------------------------------------------------------------------------------------------------
    def save_model(self, folder: Path) -> None:
        """Write policy and processes, as JSON and safetensors."""
        write_bundle(folder, {**self.model.files(), **policy_files(self.policy)}, HEAD)

    def save(self, folder: Path) -> None:
        """Write all that the next trial depends on to a folder, which must not be there yet."""
        folder.mkdir(parents=True)
        self._replay.save(folder / "replay")
        self.save_model(folder / "model")
        about = {"trials": self.trials, "steps": self.steps, "episodes": self.episodes, "setup": self.setup()}
        write_bundle(folder / "agent", {"agent.json": to_json(about)}, _HEAD)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        InvalidInput
            An agent of other settings wrote it, or it is damaged.
        """
        about = from_json(read_bundle(folder / "agent", _HEAD)["agent.json"], "agent.json")
        if about["setup"] != configuration(self.setup()):
            raise InvalidInput(
                f"{str(folder)!r} was written by an agent with other settings: {about['setup']}; "
                f"these are {configuration(self.setup())}"
            )
        files = read_bundle(folder / "model", HEAD)
        self._use(GaussianProcess.of_files(files))
        self._policy = policy_of_files(files)
        self._replay = Replay.load(folder / "replay")
        self.trials, self.steps, self.episodes = about["trials"], about["steps"], about["episodes"]

    def setup(self) -> dict[str, Any]:
        """All that makes this agent what it is, and `load` compares."""
        return {
            "task": self.task.name,
            "problem": task_fingerprint(self.task),
            "goal": configuration(self.goal),
            "config": configuration(self.config),
            "seed": self.seed,
        }
