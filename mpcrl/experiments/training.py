"""Training an agent: trials, checkpoints, and an evaluation that teaches it nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mpcrl.agents.agent import Agent, StepDone, Trial, episode_key
from mpcrl.control.plan import Actor
from mpcrl.core.bundle import MANIFEST
from mpcrl.core.checks import positive_integer
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import DamagedExport, InvalidInput
from mpcrl.core.files import writable_folder, written
from mpcrl.core.threads import ThreadBudget
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.configure import MODEL_FOLDER
from mpcrl.experiments.episode import Episode, Loop, Progress
from mpcrl.experiments.machine import machine, versions
from mpcrl.experiments.worlds import World, world_of
from mpcrl.learning.calibration import LEVELS, Calibration, calibration
from mpcrl.learning.replay import Replay

EVALUATION = 1_000_000
"""Number of the first episode of an evaluation: no trial begins as they do."""

CHECKPOINT, RESULT = "checkpoint", "train.json"
"""Names in the folder of a training."""


_HORIZON = 20
"""Steps ahead, for the calibration."""


class Point(NamedTuple):
    """A trial as learning curves show it.

    Attributes
    ----------
    steps : int
        Control steps of all trials up to its end.
    return_ : float
        Of its last episode.
    wall_s : float
        Seconds of computing up to its end, over all processes that a training was interrupted into.
    plan_ms, learning_s, loss : float
        Median time of a plan, time of the learning after the trial, and its last loss; see `Trial`.
    """

    steps: int
    return_: float
    wall_s: float
    plan_ms: float
    learning_s: float
    loss: float

    def row(self) -> dict[str, float]:
        """With the names that files use."""
        return {name.rstrip("_"): value for name, value in self._asdict().items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainResult:
    """A training and how it was made.

    Attributes
    ----------
    algo, task : str
    dt : float
        Control period, s.
    seed, steps : int
        Steps are those done.
    curve : tuple of Point
    evaluation : tuple of float
        Returns of the episodes after the last trial.
    final_return : float
        Their mean.
    model_gap : float
        What the model predicted for the evaluation's controls, or its policy's, minus what came of them, in return per
        episode; minus the planning cost, or that of the goal, where that is what it speaks of. Above 0 the model is too
        hopeful.
    coverage : dict
        Share of the evaluation's states, after 1, 5 and 20 control steps, within the model's central 90% interval.
    config : dict
        Of the agent.
    versions, machine : dict
    """

    algo: str
    task: str
    dt: float
    seed: int
    steps: int
    curve: tuple[Point, ...]
    evaluation: tuple[float, ...]
    final_return: float
    model_gap: float
    coverage: Mapping[int, float]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]

    def to_json(self) -> str:
        """All fields; numbers that are not finite become null."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["curve"] = [point.row() for point in self.curve]
        return json.dumps(configuration(fields), indent=2, allow_nan=False) + "\n"


def train(
    algo: str,
    agent: Agent,
    *,
    steps: int,
    folder: Path,
    evaluation_episodes: int = 1,
    on_start: Callable[[tuple[Point, ...]], None] = lambda curve: None,
    on_step: Callable[[StepDone], None] = lambda step: None,
    on_trial: Callable[[Trial, Point], None] = lambda trial, point: None,
    on_learning: Callable[[Any], None] = lambda progress: None,
    on_evaluation: Callable[[Progress], None] = lambda progress: None,
) -> tuple[TrainResult, Calibration | None]:
    """Run trials until `steps` control steps are done, then evaluate.

    After every trial all that the next one depends on is written, so that a training that was interrupted goes on, and
    ends with the same numbers as one that was not. A trial that has begun is finished: there may be more steps.

    Parameters
    ----------
    algo : str
        Name for the result.
    agent : Agent
        Fresh; what the folder holds is loaded into it.
    steps : int
    folder : path
        Keeps the checkpoint, the model for `mpcrl run --model`, and the result.
    evaluation_episodes : int
        With seeds that no trial has.
    on_start, on_step, on_trial, on_learning, on_evaluation : callable
        Told how it goes on.

    Returns
    -------
    TrainResult, Calibration
        The second is how well the model's intervals held in the evaluation; None where its episodes are too short, or
        nothing moved in them.

    Raises
    ------
    InvalidInput
        The folder cannot be written, or holds the training of an agent with other settings; the agent is not fresh.
    """
    positive_integer("steps", steps), positive_integer("evaluation_episodes", evaluation_episodes)
    folder = writable_folder(Path(folder))
    checkpoint, model = folder / CHECKPOINT, folder / MODEL_FOLDER
    world = world_of(agent.task, features=agent.features)
    with contextlib.closing(world), _locked(folder), ThreadBudget.of(agent.threads).limit():
        _check_place(model)
        curve = _resumed(agent, checkpoint)
        if curve:  # the process may have ended between checkpoint and model
            agent.save_model(model)
        elif agent.steps:
            raise InvalidInput(
                f"the agent has {agent.steps} steps behind it, which {str(folder)!r} does not hold; give a fresh one"
            )
        on_start(tuple(curve))
        while agent.steps < steps:
            begin = time.perf_counter()
            trial = agent.trial(world, on_step=on_step, on_learning=on_learning)
            before = curve[-1].wall_s if curve else 0.0
            wall_s = before + time.perf_counter() - begin
            curve.append(Point(agent.steps, trial.returns[-1], wall_s, trial.plan_ms, trial.learning_s, trial.loss))
            _save(agent, curve, checkpoint)
            agent.save_model(model)
            on_trial(trial, curve[-1])
        episodes, gaps = [], []
        for number in range(evaluation_episodes):
            where = Progress(number + 1, evaluation_episodes, 0, agent.task.episode_steps, 0.0, np.nan)
            episodes.append(
                evaluate(agent.controller, world, episode_key(agent.seed, EVALUATION + number), where, on_evaluation)
            )
            last = episodes[-1]
            gaps.append(agent.model_gap(last.states, last.controls, last.rewards, last.planning_costs, world.params))
        calibrated = calibrate(agent, episodes)
        if calibrated is not None:
            calibrated.to_csv(folder / "calibration.csv")
        result = TrainResult(
            algo=algo,
            task=agent.task.name,
            dt=agent.task.dt,
            seed=agent.seed,
            steps=agent.steps,
            curve=tuple(curve),
            evaluation=tuple(episode.total for episode in episodes),
            final_return=float(np.mean([episode.total for episode in episodes])),
            model_gap=float(np.mean(gaps)),
            coverage=_coverage(calibrated) if agent.spreads else {},
            config=agent.setup(),
            versions=versions(),
            machine=machine(agent.threads),
        )
        with written(folder / RESULT) as scratch:
            scratch.write_text(result.to_json())
    return result, calibrated


