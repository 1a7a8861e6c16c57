"""The gradient planner: iLQR with bounded controls, for models that have derivatives.

After Tassa, Mansard, Todorov: Control-limited differential dynamic programming, ICRA 2014, with the dynamics to first
order. Each iteration expands the problem around the plan, solves the expansion backwards in time for a feedforward and
a feedback within the bounds, and rolls both out for several step sizes at once, in float64. The cheapest trajectory
becomes the plan if it is cheaper than the plan; if none is, the next iteration regularises more. So a plan is never
worse than what it started from, whatever the derivatives are worth: those of costs with kinks and jumps may be wrong,
and then the plan stays.

Rates of controls are kept by the rollouts, and by the expansion for the first control only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.core.local import Expansion, Policy
from mpcrl.core.threads import ThreadBudget
from mpcrl.kernels.ilqr import backward, make_convex
from mpcrl.planners.planner import CostModel, IterationInfo, Problem
from mpcrl.planners.space import ControlSpace

_STARTS = 2
"""Trajectories that a plan starts from at most: the last plan moved on, as it is and under its feedback."""

_MOST_STEP_SIZES = 16
_LEAST_REGULARISATION, _MOST_REGULARISATION, _GROWTH = 1e-3, 1e6, 2.0


class LocalModel(Protocol):
    """What a gradient planner asks of a model; see `mpcrl.models.local.LocalModel`."""

    def expand(
        self, states: np.ndarray, controls: np.ndarray, t: int, params: Any, threads: ThreadBudget
    ) -> Expansion: ...

    def follow(
        self, policy: Policy, sizes: np.ndarray, bounds: np.ndarray, state: np.ndarray, t: int, params: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


@dataclass(frozen=True, kw_only=True)
class ILQR:
    """Configuration of iLQR; `bind` makes it a solver for a control space.

    Attributes
    ----------
    horizon : int
        H, control steps ahead.
    iterations : int
        At most, per plan.
    step_sizes : int
        Trajectories of one line search, with the step sizes 1, 1/2, 1/4, ...
    regularisation : float
        That a plan starts with after a reset: added to the curvature of each control, as a multiple of the largest
        curvature on the plan.
    tolerance : float
        Largest change of a control, in half ranges, that counts as none: a plan that needs no more is settled.
    """

    horizon: int
    iterations: int
    step_sizes: int
    regularisation: float = 0.0
    tolerance: float = 1e-6
    name: str = "ilqr"

    def __post_init__(self) -> None:
        for name in ("horizon", "iterations", "step_sizes"):
            positive_integer(name, getattr(self, name))
        if not 0 <= self.regularisation <= _MOST_REGULARISATION:
            raise InvalidInput(
                f"regularisation must be a number between 0 and {_MOST_REGULARISATION:g}, got {self.regularisation!r}"
            )
        positive_number("tolerance", self.tolerance)

    @property
    def budget(self) -> int:
        """Trajectories simulated per plan, at most.

        Derivatives are no trajectories and do not count. With n = nx + nu they take as many evaluations of the dynamics
        as 2 n trajectories per iteration, and as many of the cost as n^2 + 3 n + 1.
        """
        return _STARTS + self.iterations * self.step_sizes

    def bind(self, space: ControlSpace) -> ILQRSolver:
        """The solver for one control space."""
        return ILQRSolver(self, space)


def ilqr(
    *, budget: int = 112, horizon: int = 40, iterations: int = 10, regularisation: float = 0.0, tolerance: float = 1e-6
) -> ILQR:
    """Control-limited iLQR, for models with derivatives; line searches of at most 16 trajectories share the budget
    (Tassa, Mansard, Todorov: Control-limited differential dynamic programming, ICRA 2014)."""
    step_sizes = min(
        (positive_integer("budget", budget) - _STARTS) // positive_integer("iterations", iterations), _MOST_STEP_SIZES
    )
    if step_sizes < 1:
        raise InvalidInput(
            f"ilqr: a budget of {budget} trajectories is too small for {iterations} iterations; "
            f"use at least {_STARTS + iterations}, or fewer iterations"
        )
    return ILQR(
        horizon=horizon,
        iterations=iterations,
        step_sizes=step_sizes,
        regularisation=regularisation,
        tolerance=tolerance,
    )


class ILQRState(NamedTuple):
    """What the next call of an `ILQRSolver` needs.

    Attributes
    ----------
    controls : ndarray [H, nu]
        The plan.
    states : ndarray [H + 1, nx] or None
        Where it leads; None before it was simulated for the first time.
    gains : ndarray [H, nu, nx] or None
        Its feedback; None before the first line search that found something, and after `seeded`.
    cost : float
        +inf where the plan has not been simulated from the present state.
    expansion : Expansion or None
        Around the plan; None where it is to be computed.
    applied : ndarray [nu]
        The control applied last.
    regularisation, growth : float
        As in `ILQR`, and the factor by which it changed last.
    iteration : int
        Of this plan.
    settled : bool
    """

    controls: np.ndarray
    states: np.ndarray | None
    gains: np.ndarray | None
    applied: np.ndarray
    regularisation: float
    growth: float = 1.0
    cost: float = np.inf
    expansion: Expansion | None = None
    iteration: int = 0
    settled: bool = False


class ILQRSolver:
    """iLQR bound to a control space; states go in and come out, nothing is kept between calls."""

    def __init__(self, planner: ILQR, space: ControlSpace) -> None:
        self.planner, self.space = planner, space
        self._sizes = 0.5 ** np.arange(planner.step_sizes)

    # ---- the plan's life -----------------------------------------------------------------------------------------
    def init(self) -> ILQRState:
        """The state before the first plan: the middle of the bounds."""
        return ILQRState(
            controls=np.tile(self.space.middle, (self.planner.horizon, 1)),
            states=None,
            gains=None,
            applied=self.space.middle,
            regularisation=float(self.planner.regularisation),
        )

    def start(self, state: ILQRState, elapsed: float, applied: np.ndarray) -> ILQRState:
        """Begin a plan: move the last one on by the control steps that passed since; its last control is held."""
        horizon = self.planner.horizon
        index = np.minimum(np.arange(horizon + 1) + elapsed + 1e-9, horizon).astype(int)
        last = np.minimum(index[:-1], horizon - 1)
        return ILQRState(
            controls=state.controls[last],
            states=None if state.states is None else state.states[index],
            gains=None if state.gains is None else state.gains[last],
            applied=applied,
            regularisation=float(self.planner.regularisation) if state.settled else state.regularisation,
        )

    def seeded(self, state: ILQRState, controls: np.ndarray) -> ILQRState:
        """The state with given controls [H, nu] for its plan: a warm start from elsewhere."""
        controls = np.ascontiguousarray(np.clip(controls, self.space.low, self.space.high))
        return state._replace(controls=controls, states=None, gains=None, cost=np.inf, expansion=None, settled=False)

    def iterations(self, state: ILQRState) -> int:
        """Iterations that a plan takes at most."""
        return self.planner.iterations

    def samples(self, state: ILQRState) -> int:
        """Trajectories that the next iteration simulates."""
        starts = 0 if np.isfinite(state.cost) else 1 if state.gains is None else _STARTS
        return starts + self.planner.step_sizes

    def remaining(self, state: ILQRState) -> int:
        """Trajectories that the rest of the plan simulates, if it does not settle before."""
        later = self.planner.iterations - state.iteration - 1
        return self.samples(state) + later * self.planner.step_sizes

    def settled(self, state: ILQRState) -> bool:
        """Whether further iterations would change nothing, or cannot."""
        return state.settled

    def end(self, state: ILQRState) -> ILQRState:
        """The state after a plan, from which the next one starts."""
        return state

    def controls(self, state: ILQRState) -> np.ndarray:
        """The planned controls [H, nu], within bounds and rates."""
        return state.controls.copy()

    def iterate(
        self, state: ILQRState, problem: Problem, samples: int | None = None
    ) -> tuple[ILQRState, IterationInfo]:
        """Expand, solve backwards, search along the result; with fewer `samples`, over the larger step sizes only.

        Most of the time goes into the expansion: fewer samples hardly save any.
        """
        local, count = local_model(problem.model), samples or self.samples(state)
        tried = failed = 0
        if not np.isfinite(state.cost):
            state, tried, failed = self._simulated(state, problem, local)
        if np.isfinite(state.cost) and count > tried:
            policy, state = self._solved(state, problem, local)
            if policy is not None:
                sizes = self._sizes[: count - tried]
                state, lost = self._searched(state, policy, sizes, problem, local)
                tried, failed = tried + sizes.size, failed + lost
                if (np.abs(policy.feedforward) <= self.planner.tolerance * self.space.half_range).all():
                    state = state._replace(gains=policy.gains, settled=True)
        info = IterationInfo(
            samples=tried,
            failed=failed,
            effective_sample_size=float(np.isfinite(state.cost)),
            best_cost=state.cost,
        )
        return state._replace(iteration=state.iteration + 1), info

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _bounds_after(self, applied: np.ndarray) -> np.ndarray:
        """Low, high, largest change per step, and the control applied last [4, nu]."""
        space = self.space
        return np.stack([space.low, space.high, space.rate * space.dt, applied])

    def _simulated(self, state: ILQRState, problem: Problem, local: LocalModel) -> tuple[ILQRState, int, int]:
        """The plan from the present state: as it is or under its feedback, whichever is cheaper.

        Where neither is finite, the middle of the bounds is tried; where that is not either, the cost stays +inf.
        """
        (horizon, nu), nx = state.controls.shape, problem.state.size
        still = Policy(
            np.zeros((horizon + 1, nx)), state.controls, np.zeros((horizon, nu)), np.zeros((horizon, nu, nx))
        )
        policies = [still]
        if state.states is not None and state.gains is not None:
            policies.append(still._replace(states=state.states, gains=state.gains))
        policies.append(still._replace(controls=np.tile(self.space.middle, (horizon, 1))))
        bounds, failed = self._bounds_after(state.applied), 0
        for tried, policy in enumerate(policies, start=1):
            if policy is policies[-1] and np.isfinite(state.cost):
                return state, tried - 1, failed
            states, controls, costs = local.follow(
                policy, np.zeros(1), bounds, problem.state, problem.t, problem.params
            )
            failed += int(not np.isfinite(costs[0]))
            if np.isfinite(costs[0]) and costs[0] < state.cost:
                state = state._replace(controls=controls[0], states=states[0], cost=float(costs[0]))
        return state._replace(settled=not np.isfinite(state.cost)), len(policies), failed

    def _solved(self, state: ILQRState, problem: Problem, local: LocalModel) -> tuple[Policy | None, ILQRState]:
        """The policy that minimises the expanded problem; None, and a settled state, where derivatives are unusable."""
        nominal, expansion = state.states, state.expansion
        assert nominal is not None
        if expansion is None:
            expansion = local.expand(nominal, state.controls, problem.t, problem.params, problem.threads)
            if not all(np.isfinite(part).all() for part in expansion):
                return None, state._replace(settled=True)
            make_convex(expansion.hessian, np.concatenate([np.ones(problem.state.size), self.space.half_range]))
            make_convex(expansion.last_hessian[None], np.ones(problem.state.size))
            state = state._replace(expansion=expansion)
        bounds = self._bounds_after(state.applied)
        low, high = bounds[0] - state.controls, bounds[1] - state.controls
        low[0] = np.maximum(low[0], state.applied - bounds[2] - state.controls[0])
        high[0] = np.minimum(high[0], state.applied + bounds[2] - state.controls[0])
        feedforward = np.empty_like(state.controls)
        gains = np.empty((*state.controls.shape, problem.state.size))
        while not backward(*expansion, low, high, self.space.half_range, state.regularisation, feedforward, gains):
            state = _more_regular(state)
            if state.settled:
                return None, state
        return Policy(nominal, state.controls, feedforward, gains), state

    def _searched(
        self, state: ILQRState, policy: Policy, sizes: np.ndarray, problem: Problem, local: LocalModel
    ) -> tuple[ILQRState, int]:
        """The cheapest trajectory of a policy if it is cheaper than the plan, and how many were not finite."""
        states, controls, costs = local.follow(
            policy, sizes, self._bounds_after(state.applied), problem.state, problem.t, problem.params
        )
        costs = np.where(np.isfinite(costs), costs, np.inf)
        best, failed = int(costs.argmin()), int(np.isinf(costs).sum())
        if not costs[best] < state.cost:
            return _more_regular(state), failed
        growth = min(state.growth / _GROWTH, 1 / _GROWTH)
        less = state.regularisation * growth
        state = state._replace(
            controls=controls[best].copy(),
            states=states[best].copy(),
            gains=policy.gains,
            cost=float(costs[best]),
            expansion=None,
            regularisation=less if less >= _LEAST_REGULARISATION else 0.0,
            growth=growth,
        )
        return state, failed


def local_model(model: CostModel) -> LocalModel:
    """The derivatives of a model; an error where it has none."""
    local: LocalModel | None = getattr(model, "local", None)
    if local is None:
        raise InvalidInput(
            f"ilqr needs the derivatives of the model, and {type(model).__name__} has none; "
            "use a task that is an AnalyticTask, or a sampling planner (icem, mppi, ...)"
        )
    return local


def _more_regular(state: ILQRState) -> ILQRState:
    """The state with more regularisation, by factors that grow; settled where there is no more."""
    growth = max(state.growth * _GROWTH, _GROWTH)
    more = max(state.regularisation * growth, _LEAST_REGULARISATION)
    settled = more > _MOST_REGULARISATION
    return state._replace(regularisation=more, growth=growth, settled=settled)
