"""A controller as a folder: JSON, arrays, and the user's source where the task is the user's own.

    mpcrl.export(controller, "robot")
    controller = mpcrl.load("robot")                                          # a task that mpcrl brings along
    controller = mpcrl.load("robot", source="robot/source/my_robot.py:task")  # a task of one's own

Loading executes nothing of the folder. A task of one's own comes from a source that the caller names, and only if it is
what was exported. Compiled kernels, which are pickles, are left alone unless the caller trusts them.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpcrl import __version__
from mpcrl.control.controller import Controller
from mpcrl.control.filters import SavitzkyGolay, Validator
from mpcrl.core.bundle import digest, from_json, from_safetensors, read_bundle, to_json, to_safetensors, write_bundle
from mpcrl.core.checks import finite_vector, positive_integer, positive_number
from mpcrl.core.compile import CacheWarning, adopt_kernels, kernel_target, used_kernels
from mpcrl.core.configuration import configuration, rebuilt, short
from mpcrl.core.errors import DamagedExport, InvalidInput, WrongSource
from mpcrl.models import scalar
from mpcrl.models.analytic import Analytic
from mpcrl.models.model import Model
from mpcrl.planners import ILQR, SamplingPlanner, WarmStart
from mpcrl.planners.noise import Coloured, LogNormal, Uniform, White
from mpcrl.planners.parametrisation import Derivative, Kernel, PerStep, Spline
from mpcrl.planners.planner import Planner
from mpcrl.planners.refit import Best, Elites, Softmax
from mpcrl.planners.schedule import Schedule
from mpcrl.tasks.mujoco_task import MujocoTask
from mpcrl.tasks.registry import TASKS, make_task, task_of_source
from mpcrl.tasks.task import AnalyticTask, Task

FORMAT: dict[str, Any] = {"format": "mpcrl controller", "version": 1}
"""What a manifest says first. The version changes with the meaning of anything in the folder."""

_PLANNERS = (SamplingPlanner, ILQR, WarmStart)
_PARTS = (
    *(Schedule, Best, Elites, Softmax, White, Uniform, Coloured, LogNormal),
    *(PerStep, Derivative, Spline, Kernel),
)
_KINDS = {kind.__name__: kind for kind in (*_PLANNERS, *_PARTS)}
_MOST_STEPS, _MOST_NUMBERS = 2048, 2**27  # of a horizon; of all candidates together
_FUNCTIONS = ("step", "cost", "terminal", "terminated", "planning_cost", "apply")
_FACTS = ("dt", "control_low", "control_high", "episode_steps", "state_names", "fields", "frame_skip", "current")


def export(
    controller: Controller,
    folder: str | os.PathLike[str],
    *,
    source: str | None = None,
    files: Iterable[str | os.PathLike[str]] = (),
    kernels: bool = False,
) -> Path:
    """Write a controller to a folder, in place of an older export.

    Parameters
    ----------
    controller : Controller
        Its plan and statistics are not part of it: what is loaded is as after `reset`.
    folder : path
    source : str, optional
        `file.py:name` of the task, or of a function that returns it, where it is none that mpcrl brings along.
    files : iterable of path
        What that file reads and imports, an XML or a module beside it or below its folder: copied and checked like it.
    kernels : bool
        Whether to warm the controller up (which resets it) and add its compiled kernels, for CPUs of this kind.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InvalidInput
        For what a folder cannot hold: a planner or a model of one's own, another task than its name or source says.
    """
    folder = Path(folder).absolute()
    task, params = controller.task, controller.task.params
    origin, sources = _origin(task, source, files)
    written = {
        "task": {"name": task.name, "source": origin, **_facts(task)},
        "params": list(params._fields),
        "model": _model_fields(controller.model, task),
        "planner": configuration(controller.planner),
        "settings": configuration(_settings(_plain(controller.settings), task.nu)),
        "seed": controller.seed,
        "kernels": kernel_target() if kernels else None,
    }
    if _planner(written["planner"], task.nu) != controller.planner:
        raise InvalidInput(f"a planner of mpcrl's own parts can be exported, and this is none: {controller.planner!r}")
    contents = {
        "controller.json": to_json(written),
        "params.safetensors": to_safetensors({name: np.asarray(getattr(params, name)) for name in params._fields}),
        **{f"source/{name}": data for name, data in sources.items()},
        **{f"model/{name}": data for name, data in _model_files(controller.model).items()},
    }
    if kernels:
        controller.warmup()
        found = used_kernels()
        if not found:
            raise InvalidInput("there are no kernels to export: they are not cached here; see `mpcrl doctor`")
        contents.update({f"kernels/{name}": data for name, data in found.items()})
    write_bundle(folder, contents, {**FORMAT, "mpcrl": __version__})
    return folder


def load(
    folder: str | os.PathLike[str],
    *,
    source: str | None = None,
    threads: int | None = None,
    validator: Validator | None = None,
    telemetry: str | os.PathLike[str] | None = None,
    trust_kernels: bool = False,
) -> Controller:
    """The controller that `export` wrote.

    Parameters
    ----------
    folder : path
    source : str, optional
        `file.py:name` of the task where it is the user's own, in the folder or elsewhere. It is executed if this file,
        and each that was exported with it, has the bytes that were exported.
    threads : int, optional
        Instead of as many as the exported controller had.
    validator : callable, optional
        Where the exported controller had one: functions are no part of a folder, and none is left out silently.
    telemetry : path, optional
        As of `Controller`.
    trust_kernels : bool
        Whether to put the compiled kernels of the folder into this user's cache, so that nothing is compiled. They are
        pickles, and pickles execute whatever their writer wants: only for folders that nobody else can have written.

    Raises
    ------
    DamagedExport
        The folder is not what was written, or is of another version of the format.
    WrongSource
        The source is missing, or is another one.
    InvalidInput
        Where the task is not what it was, there is no validator where there was one, or this machine has less threads.
    """
    folder = Path(folder).absolute()
    contents = read_bundle(folder, FORMAT)
    try:
        written = from_json(contents["controller.json"], "controller.json")
        values = from_safetensors(contents["params.safetensors"], "params.safetensors")
    except KeyError as error:
        raise DamagedExport(f"{error} is missing in {str(folder)!r}; export the controller again") from error
    entries = ("task", "params", "model", "planner", "settings", "seed", "kernels")
    if written.keys() != set(entries):
        raise DamagedExport(f"controller.json must have {', '.join(entries)}; got {short(list(written))}")
    task = _with_params(_task(written["task"], source, contents), written["params"], values)
    try:
        planner = _planner(written["planner"], task.nu)
        settings = _settings(written["settings"], task.nu)
    except InvalidInput as error:
        raise DamagedExport(f"controller.json: {error}") from error
    if settings["validator"] and validator is None:
        raise InvalidInput(
            "the exported controller had a validator; give it again: mpcrl.load(..., validator=function)"
        )
    settings["validator"] = validator
    if trust_kernels:
        _adopt(written["kernels"], contents)
    if threads is not None:
        settings["threads"] = threads
    model = _model(written["model"], task, contents)
    return Controller(task, planner, model=model, seed=written["seed"], telemetry=telemetry, **settings)


# ---- the task ----------------------------------------------------------------------------------------------------
def _origin(
    task: Task, source: str | None, files: Iterable[str | os.PathLike[str]]
) -> tuple[dict[str, str] | None, dict[str, bytes]]:
    """Where a task comes from, as JSON has it, and the user's files that it is made of, by name."""
    if source is None:
        if task.name not in TASKS or not _alike(task, TASKS[task.name]()):
            raise InvalidInput(
                f"task {task.name!r} is none that mpcrl brings along, or not as it brings it; put what makes it into a "
                "file and give source='file.py:name'"
            )
        if list(files):
            raise InvalidInput("files belong to a source; give source='file.py:name' as well")
        return None, {}
    path, attribute = _named(source)
    if not _alike(task, make_task(source)):
        raise InvalidInput(f"{source} is another task than the controller's {task.name!r}: it must make the same one")
    folder = path.resolve().parent
    found = [inner for given in files for inner in (Path(given).rglob("*") if Path(given).is_dir() else [Path(given)])]
    sources = {}
    for file in [path, *(file for file in found if not file.is_dir())]:
        if not file.resolve().is_relative_to(folder):
            raise InvalidInput(f"files must lie beside {path.name} or below its folder, got {str(file)!r}")
        try:
            sources[file.resolve().relative_to(folder).as_posix()] = file.read_bytes()
        except OSError as error:
            raise InvalidInput(f"cannot read {str(file)!r}: {error.strerror}") from error
    return {"file": path.resolve().name, "name": attribute}, sources


