"""Gaussian processes around one trajectory, in float64: derivatives of their means, and rollouts under feedback.

The means have exact derivatives; those of the task's cost are differences, as in `mpcrl.models.local`. What processes
are unsure of has no part in this: a gradient planner follows their means, as certain as if they were true.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mpcrl.core.local import Expansion, Policy
from mpcrl.core.threads import ThreadBudget
from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp_functions import Predictor
from mpcrl.models.local import LocalModel
from mpcrl.tasks.features import Features
from mpcrl.tasks.task import AnalyticTask


class LocalGP:
    """What a gradient planner asks of a model; see `mpcrl.models.local.LocalModel`, whose arguments these are.

    Parameters
    ----------
    task : AnalyticTask
    features : Features
    process : GaussianProcess
    costs : LocalModel
        Of the task.
    """

    def __init__(self, task: AnalyticTask, features: Features, process: GaussianProcess, costs: LocalModel) -> None:
        self._task, self._features = task, features
        self.process, self.costs = process, costs
        self._predictor = Predictor(process)

    def expand(self, states: np.ndarray, controls: np.ndarray, t: int, params: Any, threads: ThreadBudget) -> Expansion:
        """Derivatives along a trajectory."""
        features, before = self._features, states[:-1]
        jacobian = features.slopes(before, self.process.slopes(features.inputs(before, controls)))
        return self.costs.expand(states, controls, t, params, threads, jacobian=jacobian)

    def follow(
        self, policy: Policy, sizes: np.ndarray, bounds: np.ndarray, state: np.ndarray, t: int, params: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Roll a policy out through the means, one trajectory per step size."""
        low, high, change, applied = bounds
        (horizon, nu), count, features = policy.controls.shape, len(sizes), self._features
        states = np.tile(np.asarray(state, np.float64), (count, horizon + 1, 1))
        controls, going = np.empty((count, horizon, nu)), np.ones((count, horizon + 1), bool)
        u = np.tile(applied, (count, 1))
        with np.errstate(over="ignore", invalid="ignore"):  # of trajectories that are not finite, and cost infinitely
            for k in range(horizon):
                x = states[:, k]
                wanted = policy.controls[k] + sizes[:, None] * policy.feedforward[k]
                wanted = wanted + (x - policy.states[k]) @ policy.gains[k].T
                u = controls[:, k] = np.clip(np.clip(wanted, u - change, u + change), low, high)
                following = features.next_states(x, self._predictor.mean(features.inputs(x, u), 1))
                states[:, k + 1] = np.where(going[:, k, None], following, x)
                going[:, k + 1] = going[:, k] & ~self._ended(states[:, k + 1], params)
        costs = np.empty(count)
        for a, last in enumerate(self.costs.last_costs(states[:, -1], params)):
            stages = self.costs.stage_costs(states[a], controls[a], t, params)
            costs[a] = stages[going[a, :-1]].sum() + (last if going[a, -1] else 0.0)
        finite = np.isfinite(costs) & np.isfinite(states).all(axis=(1, 2))
        return states, controls, np.where(finite, costs, np.inf)

    def _ended(self, states: np.ndarray, params: Any) -> np.ndarray:
        """Whether the task's episode is over [N] at states [N, nx]."""
        over = self._task.terminated
        if over is None:
            return np.zeros(len(states), bool)
        return np.array([bool(np.isfinite(x).all() and over(tuple(x.tolist()), params)) for x in states])
