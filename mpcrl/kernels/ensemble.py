"""What happens to a tile of particles between two passes through an ensemble's networks.

A tile is a few groups of neighbouring candidates, one per lane. Its particles have states x [nx, lanes]; what networks
read and write is laid out as `kernels.network` says.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core import vecmath
from mpcrl.core.compile import kernel
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


@kernel
def look(x, controls, block, h, offset, net, v, rows, groups):
    """Inputs v of the states x under the controls of step h."""
    plain, angles, nu = net.plain.size, net.angles.size, controls.shape[2]
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
                v[at + (k + i) * _WIDTH + j] = controls[block, h, i, offset + first + j] - center


@kernel
def pair(v, words):
    """Inputs [rows][_WIDTH] as pairs of bfloat16."""
    bits = v.view(np.uint32)
    for k in range(words.size // _WIDTH):
        for j in range(_WIDTH):
            low, high = bits[2 * k * _WIDTH + j], bits[(2 * k + 1) * _WIDTH + j]
            low = (low + np.uint32(0x7FFF) + ((low >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            high = (high + np.uint32(0x7FFF) + ((high >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
            words[k * _WIDTH + j] = np.int32(low | high)


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
        normal_lanes(normals, 0, seed, 0, number * 65536 + h, stream)
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
def record(states, particle, first, h, x, used):
    """States [P, N, H, nx] at step h of the candidates from `first` on."""
    for l in range(used):
        for i in range(x.shape[0]):
            states[particle, first + l, h, i] = x[i, l]
