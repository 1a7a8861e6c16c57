"""Guarded look-ups in arrays, one per SIMD lane: an index out of range gives NaN instead of foreign memory."""

from __future__ import annotations

import numpy as np

from mpcrl.core.compile import inlined

_i4, _f4, _f8 = np.int32, np.float32, np.float64


@inlined
def to_index_float32(x):
    """int32 of a float, truncated; -1 for NaN and what is too large, which no look-up accepts."""
    return _i4(x) if abs(x) < _f4(1073741824.0) else _i4(-1)


@inlined
def to_index_float64(x):
    """int32 of a float, truncated; -1 for NaN and what is too large, which no look-up accepts."""
    return _i4(x) if abs(x) < _f8(1073741824.0) else _i4(-1)


@inlined
def gather1(a, nan, i):
    """a[i], or NaN."""
    inside = (i >= _i4(0)) & (i < _i4(a.shape[0]))
    return a[np.uint32(i if inside else _i4(0))] if inside else nan


@inlined
def gather2(a, nan, i, j):
    """a[i, j], or NaN."""
    inside = (i >= _i4(0)) & (i < _i4(a.shape[0])) & (j >= _i4(0)) & (j < _i4(a.shape[1]))
    return a[np.uint32(i if inside else _i4(0)), np.uint32(j if inside else _i4(0))] if inside else nan


@inlined
def gather3(a, nan, i, j, k):
    """a[i, j, k], or NaN."""
    inside = (i >= _i4(0)) & (i < _i4(a.shape[0])) & (j >= _i4(0)) & (j < _i4(a.shape[1]))
    inside = inside & (k >= _i4(0)) & (k < _i4(a.shape[2]))
    first, second, third = i if inside else _i4(0), j if inside else _i4(0), k if inside else _i4(0)
    return a[np.uint32(first), np.uint32(second), np.uint32(third)] if inside else nan
