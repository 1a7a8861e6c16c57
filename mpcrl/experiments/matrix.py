"""What a sweep runs: tasks x planners x models x budgets x horizons x seeds, from flags or a TOML file."""

from __future__ import annotations

import difflib
import itertools
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mpcrl.core.errors import InvalidInput, unknown_name
from mpcrl.experiments.conditions import MODES, Conditions, parse_scales
from mpcrl.experiments.config import RunConfig, run_config
from mpcrl.experiments.configure import MODELS, parse_options
from mpcrl.experiments.suites import expanded, planner_suites, task_suites
from mpcrl.planners import PLANNERS
from mpcrl.tasks.registry import TASKS, is_file, make_task


class Choice(NamedTuple):
    """A planner and its options; no name means the one of each task's preset."""

    name: str | None
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """All combinations of these; None stands for what each task's preset says.

    Attributes
    ----------
    tasks : tuple of str
    planners : tuple of Choice
    models : tuple of str
    budgets, horizons : tuple of int or None
    seeds : tuple of int
    steps, controls_per_plan : int or None
    time_share : float or None
    dtype : str or None
    conditions : Conditions
    """

    tasks: tuple[str, ...]
    planners: tuple[Choice, ...] = (Choice(None, {}),)
    models: tuple[str, ...] = ("auto",)
    budgets: tuple[int | None, ...] = (None,)
    horizons: tuple[int | None, ...] = (None,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    steps: int | None = None
    dtype: str | None = None
    controls_per_plan: int | None = None
    time_share: float | None = None
    conditions: Conditions = field(default_factory=Conditions)

    def configs(self) -> list[RunConfig]:
        """Every configuration once, in the order of tasks, planners, models, budgets, horizons.

        Raises
        ------
        InvalidInput
            One of them cannot run, and which.
        """
        found: dict[str, RunConfig] = {}
        for name in self.tasks:
            task = make_task(name)
            for choice, model, budget, horizon in itertools.product(
                self.planners, self.models, self.budgets, self.horizons
            ):
                try:
                    config = run_config(
                        task,
                        choice.name,
                        options=choice.options,
                        model=model,
                        dtype=self.dtype,
                        budget=budget,
                        horizon=horizon,
                        steps=self.steps,
                        controls_per_plan=self.controls_per_plan,
                        time_share=self.time_share,
                        conditions=self.conditions,
                        own=name if is_file(name) else None,
                    )
                except InvalidInput as error:
                    sizes = {"planner": choice.name, "budget": budget, "horizon": horizon}
                    asked = "".join(f", {key} {value}" for key, value in sizes.items() if value is not None)
                    raise InvalidInput(f"task {name}{asked}: {error}") from error
                found.setdefault(config.hash, config)
        return list(found.values())


def read_toml(path: Path) -> dict[str, Any]:
    """The entries of a sweep's file, for `matrix_of`.

    Raises
    ------
    InvalidInput
        There is no such file, it is no TOML, or has an entry that no sweep has.
    """
    try:
        entries = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"cannot read the sweep's file {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} is not valid TOML: {error}") from error
    for key in entries:
        if key not in _READ:
            near = difflib.get_close_matches(key, _READ, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InvalidInput(f"{path}: unknown entry {key!r}; {hint}known: {', '.join(_READ)}")
    return entries


def matrix_of(entries: Mapping[str, Any]) -> Matrix:
    """The matrix of a TOML file's entries, or of flags, whose texts list several values with commas.

    Raises
    ------
    InvalidInput
        An entry is not of its kind, or names what does not exist.
    """
    read = {key: _READ[key](key, value) for key, value in entries.items()}
    if not read.get("tasks"):
        raise InvalidInput("name the tasks to run, such as --tasks pendulum-swingup,cartpole-swingup (or a suite)")
    conditions = {key: read.pop(key) for key in ("mode", "delay", "noise", "plant_scale") if key in read}
    return Matrix(**read, conditions=Conditions(**conditions))


# ---- parts -------------------------------------------------------------------------------------------------------
def _listed(key: str, value: Any) -> list[Any]:
    """A list, one value, or a text that lists several."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif not isinstance(value, list | tuple):
        value = [value]
    if not value:
        raise InvalidInput(f"{key} is an empty list; give at least one, or leave it out")
    return list(value)


def _names(key: str, value: Any) -> list[str]:
    names = _listed(key, value)
    for name in names:
        if not isinstance(name, str):
            raise InvalidInput(f"{key} must be names, got {name!r}")
    return names


def _tasks(key: str, value: Any) -> tuple[str, ...]:
    names = _names(key, value)
    return tuple(expanded("task", names, task_suites(), {*TASKS, *filter(is_file, names)}))


def _planners(key: str, value: Any) -> tuple[Choice, ...]:
    """Names, tables with a `name` and options, or texts such as `mppi:width=0.5:knots=6`."""
    choices = []
    for item in _listed(key, value):
        if isinstance(item, str):
            name, *texts = item.split(":")
            options: dict[str, Any] = dict(parse_options(texts))
        elif isinstance(item, Mapping) and isinstance(item.get("name"), str):
            name, options = item["name"], {option: value for option, value in item.items() if option != "name"}
        else:
            raise InvalidInput(f'{key} must be names or tables such as {{name = "mppi", width = 0.5}}; got {item!r}')
        names = [None] if name == _PRESET else expanded("planner", [name], planner_suites(), {*PLANNERS, _PRESET})
        choices += [Choice(each, options) for each in names]
    return tuple(choices)


def _models(key: str, value: Any) -> tuple[str, ...]:
    names = _names(key, value)
    for name in names:
        if name not in MODELS:
            raise unknown_name("model", name, MODELS)
    return tuple(names)


def _whole(key: str, value: Any, least: int = 1) -> int:
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInput(f"{key} must be integers of at least {least}, got {value!r}")
    return value


def _sizes(key: str, value: Any) -> tuple[int, ...]:
    return tuple(_whole(key, item) for item in _listed(key, value))


def _seeds(key: str, value: Any) -> tuple[int, ...]:
    """A number of seeds, a list of them, or a text such as `5`, `0,3,7` or `100-119`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(range(_whole(key, value)))
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return tuple(range(_whole(key, value)))
    if isinstance(value, str) and (span := re.fullmatch(r"(\d+)-(\d+)", value)):
        first, last = map(int, span.groups())
        if last < first:
            raise InvalidInput(f"{key} {span[0]} ends before it begins; write {last}-{first}")
        value = list(range(first, last + 1))
    seeds = tuple(dict.fromkeys(_whole(key, item, 0) for item in _listed(key, value)))
    if max(seeds) >= 2**64:
        raise InvalidInput(f"{key} must be below 2^64, got {max(seeds)}")
    return seeds


def _number(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{key} must be a number, got {value!r}")
    return float(value)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{key} must be a text, got {value!r}")
    return value


def _mode(key: str, value: Any) -> str:
    if value not in MODES:
        raise unknown_name("mode", _text(key, value), MODES)
    return str(value)


def _scales(key: str, value: Any) -> Mapping[str, float]:
    if isinstance(value, Mapping):
        return {name: _number(f"{key}.{name}", factor) for name, factor in value.items()}
    return parse_scales(_names(key, value))


_PRESET = "preset"
"""The planner's name that stands for the one of each task's preset."""

_READ: dict[str, Callable[[str, Any], Any]] = {
    "tasks": _tasks,
    "planners": _planners,
    "models": _models,
    "budgets": _sizes,
    "horizons": _sizes,
    "seeds": _seeds,
    "steps": _whole,
    "dtype": _text,
    "controls_per_plan": _whole,
    "time_share": _number,
    "mode": _mode,
    "delay": _number,
    "noise": _number,
    "plant_scale": _scales,
}
"""Every entry that a sweep may have, and what reads it."""
