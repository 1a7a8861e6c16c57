"""The backward pass of iLQR with bounded controls (Tassa, Mansard, Todorov: Control-limited differential dynamic
programming, ICRA 2014), and the quadratic programs that it solves."""

from __future__ import annotations

import numpy as np

from mpcrl.core.compile import kernel

_ROUNDS = 100
_ARMIJO, _SMALLEST = 0.1, 1e-20
_RIDGE = 1e-9
"""Relative to curvatures: what is less counts as none. Keeps controls that nothing depends on where they are."""


@kernel
def _factor(H, free, L):
    """Cholesky factor of the free rows and columns of `H`, in the places of `L`; whether they are positive definite."""
    for i in range(H.shape[0]):
        if not free[i]:
            continue
        for j in range(i + 1):
            if not free[j]:
                continue
            total = H[i, j]
            for k in range(j):
                if free[k]:
                    total -= L[i, k] * L[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                L[i, i] = np.sqrt(total)
            else:
                L[i, j] = total / L[j, j]
    return True


@kernel
def _solve(L, free, b):
    """Replace the free part of `b` by the solution of the system that `_factor` factored; zero the rest."""
    n = b.size
    for i in range(n):
        if free[i]:
            for k in range(i):
                if free[k]:
                    b[i] -= L[i, k] * b[k]
            b[i] /= L[i, i]
        else:
            b[i] = 0.0
    for i in range(n - 1, -1, -1):
        if free[i]:
            for k in range(i + 1, n):
                if free[k]:
                    b[i] -= L[k, i] * b[k]
            b[i] /= L[i, i]


@kernel
def _quadratic(H, g, x):
    """x' H x / 2 + g' x."""
    total = 0.0
    for i in range(x.size):
        row = 0.0
        for j in range(x.size):
            row += H[i, j] * x[j]
        total += x[i] * (0.5 * row + g[i])
    return total


@kernel
def box_qp(H, g, low, high, x, free, L):
    """Minimise x' H x / 2 + g' x within low <= x <= high by projected Newton steps (Tassa et al., appendix).

    Parameters
    ----------
    H : ndarray [n, n]
        Positive definite.
    g, low, high : ndarray [n]
    x : ndarray [n]
        In: a start; out: the minimum.
    free : ndarray [n] bool
        Out: the coordinates that no bound holds.
    L : ndarray [n, n]
        Out: Cholesky factor of H's free part.

    Returns
    -------
    bool
        Whether H was positive definite and all was finite.
    """
    n = g.size
    gradient, newton, trial = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        x[i] = min(max(x[i], low[i]), high[i])
    for _ in range(_ROUNDS):
        any_free, released = False, False
        for i in range(n):
            gradient[i] = g[i]
            for j in range(n):
                gradient[i] += H[i, j] * x[j]
            free[i] = not ((x[i] <= low[i] and gradient[i] > 0.0) or (x[i] >= high[i] and gradient[i] < 0.0))
            any_free = any_free or free[i]
            newton[i] = -gradient[i]
        if not _factor(H, free, L):
            return False
        if not any_free:
            return True
        _solve(L, free, newton)
        inside, slope = True, 0.0
        for i in range(n):
            trial[i] = min(max(x[i] + newton[i], low[i]), high[i])
            inside = inside and trial[i] == x[i] + newton[i]
            slope += gradient[i] * newton[i]
        if not np.isfinite(slope):
            return False
        if inside:  # the minimum over the free ones: the end, unless a bound lets go of its coordinate there
            for i in range(n):
                x[i] = trial[i]
            for i in range(n):
                if not free[i]:
                    change = g[i]
                    for j in range(n):
                        change += H[i, j] * x[j]
                    released = released or (x[i] <= low[i] and change < 0.0) or (x[i] >= high[i] and change > 0.0)
            if not released:
                return True
            continue
        size, value = 1.0, _quadratic(H, g, x)
        new = _quadratic(H, g, trial)
        while new - value > _ARMIJO * size * slope and size > _SMALLEST:
            size *= 0.6
            for i in range(n):
                trial[i] = min(max(x[i] + size * newton[i], low[i]), high[i])
            new = _quadratic(H, g, trial)
        if not new < value:
            return True  # nothing left to gain but rounding
        for i in range(n):
            x[i] = trial[i]
    return True


@kernel
def make_convex(hessian, unit):
    """Set the negative eigenvalues of symmetric matrices to zero, in place.

    Parameters
    ----------
    hessian : ndarray [T, n, n]
    unit : ndarray [n]
        The coordinates' scales, in which eigenvalues are taken.
    """
    n = unit.size
    scaled, L, free = np.empty((n, n)), np.zeros((n, n)), np.ones(n, np.bool_)
    for t in range(hessian.shape[0]):
        size = 0.0
        for i in range(n):
            for j in range(n):
                scaled[i, j] = hessian[t, i, j] * unit[i] * unit[j]
            size = max(size, abs(scaled[i, i]))
        for i in range(n):
            scaled[i, i] += _RIDGE * size
        if size > 0.0 and _factor(scaled, free, L):  # much faster than finding that no eigenvalue is negative
            continue
        values, vectors = np.linalg.eigh(scaled)
        for i in range(n):
            for j in range(n):
                total = 0.0
                for k in range(n):
                    total += vectors[i, k] * max(values[k], 0.0) * vectors[j, k]
                hessian[t, i, j] = total / (unit[i] * unit[j])


@kernel
def backward(jacobian, gradient, hessian, last_gradient, last_hessian, low, high, unit, damping, feedforward, gains):
    """Feedforward and gains that minimise the expanded problem, from the last control step to the first.

    Parameters
    ----------
    jacobian, gradient, hessian, last_gradient, last_hessian
        Fields of `core.local.Expansion`; Hessians positive semidefinite.
    low, high : ndarray [H, nu]
        Bounds of the changes of the controls.
    unit : ndarray [nu]
        Scale of the controls.
    damping : float
        Added to the curvature of each control in its unit, as a multiple of the largest mean curvature met so far.
    feedforward : ndarray [H, nu]
        Out.
    gains : ndarray [H, nu, nx]
        Out; zero for a control at its bound.

    Returns
    -------
    bool
        Whether all was finite and definite; if not, try more damping.
    """
    horizon, nx, n = jacobian.shape
    nu = n - nx
    v, V = last_gradient.copy(), last_hessian.copy()
    q, Q, W = np.empty(n), np.empty((n, n)), np.empty((nx, n))
    damped, L, free, column = np.empty((nu, nu)), np.zeros((nu, nu)), np.ones(nu, np.bool_), np.empty(nu)
    curvature = 0.0
    for t in range(horizon - 1, -1, -1):
        J = jacobian[t]
        for a in range(nx):
            for b in range(n):
                W[a, b] = 0.0
                for c in range(nx):
                    W[a, b] += V[a, c] * J[c, b]
        for a in range(n):
            q[a] = gradient[t, a]
            for c in range(nx):
                q[a] += J[c, a] * v[c]
            for b in range(a + 1):
                total = hessian[t, a, b]
                for c in range(nx):
                    total += J[c, a] * W[c, b]
                Q[a, b] = total
                Q[b, a] = total
        trace = 0.0
        for j in range(nu):
            trace += Q[nx + j, nx + j] * unit[j] ** 2
        curvature = max(curvature, trace / nu)
        k, K = feedforward[t], gains[t]
        k[:] = 0.0
        if curvature == 0.0:  # no control from here on costs anything or leads anywhere
            K[:] = 0.0
        else:
            for i in range(nu):
                for j in range(nu):
                    damped[i, j] = Q[nx + i, nx + j]
                damped[i, i] += (damping + _RIDGE) * curvature / unit[i] ** 2
            if not box_qp(damped, q[nx:], low[t], high[t], k, free, L):
                return False
            for a in range(nx):
                for j in range(nu):
                    column[j] = -Q[nx + j, a]
                _solve(L, free, column)
                for j in range(nu):
                    K[j, a] = column[j]
        # The value of this policy, by the curvature without damping.
        for a in range(nx):
            total = q[a]
            for i in range(nu):
                inner = q[nx + i]
                for j in range(nu):
                    inner += Q[nx + i, nx + j] * k[j]
                total += K[i, a] * inner + Q[a, nx + i] * k[i]
            v[a] = total
        for a in range(nx):
            for b in range(a + 1):
                total = Q[a, b]
                for i in range(nu):
                    inner = Q[nx + i, b]
                    for j in range(nu):
                        inner += Q[nx + i, nx + j] * K[j, b]
                    total += K[i, a] * inner + Q[a, nx + i] * K[i, b]
                V[a, b] = total
                V[b, a] = total
    return bool(np.isfinite(np.sum(feedforward)) and np.isfinite(np.sum(gains)))
