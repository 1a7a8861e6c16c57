"""A model without physics for tests of planners: quadratic costs, and poison on demand."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpcrl.core.candidates import Candidates
from mpcrl.core.threads import ThreadBudget
from mpcrl.planners.space import ControlSpace


class Quadratic:
    """Cost of controls u: sum over time of |u_t - target|^2, in float64, serially.

    Samples whose index is in `poison` cost the value given there.
    """

    nx, dt, dtype = 1, 0.1, np.dtype(np.float64)

    def __init__(self, target: np.ndarray, poison: dict[int, float] | None = None) -> None:
        self.target, self.poison = np.asarray(target), poison or {}
        self.calls: list[np.ndarray] = []

    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray:
        rows = candidates.rows()
        self.calls.append(rows)
        costs = ((rows - self.target) ** 2).sum(axis=(1, 2))
        for index, value in self.poison.items():
            if index < costs.size:
                costs[index] = value
        return costs


def space(
    low: Any = (-1.0, -0.5), high: Any = (1.0, 2.0), rate: Any = None, dtype: Any = np.float64, dt: float = 0.1
) -> ControlSpace:
    """A small control space with asymmetric bounds."""
    return ControlSpace.of(np.array(low), np.array(high), dt, rate, dtype)
