"""Draw candidate control sequences: normals, coloured over time, scaled, mapped to controls, within bounds and rates.

Every sampling planner draws by the same affine recipe, per sample n and control j:

    noise = colour @ normal [* exp(log_sigma * normal')]     colour [K, K] correlates the K decision steps
    theta = clip(mean + scale * noise)                       the decision variables: controls, knots, derivatives
    u     = clip(rate_limit(offset + basis @ theta))         basis [H, K] maps them to H controls

An empty `colour` or `basis` stands for the identity. Layout: blocks of LANES samples, `[block, step, control, lane]`.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from mpcrl.core.compile import kernel
from mpcrl.core.random import LANES, normal_lanes

MEAN_STREAM, WIDTH_STREAM = 0, 1
TRUNCATION_RANGE = 7.0
"""The truncation table spans normals in [-7, 7]; none larger is ever drawn."""


@kernel
def _truncate(noise, table):
    """Map standard normals to truncated ones by a table of quantiles, linearly interpolated."""
    steps = table.size - 1
    per_unit = np.float32(steps / (2 * TRUNCATION_RANGE))
    for r in range(noise.shape[0]):
        for l in range(LANES):
            position = (noise[r, l] + np.float32(TRUNCATION_RANGE)) * per_unit
            i = min(np.int32(position), np.int32(steps - 1))
            noise[r, l] = table[i] + (position - np.float32(i)) * (table[i + 1] - table[i])


@kernel
def propose_block(
    block,
    controls,
    theta,
    mean,
    scale,
    fixed,
    colour,
    basis,
    offset,
    table,
    theta_bounds,
    bounds,
    log_sigma,
    seed,
    plan,
    iteration,
):
    """Draw the samples of one block; see the module's docstring.

    Parameters
    ----------
    block : int
    controls : ndarray [B, H, nu, LANES]
        Out: the control sequences; may be `theta` itself where they are the same.
    theta : ndarray [B, K, nu, LANES]
        Out: the decision variables.
    mean, scale : ndarray [K, nu] float64
    fixed : ndarray [F, K, nu] float64
        The first F samples take these decision variables instead of drawn ones, except where they are NaN.
    colour : ndarray [K, K] float32 or [0, 0]
    basis : ndarray [H, K] float64 or [0, 0]
    offset : ndarray [H, nu] float64
        Controls that the mapped decisions are added to.
    table : ndarray [T] float32 or [0]
        Quantiles of the truncated normal.
    theta_bounds : ndarray [2, K, nu] float64
        Low and high of the decision variables.
    bounds : ndarray [4, nu] float64
        Rows: low and high of u, its largest change per step (inf: none), the last applied control.
    log_sigma : float
        Spread of the log-normal factor; 0: none.
    seed, plan, iteration : int
    """
    decisions, nu = theta.shape[1], theta.shape[2]
    rows = decisions * nu
    noise = np.empty((4 * ((rows + 3) // 4), LANES), np.float32)
    normal_lanes(noise, block * LANES, seed, plan, iteration, np.int64(MEAN_STREAM))
    if log_sigma > 0.0:
        width = np.empty_like(noise)
        normal_lanes(width, block * LANES, seed, plan, iteration, np.int64(WIDTH_STREAM))
        for r in range(rows):
            for l in range(LANES):
                noise[r, l] *= np.float32(np.exp(log_sigma * (width[r, l] - 0.5 * log_sigma)))
    if table.size > 0:
        _truncate(noise, table)
    real = theta.dtype.type
    accumulated = np.empty(LANES, np.float32)
    for k in range(decisions):
        for j in range(nu):
            middle, width_kj = real(mean[k, j]), real(scale[k, j])
            low, high = real(theta_bounds[0, k, j]), real(theta_bounds[1, k, j])
            if colour.shape[0] > 0:
                accumulated[:] = np.float32(0)
                for m in range(decisions):
                    weight = colour[k, m]
                    for l in range(LANES):
                        accumulated[l] += weight * noise[m * nu + j, l]
                for l in range(LANES):
                    theta[block, k, j, l] = min(max(middle + width_kj * real(accumulated[l]), low), high)
            else:
                for l in range(LANES):
                    theta[block, k, j, l] = min(max(middle + width_kj * real(noise[k * nu + j, l]), low), high)
    first = block * LANES
    for n in range(first, min(fixed.shape[0], first + LANES)):
        for k in range(decisions):
            for j in range(nu):
                if not np.isnan(fixed[n, k, j]):
                    low, high = real(theta_bounds[0, k, j]), real(theta_bounds[1, k, j])
                    theta[block, k, j, n - first] = min(max(real(fixed[n, k, j]), low), high)
    if basis.shape[0] > 0:
        _map_block(block, controls, theta, basis, offset, bounds)


@kernel
def _map_block(block, controls, theta, basis, offset, bounds):
    """Controls of one block: the basis times the decisions, within rate limits and bounds."""
    horizon, nu, decisions = controls.shape[1], controls.shape[2], theta.shape[1]
    real = theta.dtype.type
    value, previous = np.empty(LANES, theta.dtype), np.empty(LANES, theta.dtype)
    for j in range(nu):
        low, high, change = real(bounds[0, j]), real(bounds[1, j]), real(bounds[2, j])
        previous[:] = real(bounds[3, j])
        for t in range(horizon):
            value[:] = real(offset[t, j])
            for k in range(decisions):
                weight = real(basis[t, k])
                if weight != real(0):
                    for l in range(LANES):
                        value[l] += weight * theta[block, k, j, l]
            for l in range(LANES):
                limited = min(max(value[l], previous[l] - change), previous[l] + change)
                previous[l] = min(max(limited, low), high)
                controls[block, t, j, l] = previous[l]


@kernel(parallel=True)
def propose(
    controls,
    theta,
    mean,
    scale,
    fixed,
    colour,
    basis,
    offset,
    table,
    theta_bounds,
    bounds,
    log_sigma,
    seed,
    plan,
    iteration,
):
    """`propose_block` for all blocks, on all threads."""
    for block in prange(theta.shape[0]):
        propose_block(
            block,
            controls,
            theta,
            mean,
            scale,
            fixed,
            colour,
            basis,
            offset,
            table,
            theta_bounds,
            bounds,
            log_sigma,
            seed,
            plan,
            iteration,
        )