def _task(written: Any, source: str | None, contents: Mapping[str, bytes]) -> Task:
    """The task of an export, as it is before the exported parameters; only here may a user's file be executed."""
    if not (isinstance(written, dict) and isinstance(written.get("name"), str)):
        raise DamagedExport(f"controller.json: task must be a mapping with a name, got {short(written)}")
    origin = written.get("source")
    if origin is None:
        if source is not None:
            raise WrongSource(f"task {short(written['name'])} is one that mpcrl brings along; leave source out")
        if written["name"] not in TASKS:
            raise DamagedExport(f"controller.json: there is no task {short(written['name'])} in mpcrl {__version__}")
        task = TASKS[written["name"]]()
    else:
        task = _task_of_source(origin, source, contents)
    expected = {"name": task.name, "source": origin, **_facts(task)}
    if written != expected:
        other = sorted(key for key in written.keys() | expected.keys() if written.get(key) != expected.get(key))
        raise DamagedExport(
            f"task {task.name!r} is not what was exported: {', '.join(map(short, other))} differ; export it again"
        )
    return task


def _task_of_source(origin: Any, source: str | None, contents: Mapping[str, bytes]) -> Task:
    if not (isinstance(origin, dict) and origin.keys() == {"file", "name"} and f"source/{origin['file']}" in contents):
        raise DamagedExport(f"controller.json: source must be the file and name of a task, got {short(origin)}")
    if source is None:
        raise WrongSource(
            f"this controller's task is {short(origin['name'])} of the user's own {short(origin['file'])}; to have it "
            "executed, name it: source='.../file.py:name'"
        )
    path, attribute = _named(source)
    if (path.name, attribute) != (origin["file"], origin["name"]):
        raise WrongSource(f"the source must be {short(origin['file'])}:{short(origin['name'])}, got {source!r}")
    read = {}
    for name in (name.removeprefix("source/") for name in contents if name.startswith("source/")):
        try:
            read[name] = (path.parent / name).read_bytes()
        except OSError as error:
            raise WrongSource(f"cannot read {name!r} beside {str(path)!r}, which was exported with it") from error
        if digest(read[name]) != digest(contents[f"source/{name}"]):
            raise WrongSource(f"{str(path.parent / name)!r} is not what was exported: its SHA-256 is another")
    return task_of_source(path, attribute, read[path.name])


