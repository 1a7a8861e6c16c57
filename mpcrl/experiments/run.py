"""One run: episodes of a task under one planner, with all that is needed to trust and to repeat the result."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mpcrl.control.controller import Controller
from mpcrl.control.feedback import Feedback
from mpcrl.core.checks import positive_integer
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import InvalidInput
from mpcrl.core.threads import ThreadBudget
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.configure import (
    Predictor,
    acting_for,
    controls_per_plan_for,
    predictor_for,
    steps_for,
)
from mpcrl.experiments.episode import Episode, Loop, Progress
from mpcrl.experiments.machine import machine, versions
from mpcrl.experiments.worlds import MujocoWorld, World, world_of
from mpcrl.models.model import Model
from mpcrl.planners.planner import Planner
from mpcrl.tasks.features import Features
from mpcrl.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult:
    """A run and how it was made; `to_json` has all but the trajectories.

    Attributes
    ----------
    task, model : str
        The model is "none" where a policy acted.
    planner : dict
        Full configuration; the name "policy" alone where one acted.
    dtype : str
        Of the candidates; of a policy's controls.
    budget, horizon, seed : int
        Budget and horizon are 0 where a policy acted.
    budget_ms : float or None
        Time limit of a plan; None where only the budget limits it.
    steps : int
        Limit on the control steps of an episode.
    controls_per_plan : int
        Controls taken of each plan.
    conditions : Conditions
        What the controller was not told of.
    control_period_ms : float
    returns : tuple of float
        One per episode; the last is cut short where the run was interrupted.
    return_mean : float or None
        Over the whole episodes; None where there is none.
    planning_costs : tuple of float
        What plans are to keep low, summed over each episode; minus the return where the task has no planning cost of
        its own.
    episode_steps : tuple of int
        Control steps done.
    ended : tuple of str
        Why each episode is over; the return of one that diverged counts up to there, or is -inf where the task says so.
    plan_ms : dict
        p50, p99 and max of planning over the control steps at which it began; None before the first.
    samples, failed_samples : int
        Trajectories simulated, and those that were not finite.
    fallbacks : int
        Controls that no plan gave, or one that could not be renewed.
    warmup_s : float
        Building the model, compiling or loading the kernels, first plans; not in `plan_ms`.
    interrupted : bool
    control_hash : str
        SHA-256 over the float64 bytes (little-endian) of all executed controls in order.
    versions, machine : dict
    records : tuple of Episode
    """

    task: str
    model: str
    planner: Mapping[str, Any]
    dtype: str
    budget: int
    budget_ms: float | None
    horizon: int
    seed: int
    episodes: int
    steps: int
    controls_per_plan: int
    conditions: Conditions
    control_period_ms: float
    returns: tuple[float, ...]
    return_mean: float | None
    planning_costs: tuple[float, ...]
    episode_steps: tuple[int, ...]
    ended: tuple[str, ...]
    plan_ms: Mapping[str, float | None]
    samples: int
    failed_samples: int
    fallbacks: int
    warmup_s: float
    interrupted: bool
    control_hash: str
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    records: tuple[Episode, ...] = field(repr=False)

    @property
    def period_share(self) -> float:
        """Median plan time over the time until the next is due: real time is below 1. NaN before the first plan."""
        p50 = self.plan_ms["p50"]
        return np.nan if p50 is None else p50 / (self.controls_per_plan * self.control_period_ms)

    def to_json(self) -> str:
        """All fields but `records`; numbers that are not finite become null, since JSON has none."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "records"}
        return json.dumps(configuration(fields), indent=2, allow_nan=False) + "\n"


