"""What determines a run beside its seed, and the short names that tell configurations apart."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mpcrl.core.checks import positive_number
from mpcrl.core.configuration import configuration
from mpcrl.core.errors import InvalidInput
from mpcrl.experiments.conditions import Conditions
from mpcrl.experiments.configure import (
    controls_per_plan_for,
    model_arguments,
    planner_arguments,
    steps_for,
)
from mpcrl.experiments.worlds import check_scale
from mpcrl.planners import PLANNERS
from mpcrl.planners.planner import Planner
from mpcrl.planners.space import ControlSpace
from mpcrl.tasks.mujoco_task import MujocoTask, model_bytes
from mpcrl.tasks.task import Task

_HASH = 12  # hex digits


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run but for its seed; made by `run_config`, and complete: no default is left to be looked up.

    Attributes
    ----------
    task, planner : str
        As `make_task` and `PLANNERS` know them.
    source : str
        Digest of a task of one's own, so that results of before it was edited are not taken for its own; "" for the
        tasks that mpcrl brings along.
    options : mapping
        All arguments of the planner's function but budget and horizon.
    settings : mapping
        What they make of the planner: its full configuration.
    budget, horizon : int
    model, dtype : str
    steps : int
        Limit on the control steps of an episode.
    controls_per_plan : int
    time_share : float or None
        Limit on the time of each plan, over the time until the next plan is due. Results then depend on the machine's
        speed.
    conditions : Conditions
    """

    task: str
    planner: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    budget: int
    horizon: int
    model: str
    dtype: str
    steps: int
    controls_per_plan: int
    conditions: Conditions
    time_share: float | None = None
    source: str = ""

    def build_planner(self) -> Planner:
        """The planner of this configuration."""
        return PLANNERS[self.planner](budget=self.budget, horizon=self.horizon, **self.options)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        fields: dict[str, Any] = configuration(self)
        del fields["type"], fields["conditions"]["type"]
        for name in ("source", "time_share"):
            if not fields[name]:
                del fields[name]
        return fields

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, its first 12 hexadecimal digits."""
        canonical = json.dumps(self.fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:_HASH]


def run_config(
    task: Task,
    planner: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    model: str = "auto",
    dtype: str | None = None,
    budget: int | None = None,
    horizon: int | None = None,
    steps: int | None = None,
    controls_per_plan: int | None = None,
    time_share: float | None = None,
    conditions: Conditions | None = None,
    own: str | None = None,
) -> RunConfig:
    """A configuration from what was asked for; the rest is as in `run_task`.

    `own` is how `make_task` finds a task of one's own: `file.py:name`.

    Raises
    ------
    InvalidInput
        For all that would be one when the run begins.
    """
    name, arguments = planner_arguments(task, planner, budget=budget, horizon=horizon, options=options)
    built = PLANNERS[name](**arguments)
    built.bind(ControlSpace.of(task.control_low, task.control_high, task.dt))
    model, dtype = model_arguments(task, model, dtype)
    conditions = conditions or Conditions()
    conditions.delay_steps(task.dt)
    check_scale(task, conditions.plant_scale)
    controls_per_plan = controls_per_plan_for(task, controls_per_plan)
    if controls_per_plan > built.horizon:
        raise InvalidInput(
            f"controls_per_plan must be at most the planner's horizon of {built.horizon}, got {controls_per_plan}"
        )
    if time_share is not None:
        positive_number("time_share", time_share)
    return RunConfig(
        task=task.name if own is None else own,
        source="" if own is None else _digest(task, Path(own.rpartition(":")[0])),
        planner=name,
        budget=arguments.pop("budget"),
        horizon=arguments.pop("horizon"),
        options=arguments,
        settings=configuration(built),
        model=model,
        dtype=dtype,
        steps=steps_for(task, steps),
        controls_per_plan=controls_per_plan,
        time_share=time_share,
        conditions=conditions,
    )


def labels(configs: Iterable[Mapping[str, Any]], without: Collection[str] = ()) -> list[str]:
    """What each configuration is called among these: its planner, and what else some task has two values of.

    The same choice has the same label in all tasks, also where it comes from the tasks' presets and so differs.

    Parameters
    ----------
    configs : iterable of mapping
        As in `RunConfig.fields`; further entries with plain values, such as versions, are told apart as well.
    without : collection of str
        Entries that are not to be part of the labels, such as "budget".
    """
    flat = [_flat(config) for config in configs]
    values: dict[tuple[str, str, str], set[str]] = {}
    for config, key in itertools.product(flat, dict.fromkeys(itertools.chain(*flat))):
        if key in config or not key.startswith("options."):
            values.setdefault((config["task"], *_told(config, key)), set()).add(repr(config.get(key)))
    several = {(planner, key) for (_, planner, key), found in values.items() if len(found) > 1}
    return [
        ", ".join(
            [config["planner"]]
            + [
                f"{key.rpartition('.')[2].replace('_', ' ')} {_text(value)}"
                for key, value in config.items()
                if _told(config, key) in several and key not in ("task", "planner", *without)
            ]
        )
        for config in flat
    ]


# ---- parts -------------------------------------------------------------------------------------------------------
def _digest(task: Task, path: Path) -> str:
    """Of a task's file and of the MjModel that it simulates; not of other files that it imports."""
    digest = hashlib.sha256(path.read_bytes())
    if isinstance(task, MujocoTask):
        env = task.make_env()
        env.reset(seed=0)
        digest.update(model_bytes(task.mj_model(env)))
        env.close()
    return digest.hexdigest()[:_HASH]


def _told(config: Mapping[str, Any], key: str) -> tuple[str, str]:
    """Options are told apart within a planner, all else among all planners of a task."""
    return (config["planner"] if key.startswith("options.") else "", key)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries of entries by dotted names, without the settings, which follow from the options."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.update({} if key == "settings" else _flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