def _named(source: str) -> tuple[Path, str]:
    """File and name of a source."""
    path, colon, attribute = source.rpartition(":")
    if not (colon and path.endswith(".py") and attribute):
        raise InvalidInput(f"a source is written file.py:name, got {source!r}")
    return Path(path), attribute


def _facts(task: Task) -> dict[str, Any]:
    """What a task must still be when it is loaded, as JSON has it."""
    return {name: configuration(getattr(task, name)) for name in _FACTS if hasattr(task, name)}


def _alike(task: Task, other: Task) -> bool:
    """Whether two tasks are the same but for the values of their parameters."""

    def description(it: Task) -> tuple[Any, ...]:
        functions = [getattr(it, name, None) for name in _FUNCTIONS]
        return type(it), it.name, _facts(it), it.params._fields, scalar.fingerprint(*functions)

    return description(task) == description(other)


def _with_params(task: Task, names: Any, values: Mapping[str, np.ndarray]) -> Task:
    """The task with the exported values of its parameters."""
    fields = list(task.params._fields)
    if names != fields or values.keys() != set(fields):
        raise DamagedExport(f"task {task.name!r} has the params {fields}, got {short(names)} and {short(list(values))}")
    for name, value in values.items():
        own = np.asarray(getattr(task.params, name))
        if value.ndim != own.ndim or (value.dtype.kind == "f" and own.dtype.kind != "f"):
            raise DamagedExport(
                f"params.{name} must be {own.dtype} with {own.ndim} axes, got {value.dtype} with {value.ndim}"
            )
    plain = {name: value if value.ndim else value.item() for name, value in values.items()}
    return dataclasses.replace(task, params=type(task.params)(**plain))


# ---- model, planner, settings ------------------------------------------------------------------------------------
def _model_fields(model: Model, task: Task) -> dict[str, Any]:
    """A model as JSON has it."""
    kind = type(model).__name__
    if isinstance(model, Analytic) and model.task is task and model.as_task:
        return {"type": kind, "dtype": str(model.dtype)}
    if isinstance(task, MujocoTask):
        from mpcrl.models.mujoco import MuJoCo

        if isinstance(model, MuJoCo) and model.task is task and model.as_task:
            return {"type": kind, "coarse": model.coarse}
    if _model_files(model) and model.task is task:  # type: ignore[attr-defined]
        return {"type": kind}
    raise InvalidInput(
        f"this {kind} cannot be exported: the task's own model can, with another dtype or coarse, an ensemble, a GP; "
        "scenarios, and a risk over them, cannot"
    )


