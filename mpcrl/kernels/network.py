"""Layers of neural networks for many samples at once, near the most that a core can multiply and add.

A layer maps activations h[feature, sample] to out = act(W^T h + b). Neighbouring samples lie in neighbouring lanes of a
vector register, so that nothing is ever transposed or summed across lanes. The micro-kernel here is one *block* of it:
`rows` features of `vectors` registers of samples, whose sums stay in registers over all features of h. Per feature it
loads `vectors` registers of h and spreads `rows` numbers of W; everything else are multiply-adds.

Layouts that follow from it:

    activations  [group][feature][sample]       a group are the `width` samples of a block; rows fill panels
    weights      [panel][feature of h][row]     a panel are the `rows` features of a block; padded with zeros

With `paired` numbers (bfloat16) one int32 holds two consecutive features of a sample, the even one in its low half, and
one instruction does both products; sums, biases and activations are float32. Layers write what the next one reads.

Activations are computed from powers of two, 2^y by a polynomial of the fraction of y and an addition to the exponent,
and the factors that this needs are folded into the weights (`folded`):

    silu   y = -x log2 e gives y / (1 + 2^y) = -log2 e silu(x)      tanh   y = 2 x log2 e gives 1 - 2 / (1 + 2^y)
    gelu   x / (1 + 2^y), y = -2 log2 e sqrt(2 / pi) (x + 0.044715 x^3): its tanh approximation
    relu   max(x, 0)

All keep NaN, so that a sample that failed stays a failed one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, codegen, config
from numba.extending import intrinsic

from mpcrl.core.hooks import FLOATS, INTEGERS
from mpcrl.kernels.vectors import (
    F32,
    F64,
    I16,
    I32,
    I64,
    accumulated,
    at,
    call,
    like,
    load,
    multiply_add,
    spread,
    store,
)

_LOG2E = math.log2(math.e)


class Target(NamedTuple):
    """How a block fills the vector registers of a CPU.

    Attributes
    ----------
    lanes : int
        float32 numbers in a register.
    rows, vectors : int
        Features and registers of samples in a block; `rows` is even, and rows * vectors + vectors + 1 registers are
        needed at once.
    paired : bool
        Whether the CPU multiplies pairs of bfloat16 numbers.
    """

    lanes: int
    rows: int
    vectors: int
    paired: bool

    @property
    def width(self) -> int:
        """Samples in a block."""
        return self.lanes * self.vectors


def target_of(features: str) -> Target:
    """The blocks for a CPU with these features, as LLVM writes them: "+avx2,-avx512f,...". Measured best on each.

    A CPU that is not known to have wider registers gets four lanes, which LLVM has instructions for everywhere.
    """
    has = {word[1:] for word in features.split(",") if word.startswith("+")}
    if "avx512f" in has:
        return Target(16, 10, 2, "avx512bf16" in has)
    return Target(8 if {"avx2", "fma"} <= has else 4, 6, 2, False)


TARGET = target_of(codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES)
"""Of this process. An instruction that the CPU lacks ends it, so what is asked is what Numba hands to LLVM."""


# ---- vectors in LLVM's intermediate representation ---------------------------------------------------------------
class _BFloat(ir.Type):
    """llvmlite has no bfloat type; its name is all that LLVM asks for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _power_of_two(degree: int) -> Callable[[Any, Any], Any]:
    """Emitter of 2^y; |y| is held below 126. Coefficients by least squares of the relative error on Chebyshev nodes."""
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400) / 2
    fit = np.polyfit(nodes, 2**nodes, degree, w=2**-nodes / (1 - 4 * nodes**2) ** 0.25)
    coefficients = fit.astype(np.float32).tolist()
    rounder = 1.5 * 2**23 + 127  # leaves the exponent of 2^k in the low bits, k being y to the nearest integer

    def emit(b: Any, y: Any) -> Any:
        for op, bound in ((">", 126.0), ("<", -126.0)):
            y = b.select(b.fcmp_ordered(op, y, like(y, bound)), like(y, bound), y)
        shifted = b.fadd(y, like(y, rounder))
        fraction = b.fsub(y, b.fsub(shifted, like(y, rounder)))
        p = like(y, coefficients[0])
        for c in coefficients[1:]:
            p = multiply_add(b, p, fraction, like(y, c))
        bits = b.bitcast(shifted, ir.VectorType(I32, y.type.count))
        return b.fmul(p, b.bitcast(b.shl(bits, like(bits, 23)), y.type))

    return emit


