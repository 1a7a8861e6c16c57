"""PETS: probabilistic ensembles with trajectory sampling.

Chua, Calandra, McAllister and Levine: Deep reinforcement learning in a handful of trials using probabilistic dynamics
models, NeurIPS 2018, algorithm 1:

    one trial of random controls fills the replay
    for each trial:
        train the ensemble on all of the replay
        for each step: plan through sampled trajectories of the ensemble, apply the first control, store what came of it

Two ancestors are settings of it: one deterministic network under random shooting (Nagabandi, Kahn, Fearing and Levine
2018), and one deterministic network under the same planner, which shows what the ensemble is good for.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpcrl.agents.agent import StepDone, Surroundings, Trial, episode_key, read_checkpoint, task_fingerprint
from mpcrl.control.controller import Controller
from mpcrl.control.plan import Status
from mpcrl.core.bundle import to_json, write_bundle
from mpcrl.core.candidates import Candidates
from mpcrl.core.checks import positive_integer
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import InvalidInput, missing
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.ensemble import EnsembleConfig, EpochProgress, FitReport, Learner
from mpcrl.learning.replay import Replay
from mpcrl.models.ensemble import Ensemble
from mpcrl.models.risk import RISKS, Mean, Risk
from mpcrl.planners.planner import Planner
from mpcrl.tasks.features import Features, features_of
from mpcrl.tasks.task import Task

_CALIBRATION_PARTICLES = 100
_HEAD = {"format": "mpcrl-pets", "version": 1}
_CHECKPOINT_BYTES = 9 * 2**28 // 10  # of the replay, and of the networks: a little less than a bundle may have


_Act = Callable[[np.ndarray, Any], tuple[np.ndarray, float]]
"""The control for a state and the task's parameters, and the milliseconds that planning it took."""


class _Episode(NamedTuple):
    steps: int
    total: float
    plan_ms: float


@dataclass(frozen=True, kw_only=True)
class PETSConfig:
    """Settings of the algorithm beside its planner.

    Attributes
    ----------
    ensemble : EnsembleConfig
        The networks and their training.
    propagation : int or str
        How particles go through the ensemble; see `Ensemble`.
    particles : int
        Per candidate.
    noise, risk, penalty, limit, precision
        As of `Ensemble`: how particles scatter, how their costs are folded, what it costs where members disagree,
        where that rules a candidate out, and the arithmetic.
    terminal : bool
        Whether plans pay the task's terminal cost, which may know more of the dynamics than was learned: that of a
        regulator for the true ones, say.
    random_steps : int or None
        Control steps of the first trial at least, in whole episodes; those of an episode, at most 200, if None.
    capacity : int or None
        Transitions that the replay keeps; as many as a checkpoint can hold, at most a million, if None.
    """

    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    propagation: int | str = "ts-infinity"
    particles: int = 20
    noise: str = "fresh"
    risk: Risk = field(default_factory=Mean)
    penalty: float = 0.0
    limit: float | None = None
    precision: str = "float32"
    terminal: bool = True
    random_steps: int | None = None
    capacity: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ensemble, EnsembleConfig):
            raise InvalidInput(f"ensemble must be an EnsembleConfig, got {self.ensemble!r}")
        if type(self.risk) not in RISKS.values():
            raise InvalidInput(f"risk must be one that files can name, {', '.join(RISKS)}, got {self.risk!r}")
        if not isinstance(self.terminal, bool):
            raise InvalidInput(f"terminal must be True or False, got {self.terminal!r}")
        least = self.ensemble.elites or self.ensemble.members
        if positive_integer("particles", self.particles) < least and self.propagation in ("ts-infinity", "moments"):
            raise InvalidInput(f"{self.propagation} needs a particle for each of {least} members, got {self.particles}")
        for name in ("random_steps", "capacity"):
            if getattr(self, name) is not None:
                positive_integer(name, getattr(self, name))