def _model_files(model: Model) -> dict[str, bytes]:
    """The files of a learned model by name; none of any other."""
    from mpcrl.models.ensemble import Ensemble
    from mpcrl.models.gp import GP

    return model.files() if isinstance(model, Ensemble | GP) and type(model) in (Ensemble, GP) else {}


def _model(written: Any, task: Task, contents: Mapping[str, bytes]) -> Model:
    if isinstance(task, AnalyticTask) and written in ({"type": "Analytic", "dtype": d} for d in ("float32", "float64")):
        return Analytic(task, dtype=written["dtype"])
    if isinstance(task, MujocoTask) and isinstance(written, dict) and written.keys() == {"type", "coarse"}:
        from mpcrl.models.mujoco import MuJoCo

        if written["type"] == "MuJoCo" and isinstance(written["coarse"], bool):
            return MuJoCo(task, coarse=written["coarse"])
    if written in ({"type": "Ensemble"}, {"type": "GP"}):
        from mpcrl.models.ensemble import Ensemble
        from mpcrl.models.gp import GP

        kind: type[Ensemble] | type[GP] = Ensemble if written["type"] == "Ensemble" else GP
        prefix = "model/"
        return kind.of_files(task, {n.removeprefix(prefix): d for n, d in contents.items() if n.startswith(prefix)})
    raise DamagedExport(f"controller.json: task {task.name!r} has no such model: {short(written)}")


def _planner(written: Any, nu: int) -> Planner:
    """A planner whose candidates fit into memory."""
    planner = rebuilt(written, _KINDS, "planner")
    if not isinstance(planner, _PLANNERS):
        raise InvalidInput(f"planner must be one of {[kind.__name__ for kind in _PLANNERS]}, got {short(written)}")
    if planner.horizon > _MOST_STEPS or planner.horizon * planner.budget * nu > _MOST_NUMBERS:
        raise InvalidInput(
            f"exports hold planners of up to {_MOST_STEPS} steps and {_MOST_NUMBERS} numbers in all candidates; "
            f"got {planner.budget} candidates of {planner.horizon} steps and {nu} controls"
        )
    return planner


def _plain(settings: Mapping[str, Any]) -> Any:
    """Arguments of a controller as JSON has them: of the validator, whether there is one."""
    return configuration({**settings, "validator": settings["validator"] is not None})


def _settings(written: Any, nu: int) -> dict[str, Any]:
    """Arguments of a controller, checked; null in a limit means that there is none."""
    if not isinstance(written, dict) or written.keys() != _SETTINGS.keys():
        raise InvalidInput(f"settings must be {', '.join(_SETTINGS)}; got {short(written)}")
    return {name: read(f"settings.{name}", written[name], nu) for name, read in _SETTINGS.items()}


def _count(name: str, value: Any, nu: int) -> int | None:
    return None if value is None else positive_integer(name, value)


def _limit(name: str, value: Any, nu: int) -> Any:
    if isinstance(value, list) and len(value) == nu:
        return [math.inf if number is None else positive_number(name, number) for number in value]
    return None if value is None else positive_number(name, value)


def _control(name: str, value: Any, nu: int) -> Any:
    if value is None or (isinstance(value, list) and all(type(number) in (int, float) for number in value)):
        return None if value is None else finite_vector(name, value, nu).tolist()
    raise InvalidInput(f"{name} must be a vector of {nu} numbers, got {short(value)}")


def _smoothing(name: str, value: Any, nu: int) -> Any:
    return None if value is None else rebuilt(value, {"SavitzkyGolay": SavitzkyGolay}, name)


def _whether(name: str, value: Any, nu: int) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false, got {short(value)}")
    return value


_SETTINGS: dict[str, Callable[[str, Any, int], Any]] = {
    "threads": _count,
    "rate_limit": _limit,
    "acceleration_limit": _limit,
    "smoothing": _smoothing,
    "validator": _whether,
    "safe_control": _control,
    "controls_per_plan": _count,
}
"""How each of `Controller.settings` is read."""


def _adopt(target: Any, contents: Mapping[str, bytes]) -> None:
    """Put the kernels of an export into the cache."""
    if target != kernel_target():
        reason = "they are none" if target is None else "they were compiled by another version or for another CPU"
        warnings.warn(f"the export's kernels are of no use here: {reason}", CacheWarning, stacklevel=3)
        return
    prefix = "kernels/"
    adopt_kernels({name.removeprefix(prefix): data for name, data in contents.items() if name.startswith(prefix)})
