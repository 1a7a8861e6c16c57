"""How a budget of simulated trajectories is spread over iterations, and what passes from one to the next."""

from __future__ import annotations

from dataclasses import dataclass

from mpcrl.core.checks import positive_integer, positive_number
from mpcrl.core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Iterations of one plan.

    Attributes
    ----------
    budget : int
        Trajectories simulated per plan, every one counted: drawn samples, the mean, elites simulated again.
    iterations : int
    first_iterations : int
        Of the first plan after a reset, which has nothing to start from; each at the size of a later one. 0: as others.
    decay : float
        Each iteration draws this many times fewer samples than the one before (iCEM: 1.25).
    least : int
        An iteration draws at least so many samples.
    reuse : float
        Share of the elites that is kept for the next iteration, and shifted into the next plan (iCEM: .3).
    mean_candidate : {"never", "first", "last"}
        Whether the mean is itself a candidate: in every iteration, or only in the last.
    restart : bool
        Plans start from the middle of the bounds instead of from the shifted last plan.
    pad_with_middle : bool
        A shifted plan ends in the middle of the bounds (PETS) instead of repeating its last control.
    annealing : float
        Width of an iteration over that of the one before (DIAL: .5).
    horizon_annealing : float
        Width of a decision over that of the next later one (DIAL: .9): what comes soon is nearly settled.
    """

    budget: int
    iterations: int = 1
    first_iterations: int = 0
    decay: float = 1.0
    least: int = 1
    reuse: float = 0.0
    mean_candidate: str = "never"
    restart: bool = False
    pad_with_middle: bool = False
    annealing: float = 1.0
    horizon_annealing: float = 1.0

    def __post_init__(self) -> None:
        positive_integer("budget", self.budget)
        positive_integer("iterations", self.iterations)
        for name in ("decay", "annealing", "horizon_annealing"):
            positive_number(name, getattr(self, name))
        if not 0 <= self.reuse <= 1:
            raise InvalidInput(f"reuse is a share of the elites in [0, 1], got {self.reuse!r}")
        if self.mean_candidate not in ("never", "first", "last"):
            raise InvalidInput(f"mean_candidate must be 'never', 'first' or 'last', got {self.mean_candidate!r}")
        if min(self.counts()) < self.least:
            raise InvalidInput(
                f"a budget of {self.budget} trajectories is too small for {self.iterations} iterations of at least "
                f"{self.least} samples; use at least {self._smallest()}, or fewer iterations"
            )

    def counts(self, again: int = 0) -> list[int]:
        """Samples drawn in each iteration; the largest start whose whole plan, with `again` elites, fits the budget."""

        def plan(first: int) -> list[int]:
            counts, count = [], first
            for _ in range(self.iterations):
                counts.append(max(self.least, count))
                count = int(count / self.decay)
            return counts

        low, high = 0, self.budget
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if sum(plan(middle)) + again <= self.budget else (low, middle - 1)
        if sum(plan(low)) + again > self.budget:
            return [0]
        return plan(low)

    def _smallest(self) -> int:
        return self.iterations * self.least
