"""The hooks of an ensemble, and its noise, for rollouts whose networks run elsewhere."""

from __future__ import annotations

import numpy as np
from numba import prange

from mpcrl.core.compile import kernel
from mpcrl.core.hooks import call_at
from mpcrl.core.random import LANES
from mpcrl.kernels.ensemble import draw


@kernel(parallel=True)
def call_all(hook, x, old, controls, total, alive, whole, params, t):
    """Call a hook for all particles of all blocks; see `ensemble.HOOK`.

    Parameters
    ----------
    hook : int
        Its address.
    x, old : ndarray [P, B, nx, LANES] float32
    controls : ndarray [B, nu, LANES] float32
    total, alive : ndarray [P, B, LANES] float32
        In and out.
    whole : ndarray [P, B] int64
        Out: set to 0 where the hook raised.
    params : ndarray float64
    t : int
    """
    particles, blocks = total.shape[0], total.shape[1]
    for item in prange(particles * blocks):
        p, b = item // blocks, item % blocks
        scratch = np.zeros((3, max(x.shape[2], controls.shape[1])))
        whole[p, b] &= call_at(
            hook,
            (
                x[p, b],
                old[p, b],
                controls[b],
                total[p, b],
                alive[p, b],
                scratch,
                params,
                np.int64(LANES),
                np.int64(0),
                t,
            ),
        )


@kernel(parallel=True)
def draw_all(normals, kind, seed, t, draws, h, stream):
    """Normals [P, B, nx rounded up to 4, LANES] of step h, as `ensemble.roll` draws them."""
    particles, blocks = normals.shape[0], normals.shape[1]
    for item in prange(particles * blocks):
        p, b = item // blocks, item % blocks
        draw(normals[p, b], kind, b * LANES, seed, t, draws[p], h, stream)
