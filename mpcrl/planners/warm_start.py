"""A gradient planner that finds a plan, and a sampling planner that searches on around it.

iLQR is quick and exact, but goes down from where it starts; samples around its plan leave the valley, and mind costs
with jumps and terminations, which derivatives do not see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.planners.ilqr import ILQR, ILQRSolver, ILQRState
from mpcrl.planners.planner import IterationInfo, Problem
from mpcrl.planners.sampling import PlanState, Sampler, SamplingPlanner
from mpcrl.planners.space import ControlSpace


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """iLQR first, then a sampling planner around its plan; `bind` makes it a solver for a control space.

    The sampling planner's answer is taken where one of its samples is cheaper than iLQR's plan, else that plan. Either
    is what the next plan starts from.

    Attributes
    ----------
    first : ILQR
    then : SamplingPlanner
        Of the same horizon.
    """

    first: ILQR
    then: SamplingPlanner
    name: str = field(init=False)

    def __post_init__(self) -> None:
        if self.first.horizon != self.then.horizon:
            raise InvalidInput(
                f"both planners must have the same horizon, got {self.first.horizon} for {self.first.name} and "
                f"{self.then.horizon} for {self.then.name}"
            )
        object.__setattr__(self, "name", f"{self.first.name}+{self.then.name}")

    @property
    def horizon(self) -> int:
        """H, control steps ahead."""
        return self.first.horizon

    @property
    def budget(self) -> int:
        """Trajectories simulated per plan, at most; see `ILQR.budget`."""
        return self.first.budget + self.then.budget

    def bind(self, space: ControlSpace) -> WarmStartSolver:
        """The solver for one control space."""
        return WarmStartSolver(self, space)


class WarmStartState(NamedTuple):
    """What the next call of a `WarmStartSolver` needs.

    Attributes
    ----------
    first : ILQRState
    then : PlanState
    left : int
        Iterations of iLQR still to come in this plan; 0 once the sampling planner has begun.
    """

    first: ILQRState
    then: PlanState
    left: int


class WarmStartSolver:
    """Both planners bound to a control space."""

    def __init__(self, planner: WarmStart, space: ControlSpace) -> None:
        self.planner, self.space = planner, space
        self._first, self._then = ILQRSolver(planner.first, space), Sampler(planner.then, space)

    def init(self) -> WarmStartState:
        """The state before the first plan."""
        return WarmStartState(self._first.init(), self._then.init(), self.planner.first.iterations)

    def start(self, state: WarmStartState, elapsed: float, applied: np.ndarray) -> WarmStartState:
        """Begin a plan: both move on their last one."""
        return WarmStartState(
            self._first.start(state.first, elapsed, applied),
            self._then.start(state.then, elapsed, applied),
            self.planner.first.iterations,
        )

    def iterations(self, state: WarmStartState) -> int:
        """Iterations that a plan takes at most."""
        return self.planner.first.iterations + self._then.iterations(state.then)

    def samples(self, state: WarmStartState) -> int:
        """Trajectories that the next iteration simulates."""
        return self._first.samples(state.first) if state.left else self._then.samples(state.then)

    def remaining(self, state: WarmStartState) -> int:
        """Trajectories that the rest of the plan simulates, if it does not settle before."""
        later = self._then.remaining(state.then)
        return later if not state.left else later + self._first.remaining(state.first)

    def iterate(
        self, state: WarmStartState, problem: Problem, samples: int | None = None
    ) -> tuple[WarmStartState, IterationInfo]:
        """One iteration of iLQR, or of the sampling planner once iLQR has settled or done all of its own."""
        if not state.left:
            then, info = self._then.iterate(state.then, problem, samples)
            return state._replace(then=then), info
        first, info = self._first.iterate(state.first, problem, samples)
        left = 0 if self._first.settled(first) else state.left - 1
        then = state.then
        if not left and np.isfinite(first.cost):
            then = self._then.seeded(then, self._first.controls(first))
        return WarmStartState(first, then, left), info

    def settled(self, state: WarmStartState) -> bool:
        """Whether the sampling planner has done all of its iterations, or has settled."""
        done = state.then.iteration >= self._then.iterations(state.then)
        return not state.left and (done or self._then.settled(state.then))

    def end(self, state: WarmStartState) -> WarmStartState:
        """The state after a plan, from which the next one starts."""
        first = self._first.end(state.first)
        if state.then.best_cost < state.first.cost:
            first = self._first.seeded(first, self._then.controls(state.then))
        return WarmStartState(first, self._then.end(state.then), state.left)

    def controls(self, state: WarmStartState) -> np.ndarray:
        """The planned controls [H, nu], within bounds and rates."""
        if state.then.best_cost < state.first.cost:
            return self._then.controls(state.then)
        return self._first.controls(state.first)
