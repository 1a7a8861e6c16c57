"""Gaussian processes at many inputs at once: means, variances, and functions drawn from them.

Each of E outputs is one sum over what it was given, for inputs v [D] from which a centre was subtracted:

    f(v) = q(1, v) + sum_i c_i k(|s v - x_i|^2) + sum_j a_j cos(w_j . v + b_j)

with q a quadratic form (the mean function and what is polynomial), s one factor per input that makes k one of

    "se"        k(r) = 2^-r                                       s = sqrt(log2(e) / 2) / lengthscale
    "matern52"  k(r) = (1 + sqrt(r) + r / 3) exp(-sqrt(r))        s = sqrt(5) / lengthscale

and waves where it is a function drawn from the process (`models.gp_functions`). The variance is

    square [+ p(1, v)^2] - sum_r ( sum_i R_ri k_i )^2,   k_i = square k(|s v - x_i|^2) [+ (z_i . (1, v))^2]

of a lower triangle R, L^-1 for an exact process: no inverse of a covariance, which in float32 is not precise enough.
Neighbouring inputs lie in neighbouring lanes, layouts are those of `kernels.network`, and the triangle's products are
its blocks. All is computed in float32 or in float64, where a group has half as many lanes.

Numbers of the outputs lie one after the other behind `rows` zeros, each `stride` of them; `table_of` counts them:

    s [D]; q [(D+1)(D+2)/2]; (c_i, x_i) [n, 1+D]; (a_j, b_j, w_j) [F, 2+D]; noise^2;
    and where `spread`: square; where polynomial p [(D+1)(D+2)/2] and z [n, 1+D]; R by panels of `rows` rows, each with
    its columns up to the diagonal, [column][row]
"""

from __future__ import annotations

import textwrap
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from mpcrl.core.compile import kernel, load_module
from mpcrl.core.hooks import DOUBLES, FLOATS, INTEGERS, address_of, call_at
from mpcrl.kernels.network import TARGET, panels
from mpcrl.kernels.vectors import F64, I64, accumulated, at, like, load, multiply_add, powers_of_two, spread, store

ROWS, _BYTES = TARGET.rows, TARGET.width * 4
_TILE = 64
"""Inputs of a tile, at least: the triangle's numbers serve all of them once they are in the caches."""
_WIDE = 128
"""Bytes of the lanes of a sum over the points: what is loaded of a point serves all of them. Measured best of 64 to
256 with AVX2."""
_LEAST = -1022.0
"""2 to it is the least normal number."""
FARTHEST = 1e5
"""Length scales of a point from the centre, where distances are multiplied out: then powers err by 5e-6 at most, and
none is far above 1."""
POINTS = 4
"""Of a tile of `add_decays`, by the vectors of a group; measured best of 2 to 5 with AVX2."""


def width_of(real: Any) -> int:
    """Lanes of a group."""
    return TARGET.width if np.dtype(real) == np.float32 else TARGET.width // 2


def evaluation(kind: str, width: int, real: Any) -> int:
    """Address of the function that evaluates processes over inputs of `width` numbers in this precision.

    evaluate(f, table, v, y, y0, k, groups) with pointers to the numbers above, inputs v [groups, D, lanes] and results
    y [groups, 2 E, lanes] from element y0 on, means and then variances (without noise); k [groups, n, lanes] to work
    in.
    """
    pointer = FLOATS if np.dtype(real) == np.float32 else DOUBLES
    arguments = (pointer, INTEGERS, pointer, pointer, types.int64, pointer, types.int64)
    return address_of(_module(kind, width, real).evaluate, *arguments)


def forward(kind: str, width: int, real: Any) -> int:
    """Address of the hook of rollouts that predicts with processes as with networks; see `network.layers_source`.

    After the means stand minus the logarithms of the variances, noise included. What it works in holds numbers of
    this precision, for which `table_of` makes room.
    """
    pointer = FLOATS if np.dtype(real) == np.float32 else DOUBLES
    arguments = (pointer, FLOATS, INTEGERS, types.int64, FLOATS, pointer, pointer, FLOATS, types.int64)
    return address_of(_module(kind, width, real).forward, *arguments)


