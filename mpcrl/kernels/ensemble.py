"""Whole rollouts through an ensemble of networks.

The work is cut into tiles: up to LANES neighbouring candidates, one per lane, with one of their particles or with all.
A tile goes through all steps and all layers on one thread, so that what it computes on stays in that core's caches.
States x are [nx, lanes]; what networks read and write is laid out as `kernels.network` says. The network and the task's
functions are hooks: this kernel is the same for all of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import prange, types

from mpcrl.core import vecmath
from mpcrl.core.compile import kernel
from mpcrl.core.hooks import DOUBLES, FLOATS, call_at
from mpcrl.core.intrinsics import select
from mpcrl.core.random import LANES, normal_lanes
from mpcrl.kernels.network import TARGET

NOISE_STREAM, MOMENTS_STREAM = 2, 3
FRESH, FIXED, NONE = 0, 1, 2
"""Noise: of its own for each candidate and time; the same for all; none."""
APART, MOMENTS, MEAN = 0, 1, 2
"""Particles after a step: where they got by themselves; redrawn from the Gaussian of them all; all at its mean."""

_WIDTH, _f4 = TARGET.width, np.float32
_lane = vecmath.lane_functions(np.float32)
_sin, _cos, _exp = _lane["sin"], _lane["cos"], _lane["exp"]


class Numbers(NamedTuple):
    """An ensemble of networks as kernels read it.

    Attributes
    ----------
    weights, biases : ndarray [E, size]
        Packed layers, one after the other.
    table : ndarray [layers, 5] int64
        See `network.layer_table`.
    plain, angles : ndarray int64
        Of a state: what is seen as it is, and as sine and cosine.
    center : ndarray [nin]
        Subtracted from inputs.
    changes : ndarray [nx]
        1 where the change of a state is predicted, 0 where its next value is.
    least, most : ndarray [nout]
        std = sqrt(least + 1 / (most + exp(s))) of the output s after the means; empty where deterministic.
    scale : ndarray [nx]
        In units of which members disagree.
    """

    weights: np.ndarray
    biases: np.ndarray
    table: np.ndarray
    plain: np.ndarray
    angles: np.ndarray
    center: np.ndarray
    changes: np.ndarray
    least: np.ndarray
    most: np.ndarray
    scale: np.ndarray


class Hooks(NamedTuple):
    """Addresses of functions.

    Attributes
    ----------
    forward : int
        See `network.layers_source`.
    stage, after, last : int
        Of the task's, for one particle of a tile: before a step, after it, and after all; see `HOOK`. They add to
        `total` what is paid and set `alive` to 0 where the episode ends, each [lanes].
    """

    forward: int
    stage: int
    after: int
    last: int


HOOK = (FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, DOUBLES, DOUBLES, types.int64, types.int64, types.int64)
"""hook(x, old, controls, total, alive, scratch, params, lanes, offset, t) -> 1: states [nx, lanes] and those before the
step; controls [nu, LANES], of which lane `offset` belongs to the first state; `scratch` [3, max(nx, nu)] to work in."""


class Rules(NamedTuple):
    """How particles go, and what they pay.

    Attributes
    ----------
    lanes, size : int
        Candidates in a tile; particles in it, 1 or all.
    noise, together : int
        See the constants above.
    paired : bool
        Whether networks read pairs of bfloat16.
    outputs, cost, end : int
        Number of outputs of the networks; of them the learned cost and the logit of the end, -1 where not learned.
    teams : int
        Members that are compared, member e having particles p % teams = e; 0: they are not.
    price, limit, excess : float32
        Cost per unit of disagreement; disagreement beyond which a candidate ends; what it pays for each step then.
    seed : uint64
    """

    lanes: int
    size: int
    noise: int
    together: int
    paired: bool
    outputs: int
    cost: int
    end: int
    teams: int
    price: np.float32
    limit: np.float32
    excess: np.float32
    seed: np.uint64


@kernel
def look(x, controls, offset, net, v, rows, groups):
    """Inputs v of the states x under controls [nu, LANES]."""
    plain, angles, nu = net.plain.size, net.angles.size, controls.shape[0]
    for g in range(groups):
        first, at = g * _WIDTH, g * rows * _WIDTH
        for k in range(plain):
            i, center = net.plain[k], net.center[k]
            for j in range(_WIDTH):
                v[at + k * _WIDTH + j] = x[i, first + j] - center
        for k in range(angles):
            i, sine, cosine = net.angles[k], net.center[plain + k], net.center[plain + angles + k]
            for j in range(_WIDTH):
                angle = x[i, first + j]
                v[at + (plain + k) * _WIDTH + j] = _sin(angle) - sine
                v[at + (plain + angles + k) * _WIDTH + j] = _cos(angle) - cosine
        k = plain + 2 * angles
        for i in range(nu):
            center = net.center[k + i]
            for j in range(_WIDTH):
                v[at + (k + i) * _WIDTH + j] = controls[i, offset + first + j] - center


@kernel
def pair(v, words):
    """Inputs [rows][_WIDTH] as pairs of bfloat16."""
    bits, pairs = v.view(np.uint32), words.view(np.uint32)
    for k in range(words.size // _WIDTH):
        for j in range(_WIDTH):
            low, high = bits[2 * k * _WIDTH + j], bits[(2 * k + 1) * _WIDTH + j]
            low = (low + np.uint32(0x7FFF) + ((low >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            high = (high + np.uint32(0x7FFF) + ((high >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
            pairs[k * _WIDTH + j] = low | high


@kernel
def expect(x, y, rows, nout, net, mean, std, groups):
    """Mean and standard deviation [nx, lanes] of the next states, from the outputs y."""
    for i in range(x.shape[0]):
        keep = net.changes[i]
        for g in range(groups):
            first, at = g * _WIDTH, (g * rows + i) * _WIDTH
            for j in range(_WIDTH):
                mean[i, first + j] = keep * x[i, first + j] + y[at + j]
            if net.least.size > 0:
                least, most, at = net.least[i], net.most[i], at + nout * _WIDTH
                for j in range(_WIDTH):
                    std[i, first + j] = math.sqrt(least + _f4(1) / (most + _exp(y[at + j])))


@kernel
def judge(y, rows, row, groups, value):
    """One output, `row`, as value [lanes]."""
    for g in range(groups):
        for j in range(_WIDTH):
            value[g * _WIDTH + j] = y[(g * rows + row) * _WIDTH + j]


@kernel
def draw(normals, kind, first, seed, t, number, h, stream):
    """Normals [nx rounded up to 4, LANES] of step h; `number` tells particles apart."""
    if kind == FIXED:
        zero = np.int64(0)
        normal_lanes(normals, zero, seed, zero, number * 65536 + h, stream)
        for i in range(normals.shape[0]):
            for l in range(1, LANES):
                normals[i, l] = normals[i, 0]
    else:
        normal_lanes(normals, first, seed, t, number * 65536 + h, stream)


@kernel
def spread_of(mean, alive, scale, teams, sums, counts, spread, lanes):
    """How much members disagree [lanes], by the means of their particles that still go on; see `Ensemble`."""
    particles, nx = mean.shape[0], mean.shape[1]
    spread[:] = _f4(0)
    for l in range(lanes):
        for e in range(teams):
            counts[e, l] = _f4(0)
        for p in range(particles):
            counts[p % teams, l] += alive[p, l]
    for i in range(nx):
        unit = _f4(1) / (scale[i] * scale[i] * _f4(nx))
        for e in range(teams):
            for l in range(lanes):
                sums[e, l] = _f4(0)
        for p in range(particles):
            for l in range(lanes):
                sums[p % teams, l] += select(alive[p, l] > _f4(0), mean[p, i, l], _f4(0))
        for l in range(lanes):
            there, middle, square = _f4(0), _f4(0), _f4(0)
            for e in range(teams):
                weight = min(counts[e, l], _f4(1))
                there += weight
                middle += weight * sums[e, l] / max(counts[e, l], _f4(1))
            middle /= max(there, _f4(1))
            for e in range(teams):
                away = sums[e, l] / max(counts[e, l], _f4(1)) - middle
                square += min(counts[e, l], _f4(1)) * away * away
            spread[l] += unit * square / max(there, _f4(1))
    for l in range(lanes):
        spread[l] = math.sqrt(spread[l])


@kernel
def gather_moments(mean, std, alive, normals, offset, noisy, redraw, lanes):
    """Put all particles that still go on at the mean of them, or where `normals` [P, rows, LANES] scatter them.

    These are shifted and scaled to the mean 0 and the variance 1 over the particles, so that the moments of the
    particles are those of the mixture that they replace: the mean of the means, and the mean of the variances plus the
    variance of the means.
    """
    particles, nx = mean.shape[0], mean.shape[1]
    for i in range(nx):
        for l in range(lanes):
            count, middle, shift = _f4(0), _f4(0), _f4(0)
            for p in range(particles):
                if alive[p, l] > _f4(0):
                    count += _f4(1)
                    middle += mean[p, i, l]
                    shift += normals[p, i, offset + l] if redraw else _f4(0)
            count = max(count, _f4(1))
            middle, shift = middle / count, shift / count
            variance, width = _f4(0), _f4(0)
            if redraw:
                for p in range(particles):
                    if alive[p, l] > _f4(0):
                        away, normal = mean[p, i, l] - middle, normals[p, i, offset + l] - shift
                        variance += away * away + (std[p, i, l] * std[p, i, l] if noisy else _f4(0))
                        width += normal * normal
            factor = math.sqrt(variance / width) if width > _f4(0) else _f4(0)
            for p in range(particles):
                mean[p, i, l] = middle
                if redraw:
                    mean[p, i, l] += factor * (normals[p, i, offset + l] - shift)


@kernel
def move(x, old, alive, mean, std, normals, offset, noisy, lanes):
    """Particles that still go on to their next states; `old` keeps the last ones."""
    for i in range(x.shape[0]):
        for l in range(lanes):
            old[i, l] = x[i, l]
            following = mean[i, l]
            if noisy:
                following += std[i, l] * normals[i, offset + l]
            x[i, l] = select(alive[l] > _f4(0), following, x[i, l])


@kernel
def pay(total, alive, amount, lanes):
    """Add an amount where a particle still goes on."""
    for l in range(lanes):
        total[l] += select(alive[l] > _f4(0), amount[l], _f4(0))


@kernel
def end(alive, logit, lanes):
    """End particles whose logit says so."""
    for l in range(lanes):
        alive[l] = select(logit[l] > _f4(0), _f4(0), alive[l])


@kernel
def share(values):
    """The mean over all particles in the place of each [P, lanes]."""
    particles, lanes = values.shape
    for l in range(lanes):
        total = _f4(0)
        for p in range(particles):
            total += values[p, l]
        for p in range(particles):
            values[p, l] = total / _f4(particles)


@kernel
def record(states, particle, first, h, x, used):
    """States [P, N, H, nx] at step h of the candidates from `first` on."""
    for l in range(used):
        for i in range(x.shape[0]):
            states[particle, first + l, h, i] = x[i, l]


@kernel
def _roll(tile, leader, rules, net, hooks, controls, count, x0, t0, params, members, draws, out, states, means, stds):
    """One tile with the particles from `leader` on; see `roll`."""
    first, size, nx, horizon = tile * rules.lanes, rules.size, x0.size, controls.shape[1]
    block, offset = first // LANES, first % LANES
    used = min(rules.lanes, count - first)
    groups = (used + _WIDTH - 1) // _WIDTH
    lanes, layers = groups * _WIDTH, net.table.shape[0]
    seen, rows = net.table[0, 2] * (2 if rules.paired else 1), net.table[layers - 1, 4] * TARGET.rows
    tallest = 0
    for i in range(layers):
        tallest = max(tallest, net.table[i, 4] * TARGET.rows * lanes)
    v, y = np.zeros(seen * lanes, np.float32), np.empty(rows * lanes, np.float32)
    a, b = np.empty(tallest, np.float32), np.empty(tallest, np.float32)
    words = np.empty(net.table[0, 2] * lanes if rules.paired else 0, np.float32)
    x, old = np.empty((size, nx, lanes), np.float32), np.empty((nx, lanes), np.float32)
    mean, std = np.empty((size, nx, lanes), np.float32), np.zeros((size, nx, lanes), np.float32)
    total, alive = np.zeros((size, lanes), np.float32), np.ones((size, lanes), np.float32)
    value, logit = np.empty((size, lanes), np.float32), np.empty((size, lanes), np.float32)
    before = np.empty((size, lanes), np.float32)
    spread = np.zeros(lanes, np.float32)
    sums, counts = np.empty((rules.teams, lanes), np.float32), np.empty((rules.teams, lanes), np.float32)
    scratch = np.zeros((3, max(nx, controls.shape[2])))
    redraw, noisy = rules.together == MOMENTS, rules.noise != NONE and net.least.size > 0
    normals = np.zeros((size if redraw else 1, (nx + 3) // 4 * 4, LANES), np.float32)
    whole = np.int64(1)
    for q in range(size):
        for i in range(nx):
            for l in range(lanes):
                x[q, i, l] = x0[i]
    for h in range(horizon):
        now = controls[block, h]
        before[:] = total
        for q in range(size):
            if states.shape[0] > 0:
                record(states, leader + q, first, h, x[q], used)
            whole &= call_at(hooks.stage, (x[q], old, now, total[q], alive[q], scratch, params, lanes, offset, t0 + h))
            look(x[q], now, offset, net, v, seen, groups)
            if rules.paired:
                pair(v, words)
            e = members[leader + q, h]
            read = words if rules.paired else v
            call_at(hooks.forward, (net.weights[e], net.biases[e], net.table, layers, read, a, b, y, groups))
            expect(x[q], y, rows, rules.outputs, net, mean[q], std[q], groups)
            if rules.cost >= 0:
                judge(y, rows, rules.cost, groups, value[q])
            if rules.end >= 0:
                judge(y, rows, rules.end, groups, logit[q])
            if means.shape[0] > 0:
                record(means, leader + q, first, h, mean[q], used)
                record(stds, leader + q, first, h, std[q], used)
        if rules.together == MEAN and rules.cost >= 0:
            share(value)
        if rules.together == MEAN and rules.end >= 0:
            share(logit)
        if rules.cost >= 0:
            for q in range(size):
                pay(total[q], alive[q], value[q], lanes)
        if rules.teams > 0:
            spread_of(mean, alive, net.scale, rules.teams, sums, counts, spread, lanes)
            for q in range(size):
                for l in range(lanes):
                    if alive[q, l] > _f4(0) and spread[l] > rules.limit:
                        total[q, l] = before[q, l] + rules.excess * _f4(horizon - h)
                        alive[q, l] = _f4(0)
                    elif alive[q, l] > _f4(0):
                        total[q, l] += rules.price * spread[l]
        if redraw:
            for q in range(size):
                draw(
                    normals[q],
                    rules.noise,
                    block * LANES,
                    rules.seed,
                    t0,
                    draws[leader + q],
                    h,
                    np.int64(MOMENTS_STREAM),
                )
        if rules.together != APART:
            gather_moments(mean, std, alive, normals, offset, noisy, redraw, lanes)
        scattered = noisy and rules.together == APART
        for q in range(size):
            if scattered:
                draw(
                    normals[0], rules.noise, block * LANES, rules.seed, t0, draws[leader + q], h, np.int64(NOISE_STREAM)
                )
            move(x[q], old, alive[q], mean[q], std[q], normals[0], offset, scattered, lanes)
            whole &= call_at(hooks.after, (x[q], old, now, total[q], alive[q], scratch, params, lanes, offset, t0 + h))
            if rules.end >= 0:
                end(alive[q], logit[q], lanes)
    for q in range(size):
        if states.shape[0] > 0:
            record(states, leader + q, first, horizon, x[q], used)
        whole &= call_at(
            hooks.last,
            (x[q], old, controls[block, 0], total[q], alive[q], scratch, params, lanes, offset, t0 + horizon),
        )
    for q in range(size):
        for l in range(used):
            for i in range(nx):
                total[q, l] += x[q, i, l] - x[q, i, l]
            if whole == 1 and np.isfinite(total[q, l]):
                out[leader + q, first + l] = total[q, l]


@kernel(parallel=True)
def roll(rules, net, hooks, controls, count, x0, t0, params, members, draws, out, states, means, stds):
    """Costs of all particles of all candidates.

    Parameters
    ----------
    rules : Rules
    net : Numbers
    hooks : Hooks
    controls : ndarray [B, H, nu, LANES] float32
    count : int
        N, candidates in it.
    x0 : ndarray [nx] float32
    t0 : int
        Control steps since the reset.
    params : ndarray [size] float64
        For the hooks.
    members : ndarray [P, H] int64
        Which member moves a particle at a step.
    draws : ndarray [P] int64
        Particles of equal numbers have equal noise.
    out : ndarray [P, N] float64
        Out: costs. What failed is not written.
    states : ndarray [P, N, H+1, nx] float64 or [0, 0, 0, 0]
    means, stds : ndarray [P, N, H, nx] float64 or [0, 0, 0, 0]
        Out: states, and what was predicted of the next ones.
    """
    tiles = (count + rules.lanes - 1) // rules.lanes
    for item in prange(tiles * (members.shape[0] // rules.size)):
        _roll(
            np.int64(item % tiles), np.int64(item // tiles) * rules.size, rules, net, hooks, controls, count, x0, t0,
            params, members, draws, out, states, means, stds,
        )  # fmt: skip
