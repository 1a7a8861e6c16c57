"""Acts by plans on a belief about the state, through a learned model that may become another between two of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpcrl.control.plan import Plan, Status
from mpcrl.core.checks import finite
from mpcrl.kernels.belief import Chain
from mpcrl.planners.belief import BeliefPlanner, Solution
from mpcrl.tasks.task import Task


class BeliefController:
    """Plans anew at every step from the state that is seen; each plan begins with the last one, moved on.

    Where the state or all that was planned is not finite, the last plan goes on, and when that is over as well the
    middle of the bounds is the answer: always finite, always within bounds.

    Parameters
    ----------
    task : Task
    planner : BeliefPlanner
    names : sequence of str [nx]
        Of the state's numbers.
    chain : Chain
        The learned model and the goal.

    Attributes
    ----------
    solution : Solution or None
        The last plan, for its beliefs.
    """

    def __init__(self, task: Task, planner: BeliefPlanner, names: Sequence[str], chain: Chain) -> None:
        self.task, self.planner, self.chain = task, planner, chain
        self.solution: Solution | None = None
        self._aim, self._age = planner.aim(names), 0

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode: the last plan is forgotten."""
        self.solution, self._age = None, 0

    def act(self, state: np.ndarray, params: Any = None) -> np.ndarray:
        """The control [nu] for a state [nx]."""
        return self.plan(state, params=params).control

    def plan(self, state: np.ndarray, *, budget_ms: float | None = None, params: Any = None) -> Plan:
        """The plan for a state [nx], which is known but for the noise of what is seen; `params` change nothing."""
        begin = time.perf_counter()
        deadline = np.inf if budget_ms is None else begin + 1e-3 * budget_ms
        mean = np.asarray(state, np.float64)
        low, high = self.task.control_low, self.task.control_high
        evaluations = failed = 0
        status, cost = Status.SAFE, np.nan
        if finite(mean):
            cov = np.zeros((len(mean), len(mean)))
            last = self.solution if self._age == 0 else None
            found = self.planner.solve(self.chain, self._aim, mean, cov, low, high, last=last, deadline=deadline)
            evaluations, failed = found.evaluations, found.failed
            if np.isfinite(found.cost):
                self.solution, self._age, status, cost = found, 0, Status.PLANNED, found.cost
        if status is not Status.PLANNED and self.solution is not None:
            self._age += 1
            status = Status.SHIFTED if self._age < self.planner.horizon else Status.SAFE
        if status is Status.SAFE or self.solution is None:
            controls = np.tile(0.5 * (low + high), (self.planner.horizon, 1))
        else:
            controls = self.solution.controls[self._age :]
        return Plan(
            control=controls[0],
            status=status,
            age=np.inf if status is Status.SAFE else self._age * self.task.dt,
            controls=controls,
            cost=cost,
            milliseconds=1e3 * (time.perf_counter() - begin),
            iterations=int(status is Status.PLANNED),
            samples=evaluations,
            failed=failed,
            effective_sample_size=np.nan,
        )
