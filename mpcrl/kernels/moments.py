"""Exact moments of functions of normal numbers, and their derivatives in reverse.

x ~ N(m, S) goes through a Gaussian process with squared-exponential kernels and linear means, through sines, and into
costs. Each function here gives the mean M and the covariance C of what comes out, and V, which is S^-1 cov(x, out):
multiply by S. That also exists where S is singular, and chains: if z = (x, f(x)) and y = g(z), then
cov(x, y) = S (V_g over x + V_f V_g over f). Each has an adjoint: from a scalar's derivatives with respect to what came
out it adds those with respect to what went in. Derivatives for a symmetric S are symmetric.

Gaussian processes (Deisenroth, Fox and Rasmussen 2015, "Gaussian processes for data-efficient learning in robotics and
control", section 3 and appendix). K^-1 = R'R stands for what explains the variance: by all observations, or by inducing
inputs v_i that sum them up (`models.gaussian_process`). With zeta_i = v_i - m, Lambda = diag(lengthscale^2), output a:

    q_i  = signal^2 |S Lambda^-1 + 1|^-1/2 exp(-zeta_i' P zeta_i / 2),           P = (S + Lambda)^-1
    M    = sum_i beta_i q_i,     V = P sum_i beta_i q_i zeta_i
    Q_ij = E k_a(v_i, x) k_b(v_j, x) = q_i q_j exp(delta_ij)
    C_ab = sum_ij beta_i beta_j (Q_ij - q_i q_j) + [a = b] (signal^2 - sum_ij (K^-1)_ij Q_ij)

delta is a quadratic form of the inputs that vanishes with S: a product of matrices whose inner dimension is D, and an
exponential. Nothing large is subtracted there, so that S = 0 gives what a point prediction gives: the last term is
signal^2 - |R q|^2 - sum_ij (K^-1)_ij q_i q_j (exp(delta_ij) - 1). All is of the latent functions; who wants to know
what a sensor would see adds the noise to C.

The sums over n^2 pairs are all that takes time. The pass that makes C can also make its derivatives with respect to m
and S: they are moments of zeta under the same weights, E^2 (D + D^2) numbers that are kept instead of n^2 E^2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mpcrl.core import vecmath
from mpcrl.core.compile import inlined, kernel
from mpcrl.kernels.pairs import MOST, weigh_pairs

_LOG2_E = 1 / math.log(2)
_exp = vecmath.lane_functions(np.float64)["exp"]


class Processes(NamedTuple):
    """E Gaussian processes over D inputs, conditioned on what is known at n centers, as these kernels take them."""

    centers: np.ndarray
    """[n, D]"""
    precision: np.ndarray
    """[E, D]: lengthscale^-2"""
    variance: np.ndarray
    """[E]: signal^2"""
    beta: np.ndarray
    """[E, n]"""
    gain: np.ndarray
    """[E, N, N]: beta beta' - R'R, its lower triangle with all below the diagonal doubled; N is `padded(n)`"""
    root: np.ndarray
    """[E, N, N]: R', an upper triangle"""
    slope: np.ndarray
    """[E, D]"""
    intercept: np.ndarray
    """[E]"""


class Network(NamedTuple):
    """E weighted sums of n basis functions exp(-r^2 / 2), and a linear function: processes that are certain."""

    centres: np.ndarray
    """[n, D]"""
    precision: np.ndarray
    """[E, D]: lengthscale^-2"""
    weights: np.ndarray
    """[E, n]"""
    slope: np.ndarray
    """[E, D]"""
    intercept: np.ndarray
    """[E]"""


class Waves(NamedTuple):
    """F functions amplitude cos(multiple x[which] + phase) of some of the numbers of x."""

    which: np.ndarray
    """[F] int64: of the numbers of x"""
    multiple: np.ndarray
    """[F]"""
    phase: np.ndarray
    """[F]"""
    amplitude: np.ndarray
    """[F]"""