class PETS:
    """An agent that learns a task by trial and error, as the module's docstring says.

    Parameters
    ----------
    task : Task
    planner : Planner
        Plans through the ensemble.
    config : PETSConfig
    seed : int
        Keys everything that is random: the same seed gives the same trials, also when they are interrupted between two
        of them, saved and loaded.
    threads : int, optional
        To plan with; training takes one.
    controls_per_plan : int
        Controls taken of each plan.

    Attributes
    ----------
    features : Features
        What states consist of.
    trials, steps, episodes : int
        Done so far; `episode_key(seed, i)` is the seed of episode i.
    """

    def __init__(
        self,
        task: Task,
        *,
        planner: Planner,
        config: PETSConfig | None = None,
        seed: int = 0,
        threads: int | None = None,
        controls_per_plan: int = 1,
    ) -> None:
        self.planner, self.config, self.seed = planner, config or PETSConfig(), seed
        self.task = task = task if self.config.terminal else dataclasses.replace(task, terminal=None)
        self.features: Features = features_of(task)
        self.trials = self.steps = self.episodes = 0
        self.threads, self._controls_per_plan = threads, controls_per_plan
        self._random_steps = self.config.random_steps or min(task.episode_steps, 200)
        if importlib.util.find_spec("torch") is None:
            raise missing("torch", "learning")
        nx, members = self.features.nx, self.config.ensemble.members
        most = _CHECKPOINT_BYTES // (8 * (2 * nx + task.nu) + members + 64)
        capacity = self.config.capacity or min(1_000_000, most)
        if capacity > most:
            raise InvalidInput(
                f"a checkpoint holds at most {most} transitions of this task, got a capacity of {capacity}"
            )
        layers = itertools.pairwise(self.config.ensemble.widths(self.features))
        numbers = 3 * members * sum((fan_in + 1) * fan_out for fan_in, fan_out in layers)  # with Adam's two
        if 4 * numbers > _CHECKPOINT_BYTES:
            raise InvalidInput(
                f"a checkpoint holds networks of at most {_CHECKPOINT_BYTES >> 20} MB with Adam's moments, got "
                f"{4 * numbers >> 20}; take fewer members, or narrower ones than hidden={self.config.ensemble.hidden}"
            )
        self._replay = Replay(nx, task.nu, capacity=capacity, members=members, seed=seed)
        self._learner = Learner(self.features, self.config.ensemble, seed=seed)
        self._controller = Controller(
            task,
            planner,
            model=Ensemble(
                task,
                self._learner.network(),
                propagation=self.config.propagation,
                particles=self.config.particles,
                noise=self.config.noise,
                risk=self.config.risk,
                penalty=self.config.penalty,
                limit=self.config.limit,
                precision=self.config.precision,
                seed=seed,
            ),
            seed=seed,
            threads=threads,
            controls_per_plan=controls_per_plan,
        )

    # ---- algorithm 1 ---------------------------------------------------------------------------------------------
    def trial(
        self,
        world: Surroundings,
        *,
        on_step: Callable[[StepDone], None] = lambda step: None,
        on_learning: Callable[[EpochProgress], None] = lambda progress: None,
    ) -> Trial:
        """One trial in `world`, and the training after it."""
        episodes = [self._episode(world, on_step)]
        while not self.trials and sum(episode.steps for episode in episodes) < self._random_steps:
            episodes.append(self._episode(world, on_step))
        begin = time.perf_counter()
        fit = self.learn(on_learning)
        seconds = time.perf_counter() - begin
        steps = sum(episode.steps for episode in episodes)
        self.trials, self.steps = self.trials + 1, self.steps + steps
        returns = tuple(episode.total for episode in episodes)
        loss = float(fit.train_loss[-1].mean())
        return Trial(self.trials - 1, steps, returns, episodes[-1].plan_ms, loss, seconds)

    def _episode(self, world: Surroundings, on_step: Callable[[StepDone], None]) -> _Episode:
        """Plan, apply the first control, store what came of it, until the episode is over."""
        key, self.episodes = episode_key(self.seed, self.episodes), self.episodes + 1
        states, controls, rewards, times, ended = [world.reset(key)], [], [], [np.nan], ""
        act = self._planned(key) if self.trials else self._random(key)
        while not ended:
            control, plan_ms = act(states[-1], world.params)
            result = world.step(control)
            states.append(result.state)
            controls.append(control)
            ended = result.ended or ("steps done" if len(controls) >= self.task.episode_steps else "")
            rewards.append(result.reward)
            times.append(plan_ms)
            on_step(StepDone(self.trials, len(controls), sum(rewards), plan_ms))
        kept = len(controls) - (ended == "diverged")  # a simulation's last step that came to nothing teaches nothing
        if kept:
            self._replay.add_episode(
                states[: kept + 1], controls[:kept], -np.array(rewards[:kept]), terminated=ended == "terminated"
            )
        plan_ms = float(np.nanmedian(times)) if np.isfinite(times).any() else np.nan
        return _Episode(len(controls), float(sum(rewards)), plan_ms)

    def _random(self, key: int) -> _Act:
        rng = np.random.default_rng(key)
        return lambda state, params: (rng.uniform(self.task.control_low, self.task.control_high), np.nan)

    def _planned(self, key: int) -> _Act:
        self.controller.reset(key)

        def act(state: np.ndarray, params: Any) -> tuple[np.ndarray, float]:
            plan = self.controller.plan(state, params=params)
            made = plan.iterations > 0 or plan.status is not Status.PLANNED
            return plan.control, plan.milliseconds if made else np.nan

        return act

    def learn(self, on_epoch: Callable[[EpochProgress], None] = lambda progress: None) -> FitReport:
        """Train the ensemble on all that is stored, and plan with what it has become."""
        report = self._learner.fit(self._replay, on_epoch)
        self._ensemble.use(self._learner.network())
        return report

    @property
    def controller(self) -> Controller:
        """Plans with what has been learned so far; using it teaches the agent nothing."""
        if not self.trials:
            raise InvalidInput("the agent has no model before its first trial; call trial(world) first")
        return self._controller

    @property
    def acts_by(self) -> Planner:
        """Its planner."""
        return self.planner

    @property
    def model(self) -> Ensemble:
        """The ensemble as it has been learned so far."""
        assert isinstance(self.controller.model, Ensemble)
        return self.controller.model

    @property
    def _ensemble(self) -> Ensemble:
        assert isinstance(self._controller.model, Ensemble)
        return self._controller.model

    # ---- how far to trust it -------------------------------------------------------------------------------------
    def model_gap(
        self, states: np.ndarray, controls: np.ndarray, rewards: np.ndarray, costs: np.ndarray, params: Any
    ) -> float:
        """Of an episode's controls, from each state that is a horizon after the last one.

        In planning costs, or in rewards where the cost is learned: what the model speaks of, in the mean over its
        particles. The terminal cost of plans is left out, and what they pay where members disagree.
        """
        plain = self._plain(dataclasses.replace(self.model.task, terminal=None), self.model.particles)
        real = -rewards if self.model.network.learned_cost else costs
        gap, horizon = 0.0, self.controller.horizon
        for t in range(0, len(controls), horizon):
            candidates = Candidates.from_rows(controls[None, t : t + horizon], plain.dtype)
            (predicted,) = plain.costs(states[t], candidates, t, params, self.controller.threads)
            gap += float(np.sum(real[t : t + horizon])) - predicted
        return float(gap)

    def predictor(self) -> Predictor:
        """What the ensemble samples, with enough particles to take intervals of, and wherever it ends an episode."""
        endless = dataclasses.replace(self.model.task, terminal=None, terminated=None)
        return self._plain(endless, _CALIBRATION_PARTICLES).sampled

    def _plain(self, task: Task, particles: int) -> Ensemble:
        """What it has learned, without risk and disagreement."""
        model = self.model
        return Ensemble(
            task,
            model.network,
            propagation=model.propagation,
            particles=particles,
            noise=model.noise,
            precision=model.precision,
            seed=model.seed,
        )

    @property
    def spreads(self) -> bool:
        """Whether its particles differ: by noise, or by the members that move them."""
        model = self.model
        several = isinstance(model.propagation, str) and len(model.network.elites) > 1
        noisy = model.network.probabilistic and model.noise != "none"
        return model.propagation != "mean" and (noisy or several)

    # ---- files ---------------------------------------------------------------------------------------------------
    def save_model(self, folder: Path) -> None:
        """Write the ensemble, for `Ensemble.load` and `mpcrl run --model`."""
        self.model.save(folder)

    def save(self, folder: Path) -> None:
        """Write all that the next trial depends on to a folder, which must not be there yet."""
        folder.mkdir(parents=True)
        self._replay.save(folder / "replay")
        self._learner.save(folder / "learner")
        about = {"trials": self.trials, "steps": self.steps, "episodes": self.episodes, "setup": self.setup()}
        write_bundle(folder / "agent", {"agent.json": to_json(about)}, _HEAD)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        InvalidInput
            An agent of other settings wrote it, or it is damaged.
        """
        about = read_checkpoint(folder, _HEAD, self.setup())
        self._replay = Replay.load(folder / "replay")
        self._learner = Learner.load(folder / "learner", self.features)
        self.trials, self.steps, self.episodes = about["trials"], about["steps"], about["episodes"]
        self._ensemble.use(self._learner.network())

    def setup(self) -> dict[str, Any]:
        """All that makes this agent what it is, and `load` compares."""
        return {
            "task": self.task.name,
            "problem": task_fingerprint(self.task),
            "planner": configuration(self.planner),
            "config": configuration(self.config),
            "seed": self.seed,
            "controls_per_plan": self._controls_per_plan,
        }


def deterministic(config: PETSConfig) -> PETSConfig:
    """One deterministic network in the place of the ensemble: what the agents before PETS learned."""
    ensemble = dataclasses.replace(config.ensemble, members=1, probabilistic=False, bootstrap=False, elites=None)
    return dataclasses.replace(config, ensemble=ensemble, particles=1)
