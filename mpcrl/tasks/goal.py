"""Where a task wants its state, in a form whose expectation under a normal belief is known in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpcrl.core.checks import positive_number
from mpcrl.core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The cost 1 - exp(-d^2 / (2 width^2)) of the distance d between some linear functions and their targets.

    Or, if it is not `saturating`, d^2 / (2 width^2), which is felt from everywhere. The first is 1 far away, whatever
    one does, so that an uncertain belief costs less than a certain one there, and more near the target: who minimises
    it explores, and then holds (Deisenroth and Rasmussen 2011, section 2.3).

    Attributes
    ----------
    terms : tuple of mapping of str to float
        Functions of the state, each a sum of numbers times factors. Numbers go by their names, sines and cosines of the
        task's angles by "sin NAME" and "cos NAME": ({"position": 1, "sin angle": 0.5}, {"cos angle": -0.5}), say, the
        tip of a pole.
    target : tuple of float
        One per term.
    width : float
        In the terms' units.
    saturating : bool
    """

    terms: tuple[Mapping[str, float], ...]
    target: tuple[float, ...]
    width: float
    saturating: bool = True

    def __post_init__(self) -> None:
        positive_number("a goal's width", self.width)
        if not self.terms or len(self.terms) != len(self.target):
            raise InvalidInput(f"a goal needs a target for each of its {len(self.terms)} terms, got {self.target!r}")
        if not np.isfinite([*self.target, *(factor for term in self.terms for factor in term.values())]).all():
            raise InvalidInput(f"a goal's factors and targets must be finite, got {self.terms!r} and {self.target!r}")

    def costs(self, states: np.ndarray, names: Sequence[str], angles: Sequence[int]) -> np.ndarray:
        """Of states [..., nx], each [...]."""
        matrix, target = self.matrix(names, angles)
        turned = states[..., list(angles)]
        y = np.concatenate([states, np.sin(turned), np.cos(turned)], axis=-1) @ matrix.T - target
        half = 0.5 * (y**2).sum(axis=-1)
        return 1 - np.exp(-half) if self.saturating else half

    def matrix(self, names: Sequence[str], angles: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """A [K, nx + 2 angles] and b [K]: the cost is 1 - exp(-h), or h, of h = |A (state, sines, cosines) - b|^2 / 2.

        Parameters
        ----------
        names : sequence of str [nx]
        angles : sequence of int
            Which of the state's numbers are angles.
        """
        columns = [*names, *(f"{wave} {names[i]}" for wave in ("sin", "cos") for i in angles)]
        matrix = np.zeros((len(self.terms), len(columns)))
        for row, term in zip(matrix, self.terms, strict=True):
            for name, factor in term.items():
                if name not in columns:
                    raise InvalidInput(f"a goal speaks of {name!r}, but the state has {', '.join(columns)}")
                row[columns.index(name)] = factor
        return matrix / self.width, np.array(self.target, np.float64) / self.width
