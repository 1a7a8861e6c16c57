"""Particles through Gaussian processes under a policy, and the gradient of their mean cost.

Amadio, Dalla Libera, Antonello, Nikovski, Carli and Romeres 2022, "Model-based policy search using Monte Carlo gradient
estimation with real systems application", section III: a distribution is carried by samples of it, whose noise is
drawn beforehand, so that the cost of a policy is a function like any other and has a gradient. A particle's step is

    o = x + sight deviation * normal        what the policy sees
    z(x) = (numbers of x, sines, cosines)
    v_a = sum_b weight_ab kept_b exp(-|z(o) - centre_b|_a^2 / 2),  u = middle + half (9 sin v + sin 3 v) / 8
    x'_i = x_i + f_i(z(x), u)               a process: its mean and its deviation times another normal number
    x'_q = x_q + dt (x_i + x'_i) / 2        where i is the speed of q

`kept` is dropout: 1 / (1 - p), or 0 with probability p. Lanes are particles, and nearly all work is done by the
products of matrices of `kernels.network`: exponents of kernels, the triangle L^-1 and its transpose, sums over points.
Going forward each step leaves the Jacobians of its processes and of the policy, O(nx (nx + nu)) numbers per particle,
and all that the policy's own parameters need are sums of its activations times (1, z, z^2): going backward is cheap.

Through an unstable system derivatives grow from step to step (Parmas et al. 2018, "PIPPS: flexible model-based policy
search robust to the curse of chaos"), until a gradient tells more of how a fall in three seconds could be another fall
than of how to stand now. So, going backward, derivatives by the state before are multiplied by `fade`: the cost right
after a control counts wholly, that of k steps later by fade^k. The cost itself is that of all steps; with fade = 1 its
gradient is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpcrl.core import vecmath
from mpcrl.core.compile import kernel
from mpcrl.core.hooks import doubles_of
from mpcrl.kernels.belief import Expected
from mpcrl.kernels.moments import Waves
from mpcrl.kernels.network import TARGET, none_doubles

WIDTH = TARGET.width // 2
"""Particles of a tile; their number is a multiple of it."""
ROWS = TARGET.rows

_LEAST = 1e-30
"""A variance that has no derivative."""

_lane = vecmath.lane_functions(np.float64)
_exp, _sin, _cos, _sqrt = _lane["exp"], _lane["sin"], _lane["cos"], _lane["sqrt"]


class Bells(NamedTuple):
    """K sets of n functions exp(-|s (v - c_i)|^2 / 2) of D numbers, as products of matrices take them.

    With y = (s v, 1, -|s v|^2 / 2) the exponents are `exponents` y; `moments` times w_i are sum_i w_i (s c_i, 1).
    """

    scale: np.ndarray
    """[K, D]: s"""
    exponents: np.ndarray
    """[K, panels(n) (D + 2) ROWS]: rows (s c_i, -|s c_i|^2 / 2, 1)"""
    moments: np.ndarray
    """[K, panels(D + 1) n ROWS]: columns (s c_i, 1)"""
    bias: np.ndarray
    """[ROWS]: 0, which products begin with"""
    size: int
    """n"""


class Sampled(NamedTuple):
    """E Gaussian processes as particles go through them; signal^2 is a factor of what is multiplied with `bells`."""

    bells: Bells
    beta: np.ndarray
    """[E, n]"""
    root: np.ndarray
    """[E, size]: L^-1 by panels, each with its columns up to the diagonal"""
    transposed: np.ndarray
    """[E, size]: L^-1' by panels, each with its columns from the diagonal on"""
    variance: np.ndarray
    """[E]: signal^2"""
    slope: np.ndarray
    """[E, D]"""
    intercept: np.ndarray
    """[E]"""


class Cascade(NamedTuple):
    """All that a step consists of but the policy."""

    model: Sampled
    """over `seen` of (z, u), with an output for each number of the state that is no integral of another"""
    seen: np.ndarray
    """[D] int64: which numbers of (z, u) the processes take"""
    plain: np.ndarray
    """[P] int64: which numbers of the state come first in z"""
    waves: Waves
    """sines and cosines, which follow them: F"""
    squash: Waves
    """two per control, whose sum is the control but for `middle`"""
    middle: np.ndarray
    """[nu]"""
    kept: np.ndarray
    """[nx]: 1 where a change is predicted, 0 where the number itself is"""
    outputs: np.ndarray
    """[E] int64: the numbers of the state that the processes predict"""
    integrals: np.ndarray
    """[I, 2] int64: a number, and its speed"""
    dt: float
    sight: np.ndarray
    """[nx]: deviation of what is seen, given the state"""
    cost: Expected


