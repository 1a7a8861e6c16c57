"""Sums over pairs of weights times e_ij = 2^(u_i + v_j + y_i . x_j): tiles of three rows i by two vectors of columns j.

A tile's exponents are a product of matrices in registers, its powers come from `vectors.powers_of_two`, and what is
summed over its columns and over its rows leaves the registers as sums alone. Weights of rows and of columns do not
depend on the other side, so that they are multiplied in before the tiles or after them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mpcrl.core.compile import inlined, kernel
from mpcrl.kernels.network import TARGET
from mpcrl.kernels.vectors import (
    F64,
    I64,
    SMALL,
    SMALL_POWERS,
    accumulated,
    at,
    like,
    load,
    multiply_add,
    powers_of_two,
    small_powers_of_two,
    spread,
    store,
)

ROWS, _LANES, _VECTORS = 3, TARGET.lanes // 2, 2
"""Of a tile: six chains of multiply-adds hide each other's delay of five cycles, and the polynomials of all need 13
registers of 16."""
_COLUMNS = _LANES * _VECTORS
MOST = 1000.0
"""Bound of exponents, which are held within it: 2 to it, and to its negative, is a normal number."""

_VECTOR = ir.VectorType(F64, _LANES)
_BOUNDS = np.array([bound for bound, _ in SMALL_POWERS])
_POLYNOMIALS = np.array([(0.0,) * (len(SMALL_POWERS) - 1 - k) + c for k, (_, c) in enumerate(SMALL_POWERS)])
"""Row k: zeros, and from column len(_BOUNDS) - 1 - k on the k-th polynomial of `SMALL_POWERS`."""


def padded(count: int) -> int:
    """Numbers that arrays of `count` rows or columns have to hold, so that tiles may reach beyond their end."""
    return -(-(count + ROWS - 1) // _COLUMNS) * _COLUMNS


def _within_bounds(b: Any, y: Any) -> Any:
    """The exponents held within `MOST`; those that are not a number stay so."""
    for op, bound in (("<", -MOST), (">", MOST)):
        y = b.select(b.fcmp_ordered(op, y, like(y, bound)), like(y, bound), y)
    return y


def _strip(small: bool, gained: bool, summed: bool) -> Any:
    """The intrinsic strip(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last), for
    `weigh_pairs`.

    Into `excess` and `whole` [ROWS, lanes] go, for rows from i on and over columns before `last`, parts of the sums of
    columns_j gain_ij times e_ij - 1 and e_ij; to `sums` [D, N] it adds, over these rows, factors_di gain_ij e_ij. With
    `small`, all exponents must be within the bound of the `polynomial`, a row of `SMALL_POWERS`.
    """
    first, places, cells = ir.Constant(I64, 0), range(_VECTORS), [(r, c) for r in range(ROWS) for c in range(_VECTORS)]

    @intrinsic
    def strip(typing, y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last):
        def generate(context, b, signature, arguments):
            given = list(zip(signature.args, arguments))[:11]
            arrays = [context.make_array(kind)(context, b, value) for kind, value in given]
            y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial = (array.data for array in arrays)
            i, last = arguments[11:]
            size, terms = (cgutils.unpack_tuple(b, arrays[k].shape)[0] for k in (9, 10))
            count, span = cgutils.unpack_tuple(b, arrays[2].shape)  # a row of x is as long as those of all others

            def row(pointer: Any, d: Any, r: int) -> Any:
                return spread(b, b.load(at(b, pointer, b.mul(d, span), i, r)), _LANES)

            def column(pointer: Any, d: Any, c: int, j: Any) -> Any:
                return load(b, at(b, pointer, b.mul(d, span), j, c * _LANES), _VECTOR)

            zero = ir.Constant(_VECTOR, [0.0] * _LANES)
            over = [cgutils.alloca_once_value(b, zero) for _ in range(ROWS)]
            full = [cgutils.alloca_once_value(b, zero) for _ in range(ROWS)]
            with cgutils.for_range_slice(b, first, last, ir.Constant(I64, _COLUMNS), intp=I64) as (j, _):
                left, right = [row(u, first, r) for r in range(ROWS)], [column(v, first, c, j) for c in places]
                start = {(r, c): b.fadd(left[r], right[c]) for r, c in cells}
                exponents = accumulated(b, start, count, lambda d, r: row(y, d, r), lambda d, c: column(x, d, c, j))
                if small:
                    less = small_powers_of_two(b, list(exponents.values()), polynomial, terms)
                    powers = [(minus, like(minus, 1.0)) for minus in less]
                else:
                    powers = powers_of_two(b, [_within_bounds(b, y) for y in exponents.values()])
                    less = [multiply_add(b, power, scale, like(power, -1.0)) for power, scale in powers]
                weights, made = [column(columns, first, c, j) for c in places], {}
                for (r, c), minus, power in zip(cells, less, powers, strict=True):
                    weight = weights[c]
                    if gained:
                        gains = column(gain, b.add(i, ir.Constant(I64, r)), c, j)
                        weight = b.fmul(weight, gains)
                    b.store(multiply_add(b, weight, minus, b.load(over[r])), over[r])
                    if summed:
                        e = (b.fadd if small else b.fmul)(*power)
                        b.store(multiply_add(b, weight, e, b.load(full[r])), full[r])
                        made[r, c] = b.fmul(e, gains) if gained else e
                if summed:
                    with cgutils.for_range(b, size, intp=I64) as inner:
                        spreads = [row(factors, inner.index, r) for r in range(ROWS)]
                        for c in places:
                            place = at(b, sums, b.mul(inner.index, span), j, c * _LANES)
                            part = load(b, place, _VECTOR)
                            for r in range(ROWS):
                                part = multiply_add(b, spreads[r], made[r, c], part)
                            store(b, part, place)
            for r in range(ROWS):
                store(b, b.load(over[r]), at(b, excess, r * _LANES))
                store(b, b.load(full[r]), at(b, whole, r * _LANES))
            return context.get_dummy_value()

        return types.void(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last), generate

    return strip


_plain, _gained = _strip(False, False, False), _strip(False, True, False)
_plain_summed, _gained_summed = _strip(False, False, True), _strip(False, True, True)
_small_plain, _small_gained = _strip(True, False, False), _strip(True, True, False)
_small_plain_summed, _small_gained_summed = _strip(True, False, True), _strip(True, True, True)


@inlined
def _largest(numbers):
    """Of absolute values; those that are not a number do not count."""
    most = 0.0
    for number in numbers:
        most = max(most, abs(number))
    return most


@kernel
def weigh_pairs(count, y, u, rows, x, v, columns, gain, symmetric, zeta, above, sums, gradient):
    """sum_ij W_ij (1 - 1 / e_ij) with e_ij = 2^(u_i + v_j + sum_d y_di x_dj), W_ij = rows_i columns_j gain_ij e_ij.

    Parameters
    ----------
    count : int
        Rows, and columns, that there are; N is `padded(count)`.
    y, x : ndarray [W, N]
        Padded with zeros, as `rows` and `columns` are. Exponents are held within `MOST`.
    u, v : ndarray [N]
        Numbers beyond `count` must be finite.
    rows, columns : ndarray [N]
    gain : ndarray [N, N]
        Counts as 1 unless `symmetric`, where it is 0 above the diagonal: the tiles there are left out.
    zeta : ndarray [D, N]
    above : ndarray [N]
        Out: sum_j W_ij.
    sums : ndarray [D, N]
        Out: sum_i zeta_di W_ij.
    gradient : bool
        Whether to make these two.
    """
    above[:] = 0.0
    sums[:] = 0.0
    farthest = np.empty(len(x))
    for d in range(len(x)):
        farthest[d] = _largest(x[d])
    height = _largest(v)
    factors = zeta * rows if gradient else zeta
    excess, whole = np.empty((ROWS, _LANES)), np.empty((ROWS, _LANES))
    value = 0.0
    for i in range(0, count, ROWS):
        last = min(i + ROWS, count) if symmetric else count
        reach = height + _largest(u[i : i + ROWS])
        for d in range(len(y)):
            reach += _largest(y[d, i : i + ROWS]) * farthest[d]
        k = 0  # the shortest polynomial that holds for all exponents of these rows
        while k < len(_BOUNDS) - 1 and reach > _BOUNDS[k]:
            k += 1
        polynomial = _POLYNOMIALS[k, len(_BOUNDS) - 1 - k :]
        if reach <= SMALL:
            if symmetric and gradient:
                _small_gained_summed(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
            elif symmetric:
                _small_gained(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
            elif gradient:
                _small_plain_summed(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
            else:
                _small_plain(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
        elif symmetric and gradient:
            _gained_summed(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
        elif symmetric:
            _gained(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
        elif gradient:
            _plain_summed(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
        else:
            _plain(y, u, x, v, columns, gain, factors, excess, whole, sums, polynomial, i, last)
        for r in range(ROWS):
            value += rows[i + r] * excess[r].sum()
            above[i + r] = rows[i + r] * whole[r].sum()
    if gradient:
        sums *= columns
    return value
