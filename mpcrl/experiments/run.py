"""One run: episodes of a task under one planner, with all that is needed to trust and to repeat the result."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import inspect
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mpcrl.control.controller import Controller, Status
from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput, unknown_name
from mpcrl.experiments.machine import machine, versions
from mpcrl.experiments.worlds import MujocoWorld, Signals, World, world_of
from mpcrl.models.model import Model
from mpcrl.planners import PLANNERS
from mpcrl.planners.planner import Planner
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task

MODELS = {
    "auto": "the true model of the task: its own dynamics or its own physics",
    "analytic": "the task's own functions, one trajectory per SIMD lane",
    "mujoco": "MuJoCo's physics",
}
"""What `--model` may be."""

_DTYPES = ("float32", "float64")


class Progress(NamedTuple):
    """Where a run stands after a control step.

    Attributes
    ----------
    episode, episodes : int
        Counted from 1.
    step, steps : int
        Of this episode, and at most.
    episode_return : float
        So far.
    plan_ms : float
        Of the last plan.
    """

    episode: int
    episodes: int
    step: int
    steps: int
    episode_return: float
    plan_ms: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """What happened in one episode of T control steps.

    Attributes
    ----------
    seed : int
    states : ndarray [T + 1, nx]
    controls : ndarray [T, nu]
    rewards, plan_ms : ndarray [T]
    ended : {"terminated", "time limit", "steps done", "interrupted"}
    signals : tuple of Signals
        What is worth plotting of the states.
    control_names : tuple of str
    """

    seed: int
    states: np.ndarray
    controls: np.ndarray
    rewards: np.ndarray
    plan_ms: np.ndarray
    ended: str
    signals: tuple[Signals, ...]
    control_names: tuple[str, ...]

    @property
    def total(self) -> float:
        """The return: the sum of all rewards, in order."""
        return float(sum(self.rewards.tolist()))


@dataclass(frozen=True, kw_only=True, eq=False)
class RunResult:
    """A run and how it was made; `to_json` has all but the trajectories.

    Attributes
    ----------
    task, model : str
    planner : dict
        Full configuration.
    dtype : str
        Of the candidates.
    budget, horizon, seed : int
    budget_ms : float or None
        Time limit of a plan; None where only the budget limits it.
    steps : int
        Limit on the control steps of an episode.
    control_period_ms : float
    returns : tuple of float
        One per episode; the last is cut short where the run was interrupted.
    return_mean : float or None
        Over the whole episodes; None where there is none.
    episode_steps : tuple of int
        Control steps done.
    plan_ms : dict
        p50, p99 and max of planning over all control steps; None before the first.
    samples, failed_samples : int
        Trajectories simulated, and those that were not finite.
    fallbacks : int
        Controls that were not from a fresh plan.
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
    control_period_ms: float
    returns: tuple[float, ...]
    return_mean: float | None
    episode_steps: tuple[int, ...]
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
        """Median plan time over the control period: real time is below 1. NaN before the first plan."""
        p50 = self.plan_ms["p50"]
        return np.nan if p50 is None else p50 / self.control_period_ms

    def to_json(self) -> str:
        """All fields but `records`; numbers that are not finite become null, since JSON has none."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "records"}
        return json.dumps(configuration(fields), indent=2, allow_nan=False) + "\n"


def run_task(
    task: Task,
    planner: Planner | None = None,
    *,
    model: Model | str = "auto",
    dtype: str | None = None,
    episodes: int = 1,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    budget_ms: float | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> RunResult:
    """Control a task for some episodes.

    Episode i is reset with `seed + i`, the environment and the planner alike, so that it can be repeated on its own.
    Ctrl-C ends the run after the control step at hand; what has been done by then is returned.

    Parameters
    ----------
    task : Task
    planner : Planner, optional
        The task's preset if not given.
    model : Model, or a name in `MODELS`
        What predicts.
    dtype : {"float32", "float64"}, optional
        Of an analytic model; float32 if not given.
    episodes : int
    steps : int, optional
        Limit on the control steps of an episode; the whole episode if not given.
    seed, threads
        As in `Controller`.
    budget_ms : float, optional
        Time limit of each plan. Results then depend on the machine's speed.
    on_step : callable
        Told of every control step, outside of what is timed.

    Raises
    ------
    InvalidInput
        Before anything is run.
    """
    planner = planner_for(task) if planner is None else planner
    positive_integer("episodes", episodes)
    steps = task.episode_steps if steps is None else positive_integer("steps", steps)
    if steps > task.episode_steps:
        raise InvalidInput(f"an episode of {task.name!r} has {task.episode_steps} control steps; got steps={steps}")
    begin = time.perf_counter()
    predictor: Any  # a Model; the task's own MuJoCo model also has `use`
    if isinstance(model, str):
        name, predictor = _model_named(task, model, dtype)
    elif dtype is None:
        name, predictor = "custom", model
    else:
        raise InvalidInput(f"dtype is for models given by name; this one computes in {model.dtype}")
    controller = Controller(task, planner, model=predictor, seed=seed, threads=threads)
    world = world_of(task)
    records: list[Episode] = []
    counts = _Counts()
    try:
        start = world.reset(seed)
        if isinstance(world, MujocoWorld) and name != "custom":
            predictor.use(world.mj_model)
        controller.warmup(start)
        warmup_s = time.perf_counter() - begin
        with _interruptible() as interrupted, controller.threads.limit():
            for episode in range(episodes):
                if episode:
                    start = world.reset(seed + episode)
                    if isinstance(world, MujocoWorld) and world.edited and name != "custom":
                        predictor.use(world.mj_model)
                controller.reset(seed + episode)
                loop = _Loop(controller, world, counts, budget_ms, interrupted)
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
        model=name,
        planner=configuration(planner),
        dtype=str(predictor.dtype),
        budget=planner.budget,
        budget_ms=budget_ms,
        horizon=planner.horizon,
        seed=seed,
        episodes=episodes,
        steps=steps,
        control_period_ms=1e3 * task.dt,
        returns=tuple(record.total for record in records),
        return_mean=float(np.mean(whole)) if whole else None,
        episode_steps=tuple(len(record.controls) for record in records),
        plan_ms=_percentiles(times),
        samples=counts.samples,
        failed_samples=counts.failed,
        fallbacks=counts.fallbacks,
        warmup_s=warmup_s,
        interrupted=interrupted.is_set(),
        control_hash=hashlib.sha256(controls.astype("<f8").tobytes()).hexdigest(),
        versions=versions(),
        machine=machine(controller.threads.count),
        records=tuple(records),
    )


def warm_up(task: Task, planner: Planner, *, dtype: str | None = None) -> float:
    """Compile and cache all kernels that runs of a task and planner need; the seconds that it took."""
    begin = time.perf_counter()
    Controller(task, planner, model=_model_named(task, "auto", dtype)[1]).warmup()
    return time.perf_counter() - begin


def planner_for(
    task: Task,
    name: str | None = None,
    *,
    budget: int | None = None,
    horizon: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Planner:
    """A planner by name; what is not given is as in the task's preset.

    The preset's own options go with its planner, another planner has its defaults. Budget and horizon go with the task.

    Parameters
    ----------
    name : str, optional
    budget, horizon : int, optional
    options : mapping of str, optional
        Values, or text as typed on a command line, which is read as the type of the option.
    """
    preset = dict(task.preset)
    usual = preset.pop("planner", "icem")
    name = usual if name is None else name
    if name not in PLANNERS:
        raise unknown_name("planner", name, PLANNERS)
    sizes: dict[str, Any] = {size: preset.pop(size) for size in ("budget", "horizon") if size in preset}
    given = {"budget": budget, "horizon": horizon}
    sizes.update({size: value for size, value in given.items() if value is not None})
    chosen: dict[str, Any] = {key: _typed(name, key, value) for key, value in (options or {}).items()}
    return PLANNERS[name](**{**sizes, **(preset if name == usual else {}), **chosen})


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """`name=value` texts as a mapping."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise InvalidInput(f"an option is written name=value, such as beta=0.25; got {text!r}")
        if key in pairs:
            raise InvalidInput(f"option {key!r} is given twice: {pairs[key]} and {value}")
        pairs[key] = value
    return pairs


