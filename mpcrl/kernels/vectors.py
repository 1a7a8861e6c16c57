"""Vectors of numbers in LLVM's intermediate representation, for kernels whose registers are filled by hand.

Such a kernel works on *tiles*: rows by vectors of columns that stay in registers, while a loop adds products to all of
them (`accumulated`) and, where they are exponents, powers of two are made of them.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

F32, F64, I16, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)

VECTOR_REGISTER = {"x86_64": "x", "amd64": "x", "arm64": "w", "aarch64": "w"}.get(platform.machine().lower())
"""What inline assembly calls one; None where that is not known."""

_ROUNDER = 1.5 * 2**52 + 1023  # leaves the exponent of 2^k in the low bits, k being the nearest integer
_POWER = (  # 2^f, |f| <= 1/2; lowest power first: interpolation of (2^f - 1) / f at Chebyshev nodes
    1.0, 0.6931471805599462, 0.24022650695910075, 0.05550410866465167, 0.009618129107618665, 0.0013333558200794592,
    0.00015403530424776529, 1.5252672924850737e-05, 1.3215451633221434e-06, 1.0205905413765595e-07,
    7.070977866508138e-09,
)  # fmt: skip
# fmt: off
SMALL_POWERS = (  # bound of |y|; polynomial (2^y - 1) / y, highest power first (benchmarks/fit_vecmath.py)
    (2.0**-15, (0.05550410866482052, 0.2402265069658202, 0.6931471805599453)),
    (2.0**-10, (0.009618129107632229, 0.05550410993666283, 0.2402265069591008, 0.6931471805599452)),
    (2.0**-8, (0.00133335581465346, 0.009618132046203808, 0.055504108664824914, 0.2402265069590895,
        0.6931471805599453)),
    (2.0**-6, (0.00015403530393306186, 0.0013333614014650527, 0.009618129107731972, 0.05550410866430999,
        0.2402265069591007, 0.6931471805599453)),
    (2.0**-4, (1.5252734666385477e-05, 0.00015404433968457782, 0.0013333558173568918, 0.009618129089977797,
        0.055504108664816275, 0.24022650695910933, 0.6931471805599453)),
    (2.0**-3, (1.3215486793975243e-06, 1.5255915047079536e-05, 0.00015403530781060552, 0.0013333557835735533,
        0.009618129107588089, 0.05550410866491867, 0.2402265069591008, 0.6931471805599453)),
    (2.0**-2, (1.0178086129763871e-07, 1.3225409075572995e-06, 1.5252738689068146e-05, 0.00015403525743414465,
        0.0013333558143884452, 0.009618129108435345, 0.05550410866482516, 0.24022650695909695, 0.6931471805599453)),
)
# fmt: on
"""Each has one degree more than the one before. They err by 2.5e-16 at most, relatively, and with rounding by 5e-16."""
SMALL = SMALL_POWERS[-1][0]
"""Bound of what `small_powers_of_two` takes."""


# ---- single instructions -----------------------------------------------------------------------------------------
def like(v: Any, number: float) -> Any:
    """A vector of the type of `v` filled with a number."""
    return ir.Constant(v.type, [number] * v.type.count)


def spread(b: Any, number: Any, lanes: int) -> Any:
    """A vector filled with a number that is only known when the kernel runs."""
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = b.insert_element(undefined, number, ir.Constant(I32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    """What one of LLVM's own functions makes of the arguments."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z; `llvm.fma` would call a function for every lane where the CPU cannot do it at once."""
    bits = 64 if x.type.element == F64 else 32
    return call(b, f"llvm.fmuladd.v{x.type.count}f{bits}", x.type, x, y, z)


def at(b: Any, pointer: Any, *offsets: Any) -> Any:
    """The pointer moved on by offsets, each an int or an i64."""
    for offset in offsets:
        pointer = b.gep(pointer, [ir.Constant(I64, offset) if isinstance(offset, int) else offset])
    return pointer


def load(b: Any, pointer: Any, kind: Any) -> Any:
    """A vector of this type from where its numbers lie."""
    return b.load(b.bitcast(pointer, kind.as_pointer()), align=4)


def store(b: Any, v: Any, pointer: Any) -> None:
    """A vector to where its numbers shall lie."""
    b.store(v, b.bitcast(pointer, v.type.as_pointer()), align=4)


