"""From names and texts to the objects of a run: its planner, its model, and what JSON keeps of them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from mpcrl.control.feedback import Feedback
from mpcrl.core.bundle import read_bundle
from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput, unknown_name
from mpcrl.models.model import Model
from mpcrl.models.risk import RISKS, Risk
from mpcrl.planners import PLANNERS
from mpcrl.planners.planner import Planner
from mpcrl.tasks.features import Features
from mpcrl.tasks.limit import Limit
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.task import AnalyticTask, Task

if TYPE_CHECKING:
    from mpcrl.agents.agent import Agent
    from mpcrl.agents.gp_mpc import GPMPCConfig
    from mpcrl.agents.mc_pilco import MCPILCOConfig
    from mpcrl.agents.pets import PETSConfig
    from mpcrl.agents.pilco import PILCOConfig

MODELS = {
    "auto": "what the task's preset says: in general the true model, its own dynamics or its own physics",
    "analytic": "the task's own functions, one trajectory per SIMD lane",
    "mujoco": "MuJoCo's physics",
    "mujoco-coarse": "MuJoCo's physics 2 to 4 times cheaper: no Runge-Kutta, or twice the time step",
}
"""What `--model` may be."""

MODEL_FOLDER = "model"
"""Where a training keeps what it learned, in its own folder."""

_C = TypeVar("_C", "PETSConfig", "PILCOConfig", "MCPILCOConfig", "GPMPCConfig")

_DTYPES = ("float32", "float64")
_SIZES = ("budget", "horizon")
_NOT_OF_PLANNERS = ("controls_per_plan", "model")
"""Entries of a task's preset that are no arguments of its planner."""


class Predictor(NamedTuple):
    """What a planner predicts with.

    Attributes
    ----------
    name : str
        One of `MODELS`, never "auto"; "custom" for a model that was passed in.
    model : Model
    follows : bool
        Whether it is the world's own MjModel, which environments may edit at a reset.
    """

    name: str
    model: Any  # a Model; one that follows also has `use`
    follows: bool

    @property
    def features(self) -> Features | None:
        """What a learned model's state consists of; None where it is the true model's."""
        return getattr(self.model, "features", None)


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
    name, arguments = planner_arguments(task, name, budget=budget, horizon=horizon, options=options)
    return PLANNERS[name](**arguments)


