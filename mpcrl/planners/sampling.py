"""The one sampling planner: parametrisation x noise x refit x schedule.

Each iteration draws candidates around a mean, has a model cost them, and refits the mean. Random shooting, predictive
sampling, CEM, iCEM, MPPI and its relatives differ only in the four parts; `presets` names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mpcrl.core.candidates import Candidates, Recipe
from mpcrl.core.checks import positive_integer
from mpcrl.core.errors import InvalidInput
from mpcrl.core.random import LANES
from mpcrl.kernels import propose as propose_kernels
from mpcrl.kernels import refit as refit_kernels
from mpcrl.planners.noise import Noise
from mpcrl.planners.parametrisation import Derivative, Parametrisation, PerStep
from mpcrl.planners.planner import IterationInfo, Problem
from mpcrl.planners.refit import TEMPERATURE_KINDS, Best, Elites, Refit, Softmax
from mpcrl.planners.schedule import Schedule
from mpcrl.planners.space import ControlSpace

_NO_MATRIX = np.zeros((0, 0))


@dataclass(frozen=True, kw_only=True)
class SamplingPlanner:
    """Configuration of a sampling planner; `bind` makes it one for a control space.

    Attributes
    ----------
    name : str
    horizon : int
        H, control steps ahead.
    parametrisation, noise, refit, schedule
        The four parts; see their modules.
    width : float
        Initial standard deviation of the noise, in half ranges of the controls.
    execute : {"mean", "best"}
        Whether the plan is the refitted mean or the cheapest candidate seen.
    """

    name: str
    horizon: int
    parametrisation: Parametrisation
    noise: Noise
    refit: Refit
    schedule: Schedule
    width: float
    execute: str = "mean"

    def __post_init__(self) -> None:
        positive_integer("horizon", self.horizon)
        if not (np.isfinite(self.width) and self.width >= 0):
            raise InvalidInput(f"width must be a number of at least 0, got {self.width!r}")
        if self.execute not in ("mean", "best"):
            raise InvalidInput(f"execute must be 'mean' or 'best', got {self.execute!r}")
        self.parametrisation.times(self.horizon)

    @property
    def budget(self) -> int:
        """Trajectories simulated per plan."""
        return self.schedule.budget

    def bind(self, space: ControlSpace) -> Sampler:
        """The planner for one control space."""
        return Sampler(self, space)


class PlanState(NamedTuple):
    """What the next call of a `Sampler` needs.

    Attributes
    ----------
    mean, std : ndarray [K, nu]
        Distribution of the decisions.
    base : ndarray [H, nu]
        Controls that the decisions are added to; zero but for `Derivative`.
    applied : ndarray [nu]
        The control applied last.
    elites : ndarray [E, K, nu]
        Kept ones, cheapest first.
    elite_costs : ndarray [E]
        Their costs; NaN where they must be simulated again.
    best : ndarray [K, nu]
        Cheapest decisions seen in this plan.
    best_cost : float
        +inf before any finite sample.
    iteration : int
        Of this plan.
    first : bool
        Whether this is the first plan after a reset.
    """

    mean: np.ndarray
    std: np.ndarray
    base: np.ndarray
    applied: np.ndarray
    elites: np.ndarray
    elite_costs: np.ndarray
    best: np.ndarray
    best_cost: float = np.inf
    iteration: int = 0
    first: bool = True


class Sampler:
    """A sampling planner bound to a control space: `start`, then `propose` and `update` by turns, then `controls`.

    States go in and come out; between calls it keeps only buffers.
    """

    def __init__(self, planner: SamplingPlanner, space: ControlSpace) -> None:
        self.planner, self.space = planner, space
        horizon, curve = planner.horizon, planner.parametrisation
        self._times = curve.times(horizon)
        # kernels are compiled per memory layout: everything that they take is C-contiguous
        self._curve = np.ascontiguousarray(curve.weights(np.arange(horizon, dtype=np.float64), horizon))
        self._lifted = isinstance(curve, Derivative)
        per_step = isinstance(curve, PerStep)
        mapped = not per_step or self._lifted or space.rate_limited
        self._basis = self._curve * (space.dt if self._lifted else 1.0) if mapped else _NO_MATRIX
        decisions = self._times.size
        self._colour, self._table = np.ascontiguousarray(planner.noise.colour(decisions)), planner.noise.table()
        self._low, self._high = space.inner_bounds()
        self._bounds = np.stack([self._low, self._high, space.rate * space.dt, space.middle])
        decay = planner.schedule.horizon_annealing ** np.arange(decisions)[::-1]
        unit = space.half_range / (space.dt if self._lifted else 1.0)
        self._width = planner.width * decay[:, None] * unit[None, :]
        self._unit = unit
        charged = (
            isinstance(planner.refit, Softmax) and planner.refit.action_cost
        )  # by widths that Softmax leaves alone
        self._action_weight = 1 / np.maximum(self._width, 1e-12) ** 2 if charged else np.zeros_like(self._width)
        self._decision_bounds = np.repeat(self._bounds[:2, None], decisions, axis=1)
        self._moves: dict[float, np.ndarray] = {}  # by elapsed steps: a matrix, or indices where values only move
        again = self._kept_elites() if planner.schedule.reuse else 0
        self._counts = planner.schedule.counts(again)
        if min(self._counts) < planner.schedule.least:
            raise InvalidInput(
                f"{planner.name}: a budget of {planner.budget} trajectories is too small for its iterations, "
                f"elites and reuse; use at least {planner.schedule.iterations * planner.schedule.least + again}"
            )
        self._buffers = self._storage_of(0)

    # ---- the plan's life -----------------------------------------------------------------------------------------
    def init(self) -> PlanState:
        """The state before the first plan: the middle of the bounds."""
        decisions, nu = self._width.shape
        rest = np.zeros((decisions, nu)) if self._lifted else np.tile(self.space.middle, (decisions, 1))
        base = np.tile(self.space.middle * self._lifted, (self.planner.horizon, 1))
        return PlanState(
            mean=rest,
            std=self._width,
            base=base,
            applied=self.space.middle,
            elites=np.zeros((0, decisions, nu)),
            elite_costs=np.zeros(0),
            best=rest,
        )

    def start(self, state: PlanState, elapsed: float, applied: np.ndarray) -> PlanState:
        """Begin a plan: move the last one on by the control steps that passed since, whole or not.

        Parameters
        ----------
        state : PlanState
            Of the last plan, or `init()`.
        elapsed : float
            Control steps since the last plan began; 0 plans again from the same time.
        applied : ndarray [nu]
            The control applied last.
        """
        schedule = self.planner.schedule
        if schedule.restart:
            return self.init()._replace(applied=applied, first=state.first)
        mean = self._shifted(state.mean[None], elapsed, self._rest)[0]
        elites = self._shifted(state.elites, elapsed, np.nan)
        base = state.base
        if self._lifted:
            index = np.minimum(np.arange(self.planner.horizon) + int(round(elapsed)), self.planner.horizon - 1)
            base = state.base[index]
        return PlanState(
            mean=mean,
            std=self._width,
            base=base,
            applied=applied,
            elites=elites,
            elite_costs=np.full(len(elites), np.nan),
            best=mean,
            first=state.first,
        )

    def iterations(self, state: PlanState) -> int:
        """Iterations that a plan beginning in `state` takes."""
        schedule = self.planner.schedule
        return schedule.first_iterations or schedule.iterations if state.first else schedule.iterations

    def settled(self, state: PlanState) -> bool:
        """Whether the distribution is so narrow that further iterations would change nothing."""
        refit = self.planner.refit
        if not isinstance(refit, Elites) or refit.stop_width == 0 or state.iteration == 0:
            return False
        return bool((state.std <= refit.stop_width * self._unit).all())

    def samples(self, state: PlanState) -> int:
        """Candidates that the next iteration simulates."""
        again = int(np.isnan(state.elite_costs).sum()) if state.elite_costs.size else 0
        return self._counts[min(state.iteration, len(self._counts) - 1)] + again

    def remaining(self, state: PlanState) -> int:
        """Candidates that the rest of the plan simulates."""
        later = range(state.iteration + 1, self.iterations(state))
        return self.samples(state) + sum(self._counts[min(i, len(self._counts) - 1)] for i in later)

    def propose(self, state: PlanState, seed: int, plan: int, samples: int | None = None) -> Candidates:
        """Candidates around the mean; the same for the same state, seed and plan.

        Parameters
        ----------
        state : PlanState
        seed, plan : int
            With the iteration they key the random numbers.
        samples : int, optional
            How many, if not as scheduled (a plan short of time).
        """
        count = samples or self.samples(state)
        controls, decisions = self._storage(count)
        bounds = self._bounds.copy()
        bounds[3] = state.applied
        recipe = Recipe(
            mean=state.mean,
            scale=self._scale(state),
            fixed=self._fixed(state, count),
            colour=self._colour,
            basis=self._basis,
            offset=state.base,
            table=self._table,
            theta_bounds=self._theta_bounds(state),
            bounds=bounds,
            log_sigma=self.planner.noise.log_sigma,
            seed=np.uint64(seed),
            plan=plan,
            iteration=state.iteration,
        )
        return Candidates(count, controls, decisions, recipe, propose_kernels.propose)

    def iterate(
        self, state: PlanState, problem: Problem, samples: int | None = None
    ) -> tuple[PlanState, IterationInfo]:
        """Propose, have the model cost the candidates, update."""
        candidates = self.propose(state, problem.seed, problem.plan, samples)
        costs = problem.model.costs(problem.state, candidates, problem.t, problem.params, problem.threads)
        with problem.threads.for_work(1e-9 * candidates.decisions.size).kernels():
            return self.update(state, candidates, costs)

    def update(self, state: PlanState, candidates: Candidates, costs: np.ndarray) -> tuple[PlanState, IterationInfo]:
        """Refit to the costs [N] of candidates; a sample whose cost is not finite has no weight at all."""
        screened = np.empty(costs.size)
        winner, failed = refit_kernels.screen(costs, screened)
        costs, decisions = screened, candidates.decisions
        if self._lifted:
            curve: Derivative = self.planner.parametrisation  # type: ignore[assignment]
            weight = curve.change_weight / float(np.mean(self.space.half_range)) ** 2
            refit_kernels.change_cost(candidates.controls, state.applied, weight, costs)
            winner = int(costs.argmin())
        best, best_cost, least = state.best, state.best_cost, float(costs[winner])
        if least < best_cost:
            best, best_cost = self._sample(decisions, winner), least
        info = IterationInfo(
            samples=costs.size,
            failed=failed,
            effective_sample_size=0.0,
            best_cost=least,
            candidates=candidates,
            costs=costs,
        )
        state = state._replace(best=best, best_cost=best_cost, iteration=state.iteration + 1)
        if least == np.inf:
            return state, info
        refit = self.planner.refit
        if isinstance(refit, Best):
            return state._replace(mean=best), info._replace(effective_sample_size=1.0)
        if isinstance(refit, Elites):
            return self._refit_elites(refit, state, info, decisions, costs)
        return self._refit_softmax(refit, state, info, decisions, costs)

    def end(self, state: PlanState) -> PlanState:
        """The state after a plan, from which the next one starts."""
        return state._replace(first=False)

    def controls(self, state: PlanState) -> np.ndarray:
        """The planned controls [H, nu], within bounds and rates."""
        if self._lifted:
            planned = state.base
        else:
            decisions = state.best if self.planner.execute == "best" and np.isfinite(state.best_cost) else state.mean
            planned = self._curve @ decisions if self._basis.size else decisions
        if not self.space.rate_limited:
            return np.minimum(np.maximum(planned, self.space.low), self.space.high)
        limited, previous = np.empty_like(planned), state.applied
        for t, control in enumerate(planned):
            limited[t] = previous = self.space.admit(control, previous, self.space.dt)
        return limited

    def seeded(self, state: PlanState, controls: np.ndarray) -> PlanState:
        """The state with its mean moved to given controls [H, nu]: a warm start from elsewhere."""
        if self._lifted:
            return state._replace(base=np.clip(controls, self._low, self._high))
        mean, *_ = np.linalg.lstsq(self._curve, controls, rcond=None)
        return state._replace(mean=np.ascontiguousarray(np.clip(mean, self._low, self._high)))

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _kept_elites(self) -> int:
        refit = self.planner.refit
        return int(refit.count * self.planner.schedule.reuse) if isinstance(refit, Elites) else 0

    @cached_property
    def _rest(self) -> np.ndarray | None:
        """What a shifted plan ends in; None repeats its last value."""
        if self._lifted:
            return np.zeros(self.space.nu)
        return self.space.middle if self.planner.schedule.pad_with_middle else None

    def _shifted(self, decisions: np.ndarray, elapsed: float, beyond: np.ndarray | float | None) -> np.ndarray:
        """Decision curves [E, K, nu] as seen `elapsed` steps later; what lies past their end is `beyond`."""
        if elapsed == 0 or not len(decisions):
            return decisions
        last, later = self.planner.horizon - 1, self._times + elapsed
        if elapsed not in self._moves:
            if len(self._moves) > 8:  # elapsed times that never recur
                self._moves.clear()
            weights = self.planner.parametrisation.weights(np.minimum(later, last), self.planner.horizon)
            held = ((weights == 1).sum(axis=1) == 1) & ((weights != 0).sum(axis=1) == 1)
            self._moves[elapsed] = weights.argmax(axis=1) if held.all() else weights
        move = self._moves[elapsed]
        moved = decisions.take(move, axis=1) if move.ndim == 1 else move @ decisions
        if beyond is not None:
            moved[:, later > last + 1e-9] = beyond
        return moved

    def _storage(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Memory for controls and decisions of `count` samples: the same for any, which vary where time is short."""
        blocks = -(-count // LANES)
        if blocks > len(self._buffers[0]):
            self._buffers = self._storage_of(blocks)
        controls, decisions = self._buffers
        return controls[:blocks], decisions[:blocks]

    def _storage_of(self, blocks: int) -> tuple[np.ndarray, np.ndarray]:
        horizon, (steps, nu) = self.planner.horizon, self._width.shape
        controls = np.zeros((blocks, horizon, nu, LANES), self.space.dtype)
        decisions = np.zeros((blocks, steps, nu, LANES), self.space.dtype) if self._basis.size else controls
        return controls, decisions

    def _scale(self, state: PlanState) -> np.ndarray:
        """Width of the noise in this iteration [K, nu]."""
        refit, scale = self.planner.refit, state.std
        if isinstance(refit, Elites) and refit.cap_at_bounds:
            room = np.minimum(state.mean - self._low, self._high - state.mean) / 2
            scale = np.minimum(scale, np.maximum(room, 0))
        if self.planner.schedule.annealing != 1.0:
            scale = scale * self.planner.schedule.annealing**state.iteration
        return scale

    def _fixed(self, state: PlanState, count: int) -> np.ndarray:
        """Candidates that are given, not drawn: the mean, and elites to be simulated again."""
        schedule = self.planner.schedule
        with_mean = schedule.mean_candidate == "first" or (
            schedule.mean_candidate == "last" and state.iteration == self.iterations(state) - 1
        )
        if not (with_mean or len(state.elites)):
            return state.elites
        again = state.elites[np.isnan(state.elite_costs)]
        return np.concatenate([state.mean[None], again] if with_mean else [again])[:count]

    def _theta_bounds(self, state: PlanState) -> np.ndarray:
        """Bounds [2, K, nu] of the decisions: those of the controls, or rates that keep lifted controls within them."""
        if self._lifted:
            return np.stack([self._low - state.base, self._high - state.base]) / self.space.dt
        return self._decision_bounds

    @staticmethod
    def _sample(decisions: np.ndarray, index: int) -> np.ndarray:
        """Decisions [K, nu] of one sample, in float64."""
        return decisions[index // LANES, :, :, index % LANES].astype(np.float64)

    def _refit_elites(
        self, refit: Elites, state: PlanState, info: IterationInfo, decisions: np.ndarray, costs: np.ndarray
    ) -> tuple[PlanState, IterationInfo]:
        count = min(refit.count, max(2, costs.size // 2))
        elites, elite_costs = np.empty((count, *state.mean.shape)), np.empty(count)
        mean, std = state.mean.copy(), state.std.copy()
        found = refit_kernels.refit_elites(
            costs,
            decisions,
            state.elites,
            state.elite_costs,
            refit.momentum,
            refit.smooth_variance,
            refit.least_width * self._unit,
            mean,
            std,
            elites,
            elite_costs,
        )
        reuse = self.planner.schedule.reuse
        keep = max(1, int(found * reuse)) if reuse else 0
        state = state._replace(mean=mean, std=std, elites=elites[:keep], elite_costs=elite_costs[:keep])
        return state, info._replace(effective_sample_size=float(found))

    def _refit_softmax(
        self, refit: Softmax, state: PlanState, info: IterationInfo, decisions: np.ndarray, costs: np.ndarray
    ) -> tuple[PlanState, IterationInfo]:
        mean = state.mean.copy()
        temperature, effective = refit_kernels.softmax_mean(
            costs, decisions, state.mean, self._action_weight, TEMPERATURE_KINDS[refit.kind], refit.temperature, mean
        )
        info = info._replace(effective_sample_size=effective, temperature=temperature)
        base = state.base
        if self._lifted:
            base = np.clip(base + mean * self.space.dt, self._low, self._high)
        return state._replace(mean=mean, base=base), info