def run_task(
    task: Task,
    planner: Planner | Feedback | None = None,
    *,
    model: Model | Predictor | str = "auto",
    dtype: str | None = None,
    episodes: int = 1,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    budget_ms: float | None = None,
    controls_per_plan: int | None = None,
    conditions: Conditions | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> RunResult:
    """Control a task for some episodes.

    Episode i is reset with `seed + i`, the environment and the planner alike, so that it can be repeated on its own.
    Ctrl-C ends the run after the control step at hand; what has been done by then is returned.

    Parameters
    ----------
    task : Task
    planner : Planner or Feedback, optional
        What acts, by plans or as a policy; if not given, the policy in the folder that `model` is, or the planner of
        the task's preset.
    model : Model, Predictor, a name in `MODELS`, or a folder of `train`
        What predicts; a policy needs none.
    dtype : {"float32", "float64"}, optional
        Of an analytic model; float32 if not given.
    episodes : int
    steps : int, optional
        Limit on the control steps of an episode; the whole episode if not given.
    seed, threads
        As in `Controller`.
    budget_ms : float, optional
        Time limit of each plan. Results then depend on the machine's speed.
    controls_per_plan : int, optional
        Controls taken of each plan; as in the task's preset if not given.
    conditions : Conditions, optional
        Dead time, noise, another plant, real time; a world as the planner knows it if not given.
    on_step : callable
        Told of every control step, outside of what is timed.

    Raises
    ------
    InvalidInput
        Before anything is run.
    """
    if planner is None:
        planner = acting_for(task, model=model if isinstance(model, str) else "auto")
    positive_integer("episodes", episodes)
    steps = steps_for(task, steps)
    conditions = Conditions() if conditions is None else conditions
    conditions.delay_steps(task.dt)
    begin = time.perf_counter()
    thread_budget = ThreadBudget.of(threads)
    if isinstance(planner, Feedback):
        _refuse_of_policies(dtype, budget_ms, controls_per_plan, conditions)
        acting = _policy(planner)
    else:
        controls_per_plan = controls_per_plan_for(task, controls_per_plan)
        predictor = model if isinstance(model, Predictor) else predictor_for(task, model, dtype)
        acting = _plans(task, planner, predictor, controls_per_plan, seed, threads)
    world = world_of(task, conditions.plant_scale, acting.features)
    records: list[Episode] = []
    try:
        start = _reset(world, seed, acting.following, True)
        if isinstance(acting.actor, Controller):
            acting.actor.warmup(start)
        warmup_s = time.perf_counter() - begin
        with _interruptible() as interrupted, thread_budget.limit():
            loop = Loop(
                controller=acting.actor,
                world=world,
                conditions=conditions,
                budget_ms=budget_ms,
                interrupted=interrupted,
            )
            for episode in range(episodes):
                if episode:
                    start = _reset(world, seed + episode, acting.following, False)
                acting.actor.reset(seed + episode)
                where = Progress(episode + 1, episodes, 0, steps, 0.0, np.nan)
                records.append(loop.run(seed + episode, start, where, on_step))
                if interrupted.is_set():
                    break
    finally:
        world.close()
    whole = [record.total for record in records if record.ended != "interrupted"]
    controls = np.concatenate([record.controls for record in records])
    times = np.concatenate([record.plan_ms for record in records])
    return RunResult(
        task=task.name,
        **acting.about,
        budget_ms=budget_ms,
        seed=seed,
        episodes=episodes,
        steps=steps,
        conditions=conditions,
        control_period_ms=1e3 * task.dt,
        returns=tuple(record.total for record in records),
        return_mean=float(np.mean(whole)) if whole else None,
        planning_costs=tuple(record.planning_cost for record in records),
        episode_steps=tuple(len(record.controls) for record in records),
        ended=tuple(record.ended for record in records),
        plan_ms=_percentiles(times[np.isfinite(times)]),
        samples=sum(record.counts.samples for record in records),
        failed_samples=sum(record.counts.failed for record in records),
        fallbacks=sum(record.counts.fallbacks for record in records),
        warmup_s=warmup_s,
        interrupted=interrupted.is_set(),
        control_hash=hashlib.sha256(controls.astype("<f8").tobytes()).hexdigest(),
        versions=versions(),
        machine=machine(thread_budget.count),
        records=tuple(records),
    )


def warm_up(task: Task, planner: Planner, *, dtype: str | None = None) -> float:
    """Compile and cache all kernels that runs of a task and planner need; the seconds that it took."""
    begin = time.perf_counter()
    Controller(task, planner, model=predictor_for(task, "auto", dtype).model).warmup()
    return time.perf_counter() - begin


# ---- parts -------------------------------------------------------------------------------------------------------
class _Acting(NamedTuple):
    """What acts in a run.

    Attributes
    ----------
    actor : Controller or Feedback
    features : Features or None
        What it is shown of a state, if not that of the true model.
    following : object
        The model that is to be the world's own MjModel, if any is.
    about : dict
        Fields of the run's result.
    """

    actor: Controller | Feedback
    features: Features | None
    following: Any
    about: dict[str, Any]


def _policy(policy: Feedback) -> _Acting:
    about = {"model": "none", "planner": {"name": policy.name}, "dtype": "float64", "budget": 0, "horizon": 0}
    return _Acting(policy, policy.features, None, {**about, "controls_per_plan": 1})


def _plans(
    task: Task, planner: Planner, predictor: Predictor, controls_per_plan: int, seed: int, threads: int | None
) -> _Acting:
    model = predictor.model
    controller = Controller(task, planner, model=model, seed=seed, threads=threads, controls_per_plan=controls_per_plan)
    about = {
        "model": predictor.name,
        "planner": configuration(planner),
        "dtype": str(model.dtype),
        "budget": planner.budget,
        "horizon": planner.horizon,
        "controls_per_plan": controls_per_plan,
    }
    return _Acting(controller, predictor.features, model if predictor.follows else None, about)


def _reset(world: World, seed: int, following: Any, first: bool) -> np.ndarray:
    """Begin an episode, with the model that follows the world's, if any does."""
    start = world.reset(seed)
    if isinstance(world, MujocoWorld) and following is not None and (first or world.edited):
        following.use(world.nominal_model)
    return start


def _refuse_of_policies(
    dtype: str | None, budget_ms: float | None, controls_per_plan: int | None, conditions: Conditions
) -> None:
    """Refuse what would change nothing where a policy acts."""
    for name, given in (("dtype", dtype), ("budget_ms", budget_ms), ("controls_per_plan", controls_per_plan)):
        if given is not None:
            raise InvalidInput(
                f"a policy plans nothing: leave {name} out, or give a planner to plan through the policy's model"
            )
    if conditions.mode == "realtime":
        raise InvalidInput("mode realtime is about the time that plans take, and a policy plans nothing: leave it out")


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one raises KeyboardInterrupt, as always."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _percentiles(times: np.ndarray) -> dict[str, float | None]:
    if not times.size:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(times, (50, 99)).tolist()
    return {"p50": p50, "p99": p99, "max": float(times.max())}
