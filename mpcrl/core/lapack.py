"""Two routines of LAPACK, called so that other Python threads go on meanwhile; SciPy's own wrappers hold them up."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np


@functools.cache
def _routine(name: str) -> Any:
    from numba.extending import get_cython_function_address

    integer = ctypes.POINTER(ctypes.c_int)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, integer, ctypes.c_void_p, integer, integer)
    return kind(get_cython_function_address("scipy.linalg.cython_lapack", name))


def _apply(name: str, matrix: np.ndarray) -> int:
    """A routine on the lower triangle of a C-contiguous float64 matrix in place: the upper one in LAPACK's columns."""
    size, info = ctypes.c_int(len(matrix)), ctypes.c_int()
    _routine(name)(b"U", size, matrix.ctypes.data, size, info)
    return info.value


def factorise(matrix: np.ndarray) -> bool:
    """Put L of matrix = L L' into the lower triangle of a matrix [n, n]; False where it is not positive definite."""
    return _apply("dpotrf", matrix) == 0


def invert(factor: np.ndarray) -> None:
    """Put (L L')^-1 into the lower triangle of a matrix [n, n] that holds L there."""
    _apply("dpotri", factor)
