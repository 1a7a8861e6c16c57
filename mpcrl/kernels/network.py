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

_F32, _F64, _I16, _I32, _I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(16), ir.IntType(32), ir.IntType(64)
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


def _like(v: Any, number: float) -> Any:
    """A vector of the type of `v` filled with a number."""
    return ir.Constant(v.type, [number] * v.type.count)


def _spread(b: Any, number: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = b.insert_element(undefined, number, ir.Constant(_I32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _call(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def _multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z; `llvm.fma` would call a function for every lane where the CPU cannot do it at once."""
    bits = 64 if x.type.element == _F64 else 32
    return _call(b, f"llvm.fmuladd.v{x.type.count}f{bits}", x.type, x, y, z)


def _power_of_two(degree: int) -> Callable[[Any, Any], Any]:
    """Emitter of 2^y; |y| is held below 126. Coefficients by least squares of the relative error on Chebyshev nodes."""
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400) / 2
    fit = np.polyfit(nodes, 2**nodes, degree, w=2**-nodes / (1 - 4 * nodes**2) ** 0.25)
    coefficients = fit.astype(np.float32).tolist()
    rounder = 1.5 * 2**23 + 127  # leaves the exponent of 2^k in the low bits, k being y to the nearest integer

    def emit(b: Any, y: Any) -> Any:
        for op, bound in ((">", 126.0), ("<", -126.0)):
            y = b.select(b.fcmp_ordered(op, y, _like(y, bound)), _like(y, bound), y)
        shifted = b.fadd(y, _like(y, rounder))
        fraction = b.fsub(y, b.fsub(shifted, _like(y, rounder)))
        p = _like(y, coefficients[0])
        for c in coefficients[1:]:
            p = _multiply_add(b, p, fraction, _like(y, c))
        bits = b.bitcast(shifted, ir.VectorType(_I32, y.type.count))
        return b.fmul(p, b.bitcast(b.shl(bits, _like(bits, 23)), y.type))

    return emit


# ---- activations -------------------------------------------------------------------------------------------------
def _silu(b: Any, y: Any, power: Callable[[Any, Any], Any]) -> Any:
    return b.fdiv(y, b.fadd(_like(y, 1.0), power(b, y)))


def _tanh(b: Any, y: Any, power: Callable[[Any, Any], Any]) -> Any:
    return b.fsub(_like(y, 1.0), b.fdiv(_like(y, 2.0), b.fadd(_like(y, 1.0), power(b, y))))


def _gelu(b: Any, x: Any, power: Callable[[Any, Any], Any]) -> Any:
    scale = -2 * _LOG2E * math.sqrt(2 / math.pi)
    inner = _multiply_add(b, b.fmul(x, x), _like(x, 0.044715 * scale), _like(x, scale))
    return b.fdiv(x, b.fadd(_like(x, 1.0), power(b, b.fmul(x, inner))))


def _relu(b: Any, x: Any, power: Callable[[Any, Any], Any]) -> Any:
    return b.select(b.fcmp_ordered("<", x, _like(x, 0.0)), _like(x, 0.0), x)


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
        vector = ir.VectorType(_I32 if self.reads_pairs else _F64 if self.double else _F32, lanes)
        block = [(r, j) for r in range(rows) for j in range(vectors)]
        sums: dict[tuple[int, int], Any] = {}
        for r in range(rows):
            start = _spread(b, b.load(_at(b, bias, r)), lanes)
            sums |= {(r, j): start for j in range(vectors)}

        before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        k, total = b.phi(_I64), {rj: b.phi(sums[rj].type) for rj in block}
        hk = b.gep(h, [b.mul(k, ir.Constant(_I64, width))])
        wk = b.gep(w, [b.mul(k, ir.Constant(_I64, rows))])
        columns = [_load(b, _at(b, hk, j * lanes), vector) for j in range(vectors)]
        new = {}
        for r in range(rows):
            number = _spread(b, b.load(_at(b, wk, r)), lanes)
            for j in range(vectors):
                product = self._pair_products if self.reads_pairs else _multiply_add
                new[r, j] = product(b, number, columns[j], total[r, j])
        following = b.add(k, ir.Constant(_I64, 1))
        for phi, first, then in [(k, ir.Constant(_I64, 0), following)] + [(total[x], sums[x], new[x]) for x in block]:
            phi.add_incoming(first, before)
            phi.add_incoming(then, loop)
        b.cbranch(b.icmp_signed("<", following, count), loop, after)

        b.position_at_end(after)
        if self.activation == "none":
            for (r, j), v in new.items():
                _store(b, v, _at(b, out, r * width + j * lanes))
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
        stack = b.bitcast(cgutils.alloca_once(b, ir.ArrayType(vector, rows * vectors)), _F32.as_pointer())
        for (r, j), v in sums.items():
            _store(b, v, _at(b, stack, r * width + j * lanes))
        before, loop, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
        b.branch(loop)
        b.position_at_end(loop)
        row, power = b.phi(_I64), _power_of_two(3 if self.writes_pairs else 5)
        read = b.gep(stack, [b.mul(row, ir.Constant(_I64, width))])
        write = b.gep(out, [b.mul(row, ir.Constant(_I64, width // step))])
        for j in range(vectors):
            parts = [_load(b, _at(b, read, r * width + j * lanes), vector) for r in range(step)]
            parts = [_EMIT[self.activation](b, v, power) for v in parts]
            _store(b, self._rounded(b, *parts) if self.writes_pairs else parts[0], _at(b, write, j * lanes))
        following = b.add(row, ir.Constant(_I64, step))
        row.add_incoming(ir.Constant(_I64, 0), before)
        row.add_incoming(following, loop)
        turns = b.or_(ir.Constant(_I64, rows), b.lshr(count, ir.Constant(_I64, 48)))  # = rows
        b.cbranch(b.icmp_signed("<", following, turns), loop, after)
        b.position_at_end(after)

    def _pair_products(self, b: Any, w: Any, h: Any, total: Any) -> Any:
        if self.target.paired:
            pairs = ir.VectorType(_BFloat(), 2 * w.type.count)
            name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * w.type.count}"
            return _call(b, name, total.type, total, b.bitcast(w, pairs), b.bitcast(h, pairs))
        for part in (lambda v: b.shl(v, _like(v, 16)), lambda v: b.and_(v, _like(v, -65536))):
            total = _multiply_add(b, b.bitcast(part(w), total.type), b.bitcast(part(h), total.type), total)
        return total

    def _rounded(self, b: Any, even: Any, odd: Any) -> Any:
        """Two features as one vector of pairs, rounded to the nearest, to even between two."""
        words = ir.VectorType(_I32, even.type.count)
        if self.target.paired:
            half, bits = ir.VectorType(_BFloat(), even.type.count), ir.VectorType(_I16, even.type.count)
            name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * even.type.count}"
            low, high = (b.zext(b.bitcast(_call(b, name, half, v), bits), words) for v in (even, odd))
        else:
            low, high = (_bf16_bits(b, b.bitcast(v, words)) for v in (even, odd))
        return b.or_(low, b.shl(high, _like(high, 16)))


def _bf16_bits(b: Any, bits: Any) -> Any:
    """The rounded upper halves of float32 bits; NaN stays NaN, for those that arithmetic makes have no low bits."""
    odd = b.and_(b.lshr(bits, _like(bits, 16)), _like(bits, 1))
    return b.lshr(b.add(b.add(bits, _like(bits, 0x7FFF)), odd), _like(bits, 16))


def _at(b: Any, pointer: Any, offset: int) -> Any:
    return b.gep(pointer, [ir.Constant(_I64, offset)])


def _store(b: Any, v: Any, pointer: Any) -> None:
    b.store(v, b.bitcast(pointer, v.type.as_pointer()), align=4)


def _load(b: Any, pointer: Any, kind: Any) -> Any:
    return b.load(b.bitcast(pointer, kind.as_pointer()), align=4)


def _block(activation: str, reads_pairs: bool = False, writes_pairs: bool = False, double: bool = False) -> Any:
    """The intrinsic block(w, w0, c, c0, h, h0, out, out0, count): pointers, and elements (or pairs) behind them."""
    kind = Block(TARGET, activation, reads_pairs, writes_pairs, double)
    real = _F64 if double else _F32
    word, to = (_I32 if pairs else real for pairs in (reads_pairs, writes_pairs))

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