def planner_options(name: str) -> dict[str, Any]:
    """Options of a planner with their defaults; budget and horizon, which every planner has, are not among them."""
    parameters = inspect.signature(PLANNERS[name]).parameters
    return {key: p.default for key, p in parameters.items() if key not in ("budget", "horizon")}


def configuration(value: Any) -> Any:
    """A configuration as JSON can hold it: dataclasses become mappings that name their `type`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: configuration(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): configuration(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [configuration(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return configuration(value.tolist())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if isinstance(value, str | int | None) else repr(value)


# ---- parts -------------------------------------------------------------------------------------------------------
@dataclass
class _Counts:
    samples: int = 0
    failed: int = 0
    fallbacks: int = 0


@dataclass(frozen=True)
class _Loop:
    """Plan, apply, record."""

    controller: Controller
    world: World
    counts: _Counts
    budget_ms: float | None
    interrupted: threading.Event

    def run(self, seed: int, state: np.ndarray, where: Progress, on_step: Callable[[Progress], None]) -> Episode:
        states, controls, rewards, times = [state], [], [], []
        total, ended, counts = 0.0, "", self.counts
        while not ended:
            plan = self.controller.plan(state, budget_ms=self.budget_ms, params=self.world.params)
            state, reward, ended = self.world.step(plan.control)
            states.append(state)
            controls.append(plan.control)
            rewards.append(reward)
            times.append(plan.milliseconds)
            counts.samples += plan.samples
            counts.failed += plan.failed
            counts.fallbacks += plan.status is not Status.PLANNED
            total += reward
            on_step(where._replace(step=len(controls), episode_return=total, plan_ms=plan.milliseconds))
            if not ended and len(controls) >= where.steps:
                ended = "steps done"
            if not ended and self.interrupted.is_set():
                ended = "interrupted"
        return Episode(
            seed=seed,
            states=np.array(states),
            controls=np.array(controls),
            rewards=np.array(rewards),
            plan_ms=np.array(times),
            ended=ended,
            signals=self.world.signals(np.array(states)),
            control_names=self.world.control_names,
        )


def _model_named(task: Task, name: str, dtype: str | None) -> tuple[str, Any]:
    """The model of a name, and the name of what "auto" comes to."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    own = "analytic" if isinstance(task, AnalyticTask) else "mujoco"
    if name not in ("auto", own):
        raise InvalidInput(f"task {task.name!r} has no {name} model; use --model {own}")
    if dtype not in (None, *_DTYPES):
        raise InvalidInput(f"dtype must be {' or '.join(_DTYPES)}, got {dtype!r}")
    if isinstance(task, AnalyticTask):
        from mpcrl.models.analytic import Analytic

        return own, Analytic(task, dtype=dtype or "float32")
    if isinstance(task, MujocoTask):
        if dtype == "float32":
            raise InvalidInput("MuJoCo computes in float64; leave dtype out")
        from mpcrl.models.mujoco import MuJoCo

        return own, MuJoCo(task)
    raise InvalidInput(f"task {task.name!r} is a {type(task).__name__}, which has no model of its own; pass a model")


def _typed(planner: str, key: str, value: Any) -> Any:
    """A value for a planner's option; text becomes what the option's annotation says."""
    function = PLANNERS[planner]
    known = planner_options(planner)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        listing = ", ".join(f"{name}={default}" for name, default in known.items()) or "none"
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"planner {planner!r} has no option {key!r}; {hint}options and their defaults: {listing}")
    if not isinstance(value, str):
        return value
    kinds = [kind.strip() for kind in str(inspect.signature(function).parameters[key].annotation).split("|")]
    for kind in kinds:
        with contextlib.suppress(ValueError, KeyError):
            return _READERS[kind](value)
    raise InvalidInput(f"option {key} of planner {planner!r} must be {' or '.join(kinds)}, got {value!r}")


_READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[text.lower()],
    "None": lambda text: {"none": None}[text.lower()],
    "str": str,
}


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
