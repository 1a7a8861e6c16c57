"""What a controller may ask of a planner: states go in, states come out."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.core.candidates import Candidates
from mpcrl.core.threads import ThreadBudget
from mpcrl.planners.space import ControlSpace


class CostModel(Protocol):
    """The part of a model that planning needs; see `mpcrl.models.Model`."""

    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray: ...


class Problem(NamedTuple):
    """What one plan is for.

    Attributes
    ----------
    model : CostModel
    state : ndarray [nx]
        Where the plan starts.
    t : int
        Control steps since the reset.
    params : NamedTuple
        Of the task.
    threads : ThreadBudget
    seed, plan : int
        Key the random numbers.
    """

    model: CostModel
    state: np.ndarray
    t: int
    params: Any
    threads: ThreadBudget
    seed: int
    plan: int


class IterationInfo(NamedTuple):
    """Diagnostics of one iteration, never fed back.

    Attributes
    ----------
    samples, failed : int
        Trajectories simulated, and those whose cost was not finite.
    effective_sample_size : float
        Of the softmax weights; the number of elites for CEM, 1 for the best.
    best_cost : float
        Cheapest trajectory of the iteration.
    temperature : float
        In units of cost; NaN where the refit has none.
    candidates : Candidates or None
        What was simulated, in buffers that the next plan writes over; None where a planner does not sample.
    costs : ndarray [N] or None
        Of the candidates, +inf for failed ones.
    """

    samples: int
    failed: int
    effective_sample_size: float
    best_cost: float
    temperature: float = np.nan
    candidates: Candidates | None = None
    costs: np.ndarray | None = None


class Solver(Protocol):
    """A planner bound to a control space. Its states are opaque to the caller."""

    def init(self) -> Any:
        """The state before the first plan."""
        ...

    def start(self, state: Any, elapsed: float, applied: np.ndarray) -> Any:
        """Begin a plan `elapsed` control steps after the last one began; `applied` [nu] is the control applied last."""
        ...

    def iterations(self, state: Any) -> int:
        """Iterations that a plan beginning in `state` takes."""
        ...

    def samples(self, state: Any) -> int:
        """Trajectories that the next iteration simulates."""
        ...

    def remaining(self, state: Any) -> int:
        """Trajectories that the rest of the plan simulates, if it is not cut short."""
        ...

    def iterate(self, state: Any, problem: Problem, samples: int | None = None) -> tuple[Any, IterationInfo]:
        """One iteration; with fewer `samples` than scheduled where time is short."""
        ...

    def settled(self, state: Any) -> bool:
        """Whether further iterations would change nothing."""
        ...

    def end(self, state: Any) -> Any:
        """The state after a plan, from which the next one starts."""
        ...

    def controls(self, state: Any) -> np.ndarray:
        """The planned controls [H, nu], within bounds and rates."""
        ...


class Planner(Protocol):
    """A frozen configuration that `bind` makes a solver of."""

    @property
    def name(self) -> str: ...

    @property
    def horizon(self) -> int: ...

    @property
    def budget(self) -> int: ...

    def bind(self, space: ControlSpace) -> Solver: ...
