"""The SIMD functions against NumPy in float64 (for float32) and mpmath (for float64), over their whole range."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from numba import carray, njit

from mpcrl.core import intrinsics, vecmath
from mpcrl.core.errors import InvalidInput

LANES = 64
TYPES = ("float32", "float64")
TWO_ARGUMENTS = ("atan2", "smooth_abs")
LIBM = "a?sin|a?cos|a?tan2?|tanh|exp2?|exp10|log2?|log10|pow|powi|floor|rint|fmod|hypot|sqrt"

NUMPY: dict[str, Callable[..., Any]] = {
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sqrt": np.sqrt,
    "smooth_abs": lambda x, width: np.hypot(x, width) - np.abs(width),
}
MPMATH: dict[str, Callable[..., Any]] = {name: getattr(mpmath, name) for name in NUMPY if hasattr(mpmath, name)} | {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "smooth_abs": lambda x, width: mpmath.hypot(x, width) - width,
}
# The bounds that the docstrings state: largest error for (float32, float64), and the range of |x| it holds for.
ABSOLUTE = {"sin": ((2e-7, 4e-16), (1e6, 1e9)), "cos": ((2e-7, 4e-16), (1e6, 1e9))}
RELATIVE = {
    "tan": ((3e-7, 1e-15), (1e5, 1e9)),
    "asin": ((3e-7, 1e-15), (1, 1)),
    "acos": ((3e-7, 1e-15), (1, 1)),
    "atan": ((3e-7, 5e-16), (math.inf, math.inf)),
    "atan2": ((3e-7, 1e-15), (math.inf, math.inf)),
    "exp": ((2e-7, 1e-15), (100, 750)),
    "log": ((1e-7, 4e-16), (math.inf, math.inf)),
    "tanh": ((2.5e-7, 2e-15), (math.inf, math.inf)),
    "sigmoid": ((2e-7, 1e-15), (100, 750)),
    "sqrt": ((6e-8, 1.2e-16), (math.inf, math.inf)),
}


class Lanes:
    """All functions of one type in one kernel of lane loops, with flags that would damage unprotected functions."""

    def __init__(self, dtype: str) -> None:
        functions = vecmath.lane_functions(dtype)
        self.names, self.dtype = tuple(functions), np.dtype(dtype)
        # The results go through the stack, which overlaps with nothing: so LLVM needs no scalar copy of the loops.
        body = ""
        for i, name in enumerate(self.names):
            arguments = "x[b, l], y[b, l]" if name in TWO_ARGUMENTS else "x[b, l]"
            body += f"  for l in range({LANES}): lane[l] = {name}({arguments})\n"
            body += f"  for l in range({LANES}): out[b, {i}, l] = lane[l]\n"
        scope = {**functions, "carray": carray, "stack": getattr(intrinsics, f"stack_{dtype}")}
        head = f"def kernel(x, y, out):\n lane = carray(stack({LANES}), ({LANES},))\n for b in range(x.shape[0]):\n"
        exec(head + body, scope)
        flags = {"contract", "nsz", "arcp", "afn", "reassoc"}
        self.kernel = njit(error_model="numpy", fastmath=flags)(scope["kernel"])

    def __call__(self, x: Any, y: Any = 0.1) -> dict[str, np.ndarray]:
        """Each function of `x`, or of `(x, y)`, by name."""
        pairs = np.broadcast_arrays(np.asarray(x, self.dtype).ravel(), np.asarray(y, self.dtype).ravel())
        count = pairs[0].size
        padded = [np.append(a, np.ones(-count % LANES, self.dtype)).reshape(-1, LANES) for a in pairs]
        out = np.empty((len(padded[0]), len(self.names), LANES), self.dtype)
        self.kernel(*padded, out)
        return {name: out[:, i].ravel()[:count] for i, name in enumerate(self.names)}


@functools.cache
def lanes(dtype: str) -> Lanes:
    return Lanes(dtype)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


def magnitudes(dtype: str) -> np.ndarray:
    """Numbers of every magnitude, subnormal ones included, and dense sets where something happens; both signs."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    bits, count = (np.uint32, 120_000) if dtype == "float32" else (np.uint64, 400)
    largest = int(info.max.view(bits))
    everywhere = np.arange(0, largest, largest // count, dtype=bits).view(dtype)
    grid = np.pi / 4 * rng.integers(1, 3000, count // 8)
    parts = [
        everywhere,
        rng.uniform(0, 1, count // 2),
        rng.uniform(0, 120 if dtype == "float32" else 760, count // 2),
        rng.uniform(0, 1e5, count // 4),
        1 + rng.normal(0, 1e-3, count // 4),
        1 - 10.0 ** rng.uniform(-17, 0, count // 4),
        0.5 + rng.normal(0, 1e-3, count // 4),
        grid,
        grid + rng.normal(0, 1e-4, grid.size),
    ]
    x = np.concatenate(parts).astype(dtype)
    return np.concatenate([x, -x])


def exact(name: str, dtype: str, *arguments: np.ndarray) -> np.ndarray:
    """Reference values: float64 for float32, and mpmath's numbers for float64."""
    if dtype == "float32":
        return NUMPY[name](*(a.astype(np.float64) for a in arguments))
    with mpmath.workdps(40):
        return np.array(
            [MPMATH[name](*map(mpmath.mpf, point)) for point in zip(*map(np.ndarray.tolist, arguments), strict=True)]
        )


def errors(got: np.ndarray, wanted: np.ndarray, relative: bool) -> np.ndarray:
    with mpmath.workdps(40):
        difference = np.abs(got.astype(wanted.dtype) - wanted)
        if relative:
            difference = difference / np.where(wanted == 0, 1, np.abs(wanted))
        return difference.astype(np.float64)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", [*ABSOLUTE, *RELATIVE])
def test_errors_stay_within_the_stated_bounds(name: str, dtype: str) -> None:
    (bounds, ranges), which = (ABSOLUTE | RELATIVE)[name], TYPES.index(dtype)
    x = magnitudes(dtype)
    y = np.random.default_rng(1).permutation(x)
    x, y = x[np.abs(x) <= ranges[which]], y[np.abs(x) <= ranges[which]]
    if name in ("log", "sqrt"):
        x, y = x[x > 0], y[x > 0]
    if name == "atan2":
        close = np.random.default_rng(2).random(x.size) < 0.5  # random pairs are mostly far apart in magnitude
        y = np.where(close & (np.abs(x) < 1e30) & (np.abs(x) > 1e-30), x * y.clip(-2, 2), y).astype(dtype)
        x, y = x[x != 0], y[x != 0]  # mpmath does not know signed zeros
    arguments = (x, y) if name in TWO_ARGUMENTS else (x,)
    got, wanted, info = lanes(dtype)(*arguments)[name], exact(name, dtype, *arguments), np.finfo(dtype)
    normal = ((np.abs(wanted) >= 2 * float(info.tiny)) & (np.abs(wanted) <= float(info.max))).astype(bool)
    error = np.where(normal, errors(got, wanted, relative=name in RELATIVE), 0)
    worst = int(np.argmax(error))
    assert error[worst] <= bounds[which], [float(a[worst]) for a in arguments]


@pytest.mark.parametrize("dtype", TYPES)
def test_special_values_as_numpy_gives_them(dtype: str) -> None:
    info = np.finfo(dtype)
    x = np.array([0.0, info.smallest_subnormal, info.tiny, 1.0, 2.0, info.max, np.inf, np.nan], dtype)
    x = np.append(x, -x)
    for name, reference in NUMPY.items():
        if name == "atan2":
            arguments = [a.ravel() for a in np.meshgrid(x, x)]
        else:
            arguments = [x, np.full_like(x, 0.5)] if name in TWO_ARGUMENTS else [x]
        got = lanes(dtype)(*arguments)[name]
        wanted = reference(*(a.astype(np.float64) for a in arguments)).astype(dtype)
        if name in (
            "sin",
            "cos",
            "tan",
            "smooth_abs",
        ):  # the largest number: beyond the ranges, or its square overflows
            got, wanted = got[np.abs(x) != info.max], wanted[np.abs(x) != info.max]
        np.testing.assert_allclose(got, wanted, rtol=4e-7, atol=2 * float(info.tiny), err_msg=name)
        if name in ("asin", "atan", "atan2", "tanh", "sqrt"):
            known = ~np.isnan(wanted)
            np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(wanted[known]), err_msg=name)


@pytest.mark.parametrize("dtype", TYPES)
def test_round_values_are_exact(dtype: str) -> None:
    at_zero, at_one = lanes(dtype)(0.0, 1.0), lanes(dtype)(1.0, 0.0)
    for name, value in {
        "sin": 0,
        "cos": 1,
        "tan": 0,
        "asin": 0,
        "atan": 0,
        "exp": 1,
        "tanh": 0,
        "sigmoid": 0.5,
        "wrap_to_pi": 0,
    }.items():
        assert at_zero[name][0] == value, name
    assert at_one["log"][0] == 0
    assert at_one["acos"][0] == 0
    assert at_one["asin"][0] == np.dtype(dtype).type(math.pi / 2)
    assert lanes(dtype)(0.0, -1.0)["atan2"][0] == np.dtype(dtype).type(math.pi)
    assert lanes(dtype)(-0.0, -1.0)["atan2"][0] == -np.dtype(dtype).type(math.pi)


@pytest.mark.parametrize("dtype", TYPES)
def test_results_keep_their_range(dtype: str) -> None:
    got = lanes(dtype)(magnitudes(dtype))
    for name in ("sin", "cos", "tanh"):
        assert np.abs(got[name]).max() <= 1, name
    assert got["sigmoid"].min() >= 0 and got["sigmoid"].max() <= 1
    pi = np.dtype(dtype).type(math.pi)
    assert got["wrap_to_pi"].min() >= -pi and got["wrap_to_pi"].max() < pi


@pytest.mark.parametrize("dtype", TYPES)
def test_exp_overflows_to_infinity_and_underflows_to_zero(dtype: str) -> None:
    top = math.log(float(np.finfo(dtype).max))
    got = lanes(dtype)([top * (1 + 1e-6), top * 2, top * (1 - 1e-6), -top, -top * 1.01, -top * 2])["exp"]
    assert np.isposinf(got[:2]).all() and np.isfinite(got[2])
    assert (got[3:] == 0).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_wrap_to_pi(dtype: str) -> None:
    limit, bound = (1e6, 5e-7) if dtype == "float32" else (1e9, 1e-15)
    pi = np.dtype(dtype).type(math.pi)
    edges = [pi, -pi, np.nextafter(pi, pi - pi), np.nextafter(pi, pi + pi), np.nextafter(-pi, -pi - pi), 0 * pi]
    x = np.concatenate([magnitudes(dtype), edges])
    x = x[np.abs(x) <= limit]
    got = lanes(dtype)(x)["wrap_to_pi"]
    with mpmath.workdps(40):
        turns = (x.astype(np.float64) - got) / (2 * np.pi)
        some = np.append(np.arange(0, x.size, x.size // 2000), np.arange(x.size - len(edges), x.size))
        points = zip(x[some].tolist(), got[some].tolist(), turns[some].tolist(), strict=True)
        assert max(abs(mpmath.mpf(a) - b - 2 * mpmath.pi * round(k)) for a, b, k in points) <= bound
    assert np.isnan(lanes(dtype)([np.inf, -np.inf, np.nan])["wrap_to_pi"]).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_smooth_abs(dtype: str) -> None:
    rng = np.random.default_rng(3)
    x, width = (10.0 ** rng.uniform(-9, 9, (2, 2000))).astype(dtype)
    got = lanes(dtype)(-x, width)["smooth_abs"]
    wanted = exact("smooth_abs", dtype, -x, width)
    assert (errors(got, wanted, relative=False) / (x + width) <= (2e-7 if dtype == "float32" else 4e-16)).all()
    assert (got >= 0).all()
    np.testing.assert_array_equal(lanes(dtype)([-2.5, 0.0], 0.0)["smooth_abs"], np.array([2.5, 0.0], dtype))


@pytest.mark.parametrize("dtype", TYPES)
def test_lane_loops_are_vectorised_without_libm(dtype: str) -> None:
    run = lanes(dtype)
    run(np.ones(1))
    (code,) = run.kernel.inspect_llvm().values()
    real = {"float32": "float", "float64": "double"}[dtype]
    assert not re.findall(rf"call[^\n]*@_?_?({LIBM})f?\(", code)
    vector_calls = re.findall(rf"call[^\n]*@llvm\.({LIBM})\.(\w+)\(", code)
    assert all(name == "sqrt" and kind.startswith("v") for name, kind in vector_calls), vector_calls
    assert re.search(rf"<\d+ x {real}>", code)
    assert not re.findall(rf"= (?:fadd|fsub|fmul|fdiv)(?: \w+)* {real} .*", code), "a loop stayed scalar"
    if dtype == "float32":
        assert "x double>" not in code and "x i64>" not in code


@pytest.mark.parametrize("dtype", TYPES)
def test_nothing_compiles_when_the_functions_are_made(dtype: str) -> None:
    assert not any(function.signatures for function in vecmath._build.__wrapped__(dtype).values())


@pytest.mark.parametrize(("dtype", "error", "least"), [("float32", 3e-7, 126), ("float64", 1e-15, 1022)])
def test_decay_is_a_power_of_two(dtype: str, error: float, least: int) -> None:
    x = np.concatenate([np.random.default_rng(0).uniform(0, least, 5000), np.linspace(0, 3, 999), [0.5, least]]).astype(
        dtype
    )
    found = lanes(dtype)(x)["decay"].astype(np.longdouble)
    np.testing.assert_allclose(found, np.exp2(-x.astype(np.longdouble)), rtol=error)
    ends = lanes(dtype)(np.array([0.0, np.inf, np.nan]))["decay"]
    assert ends[0] == 1 and ends[1] == 2.0**-least and np.isnan(ends[2])


def test_names_and_types() -> None:
    for dtype in (*TYPES, np.float32, np.dtype(np.float64)):
        assert set(vecmath.lane_functions(dtype)) == {*vecmath.PLAIN_TO_LANE.values(), "decay"}
    assert vecmath.PLAIN_TO_LANE[math.atan2] == "atan2"
    with pytest.raises(InvalidInput, match="float16"):
        vecmath.lane_functions(np.float16)


def test_plain_functions_agree_with_the_lanes() -> None:
    x = magnitudes("float64")
    x = x[np.abs(x) < 1e6]
    got = lanes("float64")(x, 0.3)
    for value, wrapped, smooth, squashed in zip(
        x.tolist(), got["wrap_to_pi"], got["smooth_abs"], got["sigmoid"], strict=True
    ):
        turn = abs(vecmath.wrap_to_pi(value) - wrapped)
        assert min(turn, abs(turn - 2 * math.pi)) <= 1e-15 + math.ulp(value)
        assert vecmath.smooth_abs(value, 0.3) == pytest.approx(smooth, rel=1e-15, abs=1e-15)
        assert vecmath.sigmoid(value) == pytest.approx(squashed, rel=1e-14, abs=1e-300)


def test_plain_functions_at_the_edges() -> None:
    pi = math.pi
    assert vecmath.wrap_to_pi(pi) == -pi
    assert vecmath.wrap_to_pi(-pi) == -pi
    assert vecmath.wrap_to_pi(7.0) == pytest.approx(7.0 - 2 * pi)
    assert vecmath.wrap_to_pi(math.nextafter(-pi, -4.0)) < pi
    assert math.isnan(vecmath.wrap_to_pi(math.inf)) and math.isnan(vecmath.wrap_to_pi(math.nan))
    assert vecmath.smooth_abs(0.0, 0.1) == 0
    assert vecmath.sigmoid(1000.0) == 1 and vecmath.sigmoid(-1000.0) == 0 and vecmath.sigmoid(0.0) == 0.5
    assert math.isnan(vecmath.sigmoid(math.nan))
