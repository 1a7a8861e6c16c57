"""Sampling planners on the LQR task come within a stated bound of the Riccati solution."""

from __future__ import annotations

import numpy as np
import pytest

from mpcrl.control.controller import Controller
from mpcrl.models.analytic import Analytic
from mpcrl.planners import presets
from mpcrl.tasks.lqr import lqr, lqr_matrices

START = np.array([1.0, -0.5])


@pytest.mark.parametrize(
    ("planner", "bound"),
    [
        (presets.cem(budget=8000, horizon=20, iterations=20, elites=40), 1.01),
        (presets.icem(budget=8000, horizon=20, iterations=20, elites=40), 1.01),
    ],
    ids=["cem", "icem"],
)
def test_the_cost_of_the_plan_is_near_that_of_riccati(planner, bound):
    task = lqr()
    optimum = START @ lqr_matrices(task.params).P @ START
    plan = Controller(task, planner, model=Analytic(task, dtype=np.float64), threads=1).plan(START)
    assert optimum * (1 - 1e-9) <= plan.cost <= bound * optimum