def multiplies_out(kind: str, real: Any) -> bool:
    """Whether |v - x|^2 is multiplied out, which takes half the operations, and errs by rounding of |x|^2: too much in
    float32, and beyond `FARTHEST`."""
    return kind != "matern52" and np.dtype(real) == np.float64


def table_of(outputs: int, count: int, width: int, waves: int, stride: int, spread: bool, real: Any) -> np.ndarray:
    """The table [2, 5], at once that of two layers for the rollouts: rows that they read, work in, and write."""
    words = np.dtype(real).itemsize // 4
    scratch = panels(words * max(count, width + 2 * outputs))
    return np.array([[outputs, count, width, waves, scratch], [stride, spread, 0, 0, panels(2 * outputs)]], np.int64)


def _decays(kept: bool) -> Any:
    """The intrinsic add(f, points, factors, starts, width, u, own, total, values, wide, l), in float64:

        total_l += sum_r factors_r 2^-|x_r - u_l|^2     of `POINTS` points and the lanes of a group from l on

    Parameters
    ----------
    f : pointer
        x_r [D] lies behind `points`[r] of it, and starts_r is -|x_r|^2; these and `factors` are tuples.
    width : int
        D.
    u : pointer
        2 u_l [D, wide], with |u_l|^2 in `own` [wide].
    total : pointer
        [wide]
    values : pointer
        [POINTS, wide], out if `kept`: the powers.
    """
    lanes = TARGET.lanes // 2
    kind, places = ir.VectorType(F64, lanes), range(TARGET.vectors)

    @intrinsic
    def add(typing, f, points, factors, starts, width, u, own, total, values, wide, l):
        def generate(context, builder, signature, arguments):
            b = builder
            points, factors, starts = (cgutils.unpack_tuple(b, given) for given in arguments[1:4])
            f, (width, u, own, total, values, wide, l) = arguments[0], arguments[4:]
            beside = [load(b, at(b, own, l, c * lanes), kind) for c in places]
            first = [spread(b, start, lanes) for start in starts]
            sums = {(r, c): b.fsub(first[r], beside[c]) for r in range(POINTS) for c in places}
            exponents = accumulated(
                b,
                sums,
                width,
                lambda d, r: spread(b, b.load(at(b, f, points[r], d)), lanes),
                lambda d, c: load(b, at(b, u, b.mul(d, wide), l, c * lanes), kind),
            )
            least = like(beside[0], _LEAST)
            bounded = [b.select(b.fcmp_ordered("<", y, least), least, y) for y in exponents.values()]
            powers = dict(zip(exponents, powers_of_two(b, bounded), strict=True))
            for c in places:
                to = at(b, total, l, c * lanes)
                sum_ = load(b, to, kind)
                for r, factor in enumerate(factors):
                    value = b.fmul(*powers[r, c])
                    sum_ = multiply_add(b, spread(b, factor, lanes), value, sum_)
                    if kept:
                        store(b, value, at(b, values, b.mul(wide, ir.Constant(I64, r)), l, c * lanes))
                store(b, sum_, to)
            return context.get_dummy_value()

        i = types.int64
        return types.void(f, points, factors, starts, i, u, own, total, values, i, i), generate

    return add


add_decays, add_kept_decays = _decays(False), _decays(True)


def _module(kind: str, width: int, real: Any) -> Any:
    return load_module(source(kind, width, np.dtype(real).name), "gaussian_process")


def quadratic(width: int) -> list[tuple[int, int]]:
    """Pairs of (1, v) in the order of q's numbers."""
    return [(a, b) for a in range(width + 1) for b in range(a + 1)]


