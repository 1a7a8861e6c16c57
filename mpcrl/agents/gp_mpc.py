"""GP-MPC: model-predictive control with a Gaussian process that is learned while it acts.

Kamthe and Deisenroth: Data-efficient reinforcement learning with probabilistic model predictive control, AISTATS 2018,
algorithm 1, with its model kept up to date within a trial:

    some steps of random controls, and Gaussian processes fitted to them
    at each step:
        carry the belief about the state by moment matching through the processes, as a deterministic system, and find
            the controls of least expected cost within their bounds (`BeliefPlanner`)
        apply the first one
        where what came of it surprises, condition the processes on it too
        after so many such points, and after each trial, fit the processes' hyper-parameters anew

The cost is the task's goal (`Goal`), whose expectation is known. A point surprises where the processes were unsure, or
wrong: the deviation of a latent function above `unsure` times that of its targets, or an error of more than `surprise`
standard deviations of what is seen. What does not surprise is not stored: it would slow plans and change nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpcrl.agents.agent import (
    FITTED,
    Forecasted,
    StepDone,
    Surroundings,
    Trial,
    episode_key,
    goal_setup,
    read_checkpoint,
)
from mpcrl.control.belief import BeliefController
from mpcrl.control.plan import Plan, Status
from mpcrl.core.bundle import read_bundle, to_json, write_bundle
from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.kernels.belief import Chain
from mpcrl.learning.calibration import Predictor
from mpcrl.learning.gaussian_process import fit
from mpcrl.learning.policy_search import belief_predictor, chain_of
from mpcrl.models.gaussian_process import HEAD, GaussianProcess
from mpcrl.planners.belief import BeliefPlanner, believed
from mpcrl.tasks.features import features_of, goal_of
from mpcrl.tasks.task import Task

_HEAD = {"format": "mpcrl-gp-mpc", "version": 1}


@dataclass(frozen=True, kw_only=True)
class GPMPCConfig:
    """Settings of the algorithm.

    Attributes
    ----------
    planner : BeliefPlanner
    random_steps : int
        Control steps of random controls at the beginning; the first trial goes on with plans.
    trial_steps : int or None
        Control steps of a trial; those of an episode if None.
    unsure, surprise : float
        What makes a point surprise; see the module's docstring.
    refit : int
        Stored points after which hyper-parameters are fitted anew.
    points : int
        That the processes are conditioned on at most, the last ones.
    """

    planner: BeliefPlanner = field(default_factory=BeliefPlanner)
    random_steps: int = 25
    trial_steps: int | None = None
    unsure: float = 0.02
    surprise: float = 3.0
    refit: int = 25
    points: int = 150

    def __post_init__(self) -> None:
        for name in ("random_steps", "refit", "points"):
            positive_integer(name, getattr(self, name))
        if self.trial_steps is not None:
            positive_integer("trial_steps", self.trial_steps)
        for name in ("unsure", "surprise"):
            positive_number(name, getattr(self, name))


class FitDone(NamedTuple):
    """A fit of the processes' hyper-parameters."""

    points: int
    seconds: float

    def __str__(self) -> str:
        return f"Gaussian processes fitted to {self.points} points in {self.seconds:.2f} s"


