"""Functions that a kernel calls by their address, so that it need not be compiled with them.

A kernel is compiled anew for each function that it has inlined, which a call per sample is worth. One call per tile of
samples costs nothing by address, and then the kernel around it is the same for all.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64 = ir.IntType(64)

FLOATS, DOUBLES, INTEGERS = map(types.CPointer, (types.float32, types.float64, types.int64))
"""What a hook takes where it is given an array: a pointer to the first element. Integers are int64."""


def address_of(kernel: Any, *arguments: Any) -> int:
    """Compile a kernel for arguments of these types, to be called by `call_at`; it must return an int64."""
    signature = types.int64(*arguments)
    kernel.compile(signature)
    compiled = kernel.overloads[signature.args]
    if compiled.signature.return_type != types.int64:
        raise TypeError(f"{kernel.__name__} must return an int64, got {compiled.signature.return_type}")
    code, described = attrgetter("library", "fndesc")(compiled)
    return code.get_pointer_to_function(described.llvm_cfunc_wrapper_name)


@intrinsic
def call_at(typing: Any, address: Any, arguments: Any) -> Any:
    """What the function at this address returns, an int64; 0 where it raised. Arguments are arrays and integers."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        passed = []
        for i, kind in enumerate(signature.args[1]):
            value = builder.extract_value(values[1], i)
            if isinstance(kind, types.Array):
                data = cgutils.create_struct_proxy(kind)(context, builder, value=value).data
                passed.append(builder.bitcast(data, cgutils.voidptr_t))
            else:
                passed.append(context.cast(builder, value, kind, types.int64))
        kind = ir.FunctionType(_I64, [value.type for value in passed])
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), passed)

    return types.int64(address, arguments), generate


@intrinsic
def doubles_of(typing: Any, array: Any) -> Any:
    """Pointer to the first element of an array of float64, which somebody else has to keep alive."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return cgutils.create_struct_proxy(signature.args[0])(context, builder, value=values[0]).data

    return DOUBLES(array), generate
