"""What will be seen of particles that each go through functions of their own, drawn from Gaussian processes.

A process that is unsure of a change errs to the same side step after step. Particles that draw a change anew at each
step, as `kernels.cascade` does for the sake of its gradient, average such errors out and are too sure of what will
come; those whose function stays the same do not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.models.gp_functions import Predictor, draw
from mpcrl.models.speed_integration import Integrals, moved
from mpcrl.tasks.features import Features


class FunctionParticles:
    """P particles of a model.

    Parameters
    ----------
    process, features, integrals, dt, sight
        As `cascade_of` takes them.
    count : int
        P.
    seed : int
        Of the functions.
    """

    def __init__(
        self,
        process: GaussianProcess,
        features: Features,
        integrals: Integrals,
        *,
        dt: float,
        sight: np.ndarray,
        count: int,
        seed: int,
    ) -> None:
        self._functions = Predictor(process, draws=draw(process, count, seed=seed))
        self._features, self._integrals, self._dt, self._sight = features, integrals, dt, sight

    def seen(
        self,
        first: np.ndarray,
        horizon: int,
        act: Callable[[int, np.ndarray], np.ndarray],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """What is seen [P, N, H + 1, nx] of N ways of each particle; the first states are known as they were seen.

        Parameters
        ----------
        first : ndarray [P, N, nx]
        horizon : int
            H.
        act : callable
            `act(t, seen) -> controls`, [P, N, nx] to [P, N, nu].
        rng : Generator
            Of the noise of what is seen.
        """
        states, told = first, [first]
        for t in range(horizon):
            inputs = self._features.inputs(states, act(t, told[-1]))
            states = moved(self._features, self._integrals, self._dt, states, self._functions.mean(inputs))
            told.append(states + self._sight * rng.standard_normal(states.shape))
        return np.stack(told, axis=2)
