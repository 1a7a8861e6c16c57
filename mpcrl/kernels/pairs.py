"""Sums over pairs of weights times 2^(y_i . x_j): tiles of four rows i by a few vector registers of columns j.

A tile's exponents are a product of matrices that stays in registers, as in `kernels.network`, its powers a polynomial
of degree 10 in the fraction (relative error 6e-16) and an addition to the exponent; the exponent 0 gives exactly 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mpcrl.core.compile import kernel
from mpcrl.kernels.network import TARGET

ROWS, PAD = 4, 16
"""Rows of a tile; rows and columns are padded to multiples of the other, so that every CPU's tiles fit."""

_LANES, _VECTORS = TARGET.lanes // 2, 2
_COLUMNS = _LANES * _VECTORS
_MOST = 1000.0  # exponents are held within its negative and it
_ROUNDER = 1.5 * 2**52  # leaves the nearest integer in the low bits
_POWER = (  # 2^f, |f| <= 1/2; lowest power first: interpolation of (2^f - 1) / f at Chebyshev nodes
    1.0, 0.6931471805599462, 0.24022650695910075, 0.05550410866465167, 0.009618129107618665, 0.0013333558200794592,
    0.00015403530424776529, 1.5252672924850737e-05, 1.3215451633221434e-06, 1.0205905413765595e-07,
    7.070977866508138e-09,
)  # fmt: skip

_F64, _I64, _I32 = ir.DoubleType(), ir.IntType(64), ir.IntType(32)
_VECTOR, _INTEGERS = ir.VectorType(_F64, _LANES), ir.VectorType(_I64, _LANES)


def _like(number: float) -> Any:
    return ir.Constant(_VECTOR, [number] * _LANES)


