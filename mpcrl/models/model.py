"""What a planner may ask of a model."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mpcrl.core.candidates import Candidates
from mpcrl.core.threads import ThreadBudget


class Model(Protocol):
    """Predicts what candidate control sequences cost.

    Attributes
    ----------
    nx : int
        Length of a state.
    dt : float
        Seconds per control step.
    dtype : numpy dtype
        Float type in which the model takes candidates.
    """

    nx: int
    dt: float
    dtype: np.dtype

    def costs(
        self, state: np.ndarray, candidates: Candidates, t: int, params: Any, threads: ThreadBudget
    ) -> np.ndarray:
        """Cost of each candidate from `state` on.

        Parameters
        ----------
        state : ndarray [nx] float64
        candidates : Candidates
            N sequences of H controls.
        t : int
            Control steps since the reset.
        params : NamedTuple
            Of the task; values may differ from call to call.
        threads : ThreadBudget

        Returns
        -------
        ndarray [N] float64
            +inf for a sample that diverged or is not finite.
        """
        ...

    def rollout(self, state: np.ndarray, controls: np.ndarray, t: int, params: Any) -> np.ndarray:
        """Predicted states [N, H+1, nx] of controls [N, H, nu]; the first is `state`."""
        ...

    def terms(self, state: np.ndarray, control: np.ndarray, t: int, params: Any) -> dict[str, float]:
        """Terms of the stage cost at a state [nx] and control [nu] by name; "cost" where it is one number."""
        ...

    def example_state(self) -> np.ndarray:
        """A state [nx] at which an episode may start."""
        ...
