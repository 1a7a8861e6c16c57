"""Positions as integrals of their speeds, in the place of processes of their own.

Amadio et al. 2022, "Model-based policy search using Monte Carlo gradient estimation with real systems application",
section IV.A: only changes of speeds are learned, dv = f(z, u), and a number q with the speed v follows by

    q' = q + dt (v + v') / 2 = q + dt v + dt dv / 2
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mpcrl.models.gaussian_process import GaussianProcess
from mpcrl.tasks.features import Features

Integrals = tuple[tuple[int, int], ...]
"""Pairs of a number of the state and the one that is its speed."""


def predicted(features: Features, integrals: Integrals) -> list[int]:
    """Numbers of the state that processes predict: those that are no integrals."""
    return [i for i in range(features.nx) if i not in dict(integrals)]


def outputs_of(process: GaussianProcess, outputs: Sequence[int]) -> GaussianProcess:
    """The processes of some of the outputs only."""
    rows = list(outputs)
    names = ("lengthscale", "signal", "noise", "slope", "intercept", "tilt", "bias")
    parts = {name: getattr(process, name)[rows] for name in names}
    return dataclasses.replace(process, targets=process.targets[:, rows], **parts)


def integrated(process: GaussianProcess, features: Features, integrals: Integrals, dt: float) -> GaussianProcess:
    """A process for every number of the state, of which those of integrals follow from their speeds' ones.

    Their means and variances are those of q' above, for dt v is linear in the input; that a number and its speed change
    together is lost, as processes of several outputs are independent.

    Parameters
    ----------
    process : GaussianProcess
        With an output for each number in `predicted`, over `features.inputs`.
    """
    known = predicted(features, integrals)
    rows = [known.index(dict(integrals).get(i, i)) for i in range(features.nx)]
    whole = outputs_of(process, rows)
    factor, line = np.ones(features.nx), np.zeros((features.nx, features.size))
    for number, speed in integrals:
        factor[number] = 0.5 * dt
        # q' = q + dt v + dt dv / 2, or q + dt v / 2 + dt v' / 2 where v' itself is predicted
        line[number, features.plain.index(speed)] = 0.5 * dt if speed in features.absolute else dt
    root = np.sqrt(factor)  # of the polynomial's square
    return dataclasses.replace(
        whole,
        targets=whole.targets * factor + whole.inputs @ line.T,
        signal=whole.signal * factor,
        noise=whole.noise * factor,
        slope=whole.slope * factor[:, None] + line,
        intercept=whole.intercept * factor,
        tilt=whole.tilt * root[:, None],
        bias=whole.bias * root,
    )


def moved(features: Features, integrals: Integrals, dt: float, states: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The states [..., nx] after outputs [..., E] of the numbers in `predicted`, at states [..., nx]."""
    whole = np.zeros_like(states)
    whole[..., predicted(features, integrals)] = outputs
    following = features.next_states(states, whole)
    for number, speed in integrals:
        following[..., number] = states[..., number] + 0.5 * dt * (states[..., speed] + following[..., speed])
    return following


def sight(
    process: GaussianProcess,
    features: Features,
    integrals: Integrals,
    dt: float,
    states: np.ndarray,
    following: np.ndarray,
) -> np.ndarray:
    """Deviations [nx] of what is seen of a state: of a process's noise its share, of integrals what their sums miss.

    Parameters
    ----------
    process : GaussianProcess
        As `integrated` takes it.
    states, following : ndarray [N, nx]
        Before and after control steps.
    """
    known = predicted(features, integrals)
    variance = np.zeros(features.nx)
    # a change is the difference of two that are seen
    variance[known] = process.noise**2 / np.where(np.isin(known, features.absolute), 1.0, 2.0)
    for number, speed in integrals:
        missed = features.targets(states, following)[:, number] - 0.5 * dt * (states + following)[:, speed]
        variance[number] = max(0.5 * ((missed**2).mean() - 0.5 * dt**2 * variance[speed]), 0.0)
    return np.sqrt(variance)
