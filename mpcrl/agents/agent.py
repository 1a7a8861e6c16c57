"""What agents that learn by trial and error have in common: the words of a trial, and what a training asks of them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.control.plan import Actor
from mpcrl.core.bundle import from_json, read_bundle
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import InvalidInput
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.gaussian_process import GaussianProcessConfig
from mpcrl.models.scalar import fingerprint
from mpcrl.planners.planner import Planner
from mpcrl.tasks.features import Features
from mpcrl.tasks.goal import Goal
from mpcrl.tasks.mujoco_task import MujocoTask, model_bytes
from mpcrl.tasks.task import Task

FITTED = GaussianProcessConfig(starts=2)
"""How agents fit processes. The evidence of a few dozen transitions has several maxima: of GP-MPC's ten pendulums three
are not held where each fit starts from the one before alone."""


class Result(Protocol):
    """What a control led to; `ended` says why the episode is over, "" while it is not."""

    @property
    def state(self) -> np.ndarray: ...
    @property
    def reward(self) -> float: ...
    @property
    def ended(self) -> str: ...


class Surroundings(Protocol):
    """What an agent acts in, one episode after the other; its states are the learned model's."""

    params: Any

    def reset(self, seed: int) -> np.ndarray: ...

    def step(self, control: np.ndarray) -> Result: ...


class StepDone(NamedTuple):
    """Where a trial stands after a control step."""

    trial: int
    step: int
    episode_return: float
    plan_ms: float


class Forecasted(NamedTuple):
    """What a model said of a trial before it, or of stretches of it before each, and what happened.

    Attributes
    ----------
    names : tuple of str [nx]
    dt : float
    means, deviations : ndarray [H + 1, nx]
        Of the states, as normal beliefs.
    states : ndarray [T + 1, nx]
    """

    names: tuple[str, ...]
    dt: float
    means: np.ndarray
    deviations: np.ndarray
    states: np.ndarray


class Trial(NamedTuple):
    """One trial of an agent.

    Attributes
    ----------
    number : int
        From 0, which is random.
    steps : int
        Control steps done.
    returns : tuple of float
        Of its episodes in order; one, but for the random trial, which goes on until it has enough steps.
    plan_ms : float
        Median time of a plan; NaN where none was made.
    loss : float
        The last one of the training that followed: of networks the mean over members, of a policy its expected cost.
    learning_s : float
        Seconds that it took.
    forecast : Forecasted or None
        Of the trial, where the agent's model makes one.
    """

    number: int
    steps: int
    returns: tuple[float, ...]
    plan_ms: float
    loss: float
    learning_s: float
    forecast: Forecasted | None = None


class Agent(Protocol):
    """What `mpcrl.train` trains.

    Attributes
    ----------
    task : Task
    features : Features
        What states consist of.
    seed : int
    threads : int or None
    steps : int
        Control steps of all trials so far.
    """

    task: Task
    features: Features
    seed: int
    threads: int | None
    steps: int

    def trial(
        self,
        world: Surroundings,
        *,
        on_step: Callable[[StepDone], None] = ...,
        on_learning: Callable[[Any], None] = ...,
    ) -> Trial:
        """One trial in `world`, and the training after it. What `on_learning` is told prints as a line."""
        ...

    @property
    def acts_by(self) -> Planner | str:
        """What its controls come from: a planner, or what else in words."""
        ...

    @property
    def controller(self) -> Actor:
        """Acts with what has been learned so far; using it teaches the agent nothing."""
        ...

    def model_gap(
        self, states: np.ndarray, controls: np.ndarray, rewards: np.ndarray, costs: np.ndarray, params: Any
    ) -> float:
        """Real minus predicted cost of an episode; see `TrainResult`.

        Parameters
        ----------
        states, controls : ndarray [T + 1, nx], [T, nu]
        rewards, costs : ndarray [T]
            Costs are those of plans; see `Outcome`.
        params : NamedTuple
            Of the task, in this episode.
        """
        ...

    def predictor(self) -> Predictor:
        """Sampled predictions of what has been learned, for its calibration."""
        ...

    @property
    def spreads(self) -> bool:
        """Whether these differ, so that they have intervals."""
        ...

    def save_model(self, folder: Path) -> None:
        """Write what was learned, for use without the agent."""
        ...

    def save(self, folder: Path) -> None:
        """Write all that the next trial depends on to a folder, which must not be there yet."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        ...

    def setup(self) -> dict[str, Any]:
        """All that makes this agent what it is, and `load` compares."""
        ...


def episode_key(seed: int, episode: int) -> int:
    """Seed of an episode: those of different agents have nothing in common, as `seed + episode` would."""
    return int(np.random.SeedSequence((seed, episode)).generate_state(1)[0])


@functools.lru_cache(maxsize=8)  # a MuJoCo task's environment is made for it, and agents ask at every checkpoint
def task_fingerprint(task: Task) -> str:
    """Hash of what makes the problem: functions, parameters, bounds, timing, what is seen, and MuJoCo's model.

    How a MuJoCo task begins its episodes is known by the first state of one.
    """
    names = ("step", "cost", "planning_cost", "terminal", "terminated", "reset", "apply", "read_params")
    functions = [getattr(task, name, None) for name in names]
    seen = [task.angles, task.unseen, getattr(task, "sensor_noise", ())]
    numbers = configuration([task.params, task.control_low, task.control_high, task.dt, task.episode_steps, *seen])
    digest = hashlib.sha256(f"{fingerprint(*functions)}{numbers}".encode())
    if isinstance(task, MujocoTask):
        env = task.make_env()
        try:
            env.reset(seed=0)
            digest.update(model_bytes(task.mj_model(env)) + task.state(env).tobytes())
        finally:
            env.close()
    return digest.hexdigest()


def goal_setup(task: Task, goal: Goal, config: Any, seed: int) -> dict[str, Any]:
    """The `setup` of agents that minimise a goal's expectation."""
    return {
        "task": task.name,
        "problem": task_fingerprint(task),
        "goal": configuration(goal),
        "config": configuration(config),
        "seed": seed,
    }


def read_checkpoint(folder: Path, head: Mapping[str, Any], setup: Mapping[str, Any]) -> dict[str, Any]:
    """What an agent of this `setup` wrote of itself to `folder / "agent"`.

    Raises
    ------
    InvalidInput
        An agent of other settings wrote it, or it is damaged.
    """
    about: dict[str, Any] = from_json(read_bundle(folder / "agent", head)["agent.json"], "agent.json")
    if about["setup"] != configuration(setup):
        raise InvalidInput(
            f"{str(folder)!r} was written by an agent with other settings: {about['setup']}; "
            f"these are {configuration(setup)}"
        )
    return about
