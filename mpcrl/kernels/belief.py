"""A normal belief about a state, carried through H control steps of a learned model under a policy, and its cost.

Deisenroth and Rasmussen 2011, "PILCO: a model-based and data-efficient approach to policy search", section 2; the
belief N(m, S) is about the true state x. At a control step

    o = x + normal noise                    what is seen, and what policy and model were told of in their data
    z = (numbers of o, sines, cosines)      exact moments
    v = policy(z),  u = middle + half (9 sin v + sin 3 v) / 8
    x' = kept o + f(z, u)                   kept is 1 where f predicts a change, 0 where it predicts the number itself

Each step's output is taken to be jointly normal with its input, as the paper does. The covariance of x and f follows by
the chain rule from V = S^-1 cov of each stage, so that no covariance is inverted. f is the latent function: of all
noise, that of what is seen enters at each step, and no other.

The gradient runs backward through the steps: the beliefs are kept, and of each step the derivatives of the model's
covariance; all else is cheap, and is computed again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mpcrl.core.compile import kernel
from mpcrl.kernels.moments import (
    Processes,
    Tape,
    Waves,
    network_adjoint,
    network_moments,
    process_adjoint,
    process_moments,
    quadratic_cost,
    saturating_cost,
    wave_adjoint,
    wave_moments,
)

_CERTAIN = 1e-18
"""A variance without a derivative: that of its root is infinite at 0."""


class Expected(NamedTuple):
    """A cost of y = map (x, sines, cosines) - target: 1 - exp(-|y|^2 / 2), or |y|^2 / 2."""

    map: np.ndarray
    """[K, nx + F]"""
    target: np.ndarray
    """[K]"""
    saturating: bool


class Chain(NamedTuple):
    """All that a step consists of but the policy."""

    model: Processes
    """over `seen` of (z, u), with an output for each number of the state"""
    seen: np.ndarray
    """[D] int64: which numbers of (z, u) the model takes"""
    plain: np.ndarray
    """[P] int64: which numbers of the state come first in z"""
    waves: Waves
    """sines and cosines, which follow them: F"""
    squash: Waves
    """two per control, whose sum is the control but for `middle`"""
    middle: np.ndarray
    """[nu]"""
    kept: np.ndarray
    """[nx]"""
    noise: np.ndarray
    """[nx]: variance of what is seen, given the state"""
    cost: Expected


class Aim(NamedTuple):
    """What controls are to minimise: the sum of E cost + caution sd(cost), with K limits on the state.

    A limit is P(a'x <= bound) >= p for a normal x ~ N(m, S), which is g = a'm + quantile(p) sqrt(a'Sa) - bound <= 0. It
    enters as an augmented Lagrangian does: (max(0, multiplier + stiffness g)^2 - multiplier^2) / (2 stiffness).
    """

    caution: float
    normal: np.ndarray
    """[K, nx]: a"""
    bound: np.ndarray
    """[K]"""
    quantile: np.ndarray
    """[K], of the standard normal distribution"""
    multipliers: np.ndarray
    """[H, K]"""
    stiffness: float


class Step(NamedTuple):
    """What one step is made of, for its adjoint."""

    seen: np.ndarray
    """[nx, nx]: covariance of o"""
    z: np.ndarray
    """[nz]; so the next"""
    z_cov: np.ndarray
    """[nz, nz]"""
    z_gain: np.ndarray
    """[nx, nz]: S^-1 cov(x, z)"""
    v: np.ndarray
    """[nu]"""
    v_cov: np.ndarray
    """[nu, nu]"""
    v_gain: np.ndarray
    """[nz, nu]"""
    squash_gain: np.ndarray
    """[nu, nu]"""
    u_gain: np.ndarray
    """[nz, nu]: v_gain squash_gain"""
    w: np.ndarray
    """[D]: mean of the model's input"""
    w_cov: np.ndarray
    """[D, D]"""


@kernel
def _step_of(nx, nz, nu, D):
    return Step(
        np.zeros((nx, nx)), np.zeros(nz), np.zeros((nz, nz)), np.zeros((nx, nz)), np.zeros(nu), np.zeros((nu, nu)),
        np.zeros((nz, nu)), np.zeros((nu, nu)), np.zeros((nz, nu)), np.zeros(D), np.zeros((D, D)),
    )  # fmt: skip


@kernel
def _product(A, B, C):
    """C = A B."""
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            total = 0.0
            for k in range(A.shape[1]):
                total += A[i, k] * B[k, j]
            C[i, j] = total


@kernel
def features(plain, waves, m, S, z, z_cov, z_gain):
    """Moments of (plain numbers, waves) of a normal state; `z_gain` is S^-1 cov(x, z)."""
    P, F, nx = len(plain), len(waves.which), len(m)
    z_gain[:] = 0.0
    for p in range(P):
        z[p] = m[plain[p]]
        z_gain[plain[p], p] = 1.0
        for q in range(P):
            z_cov[p, q] = S[plain[p], plain[q]]
    wave_moments(waves, m, S, z[P:], z_cov[P:, P:], z_gain[:, P:])
    for p in range(P):
        for f in range(F):
            total = 0.0
            for d in range(nx):
                total += S[plain[p], d] * z_gain[d, P + f]
            z_cov[p, P + f] = z_cov[P + f, p] = total


@kernel
def features_adjoint(plain, waves, m, S, z_gain, dz, dz_cov, dz_gain, dm, dS):
    """Add to dm and dS; `dz_gain` is used up."""
    P, F, nx = len(plain), len(waves.which), len(m)
    for p in range(P):
        dm[plain[p]] += dz[p]
        for q in range(P):
            dS[plain[p], plain[q]] += dz_cov[p, q]
        for f in range(F):
            weight = dz_cov[p, P + f] + dz_cov[P + f, p]
            for d in range(nx):
                dz_gain[d, P + f] += weight * S[plain[p], d]
                dS[plain[p], d] += 0.5 * weight * z_gain[d, P + f]
                dS[d, plain[p]] += 0.5 * weight * z_gain[d, P + f]
    wave_adjoint(waves, m, S, dz[P:], dz_cov[P:, P:], dz_gain[:, P:], dm, dS)


@kernel
def _act(chain, net, m, S, step):
    """From a belief to the moments of the model's input under the policy."""
    nx, nz, nu = len(m), len(step.z), len(step.v)
    for i in range(nx):
        for j in range(nx):
            step.seen[i, j] = S[i, j]
        step.seen[i, i] += chain.noise[i]
    features(chain.plain, chain.waves, m, step.seen, step.z, step.z_cov, step.z_gain)
    mean, cov, gain = np.zeros(2 * nu), np.zeros((2 * nu, 2 * nu)), np.zeros((nu, 2 * nu))
    network_moments(net, step.z, step.z_cov, step.v, step.v_cov, step.v_gain)
    wave_moments(chain.squash, step.v, step.v_cov, mean, cov, gain)
    whole, whole_cov = np.empty(nz + nu), np.empty((nz + nu, nz + nu))
    for j in range(nu):
        whole[nz + j] = chain.middle[j] + mean[2 * j] + mean[2 * j + 1]
        for k in range(nu):
            step.squash_gain[k, j] = gain[k, 2 * j] + gain[k, 2 * j + 1]
            whole_cov[nz + j, nz + k] = (
                cov[2 * j, 2 * k] + cov[2 * j + 1, 2 * k] + cov[2 * j, 2 * k + 1] + cov[2 * j + 1, 2 * k + 1]
            )
    _product(step.v_gain, step.squash_gain, step.u_gain)
    for i in range(nz):
        whole[i] = step.z[i]
        for j in range(nz):
            whole_cov[i, j] = step.z_cov[i, j]
        for j in range(nu):
            total = 0.0
            for k in range(nz):
                total += step.z_cov[i, k] * step.u_gain[k, j]
            whole_cov[i, nz + j] = whole_cov[nz + j, i] = total
    for d in range(len(chain.seen)):
        step.w[d] = whole[chain.seen[d]]
        for e in range(len(chain.seen)):
            step.w_cov[d, e] = whole_cov[chain.seen[d], chain.seen[e]]


@kernel
def _gains(chain, step, V, by_z, by_u, joint, gain):
    """S^-1 cov of the model's output: over z [nz, nx], over u [nu, nx], over z by both, over the state [nx, nx]."""
    nz = len(step.z)
    by_z[:] = 0.0
    by_u[:] = 0.0
    for d in range(len(chain.seen)):
        for a in range(V.shape[1]):
            if chain.seen[d] < nz:
                by_z[chain.seen[d], a] = V[d, a]
            else:
                by_u[chain.seen[d] - nz, a] = V[d, a]
    _product(step.u_gain, by_u, joint)
    joint += by_z
    _product(step.z_gain, joint, gain)


@kernel
def _advance(chain, step, m, M, C, V, m_next, S_next):
    nx, nz, nu = len(m), len(step.z), len(step.v)
    by_z, by_u, joint, gain = np.empty((nz, nx)), np.empty((nu, nx)), np.empty((nz, nx)), np.empty((nx, nx))
    _gains(chain, step, V, by_z, by_u, joint, gain)
    change = np.empty((nx, nx))
    _product(step.seen, gain, change)
    for i in range(nx):
        m_next[i] = chain.kept[i] * m[i] + M[i]
        for j in range(nx):
            S_next[i, j] = chain.kept[i] * step.seen[i, j] * chain.kept[j] + C[i, j]
            S_next[i, j] += chain.kept[i] * change[i, j] + change[j, i] * chain.kept[j]


@kernel
def _retreat(chain, step, joint, gain, dm, dS, dm_now, dS_now, dz_gain, d_joint):
    """Adjoint of `_advance` but for M and C, whose derivatives are dm and dS themselves."""
    nx = len(dm)
    seen_kept, d_gain = np.empty((nx, nx)), np.empty((nx, nx))
    # S' = kept seen kept + C + kept seen gain + (kept seen gain)'
    for i in range(nx):
        dm_now[i] = chain.kept[i] * dm[i]
        for j in range(nx):
            seen_kept[i, j] = 2.0 * step.seen[i, j] * chain.kept[j]
            dS_now[i, j] += chain.kept[i] * dS[i, j] * chain.kept[j]
            for k in range(nx):
                dS_now[i, j] += chain.kept[i] * dS[i, k] * gain[j, k] + gain[i, k] * dS[k, j] * chain.kept[j]
    _product(seen_kept, dS, d_gain)
    _product(d_gain, joint.T, dz_gain)
    _product(step.z_gain.T, d_gain, d_joint)


@kernel
def bounded_cost(cost, waves, m, S, caution, dm, dS):
    """As `expected_cost`, with the derivatives of the mean and `caution` standard deviations."""
    nx, F, K = len(m), len(waves.which), len(cost.target)
    nz = nx + F
    plain = np.arange(nx)
    z, z_cov, z_gain = np.empty(nz), np.empty((nz, nz)), np.empty((nx, nz))
    features(plain, waves, m, S, z, z_cov, z_gain)
    y, half, y_cov = -cost.target, np.empty((K, nz)), np.empty((K, K))
    _product(cost.map, z_cov, half)
    for k in range(K):
        for i in range(nz):
            y[k] += cost.map[k, i] * z[i]
    _product(half, cost.map.T, y_cov)
    dy, dy_cov, vy, vy_cov = np.empty(K), np.empty((K, K)), np.empty(K), np.empty((K, K))
    if cost.saturating:
        mean, variance = saturating_cost(y, y_cov, dy, dy_cov, vy, vy_cov)
    else:
        mean, variance = quadratic_cost(y, y_cov, dy, dy_cov, vy, vy_cov)
    if caution != 0.0 and variance > _CERTAIN:
        share = 0.5 * caution / np.sqrt(variance)
        for k in range(K):
            dy[k] += share * vy[k]
            for l in range(K):
                dy_cov[k, l] += share * vy_cov[k, l]
    dz, dz_cov = np.zeros(nz), np.empty((nz, nz))
    for k in range(K):
        for i in range(nz):
            dz[i] += cost.map[k, i] * dy[k]
    _product(dy_cov, cost.map, half)
    _product(cost.map.T, half, dz_cov)
    dm[:] = 0.0
    dS[:] = 0.0
    features_adjoint(plain, waves, m, S, z_gain, dz, dz_cov, np.zeros((nx, nz)), dm, dS)
    return mean, variance


@kernel
def expected_cost(cost, waves, m, S, dm, dS):
    """Mean and variance of the cost of a normal state; into dm and dS the derivatives of the mean."""
    return bounded_cost(cost, waves, m, S, 0.0, dm, dS)


@kernel
def _tapes(H, E, D, gradient):
    count = H if gradient else 1
    return (
        np.empty((count, E)), np.empty((count, E, D)), np.empty((count, E, E, D)), np.empty((count, E, E, D, D)),
    )  # fmt: skip


@kernel
def propagate(chain, net, means, covs, costs, deviations, gradient, d_net):
    """Carry a belief through H steps.

    Parameters
    ----------
    chain : Chain
    net : Network
        The policy over z.
    means, covs : ndarray [H + 1, nx], [H + 1, nx, nx]
        In: the first of each; out: the others.
    costs, deviations : ndarray [H + 1]
        Out: expectation and standard deviation of the cost of each state.
    gradient : bool
        Whether to add to `d_net`, a Network, the derivatives of the sum of `costs[1:]`.

    Returns
    -------
    float
        The sum of `costs[1:]`.
    """
    H, nx, nu, D = len(means) - 1, means.shape[1], len(chain.middle), len(chain.seen)
    nz = len(chain.plain) + len(chain.waves.which)
    step = _step_of(nx, nz, nu, D)
    M, C, V = np.empty(nx), np.empty((nx, nx)), np.empty((D, nx))
    one, two, three, four = _tapes(H, nx, D, gradient)
    cost_m, cost_S = np.empty((H + 1, nx)), np.empty((H + 1, nx, nx))
    total = 0.0
    for t in range(H + 1):
        costs[t], variance = expected_cost(chain.cost, chain.waves, means[t], covs[t], cost_m[t], cost_S[t])
        deviations[t] = np.sqrt(variance)
        total += costs[t] if t else 0.0
        if t < H:
            k = t if gradient else 0
            tape = Tape(one[k], two[k], three[k], four[k])
            _act(chain, net, means[t], covs[t], step)
            process_moments(chain.model, step.w, step.w_cov, M, C, V, tape, gradient)
            _advance(chain, step, means[t], M, C, V, means[t + 1], covs[t + 1])
    if not gradient:
        return total
    dm, dS = np.zeros(nx), np.zeros((nx, nx))
    by_z, by_u, joint, gain = np.empty((nz, nx)), np.empty((nu, nx)), np.empty((nz, nx)), np.empty((nx, nx))
    d_joint = np.empty((nz, nx))
    d_u_gain, d_by_u, square = np.empty((nz, nu)), np.empty((nu, nx)), np.empty((nz, nu))
    for t in range(H - 1, -1, -1):
        for i in range(nx):
            dm[i] += cost_m[t + 1, i]
            for j in range(nx):
                dS[i, j] += cost_S[t + 1, i, j]
        tape = Tape(one[t], two[t], three[t], four[t])
        _act(chain, net, means[t], covs[t], step)
        for d in range(D):
            for a in range(nx):
                V[d, a] = tape.coupling[a, d] + chain.model.slope[a, d]
        _gains(chain, step, V, by_z, by_u, joint, gain)
        dm_now, dS_now = np.empty(nx), np.zeros((nx, nx))
        dz, dz_cov, dz_gain = np.zeros(nz), np.zeros((nz, nz)), np.zeros((nx, nz))
        _retreat(chain, step, joint, gain, dm, dS, dm_now, dS_now, dz_gain, d_joint)
        _product(step.u_gain.T, d_joint, d_by_u)
        _product(d_joint, by_u.T, d_u_gain)
        dV, dw, dw_cov = np.empty((D, nx)), np.zeros(D), np.zeros((D, D))
        for d in range(D):
            for a in range(nx):
                s = chain.seen[d]
                dV[d, a] = d_joint[s, a] if s < nz else d_by_u[s - nz, a]
        process_adjoint(chain.model, step.w, step.w_cov, tape, dm, dS, dV, dw, dw_cov)
        du, du_cov, d_cross = np.zeros(nu), np.zeros((nu, nu)), np.zeros((nz, nu))
        for d in range(D):
            s = chain.seen[d]
            if s < nz:
                dz[s] += dw[d]
            else:
                du[s - nz] += dw[d]
            for e in range(D):
                r = chain.seen[e]
                if s < nz and r < nz:
                    dz_cov[s, r] += dw_cov[d, e]
                elif s < nz:
                    d_cross[s, r - nz] += 2.0 * dw_cov[d, e]
                elif r >= nz:
                    du_cov[s - nz, r - nz] += dw_cov[d, e]
        # cov(z, u) = z_cov u_gain
        _product(step.z_cov, d_cross, square)
        d_u_gain += square
        for i in range(nz):
            for j in range(nz):
                for k in range(nu):
                    dz_cov[i, j] += 0.5 * (d_cross[i, k] * step.u_gain[j, k] + step.u_gain[i, k] * d_cross[j, k])
        # u_gain = v_gain squash_gain
        dv_gain, d_squash = np.empty((nz, nu)), np.empty((nu, nu))
        _product(d_u_gain, step.squash_gain.T, dv_gain)
        _product(step.v_gain.T, d_u_gain, d_squash)
        d_mean, d_cov, d_slope = np.empty(2 * nu), np.empty((2 * nu, 2 * nu)), np.empty((nu, 2 * nu))
        for j in range(2 * nu):
            d_mean[j] = du[j // 2]
            for k in range(2 * nu):
                d_cov[j, k] = du_cov[j // 2, k // 2]
            for k in range(nu):
                d_slope[k, j] = d_squash[k, j // 2]
        dv, dv_cov = np.zeros(nu), np.zeros((nu, nu))
        wave_adjoint(chain.squash, step.v, step.v_cov, d_mean, d_cov, d_slope, dv, dv_cov)
        network_adjoint(net, step.z, step.z_cov, dv, dv_cov, dv_gain, dz, dz_cov, d_net)
        features_adjoint(
            chain.plain, chain.waves, means[t], step.seen, step.z_gain, dz, dz_cov, dz_gain, dm_now, dS_now
        )
        dm, dS = dm_now, dS_now
    return total


@kernel
def _given(chain, control, m, S, step):
    """From a belief to the moments of the model's input under a control that is certain."""
    nx, nz = len(m), len(step.z)
    for i in range(nx):
        for j in range(nx):
            step.seen[i, j] = S[i, j]
        step.seen[i, i] += chain.noise[i]
    features(chain.plain, chain.waves, m, step.seen, step.z, step.z_cov, step.z_gain)
    for d in range(len(chain.seen)):
        s = chain.seen[d]
        step.w[d] = step.z[s] if s < nz else control[s - nz]
        for e in range(len(chain.seen)):
            r = chain.seen[e]
            step.w_cov[d, e] = step.z_cov[s, r] if s < nz and r < nz else 0.0


@kernel
def _limits_cost(aim, m, S, multipliers, excess, dm, dS):
    """What the limits add at one belief; adds to dm and dS."""
    nx, total = len(m), 0.0
    direction = np.empty(nx)
    for k in range(len(aim.bound)):
        variance = 0.0
        value = -aim.bound[k]
        for i in range(nx):
            direction[i] = 0.0
            for j in range(nx):
                direction[i] += S[i, j] * aim.normal[k, j]
            value += aim.normal[k, i] * m[i]
            variance += aim.normal[k, i] * direction[i]
        deviation = np.sqrt(max(variance, 0.0))
        excess[k] = value + aim.quantile[k] * deviation
        push = multipliers[k] + aim.stiffness * excess[k]
        total -= 0.5 * multipliers[k] ** 2 / aim.stiffness
        if push > 0.0:
            total += 0.5 * push**2 / aim.stiffness
            spread = 0.5 * push * aim.quantile[k] / deviation if variance > _CERTAIN else 0.0
            for i in range(nx):
                dm[i] += push * aim.normal[k, i]
                for j in range(nx):
                    dS[i, j] += spread * aim.normal[k, i] * aim.normal[k, j]
    return total


@kernel
def controls_cost(chain, aim, controls, means, covs, costs, excess, gradient, d_controls):
    """Carry a belief through H steps under given controls, and what they cost; see `Aim`.

    Parameters
    ----------
    chain : Chain
    aim : Aim
    controls : ndarray [H, nu]
    means, covs : ndarray [H + 1, nx], [H + 1, nx, nx]
        In: the first of each; out: the others.
    costs : ndarray [H]
        Out: expected cost of each state but the first, and its caution.
    excess : ndarray [H, K]
        Out: a'm + quantile sqrt(a'Sa) - bound of each of these states and each limit; above 0 breaks it.
    gradient : bool
        Whether to write to `d_controls` [H, nu] the derivatives of what is returned.

    Returns
    -------
    float
        The sum of the costs, and of what the limits add.
    """
    H, nx, nu, D = len(controls), means.shape[1], len(chain.middle), len(chain.seen)
    nz = len(chain.plain) + len(chain.waves.which)
    step = _step_of(nx, nz, nu, D)
    M, C, V = np.empty(nx), np.empty((nx, nx)), np.empty((D, nx))
    one, two, three, four = _tapes(H, nx, D, gradient)
    cost_m, cost_S = np.empty((H, nx)), np.empty((H, nx, nx))
    total = 0.0
    for t in range(H):
        k = t if gradient else 0
        _given(chain, controls[t], means[t], covs[t], step)
        process_moments(
            chain.model, step.w, step.w_cov, M, C, V, Tape(one[k], two[k], three[k], four[k]), gradient
        )  # fmt: skip
        _advance(chain, step, means[t], M, C, V, means[t + 1], covs[t + 1])
        mean, variance = bounded_cost(
            chain.cost, chain.waves, means[t + 1], covs[t + 1], aim.caution, cost_m[t], cost_S[t]
        )
        costs[t] = mean + aim.caution * np.sqrt(variance)
        total += costs[t] + _limits_cost(
            aim, means[t + 1], covs[t + 1], aim.multipliers[t], excess[t], cost_m[t], cost_S[t]
        )
    if not gradient:
        return total
    dm, dS = np.zeros(nx), np.zeros((nx, nx))
    by_z, by_u, joint, gain = np.empty((nz, nx)), np.empty((nu, nx)), np.empty((nz, nx)), np.empty((nx, nx))
    d_joint, dV = np.empty((nz, nx)), np.empty((D, nx))
    for t in range(H - 1, -1, -1):
        for i in range(nx):
            dm[i] += cost_m[t, i]
            for j in range(nx):
                dS[i, j] += cost_S[t, i, j]
        tape = Tape(one[t], two[t], three[t], four[t])
        _given(chain, controls[t], means[t], covs[t], step)
        for d in range(D):
            for a in range(nx):
                V[d, a] = tape.coupling[a, d] + chain.model.slope[a, d]
        _gains(chain, step, V, by_z, by_u, joint, gain)
        dm_now, dS_now = np.empty(nx), np.zeros((nx, nx))
        dz, dz_cov, dz_gain = np.zeros(nz), np.zeros((nz, nz)), np.zeros((nx, nz))
        _retreat(chain, step, joint, gain, dm, dS, dm_now, dS_now, dz_gain, d_joint)
        dw, dw_cov = np.zeros(D), np.zeros((D, D))
        for d in range(D):
            for a in range(nx):
                dV[d, a] = d_joint[chain.seen[d], a] if chain.seen[d] < nz else 0.0
        process_adjoint(chain.model, step.w, step.w_cov, tape, dm, dS, dV, dw, dw_cov)
        for d in range(D):
            s = chain.seen[d]
            if s >= nz:
                d_controls[t, s - nz] = dw[d]
                continue
            dz[s] += dw[d]
            for e in range(D):
                if chain.seen[e] < nz:
                    dz_cov[s, chain.seen[e]] += dw_cov[d, e]
        features_adjoint(
            chain.plain, chain.waves, means[t], step.seen, step.z_gain, dz, dz_cov, dz_gain, dm_now, dS_now
        )
        dm, dS = dm_now, dS_now
    return total
