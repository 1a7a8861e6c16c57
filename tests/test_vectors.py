"""Powers of two in vectors: against numpy, and compiled for CPUs that are not at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from mpcrl.kernels.vectors import (
    F64,
    I64,
    SMALL_POWERS,
    VECTOR_REGISTER,
    at,
    load,
    powers_of_two,
    small_powers_of_two,
    store,
)
from tests.assembly import assembly

LANES, VECTORS = 2, 6


def whole(b: Any, exponents: list[Any]) -> list[Any]:
    return [b.fmul(p, s) for p, s in powers_of_two(b, exponents)]


def emitted(emit: Callable[[Any, list[Any]], list[Any]], b: Any, pointer: Any, lanes: int) -> None:
    """In the place of exponents what `emit` makes of them."""
    places = [at(b, pointer, i * lanes) for i in range(VECTORS)]
    vectors = [load(b, place, ir.VectorType(F64, lanes)) for place in places]
    for place, made in zip(places, emit(b, vectors), strict=True):
        store(b, made, place)


def computed(emit: Callable[[Any, list[Any]], list[Any]], exponents: np.ndarray) -> np.ndarray:
    @intrinsic
    def run(typing, numbers):
        def generate(context, builder, signature, arguments):
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            emitted(emit, builder, array.data, LANES)
            return context.get_dummy_value()

        return types.void(numbers), generate

    kernel = numba.njit(lambda numbers: run(numbers))
    out = []
    for block in np.resize(exponents, (-(-len(exponents) // (LANES * VECTORS)), LANES * VECTORS)):
        numbers = np.ascontiguousarray(block)
        kernel(numbers)
        out.append(numbers)
    return np.concatenate(out)[: len(exponents)]


def test_powers_are_those_of_numpy() -> None:
    y = np.concatenate([np.linspace(-1022, 1023, 3001), np.linspace(-1, 1, 999), [0.0, 0.5, -0.5, np.nan]])
    got = computed(whole, y)
    np.testing.assert_allclose(got, np.exp2(y), rtol=1e-15)
    assert np.array_equal(got[y == np.round(y)], np.exp2(y[y == np.round(y)]))
    assert np.isnan(got[-1])


def small(polynomial: tuple[float, ...]) -> Callable[[Any, list[Any]], list[Any]]:
    """`small_powers_of_two` by one of its polynomials."""

    def emit(b: Any, exponents: list[Any]) -> list[Any]:
        kind = ir.ArrayType(F64, len(polynomial))
        place = cgutils.alloca_once_value(b, ir.Constant(kind, polynomial))
        pointer = b.bitcast(place, F64.as_pointer())
        return small_powers_of_two(b, exponents, pointer, ir.Constant(I64, len(polynomial)))

    return emit


@pytest.mark.parametrize(("bound", "polynomial"), SMALL_POWERS)
def test_small_powers_are_those_of_numpy(bound: float, polynomial: tuple[float, ...]) -> None:
    numbers = np.geomspace(1e-300, bound, 500)
    y = np.concatenate([numbers, -numbers, [0.0, np.nan]])
    got = computed(small(polynomial), y)
    np.testing.assert_allclose(got, np.expm1(y * np.log(2)), rtol=1e-15)
    assert got[-2] == 0
    assert np.isnan(got[-1])


@pytest.mark.skipif(VECTOR_REGISTER != "x", reason="the inline assembly of this process is another architecture's")
@pytest.mark.parametrize(
    ("cpu", "lanes", "instruction"),
    [("skylake-avx512", 8, "zmm"), ("znver4", 8, "zmm"), ("znver1", 4, "ymm"), ("x86-64", 2, "mulpd")],
)
@pytest.mark.parametrize("emit", [whole, small(SMALL_POWERS[-1][1])], ids=["whole", "small"])
def test_the_chains_stay_side_by_side_on_every_cpu(cpu: str, lanes: int, instruction: str, emit: Any) -> None:
    """Compiled for the CPU, not run on it: no lane is left alone, and the lines that hold the vectors are there."""
    text = assembly(cpu, [F64.as_pointer()], lambda builder, pointer: emitted(emit, builder, pointer, lanes))
    assert instruction in text
    assert "mulsd" not in text
    assert emit is not whole or text.count("#APP") >= 8
