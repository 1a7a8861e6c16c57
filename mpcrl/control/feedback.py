"""A function of the state in the place of a plan: what a learned policy acts through."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mpcrl.control.plan import Plan, Status
from mpcrl.core.checks import finite, vector
from mpcrl.tasks.features import Features
from mpcrl.tasks.task import Task


class Feedback:
    """Acts by a function of the state; answers the middle of the bounds where that, or the state, is not finite.

    Parameters
    ----------
    task : Task
    act : callable
        `act(state) -> control`, [nx] to [nu].
    features : Features, optional
        What its states consist of; they are the task's own if not given.
    """

    name = "policy"

    def __init__(
        self, task: Task, act: Callable[[np.ndarray], np.ndarray], *, features: Features | None = None
    ) -> None:
        self.task, self._act, self.features = task, act, features

    def reset(self, seed: int | None = None) -> None:
        """Nothing is remembered from one call to the next."""

    def act(self, state: np.ndarray, params: Any = None) -> np.ndarray:
        """The control [nu] for a state [nx]."""
        return self.plan(state, params=params).control

    def plan(self, state: np.ndarray, *, budget_ms: float | None = None, params: Any = None) -> Plan:
        """As a controller's plan, of one control."""
        begin = time.perf_counter()
        given = np.asarray(state, np.float64)
        control = vector("control", self._act(given), self.task.nu) if finite(given) else np.full(self.task.nu, np.nan)
        status = Status.PLANNED if finite(control) else Status.SAFE
        if status is Status.SAFE:
            control = 0.5 * (self.task.control_low + self.task.control_high)
        control = np.clip(control, self.task.control_low, self.task.control_high)
        return Plan(
            control=control,
            status=status,
            age=0.0 if status is Status.PLANNED else np.inf,
            controls=control[None],
            cost=np.nan,
            milliseconds=1e3 * (time.perf_counter() - begin),
            iterations=1,
            samples=0,
            failed=0,
            effective_sample_size=np.nan,
        )
