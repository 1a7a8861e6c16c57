"""Plans on a normal belief about the state, as a deterministic system of its mean and covariance.

Kamthe and Deisenroth 2018, "Data-efficient reinforcement learning with probabilistic model predictive control": what
moment matching makes of N(m, S) under a control is a function (m', S') = f(m, S, u) like any other, so that an
optimiser that keeps bounds and follows the exact gradient finds the controls of least expected cost. The gradient is
that of Pontryagin's principle: costates run backward where beliefs ran forward.

    minimise    sum_t  E cost(x_t) + caution sd cost(x_t)          caution < 0 seeks what is not known, > 0 avoids it
    subject to  low <= u_t <= high,   P(a_k'x_t <= b_k) >= p_k     for each t and k

The bounds always hold. The limits are those of an augmented Lagrangian (Nocedal and Wright 2006, algorithm 17.4), whose
multipliers go on from one plan that kept them to the next. What is left over when `rounds` are done is told as
`Solution.excess`: where no controls keep a limit, a plan comes near it and says how near.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput
from mpcrl.kernels.belief import Aim, Chain, controls_cost
from mpcrl.tasks.limit import Limit

_SLACK = 1e-3
"""How far beyond a limit is still taken for within, as a share of its bound or of 1."""


class Solution(NamedTuple):
    """Controls and what they are believed to lead to.

    Attributes
    ----------
    controls : ndarray [H, nu]
    cost : float
        Expected, with its caution; without what limits add. Infinite where nothing finite was found.
    means, covs : ndarray [H + 1, nx], [H + 1, nx, nx]
        Of the states.
    excess : ndarray [H, K]
        Of the states but the first beyond each limit, with its margin; above 0 it is broken.
    multipliers : ndarray [H, K]
        What limits are worth: d cost / d bound, but for the sign.
    evaluations, failed : int
        Of the cost, and how many of them were not finite.
    """

    controls: np.ndarray
    cost: float
    means: np.ndarray
    covs: np.ndarray
    excess: np.ndarray
    multipliers: np.ndarray
    evaluations: int
    failed: int


class Believed(NamedTuple):
    """What controls are believed to lead to.

    Attributes
    ----------
    means, covs : ndarray [H + 1, nx], [H + 1, nx, nx]
        Of the states.
    costs : ndarray [H]
        Expected, of each state but the first.
    """

    means: np.ndarray
    covs: np.ndarray
    costs: np.ndarray


def believed(chain: Chain, mean: np.ndarray, cov: np.ndarray, controls: np.ndarray) -> Believed:
    """Beliefs from N(mean [nx], cov [nx, nx]) under controls [H, nu]."""
    horizon, nx = len(controls), len(mean)
    means, covs, costs = np.zeros((horizon + 1, nx)), np.zeros((horizon + 1, nx, nx)), np.zeros(horizon)
    means[0], covs[0] = mean, cov
    nothing, given = np.zeros((horizon, 0)), np.ascontiguousarray(controls, np.float64)
    aim = BeliefPlanner(horizon=horizon).aim([""] * nx)
    controls_cost(chain, aim, given, means, covs, costs, nothing, False, np.zeros_like(given))
    return Believed(means, covs, costs)


@dataclass(frozen=True, kw_only=True)
class BeliefPlanner:
    """How plans on a belief are made, as the module's docstring says.

    Attributes
    ----------
    horizon : int
        Control steps ahead.
    evaluations : int
        Of cost and gradient for a plan, at most; with limits, in each of the rounds.
    caution : float
        Standard deviations of the cost that are added to its expectation.
    limits : tuple of Limit
    rounds : int
        Of an augmented Lagrangian, at most; of no meaning without limits.
    stiffness : float
        Cost of a limit's square excess, in the first round.
    """

    horizon: int = 15
    evaluations: int = 25
    caution: float = 0.0
    limits: tuple[Limit, ...] = ()
    rounds: int = 4
    stiffness: float = 10.0

    def __post_init__(self) -> None:
        for name in ("horizon", "evaluations", "rounds"):
            positive_integer(name, getattr(self, name))
        positive_number("stiffness", self.stiffness)
        if not np.isfinite(self.caution):
            raise InvalidInput(f"caution must be finite, got {self.caution!r}")

    def aim(self, names: Sequence[str]) -> Aim:
        """What plans minimise of a state with these names."""
        return Aim(
            float(self.caution),
            np.array([limit.normal(names) for limit in self.limits]).reshape(-1, len(names)),
            np.array([float(limit.bound) for limit in self.limits]),
            scipy.special.ndtri(np.array([limit.probability for limit in self.limits], np.float64)),
            np.zeros((self.horizon, len(self.limits))),
            self.stiffness,
        )

    def solve(
        self,
        chain: Chain,
        aim: Aim,
        mean: np.ndarray,
        cov: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        *,
        last: Solution | None = None,
        deadline: float = np.inf,
    ) -> Solution:
        """The plan from a belief N(mean [nx], cov [nx, nx]).

        Parameters
        ----------
        chain : Chain
        aim : Aim
            As `aim` makes it.
        low, high : ndarray [nu]
        last : Solution, optional
            Of one control step before, which this one begins with moved on by a step, where it is better than a
            constant control.
        deadline : float
            Of `time.perf_counter`; the best plan so far is the answer then.
        """
        nu = len(low)
        sizes = (self.horizon, nu), (self.horizon, len(self.limits))
        if last is not None and (last.controls.shape, last.excess.shape) != sizes:
            raise InvalidInput(
                f"a plan goes on from one with controls and limits of the shapes {sizes}, got "
                f"{last.controls.shape} and {last.excess.shape}; begin without `last`"
            )
        work = _Work(chain, aim, mean, cov, low, high, self.horizon, deadline)
        starts = [np.full((self.horizon, nu), share) for share in (0.0, -1.0, 1.0)]
        if last is not None:
            middle, half = 0.5 * (low + high), 0.5 * (high - low)
            starts.insert(0, np.concatenate([last.controls[1:], last.controls[-1:]]) / half - middle / half)
            if self._kept(last.excess):  # those of what nobody can keep have no end
                work.aim = aim._replace(multipliers=np.concatenate([last.multipliers[1:], last.multipliers[-1:]]))
        best = work.cheapest(starts)
        for number in range(self.rounds if self.limits else 1):
            if work.late:
                break
            best = work.descended(best, self.evaluations)
            if not self.limits or work.late:
                break
            found = work.solution(best)
            pushed = np.maximum(work.aim.multipliers + work.aim.stiffness * found.excess, 0.0)
            if not np.isfinite(pushed).all():
                break
            work.aim = work.aim._replace(multipliers=pushed)
            if self._kept(found.excess):
                break
            if number:
                work.aim = work.aim._replace(stiffness=4.0 * work.aim.stiffness)
        return work.solution(best)

    def _kept(self, excess: np.ndarray) -> bool:
        bounds = np.array([limit.bound for limit in self.limits])
        return bool((excess <= _SLACK * np.maximum(np.abs(bounds), 1.0)).all())


class _Late(Exception):
    """The deadline has passed."""


class _Work:
    """The cost of controls in units of their bounds, from one belief."""

    def __init__(
        self,
        chain: Chain,
        aim: Aim,
        mean: np.ndarray,
        cov: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        horizon: int,
        deadline: float,
    ) -> None:
        self.chain, self.aim, self.low, self.high, self.deadline = chain, aim, low, high, deadline
        self.means, self.covs = np.zeros((horizon + 1, len(mean))), np.zeros((horizon + 1, len(mean), len(mean)))
        self.means[0], self.covs[0] = mean, cov
        self.costs, self.excess = np.zeros(horizon), np.zeros((horizon, len(aim.bound)))
        self.gradient = np.zeros((horizon, len(low)))
        self.evaluations = self.failed = 0

    @property
    def late(self) -> bool:
        return time.perf_counter() > self.deadline

    def controls(self, shares: np.ndarray) -> np.ndarray:
        """Of shares of the way from the middle of the bounds to them; rounding stays within."""
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        return np.clip(middle + half * shares.reshape(-1, len(self.low)), self.low, self.high)

    def cost(self, shares: np.ndarray, gradient: bool) -> float:
        total = controls_cost(
            self.chain,
            self.aim,
            self.controls(shares),
            self.means,
            self.covs,
            self.costs,
            self.excess,
            gradient,
            self.gradient,
        )
        self.evaluations += 1
        if not (np.isfinite(total) and (not gradient or np.isfinite(self.gradient).all())):
            self.failed += 1
            return np.inf
        return float(total)

    def cheapest(self, starts: Sequence[np.ndarray]) -> np.ndarray:
        costs = [self.cost(start, False) for start in starts]
        return starts[int(np.argmin(costs))]

    def descended(self, start: np.ndarray, evaluations: int) -> np.ndarray:
        """The best of what L-BFGS-B sees from a start on."""
        best, least = start, np.inf
        half = 0.5 * (self.high - self.low)

        def objective(shares: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best, least
            if self.late and np.isfinite(least):
                raise _Late
            cost = self.cost(shares, True)
            if not np.isfinite(cost):
                return 1e10, np.zeros_like(shares)
            if cost < least:
                best, least = shares.reshape(start.shape).copy(), cost
            return cost, (self.gradient * half).ravel()

        with contextlib.suppress(_Late):
            scipy.optimize.minimize(
                objective,
                np.clip(start, -1.0, 1.0).ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=[(-1.0, 1.0)] * start.size,
                options={"maxfun": evaluations, "maxiter": evaluations, "maxcor": 20, "ftol": 1e-6, "gtol": 1e-5},
            )
        return best

    def solution(self, shares: np.ndarray) -> Solution:
        finite = np.isfinite(self.cost(shares, False))
        return Solution(
            self.controls(shares),
            float(self.costs.sum()) if finite else np.inf,
            self.means.copy(),
            self.covs.copy(),
            self.excess.copy(),
            self.aim.multipliers,
            self.evaluations,
            self.failed,
        )