def evaluate(
    controller: Actor, world: World, seed: int, where: Progress, on_step: Callable[[Progress], None]
) -> Episode:
    """A whole episode under a controller, from which nobody learns."""
    loop = Loop(
        controller=controller, world=world, conditions=Conditions(), budget_ms=None, interrupted=threading.Event()
    )
    start = world.reset(seed)
    controller.reset(seed)
    return loop.run(seed, start, where, on_step)


def calibrate(agent: Agent, episodes: Sequence[Episode]) -> Calibration | None:
    """What was learned says of episodes that nobody learned from, up to 20 steps ahead.

    None where none of them has as many, or nothing ever moved in them.
    """
    capacity = sum(len(episode.controls) for episode in episodes)
    seen = Replay(agent.features.nx, agent.task.nu, capacity=capacity, members=1)
    for episode in episodes:
        whole = int(np.isfinite(episode.states).all(axis=1).sum()) - 1
        if whole >= _HORIZON:
            seen.add_episode(episode.states[: whole + 1], episode.controls[:whole], -episode.rewards[:whole])
    if not any((episode.states != episode.next_states).any() for episode in seen.episodes()):
        return None
    return calibration(agent.predictor(), seen.episodes(), agent.features.names, horizon=_HORIZON)


# ---- parts -------------------------------------------------------------------------------------------------------
def _save(agent: Agent, curve: list[Point], checkpoint: Path) -> None:
    """Write a checkpoint in place of the last one: the folder is at all times one or the other."""
    new, old = (checkpoint.with_name(f".{checkpoint.name}-{end}") for end in ("new", "old"))
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        agent.save(new)
        (new / "curve.json").write_text(json.dumps([point.row() for point in curve]))
        if checkpoint.exists():
            os.replace(checkpoint, old)
        os.replace(new, checkpoint)
    except (OSError, InvalidInput) as error:
        raise InvalidInput(
            f"cannot write the checkpoint {str(checkpoint)!r}: {error}; the one before it is whole, and the same "
            "command goes on from there when that is mended"
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _check_place(model: Path) -> None:
    """Refuse before the first trial a model's place that is taken by something else."""
    if model.exists() and not (model / MANIFEST).is_file() and (not model.is_dir() or any(model.iterdir())):
        raise InvalidInput(f"{str(model)!r} is there already and no model that was learned; choose another folder")


def _resumed(agent: Agent, checkpoint: Path) -> list[Point]:
    """Load the checkpoint into the agent, if there is one; the curve so far."""
    old = checkpoint.with_name(f".{checkpoint.name}-old")
    if not checkpoint.exists() and old.exists():  # the process ended between the two renames
        os.replace(old, checkpoint)
    if not checkpoint.exists():
        return []
    agent.load(checkpoint)
    try:
        points = json.loads((checkpoint / "curve.json").read_text())
        return [Point(**{"return_" if key == "return" else key: value for key, value in p.items()}) for p in points]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedExport(f"{str(checkpoint / 'curve.json')!r} is not whole: {error}; delete the folder") from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One training at a time in a folder; the lock goes with the process, however that ends."""
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise InvalidInput(f"cannot write to {str(folder)!r}: {error.strerror}; choose another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInput(
                f"another training is at work in {str(folder)!r}; wait for it, or give another"
            ) from error
        yield


def _coverage(calibrated: Calibration | None) -> dict[int, float]:
    level = LEVELS.index(0.9)
    return {} if calibrated is None else {h: float(calibrated.overall[h - 1, level]) for h in (1, 5, _HORIZON)}
