"""Candidate control sequences, as planners hand them to models."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from mpcrl.core.errors import InvalidInput
from mpcrl.core.random import LANES
from mpcrl.core.threads import ThreadBudget


class Recipe(NamedTuple):
    """What `kernels.propose` draws candidates from; the fields are explained there."""

    mean: np.ndarray
    scale: np.ndarray
    fixed: np.ndarray
    colour: np.ndarray
    basis: np.ndarray
    offset: np.ndarray
    table: np.ndarray
    theta_bounds: np.ndarray
    bounds: np.ndarray
    log_sigma: float
    seed: np.uint64
    plan: int
    iteration: int


class Candidates:
    """N control sequences in blocks of LANES samples, drawn when first needed.

    A model that can draw them inside its own kernel does so from `recipe` and calls `mark_drawn`; for any other they
    are drawn by `rows` or `blocks`.

    Attributes
    ----------
    count : int
        N; the blocks may hold more, which do not count.
    controls : ndarray [B, H, nu, LANES]
        Storage; holds the sequences once they are drawn.
    decisions : ndarray [B, K, nu, LANES]
        What the planner refits; the same array as `controls` where it plans in controls step by step.
    recipe : Recipe or None
        How to draw them; None once they are drawn.
    """

    def __init__(
        self,
        count: int,
        controls: np.ndarray,
        decisions: np.ndarray | None = None,
        recipe: Recipe | None = None,
        draw: Callable[..., None] | None = None,
    ) -> None:
        self.count, self.controls = count, controls
        self.decisions = controls if decisions is None else decisions
        self.recipe, self._draw = recipe, draw

    @classmethod
    def from_rows(cls, controls: np.ndarray, dtype: np.typing.DTypeLike = np.float64) -> Candidates:
        """Candidates of controls [N, H, nu]."""
        controls = np.asarray(controls, dtype)
        if controls.ndim != 3:
            raise InvalidInput(f"controls must have the shape [samples, horizon, nu], got {controls.shape}")
        count, horizon, nu = controls.shape
        padded = np.zeros((-(-count // LANES) * LANES, horizon, nu), dtype)
        padded[:count] = controls
        blocks = padded.reshape(-1, LANES, horizon, nu).transpose(0, 2, 3, 1)
        return cls(count, np.ascontiguousarray(blocks))

    @property
    def horizon(self) -> int:
        """H, control steps."""
        return self.controls.shape[1]

    @property
    def nu(self) -> int:
        """Number of controls."""
        return self.controls.shape[2]

    def mark_drawn(self) -> None:
        """Say that `controls` and `decisions` now hold what the recipe describes."""
        self.recipe = None

    def blocks(self) -> np.ndarray:
        """The sequences as [B, H, nu, LANES]."""
        if self.recipe is not None:
            assert self._draw is not None
            with ThreadBudget(numba.get_num_threads()).kernels():
                self._draw(self.controls, self.decisions, *self.recipe)
            self.mark_drawn()
        return self.controls

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The sequences [A, H, nu] of the samples at `indices` as a new array, in float64."""
        return self.blocks()[indices // LANES, :, :, indices % LANES].astype(np.float64)

    def rows(self) -> np.ndarray:
        """The sequences as a new array [N, H, nu]."""
        _, horizon, nu, _ = self.blocks().shape
        return self.controls.transpose(0, 3, 1, 2).reshape(-1, horizon, nu)[: self.count]