def source(kind: str, width: int, real: str) -> str:
    """Source of `evaluate` and `forward`: the loops over the numbers of an input are written out."""
    block = "none_block" if real == "float32" else "none_doubles"
    return f"""import math
import numpy as np
from numba import carray, float32, {real}
from mpcrl.core import vecmath
from mpcrl.core.compile import kernel
from mpcrl.core.intrinsics import stack_{real} as stack
from mpcrl.kernels.gaussian_process import add_decays, add_kept_decays
from mpcrl.kernels.network import {block} as block

_lane = vecmath.lane_functions(np.{real})
decay, cos, sqrt = _lane["decay"], _lane["cos"], _lane["sqrt"]


{_evaluate(kind, width, real)}


{_forward(width, width_of(real))}
"""


def _each(text: str, count: int, separator: str = "; ") -> str:
    """The text for each number d of an input; `e` in it is d + 1, where the number stands behind another."""
    return separator.join(text.format(d=d, e=d + 1) for d in range(count))


def _form(width: int, at: str) -> str:
    """The quadratic form of the numbers from `at` on, at lane l."""
    terms: list[str] = []
    for k, (a, b) in enumerate(quadratic(width)):
        factors = [f"v{i - 1}[l]" for i in (a, b) if i]
        terms.append(" * ".join([f"f[{at} + {k}]", *factors]))
    return " + ".join(terms)


def _points(kind: str, width: int, real: str, wide: int, kept: str) -> str:
    """The sum over the points; `kept` is what else is done with their covariances, which takes a store of each."""
    root, value = "pass", "decay(r)"
    if kind == "matern52":
        root = "root = sqrt(r)"
        value = f"(({real}(1) + root) + r * {real}(1 / 3)) * decay(root * {real}(1.4426950408889634))"
    return f"""row = 0
for i in range(n):
    p = points + i * {width + 1}
    factor = f[p]; {_each("x{d} = f[p + 1 + {d}]", width)}
    for l in range({wide}):
        {_each("away{d} = u{d}[l] - x{d}", width)}
        r = {_each("away{d} * away{d}", width, " + ")}
        {root}
        value = {value}
        {"values[l] = value" if kept else "pass"}
        total[l] += factor * value
{textwrap.indent(kept, "    ")}"""


def _tiles(width: int, lanes: int, wide: int, kept: str) -> str:
    """As `_points`, some at a time; the last point stands in for those beyond it, with the factor 0."""
    some = [f"p{r} = points + min(first + {r}, n - 1) * {width + 1}" for r in range(POINTS)]
    some += [f"factor{r} = f[p{r}] if first + {r} < n else 0.0" for r in range(POINTS)]
    some += [f"start{r} = -({_each(f'f[p{r} + {{e}}] ** 2', width, ' + ')})" for r in range(POINTS)]
    more = f"""for row in range(0, min({POINTS}, n - first) * {wide}, {wide}):
    i = first + row // {wide}
{textwrap.indent(kept, "    ")}"""
    return f"""for first in range(0, n, {POINTS}):
{textwrap.indent(chr(10).join(some), "    ")}
    for c in range(used):
        {"add_kept_decays" if kept else "add_decays"}(
            f, ({", ".join(f"p{r} + 1" for r in range(POINTS))}), ({", ".join(f"factor{r}" for r in range(POINTS))}),
            ({", ".join(f"start{r}" for r in range(POINTS))}), {width}, near, norms, sums, powers, {wide}, c * {lanes},
        )
{textwrap.indent(more if kept else "", "    ")}"""