# ---- small matrices ----------------------------------------------------------------------------------------------
@kernel
def _rotated(C, trace):
    """Make a symmetric matrix diagonal by Jacobi's rotations: its eigenvalues; returns its eigenvectors, in columns.

    `trace`, of absolute values, says what is nothing beside the rest.
    """
    n = len(C)
    U = np.eye(n)
    for _ in range(30):
        off = 0.0
        for p in range(n):
            for q in range(p + 1, n):
                off += C[p, q] ** 2
                if abs(C[p, q]) <= 1e-18 * trace:
                    continue
                theta = 0.5 * (C[q, q] - C[p, p]) / C[p, q]
                t = math.copysign(1.0, theta) / (abs(theta) + math.sqrt(theta * theta + 1.0))
                c = 1.0 / math.sqrt(t * t + 1.0)
                s = t * c
                for k in range(n):
                    C[k, p], C[k, q] = c * C[k, p] - s * C[k, q], s * C[k, p] + c * C[k, q]
                for k in range(n):
                    C[p, k], C[q, k] = c * C[p, k] - s * C[q, k], s * C[p, k] + c * C[q, k]
                    U[k, p], U[k, q] = c * U[k, p] - s * U[k, q], s * U[k, p] + c * U[k, q]
        if off <= 1e-34 * trace * trace:
            break
    return U


@kernel
def _root(S):
    """F [D, D] of F F' = S, by Cholesky's method with pivots: what is negative in S, or nothing beside it, is rounding.

    A covariance far beyond the length scales is negative by more than 1 of their squares by rounding alone. All outputs
    of a process need one S that is not, or their moments contradict each other; as F it stays so. NaN where S is not
    finite.
    """
    D = len(S)
    F, rest = np.zeros((D, D)), 0.5 * (S + S.T)
    if not np.isfinite(S.sum()):
        F[:] = np.nan
        return F
    for k in range(D):
        pivot, most = -1, 1e-15
        for d in range(D):
            if rest[d, d] > most * S[d, d]:
                pivot, most = d, rest[d, d] / S[d, d]
        if pivot < 0:
            break
        scale = 1.0 / np.sqrt(rest[pivot, pivot])
        for d in range(D):
            most = np.sqrt(max(rest[d, d], 0.0))  # no covariance is larger; a pivot of rounding would make it so
            F[d, k] = min(max(scale * rest[d, pivot], -most), most)
        for d in range(D):
            for e in range(D):
                rest[d, e] -= F[d, k] * F[e, k]
        rest[pivot] = rest[:, pivot] = 0.0
    return F


@kernel
def _whitened(F, precision, T, P):
    """log |1 + S A| of S = F F' and A = diag(precision); into T (S^-1 + A)^-1, into P (S + A^-1)^-1.

    Both follow from B = 1 + A^1/2 S A^1/2, whose inverse is made as L^-1' L^-1: positive definite and at most 1,
    however large or singular S is. L begins as 1 and takes in one column of F after the other by rotations (Golub and
    Van Loan 2013, section 6.5.4), so that nothing is subtracted from a pivot and none falls below 1.
    """
    D, log = len(precision), 0.0
    root = np.sqrt(precision)
    L, W, column = np.eye(D), np.zeros((D, D)), np.empty(D)
    for k in range(D):
        for d in range(D):
            column[d] = root[d] * F[d, k]
        for j in range(D):
            pivot = np.hypot(L[j, j], column[j])
            c, s = L[j, j] / pivot, column[j] / pivot
            for i in range(j, D):
                L[i, j], column[i] = c * L[i, j] + s * column[i], c * column[i] - s * L[i, j]
    for i in range(D):
        log += 2.0 * math.log(L[i, i])
        for j in range(i + 1):
            total = 1.0 * (i == j)
            for k in range(j, i):
                total -= L[i, k] * W[k, j]
            W[i, j] = total / L[i, i]
    for i in range(D):
        for j in range(i + 1):
            inverse = 0.0
            for k in range(i, D):
                inverse += W[k, i] * W[k, j]
            P[i, j] = P[j, i] = root[i] * inverse * root[j]
            T[i, j] = T[j, i] = ((i == j) - inverse) / (root[i] * root[j])
    return log