def held(b: Any, vectors: Sequence[Any]) -> list[Any]:
    """The same vectors, all of which are there before anything is made of one of them.

    LLVM, short of registers, finishes one chain of instructions after the other, each of which waits for the one
    before. An empty line of assembly that has to see all vectors keeps the chains side by side.
    """
    if VECTOR_REGISTER is None:
        return list(vectors)
    kinds = [v.type for v in vectors]
    places = [f"={VECTOR_REGISTER}"] * len(kinds) + [str(i) for i in range(len(kinds))]
    kind = ir.FunctionType(ir.LiteralStructType(kinds), kinds)
    both = b.asm(kind, "", ",".join(places), list(vectors), True)
    return [b.extract_value(both, i) for i in range(len(kinds))]


# ---- tiles -------------------------------------------------------------------------------------------------------
Cell = tuple[int, int]
"""Row and vector of columns."""


def accumulated(
    b: Any,
    sums: Mapping[Cell, Any],
    count: Any,
    row: Callable[[Any, int], Any],
    column: Callable[[Any, int], Any],
    product: Callable[[Any, Any, Any, Any], Any] = multiply_add,
) -> dict[Cell, Any]:
    """sums[r, c] + sum over k < count of row(k, r) column(k, c), in registers over all turns of the loop.

    Parameters
    ----------
    sums : mapping of (int, int) to vector
    count : i64
        At least 1.
    row, column : callable
        Emit a vector of turn k, an i64.
    product : callable
        (b, row, column, sum) to the new sum.
    """
    before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.branch(loop)
    b.position_at_end(loop)
    k, total = b.phi(I64), {cell: b.phi(v.type) for cell, v in sums.items()}
    columns = {c: column(k, c) for c in dict.fromkeys(c for _, c in sums)}
    new = {}
    for r in dict.fromkeys(r for r, _ in sums):
        factor = row(k, r)
        for c, v in columns.items():
            new[r, c] = product(b, factor, v, total[r, c])
    following = b.add(k, ir.Constant(I64, 1))
    k.add_incoming(ir.Constant(I64, 0), before)
    k.add_incoming(following, loop)
    for cell, phi in total.items():
        phi.add_incoming(sums[cell], before)
        phi.add_incoming(new[cell], loop)
    b.cbranch(b.icmp_signed("<", following, count), loop, after)
    b.position_at_end(after)
    return new


def powers_of_two(b: Any, exponents: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Vectors p and s of each vector y of exponents in float64, -1022 <= y < 1023.5: 2^y is p s, to 6e-16.

    s is a power of two and p within [sqrt 1/2, sqrt 2], so that p s is exact, 2^0 is 1, and 2^y - 1 takes one
    instruction more. Does all vectors side by side; six keep a core busy.
    """
    shifted = [b.fadd(y, like(y, _ROUNDER)) for y in exponents]
    fractions = [b.fsub(y, b.fsub(s, like(y, _ROUNDER))) for y, s in zip(exponents, shifted, strict=True)]
    scales = []
    for s in shifted:
        bits = b.bitcast(s, ir.VectorType(I64, s.type.count))
        scales.append(b.bitcast(b.shl(bits, like(bits, 52)), s.type))
    scales = held(b, scales)
    return list(zip(_polynomials(b, _POWER, fractions), scales, strict=True))


def small_powers_of_two(b: Any, exponents: Sequence[Any], coefficients: Any, count: Any) -> list[Any]:
    """2^y - 1 of each vector y of exponents in float64, to 5e-16 of it: without the search for whole powers.

    `coefficients` points at the last `count` (i64) of a row of `SMALL_POWERS` that holds for all |y|.
    """
    first = spread(b, b.load(coefficients), exponents[0].type.count)
    places = [cgutils.alloca_once_value(b, first) for _ in exponents]  # registers, once LLVM has seen them
    with cgutils.for_range_slice(b, ir.Constant(I64, 1), count, ir.Constant(I64, 1), intp=I64) as (k, _):
        following = spread(b, b.load(at(b, coefficients, k)), first.type.count)
        for place, y in zip(places, exponents, strict=True):
            b.store(multiply_add(b, b.load(place), y, following), place)
    return [b.fmul(y, b.load(place)) for place, y in zip(places, exponents, strict=True)]


def _polynomials(b: Any, coefficients: Sequence[float], arguments: Sequence[Any]) -> list[Any]:
    values = [like(x, coefficients[-1]) for x in arguments]
    for c in coefficients[-2::-1]:
        values = held(b, [multiply_add(b, v, x, like(x, c)) for v, x in zip(values, arguments, strict=True)])
    return values
