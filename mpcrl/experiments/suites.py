"""Named lists of tasks and of planners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mpcrl.core.errors import unknown_name
from mpcrl.planners import PLANNERS, PRESETS
from mpcrl.tasks.registry import ANALYTIC_TASKS, TASKS

_EASY = (
    "ball_in_cup-catch",
    "cartpole-balance",
    "cartpole-balance_sparse",
    "cartpole-swingup",
    "finger-spin",
    "hopper-stand",
    "pendulum-swingup",
    "walker-stand",
    "walker-walk",
)
"""The easy ones of Yarats et al.: Mastering visual continuous control: improved data-augmented RL, ICLR 2022."""


def task_suites() -> dict[str, tuple[str, ...]]:
    """Names of tasks by suite; those of a suite that is not here yet are left out of it."""
    easy = {f"dm_control/{name}-v0" for name in _EASY}
    return {
        "analytic": tuple(ANALYTIC_TASKS),
        "gym": tuple(name for name in TASKS if name.endswith("-v5")),
        "robotics": tuple(name for name in TASKS if name.startswith("Fetch")),
        "dmc": tuple(name for name in TASKS if name.startswith("dm_control/")),
        "dmc-easy": tuple(name for name in TASKS if name in easy),
    }


def planner_suites() -> dict[str, tuple[str, ...]]:
    """Names of planners by suite."""
    return {"sampling": tuple(PRESETS), "all": tuple(PLANNERS)}


def expanded(kind: str, names: Iterable[str], suites: Mapping[str, tuple[str, ...]], known: Iterable[str]) -> list[str]:
    """Names with suites replaced by what is in them, each name once.

    Raises
    ------
    UnknownName
        For what is neither; `kind` says what was looked for.
    """
    known = set(known)
    found: list[str] = []
    for name in names:
        if name not in known and name not in suites:
            raise unknown_name(kind, name, known | set(suites))
        found += suites[name] if name in suites and name not in known else [name]
    return list(dict.fromkeys(found))
