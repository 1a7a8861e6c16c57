"""The few LLVM instructions that Numba has no name for."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
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


@intrinsic
def select(typing, condition, a, b):
    """`a if condition else b` with both sides evaluated and no branch; they are numbers, or tuples of one type."""
    result = typing.unify_types(types.unliteral(a), types.unliteral(b))
    if result is None:
        raise TypingError(f"both sides of a branch must give values of one kind, got {a} and {b}")

    def generate(context, builder, signature, arguments):
        first, second = (
            context.cast(builder, value, kind, result)
            for value, kind in zip(arguments[1:], signature.args[1:], strict=True)
        )
        return builder.select(context.cast(builder, arguments[0], signature.args[0], types.boolean), first, second)

    return result(condition, a, b), generate


def _filled(context, builder, kind, number):
    """A value of this type whose floats are `number`, whose integers are -1, and whose truths are False."""
    if isinstance(kind, types.BaseTuple):
        return context.make_tuple(builder, kind, [_filled(context, builder, part, number) for part in kind])
    if isinstance(kind, types.Float):
        return context.get_constant(kind, number)
    return context.get_constant(kind, 0 if kind == types.boolean else -1)


@intrinsic
def nan_like(typing, x):
    """NaN, or a tuple of NaN, of the type of `x`; -1 for integers, which no look-up accepts."""
    kind = types.unliteral(x)
    return kind(x), lambda context, builder, sig, args: _filled(context, builder, kind, float("nan"))


@intrinsic
def pick(typing, items, i):
    """items[i] of a tuple by selects, for it lies in registers; `nan_like` of an element if out of range."""
    kind = typing.unify_types(*map(types.unliteral, items))

    def generate(context, builder, signature, arguments):
        value = _filled(context, builder, kind, float("nan"))
        for k, given in enumerate(items):
            here = builder.icmp_signed("==", arguments[1], ir.Constant(arguments[1].type, k))
            item = context.cast(builder, builder.extract_value(arguments[0], k), given, kind)
            value = builder.select(here, item, value)
        return value

    return kind(items, i), generate


@intrinsic
def allow_gathers(typing):
    """Have LLVM vectorise look-ups of the function at hand with AVX2's gathers.

    It holds them for slow on AMD's processors. Without them it calculates all that leads to an index lane by lane,
    which takes twice as long.
    """

    def generate(context, builder, signature, arguments):
        features = context.codegen()._tm_features
        if "+avx2" in features and "+avx512f" not in features:
            # llvmlite's own `add` knows no attributes with values
            set.add(builder.function.attributes, f'"target-features"="{features},+fast-gather"')
        return context.get_dummy_value()

    return types.void(), generate
