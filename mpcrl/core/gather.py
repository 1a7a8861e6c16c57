"""What rewritten functions need beside `vecmath`: look-ups in arrays, and division and powers as Python has them.

An index out of range gives NaN instead of foreign memory. All is free of jumps: LLVM does not vectorise a loop with a
load behind a jump, unless the processor has masked gathers.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

from mpcrl.core import vecmath
from mpcrl.core.compile import inlined
from mpcrl.core.intrinsics import select

_i4, _f4, _f8 = np.int32, np.float32, np.float64


@inlined
def smaller(a, b):
    """min(a, b) with Python's answer for NaN: `a` unless b < a."""
    return select(b < a, b, a)


@inlined
def larger(a, b):
    """max(a, b) with Python's answer for NaN: `a` unless b > a."""
    return select(b > a, b, a)


@inlined
def to_index_float32(x):
    """int32 of a float, truncated; -1 for NaN and what is too large, which no look-up accepts."""
    return select(abs(x) < _f4(1073741824.0), _i4(x), _i4(-1))


@inlined
def to_index_float64(x):
    """int32 of a float, truncated; -1 for NaN and what is too large, which no look-up accepts."""
    return select(abs(x) < _f8(1073741824.0), _i4(x), _i4(-1))


@inlined
def gather1(a, nan, i):
    """a[i], or NaN."""
    i = _i4(i)
    inside = (i >= _i4(0)) & (i < _i4(a.shape[0]))
    return select(inside, a[np.uint32(select(inside, i, _i4(0)))], nan)


@inlined
def gather2(a, nan, i, j):
    """a[i, j], or NaN."""
    i, j = _i4(i), _i4(j)
    inside = (i >= _i4(0)) & (i < _i4(a.shape[0])) & (j >= _i4(0)) & (j < _i4(a.shape[1]))
    return select(inside, a[np.uint32(select(inside, i, _i4(0))), np.uint32(select(inside, j, _i4(0)))], nan)


@inlined
def gather3(a, nan, i, j, k):
    """a[i, j, k], or NaN."""
    i, j, k = _i4(i), _i4(j), _i4(k)
    inside = (i >= _i4(0)) & (i < _i4(a.shape[0])) & (j >= _i4(0)) & (j < _i4(a.shape[1]))
    inside = inside & (k >= _i4(0)) & (k < _i4(a.shape[2]))
    first, second, third = select(inside, i, _i4(0)), select(inside, j, _i4(0)), select(inside, k, _i4(0))
    return select(inside, a[np.uint32(first), np.uint32(second), np.uint32(third)], nan)


@functools.cache
def python_arithmetic(real):
    """The functions `quotient`, `remainder` and `power` of one float type.

    Parameters
    ----------
    real : numpy.float32 or numpy.float64
    """
    # 'arcp' would make a / 41 of 41 less than 1
    lane = njit(forceinline=True, error_model="numpy", fastmath={"contract"})
    zero, half, one, two, nan = real(0), real(0.5), real(1), real(2), real(np.nan)
    functions = vecmath.lane_functions(real)
    exp, log = functions["exp"], functions["log"]

    @lane
    def quotient(a, b):
        """a // b: rounding of a / b lifts it above no integer."""
        k = np.floor(a / b)
        r = a - k * b
        k = select(r * b < zero, k - one, k)
        return select(abs(r) >= abs(b), k + one, k)

    @lane
    def remainder(a, b):
        """a % b: between 0 and b."""
        r = a - np.floor(a / b) * b
        r = select(r * b < zero, r + b, r)
        return select(abs(r) >= abs(b), r - b, r)

    @lane
    def power(x, y):
        """x ** y; NaN where Python gives a complex number."""
        whole = np.floor(y) == y
        odd = np.floor(y * half) * two != y
        size = select(y == zero, one, exp(y * log(abs(x))))
        return select(x < zero, select(whole, select(odd, -size, size), nan), size)

    return quotient, remainder, power