class GPMPC:
    """An agent that learns a task of few numbers while it acts, as the module's docstring says.

    Parameters
    ----------
    task : Task
        With a goal.
    config : GPMPCConfig
    seed : int
        Keys everything that is random: the same seed gives the same trials, also when they are interrupted between two
        of them, saved and loaded.
    threads : int, optional
        To fit with, an output each; a plan takes one.

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
        self, task: Task, *, config: GPMPCConfig | None = None, seed: int = 0, threads: int | None = None
    ) -> None:
        self.task, self.config, self.seed, self.threads = task, config or GPMPCConfig(), seed, threads
        self.features = features_of(task)
        self.goal = goal_of(task, self.features)
        self.config.planner.aim(self.features.names)  # refuses limits of other names
        self.trial_steps = min(self.config.trial_steps or task.episode_steps, task.episode_steps)
        self.trials = self.steps = self.episodes = 0
        self._model: GaussianProcess | None = None
        self._controller: BeliefController | None = None
        self._fitted = 0  # points stored when hyper-parameters were last fitted
        self._stored = 0  # points ever

    # ---- algorithm 1 ---------------------------------------------------------------------------------------------
    def trial(
        self,
        world: Surroundings,
        *,
        on_step: Callable[[StepDone], None] = lambda step: None,
        on_learning: Callable[[FitDone], None] = lambda progress: None,
    ) -> Trial:
        """One trial in `world`, with the learning in it and after it."""
        if self._controller is None:
            self._compile()
        key, self.episodes = episode_key(self.seed, self.episodes), self.episodes + 1
        rng = np.random.default_rng((key, 1))
        states, learning_s, ended = [world.reset(key)], 0.0, ""
        rewards: list[float] = []
        plan_ms: list[float] = []
        costs: list[float] = []
        inputs: list[np.ndarray] = []  # of random controls, before there are processes
        targets: list[np.ndarray] = []
        said, foreseen = [(states[0], np.zeros(self.features.nx))], list[tuple[np.ndarray, np.ndarray]]()
        if self._controller is not None:
            self._controller.reset(key)
        while not ended and len(rewards) < self.trial_steps:
            state, took = states[-1], np.nan
            if self._controller is None:
                control = rng.uniform(self.task.control_low, self.task.control_high)
                said.append(self._unsaid)
            else:
                plan = self._controller.plan(state, params=world.params)
                control, took = plan.control, plan.milliseconds
                plan_ms.append(took)
                costs.append(plan.cost)
                foreseen = foreseen or self._foreseen(plan)
                said.append(foreseen.pop(0))
            result = world.step(control)
            ended = result.ended
            states.append(result.state)
            rewards.append(result.reward)
            on_step(StepDone(self.trials, len(rewards), sum(rewards), took))
            if ended == "diverged":  # a simulation's last step that came to nothing teaches nothing
                break
            begin = time.perf_counter()
            row = self.features.inputs(state, control), self.features.targets(state, result.state)
            if self._model is not None:
                self._learn_from(*row, on_learning)
            else:
                inputs.append(row[0])
                targets.append(row[1])
                if len(inputs) == self.config.random_steps:
                    self._fit(np.array(inputs), np.array(targets), on_learning)
            learning_s += time.perf_counter() - begin
        begin = time.perf_counter()
        if self._model is not None:
            self._fit(self._model.inputs, self._model.targets, on_learning)
        elif inputs:
            self._fit(np.array(inputs), np.array(targets), on_learning)
        learning_s += time.perf_counter() - begin
        number, count = self.trials, len(rewards)
        self.trials, self.steps = self.trials + 1, self.steps + count
        return Trial(
            number,
            count,
            (float(sum(rewards)),),
            float(np.median(plan_ms)) if plan_ms else np.nan,
            float(np.nanmean(costs)) / self.config.planner.horizon if np.isfinite(costs).any() else np.nan,
            learning_s,
            self._forecasted(said, states) if plan_ms else None,
        )

    def _learn_from(self, inputs: np.ndarray, target: np.ndarray, on_learning: Callable[[FitDone], None]) -> None:
        """Condition the processes on one more point, if it surprises."""
        model = self.model
        if not self.surprises(inputs, target):
            return
        self._stored += 1
        if self._stored - self._fitted >= self.config.refit:
            rows = np.vstack([model.inputs, inputs]), np.vstack([model.targets, target])
            self._fit(*rows, on_learning)
        elif model.count < self.config.points:
            self._use(model.append(inputs, target))
        else:
            rows = np.vstack([model.inputs[1:], inputs]), np.vstack([model.targets[1:], target])
            self._use(dataclasses.replace(model, inputs=rows[0], targets=rows[1]))

    def surprises(self, inputs: np.ndarray, target: np.ndarray) -> bool:
        """Whether the processes were unsure of a point [D], [E], or wrong."""
        model = self.model
        said = model.predict(inputs)
        spread = np.maximum(model.targets.std(axis=0), model.noise)  # of what never changes there is only noise
        error = np.abs(target - said.mean) / np.sqrt(said.variance + model.noise**2)
        unsure = np.sqrt(said.variance) > self.config.unsure * spread
        return bool(unsure.any() or (error > self.config.surprise).any())

    def _fit(self, inputs: np.ndarray, targets: np.ndarray, on_learning: Callable[[FitDone], None]) -> None:
        """Processes of the most evidence for the last points."""
        begin = time.perf_counter()
        rows = slice(-self.config.points, None)
        self._use(fit(inputs[rows], targets[rows], FITTED, start=self._model, seed=self.seed, threads=self.threads))
        self._stored = max(self._stored, len(inputs))
        self._fitted = self._stored
        on_learning(FitDone(len(inputs[rows]), time.perf_counter() - begin))

    def _use(self, model: GaussianProcess) -> None:
        self._model = model
        low, high = self.task.control_low, self.task.control_high
        chain = chain_of(model, self.features, self.goal, low, high)
        if self._controller is None:
            self._controller = self._fresh(chain)
        else:
            self._controller.chain = chain

    def _compile(self) -> None:
        """Make a plan through processes of nothing: the first one that counts comes in the middle of an episode."""
        nx, width = self.features.nx, self.features.size
        nothing, ones = np.zeros((nx, width)), np.ones(nx)
        process = GaussianProcess(
            inputs=np.zeros((1, width)), targets=np.zeros((1, nx)), lengthscale=nothing + 1, signal=ones, noise=ones,
            slope=nothing, intercept=0 * ones, tilt=nothing, bias=0 * ones,
        )  # fmt: skip
        chain = chain_of(process, self.features, self.goal, self.task.control_low, self.task.control_high)
        self._fresh(chain).plan(np.zeros(nx))

    def _fresh(self, chain: Chain) -> BeliefController:
        return BeliefController(self.task, self.config.planner, self.features.names, chain)

    # ---- what was learned ----------------------------------------------------------------------------------------
    @property
    def model(self) -> GaussianProcess:
        """The processes: changes of a state's numbers over `features.inputs`."""
        if self._model is None:
            raise InvalidInput("the agent has no model before its first trial; call trial(world) first")
        return self._model

    @property
    def controller(self) -> BeliefController:
        """Plans with what has been learned so far; using it teaches the agent nothing."""
        return self._fresh(self._chain)

    @property
    def _chain(self) -> Chain:
        _ = self.model
        assert self._controller is not None
        return self._controller.chain

    @property
    def acts_by(self) -> str:
        """How far it looks ahead, and how."""
        return f"plans on a belief, {self.config.planner.horizon} steps ahead"

    @property
    def _unsaid(self) -> tuple[np.ndarray, np.ndarray]:
        return np.full(self.features.nx, np.nan), np.full(self.features.nx, np.nan)

    def _foreseen(self, plan: Plan) -> list[tuple[np.ndarray, np.ndarray]]:
        """Mean and standard deviation [nx] of what the last plan says that will be seen, step by step to its end."""
        assert self._controller is not None
        found = self._controller.solution
        if plan.status is not Status.PLANNED or found is None:
            return [self._unsaid]
        variances = np.maximum(np.diagonal(found.covs, axis1=1, axis2=2), 0) + self._chain.noise
        return list(zip(found.means[1:], np.sqrt(variances[1:]), strict=True))

    def _forecasted(self, said: list[tuple[np.ndarray, np.ndarray]], states: list[np.ndarray]) -> Forecasted:
        """Of each state what was said up to a horizon before: by a plan, and when it was over by the next one."""
        means, deviations = (np.array(part) for part in zip(*said, strict=True))
        return Forecasted(self.features.names, self.task.dt, means, deviations, np.array(states))

    def model_gap(
        self, states: np.ndarray, controls: np.ndarray, rewards: np.ndarray, costs: np.ndarray, params: Any
    ) -> float:
        """Of the goal's cost under the controls that were taken, from each state that is a horizon after the last."""
        gap, horizon = 0.0, self.config.planner.horizon
        for t in range(0, len(controls), horizon):
            real = states[t + 1 : t + 1 + horizon]
            said = believed(self._chain, states[t], np.zeros((len(states[t]),) * 2), controls[t : t + horizon])
            gap += float(self.goal.costs(real, self.features.names, self.features.angles).sum() - said.costs.sum())
        return gap

    def predictor(self) -> Predictor:
        """Draws from beliefs under given controls."""
        return belief_predictor(self._chain, seed=self.seed)

    @property
    def spreads(self) -> bool:
        """Beliefs always do."""
        return True

    # ---- files ---------------------------------------------------------------------------------------------------
    def save_model(self, folder: Path) -> None:
        """Write the processes, as JSON and safetensors."""
        write_bundle(folder, self.model.files(), HEAD)

    def save(self, folder: Path) -> None:
        """Write all that the next trial depends on to a folder, which must not be there yet."""
        folder.mkdir(parents=True)
        self.save_model(folder / "model")
        counts = {"trials": self.trials, "steps": self.steps, "episodes": self.episodes, "stored": self._stored}
        write_bundle(folder / "agent", {"agent.json": to_json({**counts, "setup": self.setup()})}, _HEAD)

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        InvalidInput
            An agent of other settings wrote it, or it is damaged.
        """
        about = read_checkpoint(folder, _HEAD, self.setup())
        self._use(GaussianProcess.of_files(read_bundle(folder / "model", HEAD)))
        self.trials, self.steps, self.episodes = about["trials"], about["steps"], about["episodes"]
        self._stored = self._fitted = about["stored"]

    def setup(self) -> dict[str, Any]:
        """All that makes this agent what it is, and `load` compares."""
        return goal_setup(self.task, self.goal, self.config, self.seed)
