"""What a state must not go beyond, with a probability: a chance constraint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpcrl.core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Limit:
    """P(sum of factor times number <= bound) >= probability, at each control step for itself.

    Of a belief N(m, S) about the state that is a'm + quantile(probability) sqrt(a'Sa) <= bound, exactly. It says
    nothing of all steps or of several limits together: T such events hold at once with 1 - T (1 - probability) at least
    (Boole). Nor does it know where the true distribution has other tails than the normal one that a method carries, or
    a wider spread: beliefs take what is not known of the dynamics for noise, new at each step, and it is the same at
    all of them. In one example a limit of 0.9 was kept with 0.90 after six steps through such noise, and with 0.79
    through functions that stay. Planning anew at every step makes up for some of it; a higher probability must for the
    rest.

    Attributes
    ----------
    terms : mapping of str to float
        Factors of the state's numbers by name: {"position": -1.0} bounds a position from below.
    bound : float
    probability : float
        In [0.5, 1): below, being less certain would make more of the state's space allowed.
    """

    terms: Mapping[str, float]
    bound: float
    probability: float = 0.95

    def __post_init__(self) -> None:
        if not (self.terms and np.isfinite([self.bound, *self.terms.values()]).all() and any(self.terms.values())):
            raise InvalidInput(
                f"a limit needs finite factors, not all 0, and a finite bound; got {self.terms!r} and {self.bound!r}"
            )
        if not 0.5 <= self.probability < 1:
            raise InvalidInput(f"a limit's probability must be in [0.5, 1), got {self.probability!r}")

    def normal(self, names: Sequence[str]) -> np.ndarray:
        """The factors a [nx] of a state with these names."""
        row = np.zeros(len(names))
        for name, factor in self.terms.items():
            if name not in names:
                raise InvalidInput(f"a limit speaks of {name!r}, but the state has {', '.join(names)}")
            row[list(names).index(name)] = factor
        return row
