"""The few LLVM instructions that Numba has no name for."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic(prefer_literal=True)
def stack_float32(typing, count):
    """Pointer to `count` (a literal) float32 on the stack: no allocation, and LLVM knows that nothing aliases it."""

    def generate(context, builder, signature, arguments):
        pointer = cgutils.alloca_once(builder, ir.ArrayType(ir.FloatType(), count.literal_value))
        pointer.align = 64
        return builder.bitcast(pointer, ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(count), generate


@intrinsic(prefer_literal=True)
def stack_float64(typing, count):
    """Pointer to `count` (a literal) float64 on the stack."""

    def generate(context, builder, signature, arguments):
        pointer = cgutils.alloca_once(builder, ir.ArrayType(ir.DoubleType(), count.literal_value))
        pointer.align = 64
        return builder.bitcast(pointer, ir.DoubleType().as_pointer())

    return types.CPointer(types.float64)(count), generate


@intrinsic
def bits_of_float32(typing, x):
    """The 32 bits of a float32 as int32."""
    return types.int32(types.float32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.IntType(32))


@intrinsic
def float32_of_bits(typing, x):
    """The float32 of 32 bits."""
    return types.float32(types.int32), lambda context, builder, sig, args: builder.bitcast(args[0], ir.FloatType())
