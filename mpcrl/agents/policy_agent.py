"""What agents have in common that fit Gaussian processes after each trial, and search for a policy under them.

    one trial of random controls
    for each trial:
        fit Gaussian processes to all transitions so far
        search for the policy whose expected cost over the horizon is least under them
        apply that policy, store what came of it

The policy sees what the processes see: numbers, and sines and cosines of angles. The cost is the task's goal (`Goal`).
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from mpcrl.agents.agent import (
    Forecasted,
    StepDone,
    Surroundings,
    Trial,
    episode_key,
    goal_setup,
    read_checkpoint,
)
from mpcrl.control.feedback import Feedback
from mpcrl.core.bundle import from_json, read_bundle, to_json, write_bundle
from mpcrl.core.configuration import configuration, short
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.policies import Policy, controls, policy_files, policy_of_files
from mpcrl.learning.policy_search import Found, SearchProgress, policy_inputs
from mpcrl.learning.replay import Replay, Transitions
from mpcrl.models.gaussian_process import HEAD, GaussianProcess
from mpcrl.tasks.features import Features, features_of, goal_of
from mpcrl.tasks.task import Task

_RESET, _RESETS = 2_000_000, 500  # episodes that end with their reset: the belief about the first state is made of them
_CAPACITY = 100_000  # transitions that are stored
_TASK = "policy_task.json"  # beside a policy: what of a task makes it the one that the policy was learned for


class PolicyConfig(Protocol):
    """Settings that all of these agents have.

    Attributes
    ----------
    basis : int
        Basis functions of a policy.
    horizon : int or None
        Control steps that are looked ahead; those of an episode, at most 40, if None.
    trial_steps : int or None
        Control steps of a trial; as many as the horizon, if None.
    points : int
        Transitions that processes are fitted to at most, the last ones.
    restarts : int
        Random policies that the first search begins from, and others that from the policy before find none that is
        `enough`.
    enough : float
        Expected cost of a good policy, per step: of 1 at most, or 0.5 at a distance of one width (`Goal.saturating`).
    """

    @property
    def basis(self) -> int: ...
    @property
    def horizon(self) -> int | None: ...
    @property
    def trial_steps(self) -> int | None: ...
    @property
    def points(self) -> int: ...
    @property
    def restarts(self) -> int: ...
    @property
    def enough(self) -> float: ...


class Said(NamedTuple):
    """Normal beliefs about what will be seen.

    Attributes
    ----------
    means, deviations : ndarray [H + 1, nx]
    """

    means: np.ndarray
    deviations: np.ndarray


OnEvaluation: TypeAlias = Callable[[SearchProgress], None]
Searched: TypeAlias = Callable[[Iterable[Policy], OnEvaluation], Found]
"""The best that searches come to from some policies; the one at work is told of as their `start`."""

Config = TypeVar("Config", bound=PolicyConfig)
_T = TypeVar("_T")


class PolicyAgent(ABC, Generic[Config]):
    """An agent that learns a task of few numbers within a few trials, as the module's docstring says.

    Parameters
    ----------
    task : Task
        With a goal.
    config : PolicyConfig
    seed : int
        Keys everything that is random: the same seed gives the same trials, also when they are interrupted between two
        of them, saved and loaded.
    threads : int, optional
        To learn with.

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

    head: ClassVar[Mapping[str, Any]]
    """Of its checkpoints; see `read_bundle`."""

    def __init__(self, task: Task, config: Config, seed: int, threads: int | None) -> None:
        self.task, self.config, self.seed, self.threads = task, config, seed, threads
        self.features = features_of(task)
        self.goal = goal_of(task, self.features)
        self.horizon = config.horizon or min(task.episode_steps, 40)
        self.trial_steps = min(config.trial_steps or self.horizon, task.episode_steps)
        self.trials = self.steps = self.episodes = 0
        self._replay = Replay(self.features.nx, task.nu, capacity=_CAPACITY, members=1, seed=seed)
        self._policy: Policy | None = None
        self._feedback: Feedback | None = None
        self._model: GaussianProcess | None = None
        self._starts: np.ndarray | None = None

    # ---- trials --------------------------------------------------------------------------------------------------
    def trial(
        self,
        world: Surroundings,
        *,
        on_step: Callable[[StepDone], None] = lambda step: None,
        on_learning: OnEvaluation = lambda progress: None,
    ) -> Trial:
        """One trial in `world`, and the learning after it."""
        if self._starts is None:
            keys = (episode_key(self.seed, _RESET + number) for number in range(_RESETS))
            self._starts = np.array([world.reset(key) for key in keys])
        states, total = self._episode(world, on_step)
        said = None if self._policy is None else self._said(self._starts, self.horizon)
        begin = time.perf_counter()
        found = self.learn(on_learning)
        seconds = time.perf_counter() - begin
        self.trials, self.steps = self.trials + 1, self.steps + len(states) - 1
        forecast = None if said is None else Forecasted(self.features.names, self.task.dt, *said, states)
        return Trial(self.trials - 1, len(states) - 1, (total,), np.nan, found.cost, seconds, forecast)

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

    def learn(self, on_evaluation: OnEvaluation = lambda progress: None) -> Found:
        """Fit the processes to all that is stored, and search for the policy that they say is best."""
        if not len(self._replay):
            raise InvalidInput(
                f"nothing to learn from: no step of task {self.task.name!r} came to anything; call trial(world) first, "
                "and see that the task's simulation does not diverge under random controls"
            )
        found = self._learned(self._replay.transitions().take(slice(-self.config.points, None)), on_evaluation)
        self._adopt(found.policy)
        return found

    @abstractmethod
    def _learned(self, rows: Transitions, on_evaluation: OnEvaluation) -> Found:
        """Processes of transitions, and the policy that is best under them."""

    def _best(
        self, searched: Searched, states: np.ndarray, rng: np.random.Generator, on_evaluation: OnEvaluation
    ) -> Found:
        """What a search finds from the policy before; where that is poor, or there is none, from random ones too."""
        found, restarts = None, self.config.restarts
        if self._policy is not None:
            found = searched([self._policy], on_evaluation)
        if found is None or not self._enough(found):
            told = numbered(on_evaluation, int(found is not None), restarts)
            other = searched((self._random_policy(states, rng) for _ in range(restarts)), told)
            found = other if found is None or other.cost < found.cost else found
        return found

    def _enough(self, found: Found) -> bool:
        return found.cost <= self.config.enough * self.horizon

    @abstractmethod
    def _random_policy(self, states: np.ndarray, rng: np.random.Generator) -> Policy:
        """One to begin from, made for states [N, nx] like those that were seen."""

    @abstractmethod
    def _use(self, model: GaussianProcess) -> None:
        """Take these processes, with an output for each number of the state, for the model."""

    @abstractmethod
    def _said(self, starts: np.ndarray, horizon: int) -> Said:
        """What will be seen under the policy, from first states [N, nx]."""

    @abstractmethod
    def _expected(self, start: np.ndarray, horizon: int) -> float:
        """Cost of the states after a certain one [nx], under the policy."""

    @abstractmethod
    def predictor(self) -> Predictor:
        """Draws of what will be seen under given controls."""

    def _adopt(self, policy: Policy) -> None:
        self._policy, self._feedback = policy, _feedback(self.task, self.features, policy)

    def _scales(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What policies see [N, nz] of states, and how much that varies [nz]."""
        z = policy_inputs(self.features, states)
        waves = 2 * len(self.features.angles)
        scale = np.maximum(z.std(axis=0), 1e-2)
        scale[len(scale) - waves :] = 0.7  # of sines and cosines, whose range is known
        return z, scale

    # ---- what was learned ----------------------------------------------------------------------------------------
    def act(self, state: np.ndarray) -> np.ndarray:
        """The policy's control [nu] for a state [nx]."""
        return self.controller.act(state)

    @property
    def policy(self) -> Policy:
        """As it was last searched for."""
        return self._known(self._policy)

    @property
    def model(self) -> GaussianProcess:
        """The processes: changes of a state's numbers over `features.inputs`."""
        return self._known(self._model)

    def _known(self, learned: _T | None) -> _T:
        if learned is None:
            raise InvalidInput("the agent has neither model nor policy before its first trial; call trial(world) first")
        return learned

    @property
    def acts_by(self) -> str:
        """Its kind of policy, and how far it was made to look ahead."""
        return f"policy of {self.config.basis} basis functions, {self.horizon} steps ahead"

    @property
    def controller(self) -> Feedback:
        """The policy as it is now, to act with; using it teaches the agent nothing."""
        return self._known(self._feedback)

    def model_gap(
        self, states: np.ndarray, controls: np.ndarray, rewards: np.ndarray, costs: np.ndarray, params: Any
    ) -> float:
        """Of the goal's cost under the policy, from each state that is a horizon after the last one."""
        gap = 0.0
        for t in range(0, len(controls), self.horizon):
            real = states[t + 1 : t + 1 + self.horizon]
            said = self._expected(states[t], len(real))
            gap += float(self.goal.costs(real, self.features.names, self.features.angles).sum()) - said
        return gap

    @property
    def spreads(self) -> bool:
        """Beliefs always do."""
        return True

    # ---- files ---------------------------------------------------------------------------------------------------
    def save_model(self, folder: Path) -> None:
        """Write policy and processes, as JSON and safetensors; see `load_policy`."""
        made_for = {_TASK: to_json(_made_for(self.task, self.features))}
        write_bundle(folder, {**self.model.files(), **policy_files(self.policy), **made_for}, HEAD)

    def save(self, folder: Path) -> None:
        """Write all that the next trial depends on to a folder, which must not be there yet."""
        folder.mkdir(parents=True)
        self._replay.save(folder / "replay")
        self.save_model(folder / "model")
        about = {"trials": self.trials, "steps": self.steps, "episodes": self.episodes, "setup": self.setup()}
        write_bundle(folder / "agent", {"agent.json": to_json(about)}, self.head)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        InvalidInput
            An agent of other settings wrote it, or it is damaged.
        """
        about = read_checkpoint(folder, self.head, self.setup())
        files = read_bundle(folder / "model", HEAD)
        self._replay = Replay.load(folder / "replay")
        self._use(GaussianProcess.of_files(files))
        self._adopt(policy_of_files(files))
        self.trials, self.steps, self.episodes = about["trials"], about["steps"], about["episodes"]

    def setup(self) -> dict[str, Any]:
        """All that makes this agent what it is, and `load` compares."""
        return goal_setup(self.task, self.goal, self.config, self.seed)


def numbered(on_evaluation: OnEvaluation, before: int, count: int) -> OnEvaluation:
    """Tells of searches as `count` more, after some."""
    return lambda done: on_evaluation(done._replace(start=before + done.start, starts=before + count))


def load_policy(task: Task, folder: str | os.PathLike[str]) -> Feedback:
    """A policy that PILCO or MC-PILCO learned, to act with; it needs none of the processes.

    Parameters
    ----------
    task : Task
        That it was learned for; its costs and parameters may be others.
    folder : path
        As `PolicyAgent.save_model` wrote it: `model`, in the folder of a training.

    Raises
    ------
    DamagedExport
        The folder is not what was written, or there is no policy in it.
    InvalidInput
        The policy was learned for other states or bounds than the task's.
    """
    files, features = read_bundle(Path(folder), HEAD), features_of(task)
    if _TASK not in files:
        raise DamagedExport(f"there is no policy in {str(folder)!r}; PILCO and MC-PILCO learn one")
    learned, own = from_json(files[_TASK], _TASK), _made_for(task, features)
    for name, value in own.items():
        if learned.get(name) != value:
            raise InvalidInput(
                f"the policy in {str(folder)!r} was learned for another task than {task.name!r}, with {name} "
                f"{short(learned.get(name))} where this one has {short(value)}; give the one that it was learned for"
            )
    return _feedback(task, features, policy_of_files(files))


# ---- parts -------------------------------------------------------------------------------------------------------
def _feedback(task: Task, features: Features, policy: Policy) -> Feedback:
    network = policy.network()

    def act(state: np.ndarray) -> np.ndarray:
        return controls(network, policy_inputs(features, state), task.control_low, task.control_high)

    return Feedback(task, act, features=features)


def _made_for(task: Task, features: Features) -> dict[str, Any]:
    """What a policy's numbers depend on, as JSON has it."""
    angles = [features.names[i] for i in features.angles]
    made_for = {"states": features.names, "angles": angles, "low": task.control_low, "high": task.control_high}
    return {name: configuration(value) for name, value in made_for.items()}