@kernel
def _settled(C):
    """Make a symmetric matrix that is positive semidefinite but for rounding so, by Jacobi's rotations."""
    n = len(C)
    trace = 0.0
    for i in range(n):
        C[i, i] = max(C[i, i], 0.0)
        trace += C[i, i]
    if n == 1 or not trace > 0.0:
        for i in range(n):
            for j in range(n):
                if i != j:
                    C[i, j] = 0.0
        return
    L = np.zeros((n, n))
    whole = True
    for i in range(n):
        for j in range(i + 1):
            total = C[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            if i == j:
                whole = whole and total > 1e-14 * trace
                L[i, i] = np.sqrt(max(total, 1e-300))
            else:
                L[i, j] = total / L[j, j]
    if whole:
        return
    U = _rotated(C, trace)
    values = np.empty(n)
    for i in range(n):
        values[i] = max(C[i, i], 0.0)
    for i in range(n):
        for j in range(i + 1):
            C[i, j] = 0.0
            for k in range(n):
                C[i, j] += U[i, k] * values[k] * U[j, k]
            C[j, i] = C[i, j]


# ---- Gaussian processes ------------------------------------------------------------------------------------------
@inlined
def _add_four(out, w, x, y, z, a, b, c, d):
    """out += w a + x b + y c + z d."""
    for i in range(len(out)):
        out[i] += (w * a[i] + x * b[i]) + (y * c[i] + z * d[i])


@kernel
def _unexplained(root, q, n, explained, variance):
    """variance - |R q|^2, of R' by rows, four at a time; `explained` [N] is worked in. All but n of q are 0."""
    explained[:] = 0.0
    for k in range(0, n, 4):
        a, b, c, d = root[k, k:], root[k + 1, k:], root[k + 2, k:], root[k + 3, k:]
        _add_four(explained[k:], q[k], q[k + 1], q[k + 2], q[k + 3], a, b, c, d)
    for i in range(n):
        variance -= explained[i] ** 2
    return variance


@inlined
def _add_scaled(out, factor, row):
    """out += factor row."""
    for i in range(len(out)):
        out[i] += factor * row[i]


@inlined
def _combined(matrix, factors, zeta, out):
    """out = matrix diag(factors) zeta, of columns of zeta [D, N]: two of its rows at a time, for half the traffic."""
    D = len(matrix)
    for d in range(D):
        out[d] = 0.0
        for e in range(0, D - 1, 2):
            one, other = matrix[d, e] * factors[e], matrix[d, e + 1] * factors[e + 1]
            for i in range(zeta.shape[1]):
                out[d, i] += one * zeta[e, i] + other * zeta[e + 1, i]
        if D % 2:
            _add_scaled(out[d], matrix[d, D - 1] * factors[D - 1], zeta[D - 1])


@inlined
def _half_form(factors, image, w, out):
    """out_i = -image_i' diag(factors) w_i / 2, of columns of both [D, N]."""
    out[:] = 0.0
    for d in range(len(factors)):
        for i in range(len(out)):
            out[i] -= 0.5 * factors[d] * image[d, i] * w[d, i]


@inlined
def _apart(points, m, zeta):
    """zeta [D, N]: points [n, D] less m; columns beyond the n-th are left alone."""
    for i in range(len(points)):
        for d in range(len(m)):
            zeta[d, i] = points[i, d] - m[d]


@kernel
def _activations(zeta, precision, F, scale, T, P, image, q):
    """q [n] of one output from zeta [D, N], with T and P [D, D] and P zeta [D, N]; log |1 + S A|."""
    log = _whitened(F, precision, T, P)
    ones = np.ones(len(precision))
    _combined(P, ones, zeta, image)
    _half_form(ones, image, zeta, q)
    for i in range(len(q)):
        q[i] = scale * _exp(q[i] - 0.5 * log)
    return log


@kernel
def _cross(zeta, pa, pb, image_a, image_b, T, same, constant, y, u, x, v):
    """delta of a pair of outputs, over log 2: u_i + v_j + sum_d y_di x_dj.

    With w = A_a zeta_i, terms of i alone are -w' Ta A_b T w / 2, those of j likewise, and of both w' T A_b zeta_j: what
    is left of the exponents of Q_ij, q_i and q_j where all that does not vanish with S is taken out by hand. `image_a`
    and `image_b` [D, N] are Ta A_a zeta and Tb A_b zeta; `same`, whether the outputs are.
    """
    D, inputs = len(pa), zeta[: len(pa)]
    scaled = _LOG2_E * T
    if same:
        _combined(scaled, pa, inputs, y)
        _half_form(pb, image_a, y, u)
        v[:] = u
    else:
        _combined(scaled, pb, inputs, y)
        _half_form(pa, image_b, y, v)
        _combined(scaled, pa, inputs, y)
        _half_form(pb, image_a, y, u)
    u += _LOG2_E * constant
    for d in range(D):
        x[d] = pb[d] * inputs[d]


@kernel
def _pair_gradient(zeta, pa, pb, T, above, sums, dm, dS):
    """Derivatives of sum_ij W_ij with respect to m and S, from the moments of zeta under these weights."""
    D, n = len(pa), sums.shape[1]
    total = 0.0
    s1, s2 = np.zeros(D), np.zeros((D, D))
    for i in range(n):
        total += above[i]
    left, right = np.empty(D), np.empty(D)
    for i in range(n):
        for d in range(D):
            left[d], right[d] = pa[d] * zeta[d, i], pb[d] * zeta[d, i]
        for d in range(D):
            s1[d] += above[i] * left[d] + sums[D, i] * right[d]
            mixed = pa[d] * sums[d, i]
            for e in range(D):
                s2[d, e] += above[i] * left[d] * left[e] + sums[D, i] * right[d] * right[e] + 2.0 * mixed * right[e]
    G, half = np.empty((D, D)), np.zeros((D, D))
    for d in range(D):
        for e in range(D):
            G[d, e] = (d == e) - (pa[d] + pb[d]) * T[d, e]
    dm[:] = 0.0
    for d in range(D):
        for e in range(D):
            dm[d] += G[d, e] * s1[e]
            for k in range(D):
                half[d, e] += G[d, k] * 0.5 * (s2[k, e] + s2[e, k])
    for d in range(D):
        for e in range(D):
            dS[d, e] = 0.5 * total * (pa[d] + pb[d]) * T[d, e] * (pa[e] + pb[e])
            for k in range(D):
                dS[d, e] += 0.5 * half[d, k] * G[e, k]
        dS[d, d] -= 0.5 * total * (pa[d] + pb[d])


class Tape(NamedTuple):
    """What the adjoint of a process's moments needs beside m and S."""

    mean: np.ndarray
    """[E] without the linear function; so the next"""
    coupling: np.ndarray
    """[E, D]"""
    pair_m: np.ndarray
    """[E, E, D] of sum_ij (beta beta' - [a = b] K^-1)_ij Q_ij, for a <= b; so the next"""
    pair_S: np.ndarray
    """[E, E, D, D]"""


@kernel
def tape_of(E, D):
    """An empty tape."""
    return Tape(np.zeros(E), np.zeros((E, D)), np.zeros((E, E, D)), np.zeros((E, E, D, D)))


@kernel
def process_moments(gp, m, S, M, C, V, tape, gradient):
    """Moments of Gaussian processes at a normal input.

    Parameters
    ----------
    gp : Processes
    m, S : ndarray [D], [D, D]
    M, C, V : ndarray [E], [E, E], [D, E]
        Out: mean, covariance of the latent functions, and S^-1 cov(x, f).
    tape : Tape
        Out.
    gradient : bool
        Whether the adjoint will follow; takes about twice the time.
    """
    n, D = gp.centers.shape
    E = len(gp.beta)
    padded = gp.gain.shape[1]
    q, logs = np.zeros((E, padded)), np.empty(E)
    T, P, images = np.empty((D, D)), np.empty((D, D)), np.empty((E, D, padded))
    y, x, zeta, F = np.empty((D, padded)), np.empty((D, padded)), np.zeros((D + 1, padded)), _root(S)
    _apart(gp.centers, m, zeta)
    zeta[D, :n] = 1.0
    for a in range(E):
        logs[a] = _activations(zeta[:D], gp.precision[a], F, gp.variance[a], T, P, y, q[a, :n])
        _combined(T, gp.precision[a], zeta[:D], images[a])
        total, h = 0.0, np.zeros(D)
        for i in range(n):
            weight = gp.beta[a, i] * q[a, i]
            total += weight
            for d in range(D):
                h[d] += weight * zeta[d, i]
        tape.mean[a] = total
        for d in range(D):
            tape.coupling[a, d] = 0.0
            for e in range(D):
                tape.coupling[a, d] += P[d, e] * h[e]
    u, v, rows, columns = np.empty(padded), np.empty(padded), np.zeros(padded), np.zeros(padded)
    above, sums = np.empty(padded), np.empty((D + 1, padded))
    both, Tab = np.empty(D), np.empty((D, D))
    for a in range(E):
        for b in range(a, E):
            for d in range(D):
                both[d] = gp.precision[a, d] + gp.precision[b, d]
            constant = 0.5 * (logs[a] + logs[b] - _whitened(F, both, Tab, P))
            _cross(zeta, gp.precision[a], gp.precision[b], images[a], images[b], Tab, a == b, constant, y, u, x, v)
            for i in range(n):
                rows[i] = q[a, i] * (1.0 if a == b else gp.beta[a, i])
                columns[i] = q[b, i] * (1.0 if a == b else gp.beta[b, i])
            C[a, b] = weigh_pairs(n, y, u, rows, x, v, columns, gp.gain[a], a == b, zeta, above, sums, gradient)
            if gradient:
                _pair_gradient(
                    zeta, gp.precision[a], gp.precision[b], Tab, above, sums, tape.pair_m[a, b], tape.pair_S[a, b]
                )
            C[b, a] = C[a, b]
        C[a, a] += _unexplained(gp.root[a], q[a], n, rows, gp.variance[a])
    _with_line(gp.slope, gp.intercept, m, S, tape.mean, tape.coupling, M, C, V)


@kernel
def _with_line(slope, intercept, m, S, mean, coupling, M, C, V):
    """Add a linear function of x to functions of x with moments `mean`, C and S V = cov(x, f)."""
    E, D = slope.shape
    for a in range(E):
        M[a] = mean[a] + intercept[a]
        for d in range(D):
            M[a] += slope[a, d] * m[d]
            V[d, a] = coupling[a, d] + slope[a, d]
    for a in range(E):
        for d in range(D):
            for e in range(D):
                for b in range(a, E):
                    more = (
                        slope[a, d] * S[d, e] * (slope[b, e] + coupling[b, e]) + coupling[a, d] * S[d, e] * slope[b, e]
                    )
                    C[a, b] += more
                    if b > a:
                        C[b, a] += more
    _settled(C)


@kernel
def _line_adjoint(slope, m, S, mean, coupling, dM, dC, dV, dm, dS, inner_M, inner_V, d_slope, d_intercept):
    """From derivatives with respect to the sum's moments those with respect to the inner function's (`inner_M`,
    `inner_V`; those to its C are those to the sum's), and add those with respect to m, S and the line."""
    E, D = slope.shape
    for a in range(E):
        inner_M[a] = dM[a]
        d_intercept[a] += dM[a]
        for d in range(D):
            inner_V[a, d] = dV[d, a]
            d_slope[a, d] += dM[a] * m[d] + dV[d, a]
            dm[d] += dM[a] * slope[a, d]
    for a in range(E):
        for b in range(E):
            weight = dC[a, b] + dC[b, a]
            for d in range(D):
                for e in range(D):
                    inner_V[a, d] += weight * S[d, e] * slope[b, e]
                    d_slope[a, d] += weight * S[d, e] * (slope[b, e] + coupling[b, e])
                    half = 0.5 * weight * slope[a, d] * (slope[b, e] + 2.0 * coupling[b, e])
                    dS[d, e] += 0.5 * half
                    dS[e, d] += 0.5 * half


@kernel
def _mean_adjoint(inputs, precision, m, F, scale, weights, dM, dV, dm, dS, d_inputs, d_weights, d_precision, own):
    """Adjoint of mean and coupling of one output; with `own`, also with respect to its numbers."""
    n, D = inputs.shape
    T, P, q = np.empty((D, D)), np.empty((D, D)), np.empty(n)
    zeta, images = np.empty((D, n)), np.empty((D, n))
    _apart(inputs, m, zeta)
    _activations(zeta, precision, F, scale, T, P, images, q)
    direction = np.zeros(D)  # P dV
    for d in range(D):
        for e in range(D):
            direction[d] += P[d, e] * dV[e]
    moved, curved = np.zeros(D), np.zeros((D, D))  # by -zeta and by S + Lambda
    image, sum_image, total = np.empty(D), np.zeros(D), 0.0
    for i in range(n):
        factor = dM
        for d in range(D):
            image[d] = images[d, i]
            factor += dV[d] * image[d]
        w = weights[i] * q[i]
        total += w * factor
        for d in range(D):
            step = w * (factor * image[d] - direction[d])
            moved[d] += step
            sum_image[d] += w * image[d]
            for e in range(D):
                curved[d, e] += 0.5 * w * factor * image[d] * image[e]
            if own:
                d_inputs[i, d] -= step
        if own:
            d_weights[i] += q[i] * factor
    for d in range(D):
        dm[d] += moved[d]
        for e in range(D):
            curved[d, e] -= 0.5 * (total * P[d, e] + direction[d] * sum_image[e] + direction[e] * sum_image[d])
            dS[d, e] += curved[d, e]
        if own:
            lengths = 1.0 / precision[d]  # squared; S + Lambda grows with it, and |S A + 1| = |S + Lambda| |A|
            d_precision[d] -= lengths * (lengths * curved[d, d] + 0.5 * total)


@kernel
def process_adjoint(gp, m, S, tape, dM, dC, dV, dm, dS):
    """Add to dm [D] and dS [D, D] a scalar's derivatives, from those with respect to M [E], C [E, E] and V [D, E]."""
    E, D = gp.slope.shape
    inner_M, inner_V = np.empty(E), np.empty((E, D))
    none_1, none_2, none_3, F = np.zeros(E), np.zeros((E, D)), np.zeros((0, D)), _root(S)
    _line_adjoint(gp.slope, m, S, tape.mean, tape.coupling, dM, dC, dV, dm, dS, inner_M, inner_V, none_2, none_1)
    for a in range(E):
        for b in range(E):
            inner_M[a] -= (dC[a, b] + dC[b, a]) * tape.mean[b]
            if b >= a:
                weight = dC[a, b] + (dC[b, a] if b > a else 0.0)
                for d in range(D):
                    dm[d] += weight * tape.pair_m[a, b, d]
                    for e in range(D):
                        dS[d, e] += weight * tape.pair_S[a, b, d, e]
    for a in range(E):
        _mean_adjoint(
            gp.centers, gp.precision[a], m, F, gp.variance[a], gp.beta[a], inner_M[a], inner_V[a], dm, dS,
            none_3, none_1, none_1, False,
        )  # fmt: skip


# ---- networks of radial basis functions --------------------------------------------------------------------------
@kernel
def network_moments(net, m, S, M, C, V):
    """Moments of a network at a normal input, as `process_moments`; C is 0 where S is."""
    n, D = net.centres.shape
    E = len(net.weights)
    mean, coupling = np.zeros(E), np.zeros((E, D))
    q, T, P, images = np.empty((E, n)), np.empty((D, D)), np.empty((D, D)), np.empty((E, D, n))
    logs, zeta, y, x, F = np.empty(E), np.empty((D, n)), np.empty((D, n)), np.empty((D, n)), _root(S)
    _apart(net.centres, m, zeta)
    for a in range(E):
        logs[a] = _activations(zeta, net.precision[a], F, 1.0, T, P, y, q[a])
        _combined(T, net.precision[a], zeta, images[a])
        for i in range(n):
            weight = net.weights[a, i] * q[a, i]
            mean[a] += weight
            for d in range(D):
                coupling[a, d] += weight * y[d, i]
    u, v = np.empty(n), np.empty(n)
    both, Tab = np.empty(D), np.empty((D, D))
    for a in range(E):
        for b in range(a, E):
            for d in range(D):
                both[d] = net.precision[a, d] + net.precision[b, d]
            constant = 0.5 * (logs[a] + logs[b] - _whitened(F, both, Tab, P))
            _cross(zeta, net.precision[a], net.precision[b], images[a], images[b], Tab, a == b, constant, y, u, x, v)
            total = 0.0
            for i in range(n):
                for j in range(n):
                    delta = u[i] + v[j]
                    for d in range(D):
                        delta += y[d, i] * x[d, j]
                    weight = net.weights[a, i] * q[a, i] * net.weights[b, j] * q[b, j]
                    total += weight * math.expm1(min(delta, MOST) / _LOG2_E)
            C[a, b] = C[b, a] = total
    _with_line(net.slope, net.intercept, m, S, mean, coupling, M, C, V)


@kernel
def network_adjoint(net, m, S, dM, dC, dV, dm, dS, d_net):
    """As `process_adjoint`; also add to `d_net`, a Network, the derivatives with respect to each of its numbers.

    With z = A_a zeta_i + A_b zeta_j and T = (S^-1 + A_a + A_b)^-1, log Q_ij has the derivatives T z - zeta_i with
    respect to A_a zeta_i, and -((zeta_i - T z)_d^2 + T_dd) / 2 with respect to the d-th number of A_a.
    """
    n, D = net.centres.shape
    E = len(net.weights)
    q, T, P = np.empty((E, n)), np.empty((D, D)), np.empty((D, D))
    mean, coupling, logs = np.zeros(E), np.zeros((E, D)), np.empty(E)
    columns, image, F = np.empty((D, n)), np.empty((D, n)), _root(S)
    _apart(net.centres, m, columns)
    zeta = columns.T.copy()
    for a in range(E):
        logs[a] = _activations(columns, net.precision[a], F, 1.0, T, P, image, q[a])
        for i in range(n):
            w = net.weights[a, i] * q[a, i]
            mean[a] += w
            for d in range(D):
                coupling[a, d] += w * image[d, i]
    inner_M, inner_V = np.empty(E), np.empty((E, D))
    _line_adjoint(net.slope, m, S, mean, coupling, dM, dC, dV, dm, dS, inner_M, inner_V, d_net.slope, d_net.intercept)
    both, z, Tz = np.empty(D), np.empty(D), np.empty(D)
    for a in range(E):
        for b in range(E):
            weight = dC[a, b] + dC[b, a]  # a pair of outputs comes twice, as (a, b) and (b, a)
            inner_M[a] -= weight * mean[b]
            if weight == 0.0:
                continue
            pa, pb = net.precision[a], net.precision[b]
            for d in range(D):
                both[d] = pa[d] + pb[d]
            log = _whitened(F, both, T, P)
            total, s1, s2 = 0.0, np.zeros(D), np.zeros((D, D))
            for i in range(n):
                for j in range(n):
                    form = 0.0
                    for d in range(D):
                        z[d] = pa[d] * zeta[i, d] + pb[d] * zeta[j, d]
                        form -= pa[d] * zeta[i, d] ** 2 + pb[d] * zeta[j, d] ** 2
                    for d in range(D):
                        Tz[d] = 0.0
                        for e in range(D):
                            Tz[d] += T[d, e] * z[e]
                        form += z[d] * Tz[d]
                    Q = math.exp(0.5 * (form - log))
                    d_net.weights[a, i] += weight * net.weights[b, j] * Q
                    w = weight * net.weights[a, i] * net.weights[b, j] * Q
                    total += w
                    for d in range(D):
                        d_net.centres[i, d] += w * pa[d] * (Tz[d] - zeta[i, d])
                        d_net.precision[a, d] -= 0.5 * w * ((zeta[i, d] - Tz[d]) ** 2 + T[d, d])
                        # of |R|^-1/2 exp(...) alone: half of a pair, which comes twice
                        g = z[d] - both[d] * Tz[d]
                        s1[d] += 0.5 * w * g
                        for e in range(D):
                            s2[d, e] += 0.25 * w * g * (z[e] - both[e] * Tz[e])
            for d in range(D):
                dm[d] += s1[d]
                for e in range(D):
                    dS[d, e] += s2[d, e] + 0.25 * total * both[d] * T[d, e] * both[e]
                dS[d, d] -= 0.25 * total * both[d]
    for a in range(E):
        _mean_adjoint(
            net.centres, net.precision[a], m, F, 1.0, net.weights[a], inner_M[a], inner_V[a], dm, dS,
            d_net.centres, d_net.weights[a], d_net.precision[a], True,
        )  # fmt: skip


# ---- sines -------------------------------------------------------------------------------------------------------
@inlined
def _difference(base, x):
    """exp(base + x) - exp(base), where neither exponent is above 0."""
    return math.exp(base) * math.expm1(x) if abs(x) < 1.0 else math.exp(base + x) - math.exp(base)


@kernel
def wave_moments(waves, m, S, M, C, V):
    """Moments of sines of normal numbers, exactly, by E cos(y + phase) = exp(-s / 2) cos(mean y + phase).

    Parameters
    ----------
    waves : Waves
    m, S : ndarray [D], [D, D]
    M, C, V : ndarray [F], [F, F], [D, F]
        Out: mean, covariance, and S^-1 cov(x, f).
    """
    F = len(waves.which)
    V[:] = 0.0
    for f in range(F):
        a, k = waves.which[f], waves.multiple[f]
        angle, size = k * m[a] + waves.phase[f], waves.amplitude[f] * math.exp(-0.5 * k * k * S[a, a])
        M[f] = size * math.cos(angle)
        V[a, f] = -k * size * math.sin(angle)
        for g in range(f + 1):
            b, h = waves.which[g], waves.multiple[g]
            other = h * m[b] + waves.phase[g]
            base, x = -0.5 * (k * k * S[a, a] + h * h * S[b, b]), k * h * S[a, b]
            scale = 0.5 * waves.amplitude[f] * waves.amplitude[g]
            C[f, g] = scale * (
                _difference(base, -x) * math.cos(angle + other) + _difference(base, x) * math.cos(angle - other)
            )
            C[g, f] = C[f, g]


@kernel
def wave_adjoint(waves, m, S, dM, dC, dV, dm, dS):
    """Add to dm and dS a scalar's derivatives, from those with respect to the results of `wave_moments`."""
    for f in range(len(waves.which)):
        a, k = waves.which[f], waves.multiple[f]
        angle, size = k * m[a] + waves.phase[f], waves.amplitude[f] * math.exp(-0.5 * k * k * S[a, a])
        cosine, sine = size * math.cos(angle), size * math.sin(angle)
        dm[a] -= k * (dM[f] * sine + k * dV[a, f] * cosine)
        dS[a, a] -= 0.5 * k * k * (dM[f] * cosine - k * dV[a, f] * sine)
        for g in range(f + 1):
            weight = dC[f, g] + (dC[g, f] if g < f else 0.0)
            b, h = waves.which[g], waves.multiple[g]
            other = h * m[b] + waves.phase[g]
            base, x = -0.5 * (k * k * S[a, a] + h * h * S[b, b]), k * h * S[a, b]
            weight *= 0.5 * waves.amplitude[f] * waves.amplitude[g]
            less, more = _difference(base, -x), _difference(base, x)
            plus, minus = math.cos(angle + other), math.cos(angle - other)
            plus_sine, minus_sine = math.sin(angle + other), math.sin(angle - other)
            dm[a] -= weight * k * (less * plus_sine + more * minus_sine)
            dm[b] -= weight * h * (less * plus_sine - more * minus_sine)
            both = -0.5 * weight * (less * plus + more * minus)
            mixed = weight * k * h * (math.exp(base + x) * minus - math.exp(base - x) * plus)
            dS[a, a] += k * k * both
            dS[b, b] += h * h * both
            dS[a, b] += 0.5 * mixed
            dS[b, a] += 0.5 * mixed


# ---- costs -------------------------------------------------------------------------------------------------------
@kernel
def _bump(m, S, sharpness, dm, dS):
    """E exp(-sharpness |y|^2 / 2); into dm and dS its derivatives."""
    n = len(m)
    precision = np.full(n, sharpness)
    T, P, image = np.empty((n, n)), np.empty((n, n)), np.zeros(n)
    log = _whitened(_root(S), precision, T, P)
    form = 0.0
    for i in range(n):
        for j in range(n):
            image[i] += P[i, j] * m[j]
        form += m[i] * image[i]
    value = math.exp(-0.5 * (log + form))
    for i in range(n):
        dm[i] = -value * image[i]
        for j in range(n):
            dS[i, j] = 0.5 * value * (image[i] * image[j] - P[i, j])
    return value


@kernel
def saturating_cost(m, S, dm, dS, variance_dm, variance_dS):
    """Mean and variance of 1 - exp(-|y|^2 / 2), y ~ N(m, S), and into the last four their derivatives.

    Parameters
    ----------
    m, S : ndarray [n], [n, n]
        Of a cost 1 - exp(-(z - t)' W (z - t) / 2) with W = A' A these are of y = A (z - t).
    dm, dS, variance_dm, variance_dS : ndarray
        Out: shaped as m and S.
    """
    n = len(m)
    once = _bump(m, S, 1.0, dm, dS)
    twice = _bump(m, S, 2.0, variance_dm, variance_dS)
    for i in range(n):
        variance_dm[i] -= 2.0 * once * dm[i]
        dm[i] = -dm[i]
        for j in range(n):
            variance_dS[i, j] -= 2.0 * once * dS[i, j]
            dS[i, j] = -dS[i, j]
    return 1.0 - once, max(twice - once * once, 0.0)


@kernel
def quadratic_cost(m, S, dm, dS, variance_dm, variance_dS):
    """As `saturating_cost`, of |y|^2 / 2."""
    n = len(m)
    mean, variance = 0.0, 0.0
    for i in range(n):
        mean += 0.5 * (m[i] * m[i] + S[i, i])
        dm[i], variance_dm[i] = m[i], 0.0
        for j in range(n):
            variance += m[i] * S[i, j] * m[j] + 0.5 * S[i, j] * S[j, i]
            variance_dm[i] += (S[i, j] + S[j, i]) * m[j]
            dS[i, j] = 0.5 * (i == j)
            variance_dS[i, j] = m[i] * m[j] + 0.5 * (S[i, j] + S[j, i])
    return mean, variance