# ---- activations -------------------------------------------------------------------------------------------------
def _silu(b: Any, y: Any, power: Callable[[Any, Any], Any]) -> Any:
    return b.fdiv(y, b.fadd(like(y, 1.0), power(b, y)))


def _tanh(b: Any, y: Any, power: Callable[[Any, Any], Any]) -> Any:
    return b.fsub(like(y, 1.0), b.fdiv(like(y, 2.0), b.fadd(like(y, 1.0), power(b, y))))


def _gelu(b: Any, x: Any, power: Callable[[Any, Any], Any]) -> Any:
    scale = -2 * _LOG2E * math.sqrt(2 / math.pi)
    inner = multiply_add(b, b.fmul(x, x), like(x, 0.044715 * scale), like(x, scale))
    return b.fdiv(x, b.fadd(like(x, 1.0), power(b, b.fmul(x, inner))))


def _relu(b: Any, x: Any, power: Callable[[Any, Any], Any]) -> Any:
    return b.select(b.fcmp_ordered("<", x, like(x, 0.0)), like(x, 0.0), x)


def _none(b: Any, x: Any, power: Callable[[Any, Any], Any]) -> Any:
    return x


_EMIT = {"silu": _silu, "tanh": _tanh, "gelu": _gelu, "relu": _relu, "none": _none}
_FACTORS = {"silu": (-_LOG2E, -1 / _LOG2E), "tanh": (2 * _LOG2E, 1.0)}
"""What a layer's sums are multiplied with before, and what its output has to be multiplied with after."""


