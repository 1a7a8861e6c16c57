"""What a controller answers: a control, how it came about, and how the planning went."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mpcrl.tasks.task import Task


class Status(enum.Enum):
    """How a control came about; the order is that of the fallbacks."""

    PLANNED = "planned"  # fresh, or as old as `controls_per_plan` means it to be
    SHIFTED = "shifted"  # no finite plan was found: the last one, moved on
    SAFE = "safe"  # the last plan is over as well: the user's safe control
    STOPPED = "stopped"  # latched: the safe control until somebody releases it; see `RealtimeController`


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """One answer of the controller.

    Attributes
    ----------
    control : ndarray [nu]
        To apply now: finite, within bounds and rates.
    status : Status
    age : float
        Seconds since the state that the plan was made for; 0 for a fresh plan, inf for the safe control.
    controls : ndarray [H, nu]
        The whole plan.
    cost : float
        Of the cheapest trajectory seen; NaN where the plan is not fresh.
    milliseconds : float
        That planning took.
    iterations, samples, failed : int
        Completed iterations, trajectories simulated in them, and those that were not finite; 0 in a call that did not
        plan.
    effective_sample_size : float
        Of the last iteration.
    rejected : int
        Trajectories of this plan that the validator did not take.
    """

    control: np.ndarray
    status: Status
    age: float
    controls: np.ndarray
    cost: float
    milliseconds: float
    iterations: int
    samples: int
    failed: int
    effective_sample_size: float
    rejected: int = 0


class Actor(Protocol):
    """What acts on a task: a controller, or the function of the state that a policy is."""

    task: Task

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode."""
        ...

    def plan(self, state: np.ndarray, *, budget_ms: float | None = None, params: Any = None) -> Plan:
        """The control for a state [nx], one control period after the last call, and how it came about."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The health of the plans since the last reset.

    Attributes
    ----------
    plans : int
    p50_ms, p99_ms, max_ms : float
        Of planning, over the last 10,000 plans; NaN before the first.
    effective_sample_size : float
        Median over the same plans.
    samples, failed_samples : int
        Trajectories simulated, and those that were not finite.
    fallbacks : int
        Answers that were no fresh plan.
    cost_terms : dict
        Terms of the stage cost at the last state and control; one entry "cost" where the task's cost is one number.
    """

    plans: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    effective_sample_size: float
    samples: int
    failed_samples: int
    fallbacks: int
    cost_terms: dict[str, float]