class Rule(NamedTuple):
    """A policy as particles take it: nu weighted sums of n bells over z."""

    bells: Bells
    weights: np.ndarray
    """[nu, n]"""


@kernel
def _bells(bells, k, v, y, values):
    """values [n up to full panels, WIDTH] of v [D, WIDTH]; y [D + 2, WIDTH] becomes (s v, 1, -|s v|^2 / 2)."""
    D = len(v)
    for l in range(WIDTH):
        y[D, l] = 1.0
        y[D + 1, l] = 0.0
    for d in range(D):
        for l in range(WIDTH):
            y[d, l] = bells.scale[k, d] * v[d, l]
            y[D + 1, l] -= 0.5 * y[d, l] * y[d, l]
    numbers, bias, y_at, values_at = (
        doubles_of(bells.exponents[k]),
        doubles_of(bells.bias),
        doubles_of(y),
        doubles_of(values),
    )
    for panel in range((bells.size + ROWS - 1) // ROWS):
        none_doubles(numbers, panel * ROWS * (D + 2), bias, 0, y_at, 0, values_at, panel * ROWS * WIDTH, D + 2)
    for i in range(bells.size):
        for l in range(WIDTH):
            values[i, l] = _exp(min(values[i, l], 0.0))


@kernel
def _moments(bells, k, factors, sums):
    """sums [D + 1 up to full panels, WIDTH]: sum_i w_i (s c_i, 1) of factors w [n, WIDTH]."""
    numbers, bias, w, sums_at = (
        doubles_of(bells.moments[k]),
        doubles_of(bells.bias),
        doubles_of(factors),
        doubles_of(sums),
    )
    for panel in range(len(sums) // ROWS):
        none_doubles(numbers, panel * ROWS * bells.size, bias, 0, w, 0, sums_at, panel * ROWS * WIDTH, bells.size)


@kernel
def _solve(model, e, values, solved, pulled):
    """solved = R k and pulled = R' solved for the triangle R of output e and k = values; rows up to full panels."""
    n = model.bells.size
    bias, k, s, a = doubles_of(model.bells.bias), doubles_of(values), doubles_of(solved), doubles_of(pulled)
    root, transposed = doubles_of(model.root[e]), doubles_of(model.transposed[e])
    at = 0
    for panel in range((n + ROWS - 1) // ROWS):
        count = min((panel + 1) * ROWS, n)
        none_doubles(root, at, bias, 0, k, 0, s, panel * ROWS * WIDTH, count)
        at += count * ROWS
    at = 0
    for panel in range((n + ROWS - 1) // ROWS):
        first = panel * ROWS
        none_doubles(transposed, at, bias, 0, s, first * WIDTH, a, first * WIDTH, n - first)
        at += (n - first) * ROWS


@kernel
def _process(model, e, v, normals, room, values, jacobian):
    """values [WIDTH]: mean and deviation times `normals` of output e at v [D, WIDTH]; jacobian [D, WIDTH] by v."""
    D, n = len(v), model.bells.size
    y, k, solved, pulled, sums = room
    _bells(model.bells, e, v, y, k)
    _solve(model, e, k, solved, pulled)
    variance, share = np.empty(WIDTH), np.empty(WIDTH)
    for l in range(WIDTH):
        values[l] = model.intercept[e]
        variance[l] = model.variance[e]
    for i in range(n):
        for l in range(WIDTH):
            values[l] += model.beta[e, i] * k[i, l]
            variance[l] -= solved[i, l] * solved[i, l]
    for l in range(WIDTH):
        root = _sqrt(max(variance[l], 0.0))
        values[l] += root * normals[l]
        share[l] = normals[l] / root if variance[l] > _LEAST else 0.0
    for i in range(n):
        for l in range(WIDTH):
            k[i, l] *= model.beta[e, i] - share[l] * pulled[i, l]
    _moments(model.bells, e, k, sums)
    for d in range(D):
        for l in range(WIDTH):
            values[l] += model.slope[e, d] * v[d, l]
            jacobian[d, l] = model.slope[e, d] + model.bells.scale[e, d] * (sums[d, l] - y[d, l] * sums[D, l])


@kernel
def _wave(waves, f, x, value, slope):
    """value [WIDTH] of the wave f at x [WIDTH], and its slope there."""
    for l in range(WIDTH):
        angle = waves.multiple[f] * x[l] + waves.phase[f]
        value[l] = waves.amplitude[f] * _cos(angle)
        slope[l] = -waves.multiple[f] * waves.amplitude[f] * _sin(angle)


@kernel
def _cost(cost, waves, x, grad):
    """Cost [WIDTH] summed over the lanes of states x [nx, WIDTH]; grad [nx, WIDTH] by them."""
    nx, F, K = len(x), len(waves.which), len(cost.target)
    y, square, slope = np.empty((K, WIDTH)), np.zeros(WIDTH), np.ones(WIDTH)
    turned, slopes = np.empty((F, WIDTH)), np.empty((F, WIDTH))
    for f in range(F):
        _wave(waves, f, x[waves.which[f]], turned[f], slopes[f])
    for k in range(K):
        for l in range(WIDTH):
            y[k, l] = -cost.target[k]
        for i in range(nx):
            for l in range(WIDTH):
                y[k, l] += cost.map[k, i] * x[i, l]
        for f in range(F):
            for l in range(WIDTH):
                y[k, l] += cost.map[k, nx + f] * turned[f, l]
        for l in range(WIDTH):
            square[l] += y[k, l] * y[k, l]
    total = 0.0
    grad[:] = 0.0
    if cost.saturating:
        for l in range(WIDTH):
            slope[l] = _exp(-0.5 * square[l])
            total += 1.0 - slope[l]
    else:
        for l in range(WIDTH):
            total += 0.5 * square[l]
    for k in range(K):
        for i in range(nx):
            for l in range(WIDTH):
                grad[i, l] += slope[l] * y[k, l] * cost.map[k, i]
        for f in range(F):
            for l in range(WIDTH):
                grad[waves.which[f], l] += slope[l] * y[k, l] * cost.map[k, nx + f] * slopes[f, l]
    return total


@kernel
def _policy(rule, z, keep, factor, room, bells, v, jacobian):
    """v [nu, WIDTH] of z [nz, WIDTH] and jacobian [nu, nz, WIDTH]; bells [nu, n, WIDTH] are kept ones, by `factor`."""
    nz, n = len(z), rule.bells.size
    y, act, sums = room.y, room.values, room.sums
    for a in range(len(v)):
        _bells(rule.bells, a, z, y, act)
        for l in range(WIDTH):
            v[a, l] = 0.0
        for b in range(n):
            for l in range(WIDTH):
                bells[a, b, l] = act[b, l] * (factor * keep[b, l])
                act[b, l] = rule.weights[a, b] * bells[a, b, l]
                v[a, l] += act[b, l]
        _moments(rule.bells, a, act, sums)
        for d in range(nz):
            for l in range(WIDTH):
                jacobian[a, d, l] = rule.bells.scale[a, d] * (sums[d, l] - y[d, l] * sums[nz, l])


@kernel
def _seen(cascade, x, z, turned):
    """The first rows of z: plain numbers and waves of states x [nx, WIDTH]; turned [F, WIDTH]: slopes of the waves."""
    P = len(cascade.plain)
    for p in range(P):
        z[p] = x[cascade.plain[p]]
    for f in range(len(turned)):
        _wave(cascade.waves, f, x[cascade.waves.which[f]], z[P + f], turned[f])


@kernel
def _unseen(cascade, dz, turned, dx):
    """Adjoint of `_seen`: adds to dx."""
    P = len(cascade.plain)
    for p in range(P):
        dx[cascade.plain[p]] += dz[p]
    for f in range(len(turned)):
        for l in range(WIDTH):
            dx[cascade.waves.which[f], l] += dz[P + f, l] * turned[f, l]


class Room(NamedTuple):
    """What the bells of n centres in D numbers are worked out in; rows up to full panels."""

    y: np.ndarray
    """[D + 2, WIDTH]"""
    values: np.ndarray
    """[n, WIDTH]; `solved` and `pulled` likewise"""
    solved: np.ndarray
    pulled: np.ndarray
    sums: np.ndarray
    """[D + 1, WIDTH]"""


class Tape(NamedTuple):
    """What is kept of the steps of a tile for the way back: of all of them, or of the last one where there is none."""

    by_w: np.ndarray
    """[steps, E, D, WIDTH]: changes by what the processes see"""
    by_z: np.ndarray
    """[steps, nu, nz, WIDTH]: v by what the policy sees"""
    by_v: np.ndarray
    """[steps, nu, WIDTH]: controls by v"""
    turned: np.ndarray
    """[steps, 2, F, WIDTH]: slopes of the waves, of what is seen and of what is"""
    bells: np.ndarray
    """[steps, nu, n, WIDTH]: of the policy, those that count"""
    z: np.ndarray
    """[steps, nz, WIDTH]: what the policy sees"""
    paid: np.ndarray
    """[steps, nx, WIDTH]: cost by the state after the step"""


@kernel
def _room(D, n):
    rows, most = (n + ROWS - 1) // ROWS * ROWS, (D + ROWS) // ROWS * ROWS
    values, solved, pulled = np.empty((rows, WIDTH)), np.empty((rows, WIDTH)), np.empty((rows, WIDTH))
    return Room(np.empty((D + 2, WIDTH)), values, solved, pulled, np.empty((most, WIDTH)))


@kernel
def _tape(cascade, n, steps):
    nx, nu, F = len(cascade.kept), len(cascade.middle), len(cascade.waves.which)
    nz = len(cascade.plain) + F
    by_w = np.empty((steps, len(cascade.outputs), len(cascade.seen), WIDTH))
    by_z, by_v = np.empty((steps, nu, nz, WIDTH)), np.empty((steps, nu, WIDTH))
    turned, bells = np.empty((steps, 2, F, WIDTH)), np.empty((steps, nu, n, WIDTH))
    return Tape(by_w, by_z, by_v, turned, bells, np.empty((steps, nz, WIDTH)), np.empty((steps, nx, WIDTH)))


@kernel
def _forward(cascade, rule, first, normals, sights, keep, factor, states, tape):
    """`roll` for the particles from `first` on; the sum of their costs."""
    model, waves, squash = cascade.model, cascade.waves, cascade.squash
    H, nx, nu, D = len(states) - 1, states.shape[1], len(cascade.middle), len(cascade.seen)
    nz = tape.z.shape[1]
    room, z_room = _room(D, model.bells.size), _room(nz, rule.bells.size)
    x, before, o, w = np.empty((nx, WIDTH)), np.empty((nx, WIDTH)), np.empty((nx, WIDTH)), np.empty((D, WIDTH))
    whole, v, change = np.empty((nz + nu, WIDTH)), np.empty((nu, WIDTH)), np.empty(WIDTH)
    wave, slope = np.empty(WIDTH), np.empty(WIDTH)
    total = 0.0
    for i in range(nx):
        for l in range(WIDTH):
            x[i, l] = states[0, i, first + l]
    for t in range(H):
        k = min(t, len(tape.z) - 1)
        for i in range(nx):
            for l in range(WIDTH):
                o[i, l] = x[i, l] + cascade.sight[i] * sights[t, i, first + l]
        _seen(cascade, o, tape.z[k], tape.turned[k, 0])
        _seen(cascade, x, whole, tape.turned[k, 1])
        _policy(rule, tape.z[k], keep[t, :, first : first + WIDTH], factor, z_room, tape.bells[k], v, tape.by_z[k])
        for j in range(nu):
            for l in range(WIDTH):
                whole[nz + j, l] = cascade.middle[j]
                tape.by_v[k, j, l] = 0.0
            for f in range(2 * j, 2 * j + 2):
                _wave(squash, f, v[j], wave, slope)
                for l in range(WIDTH):
                    whole[nz + j, l] += wave[l]
                    tape.by_v[k, j, l] += slope[l]
        for d in range(D):
            w[d] = whole[cascade.seen[d]]
        for i in range(nx):
            for l in range(WIDTH):
                before[i, l] = x[i, l]
                x[i, l] *= cascade.kept[i]
        for e in range(len(cascade.outputs)):
            _process(model, e, w, normals[t, e, first : first + WIDTH], room, change, tape.by_w[k, e])
            x[cascade.outputs[e]] += change
        for q in range(len(cascade.integrals)):
            i, speed = cascade.integrals[q]
            for l in range(WIDTH):
                x[i, l] = before[i, l] + 0.5 * cascade.dt * (before[speed, l] + x[speed, l])
        total += _cost(cascade.cost, waves, x, tape.paid[k])
        states[t + 1, :, first : first + WIDTH] = x
    return total


@kernel
def _back(cascade, tape, sums, fade):
    """Adjoint of `_forward`: adds to sums [nu, n, 1 + 2 nz, WIDTH]; see `roll`."""
    H, nx, (nu, n), nz = len(tape.z), tape.paid.shape[1], tape.bells.shape[1:3], tape.z.shape[1]
    dx, d_before, dz = np.zeros((nx, WIDTH)), np.empty((nx, WIDTH)), np.empty((nz, WIDTH))
    d_whole, dv, act = np.empty((nz + nu, WIDTH)), np.empty(WIDTH), np.empty(WIDTH)
    for t in range(H - 1, -1, -1):
        dx += tape.paid[t]
        d_before[:] = 0.0
        d_whole[:] = 0.0
        dz[:] = 0.0
        for q in range(len(cascade.integrals)):
            i, speed = cascade.integrals[q]
            for l in range(WIDTH):
                half = 0.5 * cascade.dt * dx[i, l]
                d_before[i, l] += dx[i, l]
                d_before[speed, l] += half
                dx[speed, l] += half
                dx[i, l] = 0.0
        for i in range(nx):
            for l in range(WIDTH):
                d_before[i, l] += cascade.kept[i] * dx[i, l]
        for e in range(len(cascade.outputs)):
            for d in range(len(cascade.seen)):
                for l in range(WIDTH):
                    d_whole[cascade.seen[d], l] += tape.by_w[t, e, d, l] * dx[cascade.outputs[e], l]
        for a in range(nu):
            for l in range(WIDTH):
                dv[l] = d_whole[nz + a, l] * tape.by_v[t, a, l]
            for d in range(nz):
                for l in range(WIDTH):
                    dz[d, l] += dv[l] * tape.by_z[t, a, d, l]
            for b in range(n):
                for l in range(WIDTH):
                    act[l] = dv[l] * tape.bells[t, a, b, l]
                for l in range(WIDTH):
                    sums[a, b, 0, l] += act[l]
                for d in range(nz):
                    for l in range(WIDTH):
                        one = act[l] * tape.z[t, d, l]
                        sums[a, b, 1 + d, l] += one
                        sums[a, b, 1 + nz + d, l] += one * tape.z[t, d, l]
        _unseen(cascade, dz, tape.turned[t, 0], d_before)
        _unseen(cascade, d_whole, tape.turned[t, 1], d_before)
        for i in range(nx):
            for l in range(WIDTH):
                dx[i, l] = fade * d_before[i, l]


@kernel
def roll(cascade, rule, normals, sights, keep, factor, tiles, states, totals, gradient, sums, fade):
    """Carry M particles, a multiple of WIDTH, through H steps; or those of some tiles of them.

    Parameters
    ----------
    cascade : Cascade
    rule : Rule
    normals, sights : ndarray [H, E, M], [H, nx, M]
        Normal numbers: of the processes, and of what is seen.
    keep : ndarray [H, n, M] uint8
        1 where a basis function of the policy counts, by `factor`.
    tiles : tuple of two int
        The first one, and the one after the last.
    states : ndarray [H + 1, nx, M]
        In: the first; out: the others.
    totals : ndarray [M / WIDTH]
        Out: each tile's sum over particles and steps of the cost of `states[1:]`.
    gradient : bool
        Whether to write `sums` [M / WIDTH, nu, n, 1 + 2 nz]: of d total / dv times the kept bells and (1, z, z^2).
    fade : float
        Factor per step of what later costs count in the gradient.
    """
    tape = _tape(cascade, rule.bells.size, len(states) - 1 if gradient else 1)
    wide = np.empty((*sums.shape[1:], WIDTH))
    for tile in range(tiles[0], tiles[1]):
        totals[tile] = _forward(cascade, rule, tile * WIDTH, normals, sights, keep, factor, states, tape)
        if gradient:
            wide[:] = 0.0
            _back(cascade, tape, wide, fade)
            for a in range(wide.shape[0]):
                for b in range(wide.shape[1]):
                    for q in range(wide.shape[2]):
                        sums[tile, a, b, q] = wide[a, b, q].sum()