def _evaluate(kind: str, width: int, real: str) -> str:
    lanes, polynomial, size = width_of(real), kind == "se+polynomial", len(quadratic(width))
    tiled = multiplies_out(kind, real)
    chunk = _TILE // lanes if tiled else max(1, _WIDE // (lanes * np.dtype(real).itemsize))
    wide = chunk * lanes
    prior = f" + ({_form(width, 'rest + 2')}) ** 2" if polynomial else ""
    sum_ = _each(f"z{{e}} * v{{d}}[c * {lanes} + l]", width, " + ")
    product = f" + (z0 + {sum_}) ** 2" if polynomial else ""
    kept = f"""z = covers + i * {width + 1}
{_each("z{d} = f[z + {d}]", width + 1) if polynomial else "pass"}
for c in range(used):
    for l in range({lanes}):
        k[((g + c) * n + i) * {lanes} + l] = square * values[row + c * {lanes} + l]{product}"""

    if tiled:
        summed = partial(_tiles, width, lanes, wide)
        arrays = f"""near, norms = stack({width * wide}), stack({wide})
    sums, powers = stack({wide}), stack({POINTS * wide})
    u, own = carray(near, ({width * wide},)), carray(norms, ({wide},))
    total, values = carray(sums, ({wide},)), carray(powers, ({POINTS * wide},))"""
        twice, norm = _each(f"u[{{d}} * {wide} + l] = x{{d}} + x{{d}}", width), _each("x{d} * x{d}", width, " + ")
        scaled = f"{_each('x{d} = v{d}[l] * f[at + {d}]', width)}; {twice}; own[l] = {norm}"
    else:
        summed = partial(_points, kind, width, real, wide)
        scaled = _each("u{d}[l] = v{d}[l] * f[at + {d}]", width)
        arrays = f"""{_each(f"u{{d}} = carray(stack({wide}), ({wide},))", width)}
    total, values = carray(stack({wide}), ({wide},)), carray(stack({wide}), ({wide},))"""

    return f"""@kernel
def evaluate(f, table, v, y, y0, k, groups):
    outputs, n, waves, stride, spread = table[0], table[1], table[3], table[5], table[6]
    {_each(f"v{{d}} = carray(stack({wide}), ({wide},))", width)}
    {arrays}
    part = stack({ROWS * lanes})
    parts = carray(part, ({ROWS}, {lanes}))
    for e in range(outputs):
        at = {ROWS} + e * stride
        points = at + {width + size}
        sines = points + n * {width + 1}
        rest = sines + waves * {width + 2}
        covers = rest + {2 + (size if polynomial else 0)}
        triangle = covers + {f"n * {width + 1}" if polynomial else "0"}
        square = f[rest + 1] if spread else {real}(0)
        for g in range(0, groups, {chunk}):
            used = min({chunk}, groups - g)
            for l in range({wide}):
                {_each(f"v{{d}}[l] = {real}(0)", width)}
            for c in range(used):
                for l in range({lanes}):
                    {_each(f"v{{d}}[c * {lanes} + l] = v[((g + c) * {width} + {{d}}) * {lanes} + l]", width)}
            for l in range({wide}):
                {scaled}
            for l in range({wide}):
                total[l] = {_form(width, f"at + {width}")}
            if spread:
{textwrap.indent(summed(kept), " " * 16)}
            else:
{textwrap.indent(summed(""), " " * 16)}
            for j in range(waves):
                p = sines + j * {width + 2}
                factor = f[p]; b = f[p + 1]; {_each("x{d} = f[p + 2 + {d}]", width)}
                for l in range({wide}):
                    total[l] += factor * cos(b + {_each("x{d} * v{d}[l]", width, " + ")})
            for c in range(used):
                for l in range({lanes}):
                    y[y0 + ((g + c) * 2 * outputs + e) * {lanes} + l] = total[c * {lanes} + l]
            for l in range({wide}):
                total[l] = square{prior}
            for c in range(used):
                for l in range({lanes}):
                    y[y0 + (((g + c) * 2 + 1) * outputs + e) * {lanes} + l] = total[c * {lanes} + l]
        if spread:
            for panel in range((n + {ROWS - 1}) // {ROWS}):  # its numbers stay in the first cache for all groups
                w = triangle + panel * (panel + 1) // 2 * {ROWS * ROWS}
                count = min((panel + 1) * {ROWS}, n)
                for g in range(groups):
                    block(f, w, f, 0, k, g * n * {lanes}, part, 0, count)
                    for l in range({lanes}):
                        total[l] = {real}(0)
                    for r in range({ROWS}):
                        for l in range({lanes}):
                            total[l] += parts[r, l] * parts[r, l]
                    for l in range({lanes}):
                        y[y0 + ((g * 2 + 1) * outputs + e) * {lanes} + l] -= total[l]
            for g in range(groups):
                for l in range({lanes}):
                    q = y0 + ((g * 2 + 1) * outputs + e) * {lanes} + l
                    y[q] = max(y[q], {real}(0))
    return np.int64(1)"""


