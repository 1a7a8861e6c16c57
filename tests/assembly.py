"""What kernels written in LLVM's intermediate representation become on CPUs that need not be at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir


def assembly(cpu: str, kinds: Sequence[Any], emit: Callable[..., Any]) -> str:
    """The text of a function for an x86-64 CPU, whose arguments are of these kinds: `emit(builder, *arguments)`."""
    module = ir.Module()
    module.triple = "x86_64-unknown-linux-gnu"
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "emitted")
    builder = ir.IRBuilder(function.append_basic_block())
    emit(builder, *function.args)
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return llvm.Target.from_triple(module.triple).create_target_machine(cpu=cpu, opt=3).emit_assembly(parsed)