# ---- the micro-kernel --------------------------------------------------------------------------------------------
class Block(NamedTuple):
    """One kind of micro-kernel.

    Attributes
    ----------
    target : Target
    activation : {"silu", "relu", "tanh", "gelu", "none"}
    reads_pairs, writes_pairs : bool
        Whether h and weights, and whether the output, are pairs of bfloat16.
    double : bool
        Whether all numbers are float64: then a block has half the samples, and no activation.
    """

    target: Target
    activation: str
    reads_pairs: bool = False
    writes_pairs: bool = False
    double: bool = False

    def emit(self, b: Any, w: Any, h: Any, bias: Any, out: Any, count: Any) -> None:
        """One block; `count` is the number of features (or pairs) of h, at least 1, the others are pointers to them.

        Without the instructions for pairs it does the same in float32, with the same rounding of what it writes.
        """
        lanes, rows, vectors, _ = self.target
        lanes //= 2 if self.double else 1
        width = lanes * vectors
        vector = ir.VectorType(I32 if self.reads_pairs else F64 if self.double else F32, lanes)
        sums: dict[tuple[int, int], Any] = {}
        for r in range(rows):
            start = spread(b, b.load(at(b, bias, r)), lanes)
            sums |= {(r, j): start for j in range(vectors)}

        def row(k: Any, r: int) -> Any:
            return spread(b, b.load(at(b, w, b.mul(k, ir.Constant(I64, rows)), r)), lanes)

        def column(k: Any, j: int) -> Any:
            return load(b, at(b, h, b.mul(k, ir.Constant(I64, width)), j * lanes), vector)

        new = accumulated(b, sums, count, row, column, self._pair_products if self.reads_pairs else multiply_add)
        if self.activation == "none":
            for (r, j), v in new.items():
                store(b, v, at(b, out, r * width + j * lanes))
        else:
            self._activate(b, new, out, count)

    def _activate(self, b: Any, sums: dict[tuple[int, int], Any], out: Any, count: Any) -> None:
        """Write the activations of the sums, which go to the stack first.

        So all registers are free for constants. LLVM must not see that the loop has few turns: it would undo it, and
        move most of what it computes to the stack.
        """
        lanes, rows, vectors, _ = self.target
        width, step = self.target.width, 2 if self.writes_pairs else 1
        vector = sums[0, 0].type
        stack = b.bitcast(cgutils.alloca_once(b, ir.ArrayType(vector, rows * vectors)), F32.as_pointer())
        for (r, j), v in sums.items():
            store(b, v, at(b, stack, r * width + j * lanes))
        before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        row, power = b.phi(I64), _power_of_two(3 if self.writes_pairs else 5)
        read = b.gep(stack, [b.mul(row, ir.Constant(I64, width))])
        write = b.gep(out, [b.mul(row, ir.Constant(I64, width // step))])
        for j in range(vectors):
            parts = [load(b, at(b, read, r * width + j * lanes), vector) for r in range(step)]
            parts = [_EMIT[self.activation](b, v, power) for v in parts]
            store(b, self._rounded(b, *parts) if self.writes_pairs else parts[0], at(b, write, j * lanes))
        following = b.add(row, ir.Constant(I64, step))
        row.add_incoming(ir.Constant(I64, 0), before)
        row.add_incoming(following, loop)
        turns = b.or_(ir.Constant(I64, rows), b.lshr(count, ir.Constant(I64, 48)))  # = rows
        b.cbranch(b.icmp_signed("<", following, turns), loop, after)
        b.position_at_end(after)

    def _pair_products(self, b: Any, w: Any, h: Any, total: Any) -> Any:
        if self.target.paired:
            pairs = ir.VectorType(_BFloat(), 2 * w.type.count)
            name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * w.type.count}"
            return call(b, name, total.type, total, b.bitcast(w, pairs), b.bitcast(h, pairs))
        for part in (lambda v: b.shl(v, like(v, 16)), lambda v: b.and_(v, like(v, -65536))):
            total = multiply_add(b, b.bitcast(part(w), total.type), b.bitcast(part(h), total.type), total)
        return total

    def _rounded(self, b: Any, even: Any, odd: Any) -> Any:
        """Two features as one vector of pairs, rounded to the nearest, to even between two."""
        words = ir.VectorType(I32, even.type.count)
        if self.target.paired:
            half, bits = ir.VectorType(_BFloat(), even.type.count), ir.VectorType(I16, even.type.count)
            name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * even.type.count}"
            low, high = (b.zext(b.bitcast(call(b, name, half, v), bits), words) for v in (even, odd))
        else:
            low, high = (_bf16_bits(b, b.bitcast(v, words)) for v in (even, odd))
        return b.or_(low, b.shl(high, like(high, 16)))


def _bf16_bits(b: Any, bits: Any) -> Any:
    """The rounded upper halves of float32 bits; NaN stays NaN, for those that arithmetic makes have no low bits."""
    odd = b.and_(b.lshr(bits, like(bits, 16)), like(bits, 1))
    return b.lshr(b.add(b.add(bits, like(bits, 0x7FFF)), odd), like(bits, 16))


def _block(activation: str, reads_pairs: bool = False, writes_pairs: bool = False, double: bool = False) -> Any:
    """The intrinsic block(w, w0, c, c0, h, h0, out, out0, count): pointers, and elements (or pairs) behind them."""
    kind = Block(TARGET, activation, reads_pairs, writes_pairs, double)
    real = F64 if double else F32
    word, to = (I32 if pairs else real for pairs in (reads_pairs, writes_pairs))

    @intrinsic
    def block(typing, w, w0, c, c0, h, h0, out, out0, count):
        def generate(context, builder, signature, arguments):
            weights, biases, inputs, outputs = (
                builder.gep(builder.bitcast(arguments[i], element.as_pointer()), [arguments[i + 1]])
                for i, element in ((0, word), (2, real), (4, word), (6, to))
            )
            kind.emit(builder, weights, inputs, biases, outputs, arguments[8])
            return context.get_dummy_value()

        i = types.int64
        return types.void(w, i, c, i, h, i, out, i, i), generate

    return block


silu_block, relu_block, tanh_block, gelu_block, none_block = map(_block, ("silu", "relu", "tanh", "gelu", "none"))
silu_pairs, relu_pairs, tanh_pairs, gelu_pairs = (_block(a, True, True) for a in ("silu", "relu", "tanh", "gelu"))
none_pairs = _block("none", True)
none_doubles = _block("none", double=True)


# ---- packing -----------------------------------------------------------------------------------------------------
def folded(
    activation: str, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Weights [E, in, out] and biases [E, out] of all layers, in float64, with the factors of the activation."""
    before, after = _FACTORS.get(activation, (1.0, 1.0))
    last = len(weights) - 1
    into = [1.0 if i == last else before for i in range(last + 1)]
    scaled = [np.asarray(w, np.float64) * (into[i] * (after if i else 1.0)) for i, w in enumerate(weights)]
    return scaled, [np.asarray(b, np.float64) * factor for b, factor in zip(biases, into, strict=True)]


def panels(width: int) -> int:
    """Panels of a layer with this number of outputs."""
    return -(-width // TARGET.rows)


def packed(weights: np.ndarray, biases: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weights [E, in, out] and biases [E, out] of a layer as blocks read them, [E, size] float32, or bits of pairs."""
    members, rows, width = weights.shape
    full = np.zeros((members, rows + (rows % 2 if paired else 0), panels(width) * TARGET.rows), np.float32)
    full[:, :rows, :width] = weights
    bias = np.zeros((members, full.shape[2]), np.float32)
    bias[:, :width] = biases
    words = bf16_pairs(full).view(np.float32) if paired else full
    by_panel = words.reshape(members, words.shape[1], -1, TARGET.rows).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(by_panel.reshape(members, -1)), bias


def bf16_pairs(numbers: np.ndarray) -> np.ndarray:
    """Finite float32 numbers [..., 2 K, n] rounded to bfloat16, two neighbours of the axis of 2 K in one int32."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    halves = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return (halves[..., 0::2, :] | (halves[..., 1::2, :] << np.uint32(16))).view(np.int32)


def layers_source(activation: str, paired: bool) -> str:
    """Source of the hook `forward`: all layers of a network on the groups of a tile, for any widths and depth.

    forward(w, c, table, layers, v, a, b, y, groups) with pointers to weights and biases of one member, `layer_table`,
    inputs v and outputs y; a and b hold the activations between, by turns.
    """
    names = [f"{name}_{'pairs' if paired else 'block'}" for name in (activation, "none")]
    rows = (TARGET.rows // 2 if paired else TARGET.rows, TARGET.rows)
    layers = "".join(
        f"""
@kernel
def {name}(w, c, table, i, h, out, groups):
    w0, c0, h_rows, count, panels = table[5 * i], table[5 * i + 1], table[5 * i + 2], table[5 * i + 3], table[5 * i + 4]
    for panel in range(panels):  # its weights stay in the first cache for all groups
        for group in range(groups):
            {block}(
                w, w0 + panel * count * {TARGET.rows}, c, c0 + panel * {TARGET.rows},
                h, group * h_rows * {TARGET.width}, out, (group * panels + panel) * {height * TARGET.width}, count,
            )

"""
        for name, block, height in zip(("hidden", "head"), names, rows, strict=True)
    )
    return f"""from mpcrl.core.compile import kernel
from mpcrl.kernels.network import {", ".join(names)}

{layers}
@kernel
def forward(w, c, table, layers, v, a, b, y, groups):
    hidden(w, c, table, 0, v, a, groups)
    for i in range(1, layers - 1):
        hidden(w, c, table, i, a, b, groups)
        a, b = b, a
    head(w, c, table, layers - 1, a, y, groups)
    return 1
"""


FORWARD = (FLOATS, FLOATS, INTEGERS, types.int64, FLOATS, FLOATS, FLOATS, FLOATS, types.int64)
"""Types of its arguments; pairs count as floats of 4 bytes."""


def layer_table(sizes: Sequence[int], paired: bool) -> np.ndarray:
    """Of a network with these numbers of inputs, hidden features and outputs, per layer [layers, 5]: its first weight
    and bias, the rows of the group that it reads, the features (or pairs) in it, and its panels."""
    table, words = [], 2 if paired else 1
    weights = biases = 0
    rows = -(-sizes[0] // words)
    for count, width in itertools.pairwise(sizes):
        features = -(-count // words)
        table.append((weights, biases, rows, features, panels(width)))
        rows = panels(width) * TARGET.rows // words
        weights, biases = weights + panels(width) * TARGET.rows * features, biases + panels(width) * TARGET.rows
    return np.array(table, np.int64)
