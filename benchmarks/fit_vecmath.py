"""Prints polynomial coefficients of core/vecmath.py, core/random.py and kernels/vectors.py (needs mpmath, 20 s).

Each is a minimax fit by Remez exchange: the largest error of the whole function relative to its value is as small as
the degree allows. Fitted with 50 digits, then rounded to the type; the error printed is that of the rounded polynomial.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import mpmath as mp
import numpy as np

mp.mp.dps = 50
Real = Callable[[mp.mpf], mp.mpf]
GRID = 800  # points on which the error is watched


def remez(target: Real, weight: Real, low: mp.mpf, high: mp.mpf, degree: int) -> list[mp.mpf]:
    """Coefficients, lowest first, of the polynomial with the least max |weight (target - p)| on [low, high]."""
    nodes = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / GRID) for i in range(GRID)]
    wanted, weights = [target(x) for x in nodes], [weight(x) for x in nodes]
    count = degree + 2
    extrema = [round((1 - np.cos(np.pi * i / (count - 1))) / 2 * (GRID - 1)) for i in range(count)]
    for _ in range(20):
        # Solve for a polynomial with the errors +e, -e, +e ... at the extrema, then move these to where it errs most.
        system = mp.matrix(count, count)
        for row, i in enumerate(extrema):
            for power in range(degree + 1):
                system[row, power] = nodes[i] ** power
            system[row, count - 1] = (-1) ** row / weights[i]
        solution = mp.lu_solve(system, mp.matrix([wanted[i] for i in extrema]))
        coefficients = [solution[power] for power in range(degree + 1)]
        errors = [w * (g - mp.polyval(coefficients[::-1], x)) for x, g, w in zip(nodes, wanted, weights, strict=True)]
        starts = [0] + [i for i in range(1, GRID) if (errors[i] > 0) != (errors[i - 1] > 0)] + [GRID]
        moved = [max(range(a, b), key=lambda i: abs(errors[i])) for a, b in pairwise(starts)]
        while len(moved) > count:
            moved.pop(0 if abs(errors[moved[0]]) < abs(errors[moved[-1]]) else -1)
        if moved == extrema or len(moved) < count:
            break
        extrema = moved
    return coefficients


def in_square(function: Real, first: int = 1) -> tuple[Real, Real]:
    """Target and weight of `tail` in function(x) = first x + x s tail(s), s = x^2."""

    def target(s: mp.mpf) -> mp.mpf:
        return (function(mp.sqrt(s)) / mp.sqrt(s) - first) / s

    return target, lambda s: s * mp.sqrt(s) / function(mp.sqrt(s))


def expm1_tail(f: mp.mpf) -> mp.mpf:
    return mp.expm1(f) / f if f else mp.mpf(1)


def exp2_tail(f: mp.mpf) -> mp.mpf:
    return (mp.mpf(2) ** f - 1) / f if f else mp.log(2)


def log1p_over(m: mp.mpf) -> mp.mpf:
    return mp.log1p(m) / m if m else mp.mpf(1)


def cos_tail(s: mp.mpf) -> mp.mpf:
    return (mp.cos(mp.sqrt(s)) - 1 + s / 2) / s**2


def main() -> None:
    half = mp.mpf("0.50001")
    tiny, half_log2 = mp.mpf("1e-6"), mp.log(2) / 2 * mp.mpf("1.0001")
    cot = (lambda s: (mp.sqrt(s) / mp.tan(mp.sqrt(s)) - 1) / s), (lambda s: s * mp.tan(mp.sqrt(s)) / mp.sqrt(s))
    octant, root = (mp.pi / 4) ** 2, mp.sqrt(2) * mp.mpf("1.001")
    jobs: dict[str, tuple[tuple[Real, Real], mp.mpf, mp.mpf, tuple[int, ...]]] = {
        # target and weight, interval of the variable, degree for float32 and for float64
        "sin": (in_square(mp.sin), tiny, mp.mpf("1.6") ** 2, (3, 6)),
        "cot": (cot, tiny, mp.mpf("0.786") ** 2, (3, 7)),
        "expm1": ((expm1_tail, lambda f: 1 / expm1_tail(f)), -half_log2, half_log2, (5, 9)),
        "decay": ((exp2_tail, lambda f: 1 / exp2_tail(f)), -half, half, (4, 9)),
        "log": (in_square(lambda q: 2 * mp.atanh(q), 2), tiny, mp.mpf("0.1716") ** 2, (2, 5)),
        "asin": (in_square(mp.asin), tiny, mp.mpf("0.2501"), (4, 10)),
        "atan": (in_square(mp.atan), tiny, mp.mpf(1), (6, 17)),
        "normals: log": ((log1p_over, lambda m: 1 / log1p_over(m)), 1 / root - 1, root - 1, (7,)),
        "normals: sin": (in_square(mp.sin), tiny, octant, (1,)),
        "normals: cos": ((cos_tail, lambda s: s**2 / mp.cos(mp.sqrt(s))), mp.mpf("1e-4"), octant, (1,)),
    }
    for name, ((target, weight), low, high, degrees) in jobs.items():
        for dtype, degree in zip(("float32", "float64"), degrees, strict=False):
            rounded = [float(np.array(float(c), dtype)) for c in remez(target, weight, low, high, degree)]
            sample = [low + (high - low) * i / 997 for i in range(998)]
            error = max(abs(weight(x) * (target(x) - mp.polyval(rounded[::-1], x))) for x in sample)
            print(f"{name} {dtype}, relative error {mp.nstr(error, 2)}:\n    {', '.join(map(repr, rounded))}")
    for degree, halvings in ((2, 15), (3, 10), (4, 8), (5, 6), (6, 4), (7, 3), (8, 2)):
        bound = mp.mpf(2) ** -halvings * mp.mpf("1.0001")
        rounded = [float(c) for c in remez(exp2_tail, lambda f: 1 / exp2_tail(f), -bound, bound, degree)]
        print(f"small powers within 2^-{halvings}, highest first:\n    {', '.join(map(repr, rounded[::-1]))}")


if __name__ == "__main__":
    main()