def acting_for(
    task: Task,
    name: str | None = None,
    *,
    model: str = "auto",
    budget: int | None = None,
    horizon: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Planner | Feedback:
    """What acts: the policy in a folder of `train`, where there is one and no planner is named; else `planner_for`.

    Raises
    ------
    InvalidInput
        Something is given that only planners have, or the policy was learned for another task.
    """
    folder = policy_folder(model) if name is None else None
    if folder is None:
        return planner_for(task, name, budget=budget, horizon=horizon, options=options)
    for what, given in (("budget", budget), ("horizon", horizon), ("option", options)):
        if given:
            raise InvalidInput(
                f"what acts is the policy in {model!r}, which plans nothing: leave --{what} out, or name a --planner "
                "to plan through its model"
            )
    from mpcrl.agents.policy_agent import load_policy

    return load_policy(task, folder)


def policy_folder(model: str) -> Path | None:
    """Where the policy is that a folder of `train` holds; None for other models."""
    from mpcrl.learning.policies import FILE

    folder = _learned_folder(model)
    return folder if folder is not None and (folder / FILE).exists() else None


def planner_arguments(
    task: Task,
    name: str | None = None,
    *,
    budget: int | None = None,
    horizon: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Name and all arguments of the planner that `planner_for` makes, defaults included."""
    preset = {key: value for key, value in task.preset.items() if key not in _NOT_OF_PLANNERS}
    usual = preset.pop("planner", "icem")
    name = usual if name is None else name
    if name not in PLANNERS:
        raise unknown_name("planner", name, PLANNERS)
    sizes = {key: p.default for key, p in inspect.signature(PLANNERS[name]).parameters.items() if key in _SIZES}
    sizes.update({size: preset.pop(size) for size in _SIZES if size in preset})
    given = {"budget": budget, "horizon": horizon}
    sizes.update({size: value for size, value in given.items() if value is not None})
    chosen: dict[str, Any] = {key: _typed(name, key, value) for key, value in (options or {}).items()}
    return name, {**sizes, **planner_options(name), **(preset if name == usual else {}), **chosen}


def controls_per_plan_for(task: Task, controls_per_plan: int | None = None) -> int:
    """Controls taken of each plan: as given, or as in the task's preset, or 1."""
    usual = task.preset.get("controls_per_plan", 1)
    return positive_integer("controls_per_plan", usual if controls_per_plan is None else controls_per_plan)


def steps_for(task: Task, steps: int | None = None) -> int:
    """Limit on the control steps of an episode: as given, or all of it."""
    steps = task.episode_steps if steps is None else positive_integer("steps", steps)
    if steps > task.episode_steps:
        raise InvalidInput(f"an episode of {task.name!r} has {task.episode_steps} control steps; got steps={steps}")
    return steps


def predictor_for(task: Task, model: Model | str = "auto", dtype: str | None = None) -> Predictor:
    """The model to plan with: one that is passed through, made by its name in `MODELS`, or in a folder of `train`."""
    if not isinstance(model, str):
        if dtype is not None:
            raise InvalidInput(f"dtype is for models given by name; this one computes in {model.dtype}")
        return Predictor("custom", model, False)
    folder = _learned_folder(model)
    if folder is not None:
        from mpcrl.models.ensemble import Ensemble
        from mpcrl.models.gaussian_process import FILE, HEAD, GaussianProcess
        from mpcrl.models.gp import GP

        if dtype is not None:
            raise InvalidInput("a learned model computes in float32; leave dtype out")
        if (folder / GP.FILE).exists():
            return Predictor("gp", GP.load(task, folder), False)
        if (folder / FILE).exists():  # what PILCO and GP-MPC learned, for planners
            return Predictor("gp", GP(task, GaussianProcess.of_files(read_bundle(folder, HEAD))), False)
        return Predictor("ensemble", Ensemble.load(task, folder), False)
    name, dtype = model_arguments(task, model, dtype)
    if isinstance(task, AnalyticTask):
        from mpcrl.models.analytic import Analytic

        return Predictor(name, Analytic(task, dtype=dtype), False)
    from mpcrl.models.mujoco import MuJoCo

    assert isinstance(task, MujocoTask)
    return Predictor(name, MuJoCo(task, coarse=name == "mujoco-coarse"), True)


def model_arguments(task: Task, name: str = "auto", dtype: str | None = None) -> tuple[str, str]:
    """Name and dtype of the model that `predictor_for` makes; nothing is built."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    if dtype not in (None, *_DTYPES):
        raise InvalidInput(f"dtype must be {' or '.join(_DTYPES)}, got {dtype!r}")
    if isinstance(task, AnalyticTask):
        own = ["analytic"]
    elif isinstance(task, MujocoTask):
        own = ["mujoco", "mujoco-coarse"]
    else:
        raise InvalidInput(
            f"task {task.name!r} is a {type(task).__name__}, which has no model of its own; pass a model"
        )
    name = task.preset.get("model", own[0]) if name == "auto" else name
    if name not in own:
        raise InvalidInput(f"task {task.name!r} has no {name} model; use --model {' or '.join(own)}")
    if name != "analytic" and dtype == "float32":
        raise InvalidInput("MuJoCo computes in float64; leave dtype out")
    return name, dtype or ("float32" if name == "analytic" else "float64")


AGENTS = {
    "pets": "an ensemble of probabilistic networks, and the task's planner through trajectories sampled from it",
    "deterministic": "one deterministic network and the task's planner: what the ensemble is to be better than",
    "random-shooting": "one deterministic network and random shooting: the simplest there is",
    "pilco": "Gaussian processes, and a policy searched for along the gradient of its expected cost; few numbers only",
    "mc-pilco": "the same with particles in the place of normal beliefs, and positions that follow from their speeds",
    "gp-mpc": "Gaussian processes that learn at every step, and plans along the gradient of their expected cost",
}
"""What `mpcrl train` may be given."""

_PLANS_BY_ITSELF = {
    "pilco": "acts by a policy and plans nothing",
    "mc-pilco": "acts by a policy and plans nothing",
    "gp-mpc": "plans by a gradient of its own",
}
"""Agents that take no planner, and why."""


def agent_for(
    algo: str,
    task: Task,
    *,
    planner: str | None = None,
    budget: int | None = None,
    horizon: int | None = None,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> Agent:
    """A fresh agent by name in `AGENTS`; what is not given is as in the task's preset and the agent's configuration.

    Parameters
    ----------
    settings : mapping of str
        Of `PETSConfig` and its `EnsembleConfig`, of `PILCOConfig`, of `MCPILCOConfig` and its `ParticleSearchConfig`,
        or of `GPMPCConfig` and its `BeliefPlanner`, as text that is read as the type of each.
    """
    if algo not in AGENTS:
        raise unknown_name("agent", algo, AGENTS)
    sizes = dict(settings or {})
    if algo in _PLANS_BY_ITSELF:
        for name, given in (("planner", planner), ("budget", budget), ("option", options)):
            if given:
                raise InvalidInput(f"{algo} {_PLANS_BY_ITSELF[algo]}: leave --{name} out")
        sizes |= {} if horizon is None else {"horizon": str(horizon)}
    if algo == "pilco":
        from mpcrl.agents.pilco import PILCO, PILCOConfig

        return PILCO(task, config=_configured(PILCOConfig(), sizes), seed=seed, threads=threads)
    if algo == "mc-pilco":
        from mpcrl.agents.mc_pilco import MCPILCO, MCPILCOConfig

        return MCPILCO(task, config=_configured(MCPILCOConfig(), sizes), seed=seed, threads=threads)
    if algo == "gp-mpc":
        from mpcrl.agents.gp_mpc import GPMPC, GPMPCConfig

        return GPMPC(task, config=_configured(GPMPCConfig(), sizes), seed=seed, threads=threads)
    from mpcrl.agents.pets import PETS, PETSConfig, deterministic

    config = _configured(PETSConfig(), sizes)
    if algo != "pets":
        for name in ("members", "probabilistic", "bootstrap", "elites", "particles"):
            if name in sizes:
                raise InvalidInput(f"{algo} has one deterministic network: leave --setting {name} out")
        config = deterministic(config)
    if algo == "random-shooting":
        planner = planner or "random_shooting"
    return PETS(
        task,
        planner=planner_for(task, planner, budget=budget, horizon=horizon, options=options),
        config=config,
        seed=seed,
        threads=threads,
        controls_per_plan=controls_per_plan_for(task),
    )


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


def parse_numbers(name: str, text: str) -> np.ndarray:
    """`0.5,-1` as a vector."""
    try:
        return np.array([float(number) for number in text.split(",")])
    except ValueError as error:
        raise InvalidInput(f"{name} is written as numbers with commas, such as 0.5,-1; got {text!r}") from error


def planner_options(name: str) -> dict[str, Any]:
    """Options of a planner with their defaults; budget and horizon, which every planner has, are not among them."""
    parameters = inspect.signature(PLANNERS[name]).parameters
    return {key: p.default for key, p in parameters.items() if key not in _SIZES}


# ---- parts -------------------------------------------------------------------------------------------------------
def _learned_folder(model: str) -> Path | None:
    """Where the files of a learned model are, in its own folder or that of a training; None for a model's name."""
    if model in MODELS or not ("/" in model or Path(model).is_dir()):
        return None
    if not Path(model).is_dir():
        raise InvalidInput(f"there is no folder {model!r} of a trained model")
    trained = Path(model) / MODEL_FOLDER
    return trained if trained.is_dir() else Path(model)


def _typed(planner: str, key: str, value: Any) -> Any:
    """A value for a planner's option; text becomes what the option's annotation says."""
    function = PLANNERS[planner]
    known = planner_options(planner)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        listing = ", ".join(f"{name}={default}" for name, default in known.items()) or "none"
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InvalidInput(f"planner {planner!r} has no option {key!r}; {hint}options and their defaults: {listing}")
    kinds = [kind.strip() for kind in str(inspect.signature(function).parameters[key].annotation).split("|")]
    if isinstance(value, str):
        for kind in kinds:
            with contextlib.suppress(ValueError, KeyError):
                return _READERS[kind](value)
    if isinstance(value, np.generic):
        value = value.item()
    if type(value).__name__ in kinds or (value is None and "None" in kinds):
        return value
    if type(value) is int and "float" in kinds:
        return float(value)
    raise InvalidInput(f"option {key} of planner {planner!r} must be {' or '.join(kinds)}, got {value!r}")


def _configured(config: _C, settings: Mapping[str, str]) -> _C:
    """Settings by name into the configuration, and into those that are parts of it."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    whole = ("risk",)  # one setting, though it is made of several numbers
    parts: dict[str, Any] = {k: v for k, v in values.items() if dataclasses.is_dataclass(v) and k not in whole}
    kinds = {f.name: (name, str(f.type)) for name, part in parts.items() for f in dataclasses.fields(part)}
    kinds |= {f.name: ("", str(f.type)) for f in dataclasses.fields(config) if f.name not in parts}
    read: dict[str, dict[str, Any]] = {}
    for name, text in settings.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidInput(f"an agent has no setting {name!r}; {hint}settings: {', '.join(kinds)}")
        room, kind = kinds[name]
        read.setdefault(room, {})[name] = _read_setting(name, text, kind)
    own: dict[str, Any] = read.pop("", {})
    own |= {part: dataclasses.replace(parts[part], **values) for part, values in read.items()}
    return dataclasses.replace(config, **own)


def _risk(text: str) -> Risk:
    """`mean`, or `cvar:0.1` with the number that the risk takes."""
    name, _, number = text.lower().partition(":")
    try:
        return {known.lower(): kind for known, kind in RISKS.items()}[name](*([float(number)] if number else []))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"risk is written mean, worst, best, entropic:THETA, var:ALPHA or cvar:ALPHA, got {text!r}"
        ) from error


_TERM = re.compile(r"\s*([+-]?)\s*(?:([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*\*)?\s*([^-+*<>=@;]+?)\s*(?=[-+]|$)")
"""A factor times a name; the sign may be left out of the first."""


def _limits(text: str) -> tuple[Limit, ...]:
    """`rate<=6@0.95;position-0.5*rate>=-1`: sums of factors times names, bounds, and probabilities."""
    return tuple(_limit(part) for part in text.split(";"))


def _limit(text: str) -> Limit:
    whole, at, probability = text.partition("@")
    left, relation, bound = next((whole.partition(sign) for sign in ("<=", ">=") if sign in whole), (whole, "", ""))
    terms: dict[str, float] = {}
    try:
        sign, end = 1.0 if relation == "<=" else -1.0, 0
        while end < len(left):
            found = _TERM.match(left, end)
            if found is None or (end and not found[1]) or found[3] in terms:
                raise ValueError
            terms[found[3]] = sign * float(f"{found[1]}{found[2] or 1}")
            end = found.end()
        sure = float(probability) if at else Limit.probability
        return Limit(terms=terms, bound=sign * float(bound), probability=sure)
    except ValueError as error:
        raise InvalidInput(
            f"a limit is written such as rate<=6@0.95 or position-0.5*rate>=-1, with ; between two: each name once, a "
            f"bound, and @ a probability from 0.5 to 1, which is 0.95 where it is left out; got {text!r}"
        ) from error


def _read_setting(name: str, text: str, annotation: str) -> Any:
    if annotation == "Risk":
        return _risk(text)
    if annotation == "tuple[Limit, ...]":
        return _limits(text)
    kinds = [kind.strip() for kind in annotation.split("|")]
    for kind in kinds:
        with contextlib.suppress(ValueError, KeyError):
            if kind == "tuple[int, ...]":
                return tuple(int(number) for number in text.split(","))
            return _READERS[kind](text)
    raise InvalidInput(f"setting {name} must be {' or '.join(kinds)}, got {text!r}")


_READERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[text.lower()],
    "None": lambda text: {"none": None}[text.lower()],
    "str": str,
}