def _spread(b: Any, number: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = b.insert_element(undefined, number, ir.Constant(_I32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


def _multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.fmuladd.v{_LANES}f64"), (x, y, z))


def _load(b: Any, pointer: Any) -> Any:
    return b.load(b.bitcast(pointer, _VECTOR.as_pointer()), align=8)


def _store(b: Any, value: Any, pointer: Any) -> None:
    b.store(value, b.bitcast(pointer, _VECTOR.as_pointer()), align=8)


def _powers_of_two(b: Any, exponents: list[Any]) -> list[Any]:
    """2^y of several vectors, step by step of all of them: of one alone each step would wait for the one before."""
    for op, bound in ((">", _MOST), ("<", -_MOST)):
        exponents = [b.select(b.fcmp_ordered(op, y, _like(bound)), _like(bound), y) for y in exponents]
    shifted = [b.fadd(y, _like(_ROUNDER)) for y in exponents]
    fractions = [b.fsub(y, b.fsub(s, _like(_ROUNDER))) for y, s in zip(exponents, shifted, strict=True)]
    powers = [_like(_POWER[-1])] * len(exponents)
    for c in _POWER[-2::-1]:
        powers = [_multiply_add(b, p, f, _like(c)) for p, f in zip(powers, fractions, strict=True)]
    by = ir.Constant(_INTEGERS, [52] * _LANES)
    scales = [b.shl(b.bitcast(s, _INTEGERS), by) for s in shifted]
    return [b.bitcast(b.add(b.bitcast(p, _INTEGERS), scale), _VECTOR) for p, scale in zip(powers, scales, strict=True)]


def _tile(gained: bool, summed: bool) -> Any:
    """The intrinsic tile(y, u, rows, x, v, columns, gain, zeta, above, sums, total, i, j): see `weigh_pairs`.

    `above` [ROWS, lanes] and `total` [columns of a tile] are parts of sums. Weights never leave the registers.
    """

    @intrinsic
    def tile(typing, y, u, rows, x, v, columns, gain, zeta, above, sums, total, i, j):
        def generate(context, builder, signature, arguments):
            b = builder
            given = list(zip(signature.args, arguments))[:11]
            arrays = [context.make_array(kind)(context, b, value) for kind, value in given]
            y, u, rows, x, v, columns, gain, zeta, above, sums, total = (array.data for array in arrays)
            i, j = arguments[11:]
            size = cgutils.unpack_tuple(b, arrays[9].shape)[0]
            count, span = cgutils.unpack_tuple(b, arrays[3].shape)  # a row of x is as long as those of y, e and gain

            def at(pointer: Any, index: Any, more: int = 0) -> Any:
                return b.gep(pointer, [b.add(index, ir.Constant(_I64, more))])

            cells = [(r, c) for r in range(ROWS) for c in range(_VECTORS)]
            seconds = [_load(b, at(v, j, c * _LANES)) for c in range(_VECTORS)]
            firsts = [_spread(b, b.load(at(u, i, r))) for r in range(ROWS)]
            start = {(r, c): b.fadd(firsts[r], seconds[c]) for r, c in cells}
            before, loop, after = b.block, b.append_basic_block("d"), b.append_basic_block("powers")
            b.branch(loop)
            b.position_at_end(loop)
            d = b.phi(_I64)
            held = {cell: b.phi(_VECTOR) for cell in cells}
            row = b.mul(d, span)
            across = [_load(b, at(x, b.add(row, j), c * _LANES)) for c in range(_VECTORS)]
            done = {}
            for r in range(ROWS):
                factor = _spread(b, b.load(at(y, b.add(row, i), r)))
                for c in range(_VECTORS):
                    done[r, c] = _multiply_add(b, factor, across[c], held[r, c])
            following = b.add(d, ir.Constant(_I64, 1))
            d.add_incoming(ir.Constant(_I64, 0), before)
            d.add_incoming(following, loop)
            for cell in cells:
                held[cell].add_incoming(start[cell], before)
                held[cell].add_incoming(done[cell], loop)
            b.cbranch(b.icmp_signed("<", following, count), loop, after)
            b.position_at_end(after)
            weights = [_load(b, at(columns, j, c * _LANES)) for c in range(_VECTORS)]
            parts = [_load(b, b.gep(total, [ir.Constant(_I64, c * _LANES)])) for c in range(_VECTORS)]
            made = {}
            for (r, c), power in zip(cells, _powers_of_two(b, [done[cell] for cell in cells]), strict=True):
                weight = b.fmul(_spread(b, b.load(at(rows, i, r))), weights[c])
                if gained:
                    place = b.add(b.mul(b.add(i, ir.Constant(_I64, r)), span), j)
                    weight = b.fmul(weight, _load(b, at(gain, place, c * _LANES)))
                parts[c] = _multiply_add(b, weight, b.fsub(power, _like(1.0)), parts[c])
                made[r, c] = b.fmul(weight, power)
            for c in range(_VECTORS):
                _store(b, parts[c], b.gep(total, [ir.Constant(_I64, c * _LANES)]))
            if summed:
                for r in range(ROWS):
                    place = b.gep(above, [ir.Constant(_I64, r * _LANES)])
                    part = _load(b, place)
                    for c in range(_VECTORS):
                        part = b.fadd(part, made[r, c])
                    _store(b, part, place)
                with cgutils.for_range(b, size, intp=_I64) as inner:
                    row = b.mul(inner.index, span)
                    factors = [_spread(b, b.load(at(zeta, b.add(row, i), r))) for r in range(ROWS)]
                    for c in range(_VECTORS):
                        place = at(sums, b.add(row, j), c * _LANES)
                        part = _load(b, place)
                        for r in range(ROWS):
                            part = _multiply_add(b, factors[r], made[r, c], part)
                        _store(b, part, place)
            return context.get_dummy_value()

        return types.void(y, u, rows, x, v, columns, gain, zeta, above, sums, total, i, j), generate

    return tile


_plain, _gained = _tile(False, False), _tile(True, False)
_plain_summed, _gained_summed = _tile(False, True), _tile(True, True)


@kernel
def weigh_pairs(y, u, rows, x, v, columns, gain, symmetric, zeta, above, sums, gradient):
    """sum_ij W_ij (1 - 1 / e_ij) with e_ij = 2^(u_i + v_j + sum_d y_di x_dj), W_ij = rows_i columns_j gain_ij e_ij.

    Parameters
    ----------
    y, x : ndarray [W, N]
        Padded with zeros as `rows` and `columns` are, to a multiple of `PAD`.
    u, rows, v, columns : ndarray [N]
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
    N = len(columns)
    total, part = np.zeros(_COLUMNS), np.empty((ROWS, _LANES))
    sums[:] = 0.0
    for i in range(0, N, ROWS):
        last = (i + ROWS + PAD - 1) // PAD * PAD if symmetric else N
        part[:] = 0.0
        for j in range(0, last, _COLUMNS):
            if symmetric and gradient:
                _gained_summed(y, u, rows, x, v, columns, gain, zeta, part, sums, total, i, j)
            elif symmetric:
                _gained(y, u, rows, x, v, columns, gain, zeta, part, sums, total, i, j)
            elif gradient:
                _plain_summed(y, u, rows, x, v, columns, gain, zeta, part, sums, total, i, j)
            else:
                _plain(y, u, rows, x, v, columns, gain, zeta, part, sums, total, i, j)
        for r in range(ROWS):
            above[i + r] = 0.0
            for l in range(_LANES):
                above[i + r] += part[r, l]
    value = 0.0
    for j in range(_COLUMNS):
        value += total[j]
    return value