def _forward(width: int, lanes: int) -> str:
    size = len(quadratic(width))
    return f"""@kernel
def forward(f, biases, table, layers, v, a, b, out, groups):
    outputs, n, waves, stride, spread = table[0], table[1], table[3], table[5], table[6]
    results = groups * {TARGET.width * width}
    for g in range(groups):
        for d in range({width}):
            for j in range({TARGET.width}):
                to = g * {TARGET.width // lanes} + j // {lanes}
                b[(to * {width} + d) * {lanes} + j % {lanes}] = v[(g * {width} + d) * {TARGET.width} + j]
    evaluate(f, table, b, b, results, a, groups * {TARGET.width // lanes})
    rows = table[9] * {ROWS}
    for g in range(groups):
        for e in range(outputs):
            noise = f[{ROWS} + e * stride + {width + size} + n * {width + 1} + waves * {width + 2}]
            for j in range({TARGET.width}):
                at = (g * {TARGET.width // lanes} + j // {lanes}) * 2 * outputs
                out[(g * rows + e) * {TARGET.width} + j] = b[results + (at + e) * {lanes} + j % {lanes}]
                variance = noise
                if spread:
                    variance += b[results + (at + outputs + e) * {lanes} + j % {lanes}]
                out[(g * rows + outputs + e) * {TARGET.width} + j] = -math.log(variance)
    return np.int64(1)"""


@kernel(parallel=True)
def predict(address, numbers, table, center, inputs, means, variances):
    """Processes at inputs.

    Parameters
    ----------
    address : int
        Of `evaluation`.
    numbers : ndarray [P, size] float32 or float64
        Of P functions; function p sees inputs[p], or all see the same where there is one of them.
    table : ndarray [2, 5] int64
    center : ndarray [D] float64
    inputs : ndarray [1 or P, N, D] float64
    means, variances : ndarray [P, N, E] float64
        Out; without `spread`, `variances` may be empty and is left alone.
    """
    outputs, n, spread, count, width = table[0, 0], table[0, 1], table[1, 1] == 1, inputs.shape[1], inputs.shape[2]
    lanes = _BYTES // numbers.itemsize
    every = (count + lanes - 1) // lanes
    most = (_TILE + lanes - 1) // lanes
    tiles = (every + most - 1) // most
    for item in prange(numbers.shape[0] * tiles):
        p, tile = item // tiles, item % tiles
        begin, end = tile * every // tiles, (tile + 1) * every // tiles  # all tiles alike, for the threads' sake
        groups, first = end - begin, begin * lanes
        seen = inputs[p % inputs.shape[0]]
        v = np.zeros((groups, width, lanes), numbers.dtype)
        y = np.empty((groups, 2, outputs, lanes), numbers.dtype)
        k = np.empty((groups, n if spread else 0, lanes), numbers.dtype)
        used = min(groups * lanes, count - first)
        for q in range(used):
            for d in range(width):
                v[q // lanes, d, q % lanes] = seen[first + q, d] - center[d]
        call_at(address, (numbers[p], table, v, y, np.int64(0), k, np.int64(groups)))
        for q in range(used):
            for e in range(outputs):
                means[p, first + q, e] = y[q // lanes, 0, e, q % lanes]
                if spread:
                    variances[p, first + q, e] = y[q // lanes, 1, e, q % lanes]
