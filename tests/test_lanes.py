"""Users' functions in lanes: each construct equals plain Python, stays float32 and fast, or is refused with a reason.

All constructs of the table are compiled into one kernel per float type, since each kernel costs seconds.
"""

# Half of these functions are wrong on purpose.
# mypy: disable-error-code="name-defined, attr-defined, call-arg, index, misc"

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
import pytest
from numba.core.caching import NullCache

from mpcrl.core import lanes
from mpcrl.core.compile import load_module
from mpcrl.core.errors import LaneError
from mpcrl.core.vecmath import sigmoid, smooth_abs, wrap_to_pi
from mpcrl.models import analytic
from mpcrl.tasks.registry import make_task
from mpcrl.tasks.task import AnalyticTask

Function = Callable[..., Any]


class Params(NamedTuple):
    """Parameters of all constructs: numbers, some of them integers in Python, and arrays of one to three axes."""

    gain: float
    x: float
    n: int
    line: np.ndarray
    map: np.ndarray
    cube: np.ndarray
    order: np.ndarray


rng = np.random.default_rng(5)
P = Params(
    gain=0.7,
    x=1.25,
    n=3,
    line=rng.normal(size=7),
    map=rng.normal(size=(5, 6)),
    cube=rng.normal(size=(3, 4, 5)),
    order=np.array([3, 0, 2, 1]),
)

COUNT = 3
SCALE = -1.5
DEBUG = False
WEIGHTS = (0.5, 1.0, 2.0)
SPACED = tuple(np.linspace(0.0, 1.0, 3))
GATES = ((0.0, 1.0), (1.5, -0.5), (2.0, 0.25))
HALF_TURN = math.pi


class Config:
    """Constants kept in a class."""

    drag = 0.3
    steps = 4


CONSTRUCTS: list[Function] = []
SCALAR: set[Function] = set()


def construct(function: Function) -> Function:
    """f(a, b, t, p) -> float, for -3 < a, b < 3 and 0 <= t < 6, that vectorises."""
    CONSTRUCTS.append(function)
    return function


def scalar(function: Function) -> Function:
    """A construct that is allowed, but runs one trajectory after the other."""
    SCALAR.add(function)
    return construct(function)


# ---- the table: decisions --------------------------------------------------------------------------------------------
@construct
def if_elif_else(a, b, t, p):
    if a > 1:
        c = a
    elif a > 0:
        c = 2 * b
    else:
        c = -a
    return c


@construct
def nested_if(a, b, t, p):
    c = 0.0
    if a > 0:
        if b > 0:
            c = a * b
        else:
            c -= a
    return c


@construct
def ternary(a, b, t, p):
    return (1 if a > b else 0) + (a if b > 0 else b) * 0.5


@construct
def ternary_of_tuples(a, b, t, p):
    low, high = (a, b) if a < b else (b, a)
    return high - 2 * low


@construct
def early_return(a, b, t, p):
    if a < -1:
        return 10
    if b < 0:
        return b * a
    return a - b


@construct
def return_from_a_loop(a, b, t, p):
    for k in range(4):
        if a > k:
            return b + k
    return a


@construct
def chained_compare(a, b, t, p):
    return 1.0 if -1 < a <= b < 2 else 0.25


@construct
def and_or_not(a, b, t, p):
    if (a > 0 and b > 0) or (a < -1 and not b > 1):
        return a + b
    return a - b


@construct
def truths_in_variables(a, b, t, p):
    hit = False
    for k in range(3):
        hit = hit or abs(a - k) < 0.3
    both = hit and b > 0
    return 3.0 if both else (2.0 if hit else 1.0)


@construct
def truths_as_numbers(a, b, t, p):
    return 5.0 * (a > b) + (b > 0) * a - bool(a > 1)


@construct
def numbers_as_truths(a, b, t, p):
    c = max(a, 0.0)
    d = c or b
    return d if c else -b


@construct
def constant_condition(a, b, t, p):
    if DEBUG:
        return 100.0
    return a


@construct
def condition_on_parameter(a, b, t, p):
    return a if p.n == 3 else b


@construct
def condition_on_time(a, b, t, p):
    return a if t >= 2 else b * t


# ---- arithmetic ------------------------------------------------------------------------------------------------------
@construct
def integers_beside_floats(a, b, t, p):
    c = 1
    c = c + a / 2
    return 3 * c - 2 * b + 7 // 2 - 1


@construct
def min_max_abs(a, b, t, p):
    return min(max(a, -1), 1) + max(a, b, 0.5) + min(b, a, t) + abs(a - b) - math.fabs(b)


@construct
def powers(a, b, t, p):
    return a**2 + b**3 + pow(a, 2) - (a * a + 1) ** -1 + math.pow(b, 2) + (1 + b * b) ** 0.5 + a**1 + b**0 + b**4 / 81


@construct
def general_powers(a, b, t, p):
    return abs(a) ** p.gain + 2**b + (1.5 + abs(b)) ** a + a**p.n + math.pow(1.3, a) - (-2.0) ** t


@construct
def remainders(a, b, t, p):
    return a % 2 + a % -0.7 + (a - 7) % b + math.fmod(a, 0.6) + (t % 4) * 10


@construct
def floor_divisions(a, b, t, p):
    return a // 0.8 + a // -0.3 + (10 * a) // 3 + t // 2


@construct
def exact_remainders(a, b, t, p):
    return (8 * t + 1) % 41 + (41 * t) % 41 + 100 * ((41 * t) // 41) + (t * 47) % 47


@construct
def rounding(a, b, t, p):
    return math.floor(a) + 2 * math.ceil(b) + 3 * math.trunc(a) + 4 * int(b) + 5 * round(a) + 0.5 * float(b)


@construct
def signs(a, b, t, p):
    return math.copysign(a, b) + (-a if b > 0 else +a) - -b


@construct
def augmented_assignments(a, b, t, p):
    c = a
    c += b
    c *= 2
    c -= 1
    c /= 3
    c **= 2
    return c


@construct
def assignments(a, b, t, p):
    c = d = a + b
    e: float = c * d
    (f, g), h = (a, b), e
    f, g = g, f
    return c + 2 * d + f - 3 * g + h


@construct
def constants(a, b, t, p):
    return COUNT * a + SCALE * b + HALF_TURN + math.e + Config.drag * a + np.pi + WEIGHTS[1] + GATES[2][1] - math.tau


# ---- functions -------------------------------------------------------------------------------------------------------
@construct
def elementary(a, b, t, p):
    c = math.sin(a) + 2 * math.cos(b) + math.tan(0.4 * a) + math.exp(a) + math.log(abs(b) + 0.1) + math.tanh(a)
    c += math.asin(0.3 * a) + math.acos(0.3 * b) + math.atan(a) + math.atan2(a, b) + math.sqrt(a * a + 1)
    return c + math.hypot(a, b) + math.hypot(a, b, 1.0)


@construct
def from_mpcrl(a, b, t, p):
    return wrap_to_pi(3 * a) + smooth_abs(b, 0.2) + sigmoid(a)


@construct
def numpy_scalars(a, b, t, p):
    return (
        np.sqrt(a * a + 1) + np.clip(a, -1, 1) + np.where(a > b, a, 2 * b) + np.abs(b) + np.minimum(a, b) + np.floor(b)
    )


@construct
def finite_or_not(a, b, t, p):
    c = math.inf if a > 1 else a
    d = math.nan if b > 1 else b
    return (c if math.isfinite(c) else 5.0) + (7.0 if math.isnan(d) else d) + (1.0 if math.isinf(c) else 0.0)


def plain_helper(a, b):
    """A helper function with a docstring."""
    c = a * b
    return c + 1


def helper_with_params(a, p, scale=2.0, shift=np.float64(0.5)):  # noqa: B008
    return scale * a * p.gain + shift


def two_results(a, b):
    return a + b, a - b


def look_up(i, p):
    return p.line[i]


def cell(a, p):
    return int(min(max(a + 3, 0), 4)), int(abs(a))


def element(values, i):
    return values[i]


class Pair(NamedTuple):
    """Two numbers."""

    first: float
    second: float = 3.0


def pair(a, b):
    return Pair(second=b, first=a)


square = lambda a: a * a  # noqa: E731


def made_with(gain: float, offsets: tuple[float, ...]) -> Function:
    """A closure."""

    def inner(a):
        return gain * a + offsets[1]

    return inner


closure = made_with(0.3, (1.0, 2.0))


@construct
def helpers(a, b, t, p):
    c, d = two_results(a, b)
    c += plain_helper(a, b) + helper_with_params(b, p) + helper_with_params(a, p, shift=a) + helper_with_params(a, p, 3)
    e = pair(a, b)
    f = Pair(a)
    return c * d + square(a) + closure(b) + e[0] - 2 * e[1] + f[1]


@construct
def helpers_with_indices(a, b, t, p):
    i = int(abs(a))
    row, column = cell(b, p)
    c = look_up(i, p) + look_up(t, p) + look_up(2, p) + look_up(i + 1, p) + p.map[row, column]
    return c + p.line[cell(a, p)[1]] + element((a, b, 1.0), i % 3)


# ---- loops -----------------------------------------------------------------------------------------------------------
@construct
def loops_over_ranges(a, b, t, p):
    c = 0.0
    for i in range(4):
        c += i * a
    for _ in range(COUNT):
        c += b
    for i in range(1, 9, 3):
        c -= i
    for i in range(3, 0, -1):
        c = 0.5 * c + i
    for i in range(Config.steps):
        c += 0.1 * i
    for i in range(p.line.shape[0] - 5):
        c += p.line[i] * p.line[i + 1]
    for i in range(len(p.order)):
        c += p.order[i] * a
    return c + i


@construct
def loops_over_tuples(a, b, t, p):
    c = 0.0
    for w in (0.5, 1, -2):
        c += w * a
    for v in (a, b, a * b):
        c += v * v
    for w in WEIGHTS:
        c = c * 0.5 + w
    for s in SPACED:
        c += s * b
    for x, r in GATES:
        c += r * (a - x) ** 2
    for k, w in ((0, 0.5), (2, 1.5)):
        c += p.line[k] * w
    return c + len(WEIGHTS) + w


@construct
def loop_that_changes_what_it_runs_over(a, b, t, p):
    c = 0.0
    for v in (a, b, a + b):
        b = b + v
        a = 2 * v
        c += a - b
    for i in range(3):
        i = i + a
        c += i
    return c


@construct
def nested_loops(a, b, t, p):
    c = 0.0
    for i in range(3):
        for j in range(2):
            c += p.map[i, j] * (a if j == 0 else b) + i * j
    return c


@scalar
def breaks_and_continues(a, b, t, p):
    c = 0.0
    for i in range(6):
        if i == 1:
            continue
        c += p.line[i]
        if c > a:
            break
    for w in (0.5, 1, 2):
        if w > b:
            break
        c += w
    for i in range(3):
        for j in range(3):
            if j > i:
                break
            c += j * a
    return c


@scalar
def loops_of_run_time_length(a, b, t, p):
    c = 0.0
    for i in range(p.n):
        c += p.line[i] + i * a
    for i in range(t):
        c += i
    for i in range(int(abs(b))):
        c += i * b
    for i in range(100):
        c += 1e-3 * i
    return c


@scalar
def while_loops(a, b, t, p):
    i = 0
    c = 0.0
    while i < 4:
        c += p.line[i] * a
        i += 1
    while c > 1:
        c -= 1
    while True:
        b *= 0.5
        if abs(b) < 0.1:
            break
    return c + b + i


# ---- indices ---------------------------------------------------------------------------------------------------------
@construct
def tuples(a, b, t, p):
    x = (a, b, a + b, 2.0)
    y = x[1:3]
    z = x[::2]
    return x[0] - x[-1] + y[0] * y[1] + z[1]


@construct
def tuples_by_computed_index(a, b, t, p):
    x = (a, b, a + b)
    i = int(abs(a))
    w, r = GATES[i % 3]
    return x[i % 3] + WEIGHTS[int(abs(b)) % 3] + w - GATES[1][i % 2] * r


@construct
def constant_look_ups(a, b, t, p):
    return p.line[2] * a + p.map[1, 2] * b + p.cube[2, 3, 4] + p.line[-1] + p.map[-1, 0] + p.line[COUNT]


@construct
def computed_look_ups(a, b, t, p):
    i, j = int(abs(a)), int(abs(b))
    k = min(i + 1, p.cube.shape[2] - 1)
    return (
        p.line[i] + 2 * p.line[2 * i + 1 - j // 2] + p.map[i, j + 2] + p.cube[i % 3, j, k] + p.line[t] + p.map[t % 5, i]
    )


@construct
def look_ups_by_parameters_and_arrays(a, b, t, p):
    i = p.order[int(abs(a))]
    return p.line[p.n] + p.line[p.order[2]] + p.line[i] + p.map[p.n - 1, p.order[t % 4]]


@construct
def guarded_look_up(a, b, t, p):
    i, j = math.floor(a), math.floor(b)
    if 0 <= i < p.map.shape[0] and 0 <= j < p.map.shape[1]:
        return p.map[i, j]
    return 9.0


@construct
def look_ups_in_branches(a, b, t, p):
    total = a
    for k in range(2):
        if b < p.map[k, 2]:
            total += p.gain * (p.map[k, 2] - b)
            if total > p.line[k]:
                total, b = total - p.line[k], b + 1
        else:
            low = p.line[k + 1]
            total -= low
    return total * b


@construct
def early_returns_of_look_ups(a, b, t, p):
    if a < p.line[0]:
        near = p.line[1] * b
        return near + a
    c = a * b
    if c > p.line[2]:
        return c - p.line[2]
    elif b > 0:
        return p.line[3]
    return c


@construct
def early_return_of_what_changes_later(a, b, t, p):
    if a > 0:
        return a + b
    a = a * 2 + p.line[1]
    b = a - b
    if b > 1:
        return a
    a, b = b, a
    return a * b


@construct
def early_return_from_a_running_total(a, b, t, p):
    total = a
    for k in range(3):
        total += p.line[k]
        if total > 1:
            return total
    return total * b


@construct
def elif_look_ups(a, b, t, p):
    if a > 1:
        c = p.line[0]
    elif a > 0:
        c = p.line[1] * b
    else:
        if b > 0:
            c = p.line[2]
        else:
            c = p.line[3] - a
    return c


@construct
def one_name_for_a_number_and_a_pair(a, b, t, p):
    v = a
    c = v * 2
    if a > 0:
        v = (a, b)
        c = v[0] * v[1]
    return c


def until_large(x):
    while x < 5:
        x = x * 1.5 + 0.1
    return x


@scalar
def guarded_loop(a, b, t, p):
    if a <= 0.5:
        return b
    y = until_large(a)
    if b > 0.5:
        y = y + until_large(b)
    return y


@construct
def look_up_in_a_ternary(a, b, t, p):
    i = int(math.floor(a))
    return p.line[i] if i >= 0 and b > 0 else 1.0


@construct
def linear_interpolation(a, b, t, p):
    at = min(max((a + 3) / 6 * (p.line.shape[0] - 1), 0.0), p.line.shape[0] - 1.001)
    i = int(at)
    part = at - i
    return (1 - part) * p.line[i] + part * p.line[i + 1]


@construct
def bilinear_interpolation(a, b, t, p):
    x, y = abs(a) + 0.5, abs(b) + 0.5
    i, j = int(x), int(y)
    u, v = x - math.floor(x), y - j
    low = p.map[i, j] * (1 - v) + p.map[i, j + 1] * v
    high = p.map[i + 1, j] * (1 - v) + p.map[i + 1, j + 1] * v
    return low * (1 - u) + high * u


@construct
def nearest_cell(a, b, t, p):
    return p.line[round(abs(a))] + p.line[math.ceil(abs(b))] + p.line[math.floor(abs(b))]


@construct
def counters(a, b, t, p):
    i = 0
    c = p.line[i]
    i += 2
    c += p.line[i] * i
    i = i + 1 if a > 0 else i
    i -= 1
    return c + p.line[i] * a + i / 2


@construct
def index_chosen(a, b, t, p):
    side = b * 2
    k = (1 if side > 0 else 2) + int(a > 0)
    return p.line[k] * side + p.line[max(k - 2, 0)] + p.line[min(k, 2) if side > a else 5]


@construct
def time_as_index_and_number(a, b, t, p):
    last = p.line.shape[0] - 1
    return p.line[min(t + 1, last)] * t + 0.1 * t / 3 + p.line[t]


@construct
def names_of_its_own(a, b, t, p):
    p_x = a + 1
    lane_float = b
    s0 = p.x * 2
    return p_x * p.x + lane_float + s0


# ---- compile and compare ---------------------------------------------------------------------------------------------
ROLES = ("float", "float", "index", "params")


def program_of(functions: list[Function], dtype: type) -> str:
    """Source of a kernel `run` that fills out[i] with functions[i] of all inputs, in a lane loop each."""
    program = lanes.LaneProgram(np.dtype(dtype), lanes.fields_of(P))
    names = [program.add(function, ROLES) for function in functions]
    loops = "".join(
        f"    for n in range(a.size):\n        out[{i}, n] = {program.call(name, 'a[n]', 'b[n]', 'np.int32(t[n])')}\n"
        for i, name in enumerate(names)
    )
    return f"{program.text()}\n@kernel\ndef run(out, a, b, t{program.arguments}):\n{loops}"


def arguments_of(out: np.ndarray, a: np.ndarray, b: np.ndarray, t: np.ndarray) -> tuple[Any, ...]:
    return (out, a, b, t, *lanes.coerce(P, lanes.fields_of(P), out.dtype))


def run(functions: list[Function], a: np.ndarray, b: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Results [functions, inputs] of compiled functions."""
    out = np.empty((len(functions), a.size), a.dtype)
    load_module(program_of(functions, a.dtype.type), "constructs").run(*arguments_of(out, a, b, t))
    return out


@pytest.mark.parametrize(
    ("dtype", "error"), [(np.float32, 1e-5), pytest.param(np.float64, 1e-12, marks=pytest.mark.acceptance)]
)
def test_every_construct_equals_plain_python(dtype: type, error: float) -> None:
    a, b = np.random.default_rng(1).uniform(-3, 3, (2, 192)).astype(dtype)
    t = np.arange(192) % 6
    gain, x = float(dtype(P.gain)), float(dtype(P.x))
    plain = P._replace(gain=gain, x=x, line=P.line.astype(dtype), map=P.map.astype(dtype), cube=P.cube.astype(dtype))
    got = run(CONSTRUCTS, a, b, t)
    wrong = []
    for function, result in zip(CONSTRUCTS, got, strict=True):
        expected = np.array(
            [float(function(*row, plain)) for row in zip(a.tolist(), b.tolist(), t.tolist(), strict=True)]
        )
        off = np.abs(result - expected) / (1 + np.abs(expected))
        if not off.max() <= error:
            n = int(np.nanargmax(np.where(np.isnan(off), np.inf, off)))
            wrong.append(f"{function.__name__}({a[n]}, {b[n]}, {t[n]}): {result[n]}, Python {expected[n]}")
    assert wrong == []


# ---- where plain Python raises or hangs ------------------------------------------------------------------------------
NANS: list[Function] = []


def nan(function: Function) -> Function:
    """A function that Python cannot finish for any input."""
    NANS.append(function)
    return function


@nan
def above_the_end(a, b, t, p):
    return p.line[7 + int(abs(a))]


@nan
def below_zero(a, b, t, p):
    return p.line[-1 - int(abs(a))]


@nan
def beside_a_map(a, b, t, p):
    return p.map[1, 6 + int(abs(a))]


@nan
def beside_a_cube(a, b, t, p):
    return p.cube[0, 1, -1 - int(abs(a))]


@nan
def index_of_nan(a, b, t, p):
    return p.line[int(math.inf * a)]


@nan
def behind_a_tuple(a, b, t, p):
    return (a, b)[2 + int(abs(a))]


@nan
def behind_a_tuple_of_tuples(a, b, t, p):
    x, r = GATES[3 + int(abs(a))]
    return x + r


@nan
def endless_loop(a, b, t, p):
    while b < 10:
        a = a + 1
    return a


@nan
def endless_count(a, b, t, p):
    i = 0
    while i >= 0:
        i = (i + 1) % 3
    return p.line[i]


@nan
def root_of_a_negative_number(a, b, t, p):
    return math.sqrt(-abs(a) - 1)


@nan
def log_of_a_negative_number(a, b, t, p):
    return math.log(-abs(a) - 1)


@nan
def complex_power(a, b, t, p):
    return (-abs(a) - 1) ** p.gain


@nan
def division_of_zero_by_zero(a, b, t, p):
    return (a - a) / (b - b)


@nan
def remainder_by_zero(a, b, t, p):
    return a % (b - b)


def test_where_python_raises_or_hangs_the_sample_is_nan() -> None:
    a, b = np.random.default_rng(2).uniform(-3, 3, (2, 64)).astype(np.float32)
    got = run(NANS, a, b, np.zeros(64, int))
    assert [f.__name__ for f, row in zip(NANS, got, strict=True) if not np.isnan(row).all()] == []


# ---- what is refused -------------------------------------------------------------------------------------------------
ARRAY = np.zeros(3)
REFUSED: list[tuple[Function, str]] = []


def refused(message: str) -> Callable[[Function], Function]:
    """A function that cannot run in lanes; the message points at its line with `# here`."""

    def note(function: Function) -> Function:
        REFUSED.append((function, message))
        return function

    return note


@refused("no exceptions")
def raises(a, b, t, p):
    if a > 100:
        raise ValueError("too far")  # here
    return a


@refused("no exceptions")
def tries(a, b, t, p):
    try:  # here
        return a / b
    except ZeroDivisionError:
        return 0.0


@refused("no exceptions")
def asserts(a, b, t, p):
    assert a < 100  # here
    return a


@refused("no exceptions")
def with_statement(a, b, t, p):
    with open("file") as _:  # here
        return a


@refused("nested functions")
def nested_function(a, b, t, p):
    def inner(c):  # here
        return c

    return inner(a)


@refused("no exceptions, no nested functions")
def imports(a, b, t, p):
    import cmath  # here

    return cmath.phase(a)


@refused("allocates")
def list_display(a, b, t, p):
    c = [a, b]  # here
    return c[0]


@refused("allocates")
def comprehension(a, b, t, p):
    return sum([c**2 for c in (a, b)])  # here


@refused("allocates")
def generator(a, b, t, p):
    return sum(c**2 for c in (a, b))  # here


@refused("allocates")
def inner_lambda(a, b, t, p):
    f = lambda c: c * c  # noqa: E731  # here
    return f(a)


@refused("allocates")
def f_string(a, b, t, p):
    c = f"{a}"  # here
    return float(c)


@refused("is no function that runs in SIMD lanes")
def numpy_array(a, b, t, p):
    c = np.array((a, b))  # here
    return c[0]


@refused("is no function that runs in SIMD lanes")
def numpy_zeros(a, b, t, p):
    c = np.zeros(3)  # here
    return c[0] + a


@refused(r"`math.gamma\(a\)` is no function that runs in SIMD lanes; use .* math.\*")
def unknown_function(a, b, t, p):
    return math.gamma(a)  # here


@refused("take it out")
def prints(a, b, t, p):
    print(a)  # here
    return a


@refused("is no number")
def string(a, b, t, p):
    mode = "fast"  # here
    return a if mode == "fast" else b


@refused("recursive")
def recursive(a, b, t, p):  # here
    return a if a < 1 else recursive(a - 1, b, t, p)


@refused("global array; make it a field of params")
def global_array(a, b, t, p):
    return a * ARRAY[1]  # here


@refused("is a type, no number|is a ABCMeta|no number")
def global_object(a, b, t, p):
    return a * Config  # here


@refused("is not defined")
def undefined(a, b, t, p):
    return a * nowhere  # noqa: F821  # here


@refused("does not exist")
def missing_attribute(a, b, t, p):
    return math.sine(a)  # here


@refused(r"does not exist; params has the fields \['gain', 'x'")
def missing_field(a, b, t, p):
    return p.gains * a  # here


@refused("does not fit plain_helper: missing a required argument: 'b'")
def too_few_arguments(a, b, t, p):
    return plain_helper(a)  # here


@refused("does not fit plain_helper: got an unexpected keyword argument 'c'")
def unknown_keyword(a, b, t, p):
    return plain_helper(a, b, c=b)  # here


@refused("takes 2 argument")
def arity_of_a_known_function(a, b, t, p):
    return math.atan2(a)  # here


@refused("takes 1 argument")
def log_with_a_base(a, b, t, p):
    return math.log(a, 10)  # here


@refused("takes 2 argument")
def min_of_a_tuple(a, b, t, p):
    return min((a, b))  # here


@refused("keyword arguments")
def keyword_of_a_known_function(a, b, t, p):
    return max(a, b, key=abs)  # here


@refused("cannot be assigned to")
def starred_target(a, b, t, p):
    c, *d = a, b, a  # here
    return c * d[0]


@refused("shorthand")
def starred_argument(a, b, t, p):
    return math.hypot(*(a, b))  # here


@refused("shorthand")
def walrus(a, b, t, p):
    return (c := a * 2) + c  # here


@refused("`else` of a loop")
def loop_with_else(a, b, t, p):
    for _ in range(3):
        a += b
    else:
        a = 0.0  # here
    return a


@refused("loop over range")
def loop_over_a_local_tuple(a, b, t, p):
    c = (a, b)
    for d in c:  # here
        a += d
    return a


@refused("loop over range")
def loop_over_an_array(a, b, t, p):
    for c in p.line:  # here
        a += c
    return a


@refused("loop over range")
def loop_over_zip(a, b, t, p):
    for c, d in zip(WEIGHTS, WEIGHTS):  # noqa: B905  # here
        a += c * d
    return a


@refused("cannot be assigned to")
def element_assigned(a, b, t, p):
    c = (a, b)
    c[0] = 1.0  # here
    return c[0]


@refused("cannot be assigned to")
def field_assigned(a, b, t, p):
    p.gain = a  # here
    return a


@refused("in place")
def array_changed(a, b, t, p):
    p.line[0] += a  # here
    return a


@refused("compares objects")
def comparison_of_objects(a, b, t, p):
    return a if p.gain is None else b  # here


@refused("slice that is not constant")
def slice_by_a_variable(a, b, t, p):
    c = (a, b, a)[0:t]  # here
    return c[0]


@refused(r"shape \(5, 6\)")
def row_of_a_map(a, b, t, p):
    c = p.map[1]  # here
    return c[0]


@refused(r"shape \(5, 6\)")
def column_of_a_map(a, b, t, p):
    return p.map[:, 1][0]  # here


@refused(r"shape \(5, 6\)")
def chained_subscripts(a, b, t, p):
    return p.map[1][2]  # here


@refused(r"shape None")
def subscript_of_a_number(a, b, t, p):
    return p.gain[0]  # here


@refused("out of range: p.line has the shape")
def constant_out_of_range(a, b, t, p):
    return p.line[7]  # here


@refused("is an array; read single elements")
def array_as_a_number(a, b, t, p):
    return a * p.line  # here


@refused("field by field")
def params_as_a_number(a, b, t, p):
    q = p  # here
    return q.gain * a


@refused("local variable")
def attribute_of_a_result(a, b, t, p):
    c = pair(a, b)
    return c.first  # here


@refused("local variable")
def call_of_a_variable(a, b, t, p):
    return a(b)  # here


@refused("write the number")
def length_of_a_local_tuple(a, b, t, p):
    c = (a, b)
    return len(c)  # here


@refused("no integer, but 'i' is an index")
def fraction_as_an_index(a, b, t, p):
    i = int(a)
    c = p.line[i]
    i = 0.5 * b  # here
    return c + i


@refused("no floating-point operation")
def bit_operation(a, b, t, p):
    c = int(a) ^ int(b)  # here
    return c


@refused("returns nothing")
def bare_return(a, b, t, p):
    if a > 0:
        return  # here
    return b


@refused("may end without `return`")
def no_return(a, b, t, p):  # here
    if a > 0:
        return a


@refused("expected 4")
def wrong_arity(a, b, p):  # here
    return a


@refused("keyword-only")
def keyword_only(a, b, t, *, p):  # here
    return a


def decorator(function: Function) -> Function:
    """Wraps a function as functools.wraps does."""

    def wrapper(*values):
        return function(*values)

    wrapper.__wrapped__ = function
    return wrapper


@pytest.mark.parametrize(("function", "message"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_run_is_refused_with_file_line_and_reason(function: Function, message: str) -> None:
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if text.rstrip().endswith("# here"))
    # what concerns the whole function names the line where Python says that it begins: that of its decorator
    where = {line, first} if lines[line - first].startswith("def ") else {line}
    with pytest.raises(LaneError, match=message) as caught:
        program_of([function], np.float32)
    named = re.match(rf"{re.escape(__file__)}:(\d+), in {function.__name__}: ", str(caught.value))
    assert named
    assert int(named[1]) in where


two = lambda a, b, t, p: a, lambda a, b, t, p: b


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (two[0], "several lambdas stand on these lines; write `def` functions"),
        (math.sin, "expected a plain Python function"),
        (Config(), "expected a plain Python function"),
        (Config().__init__, "expected a plain Python function"),
        (decorator(early_return), "has a decorator"),
        (eval("lambda a, b, t, p: a"), "source cannot be read"),
    ],
)
def test_what_is_no_plain_function_is_refused(function: Any, message: str) -> None:
    with pytest.raises(LaneError, match=message):
        program_of([function], np.float32)


class Numbers(NamedTuple):
    """Parameters for the tests of their types."""

    number: Any = 1.0
    array: Any = np.zeros((2, 3))


@pytest.mark.parametrize(
    "params",
    [
        (1.0, 2.0),
        {"number": 1.0},
        Numbers(number="1"),
        Numbers(number=None),
        Numbers(number=1j),
        Numbers(array=np.zeros((1, 1, 1, 1))),
        Numbers(array=np.zeros((0, 3))),
        Numbers(array=[object()]),
    ],
)
def test_params_are_numbers_and_arrays(params: Any) -> None:
    with pytest.raises(LaneError, match="params"):
        lanes.fields_of(params)


@pytest.mark.parametrize(
    "params",
    [
        Pair(1.0),
        Numbers(number=None),
        Numbers(number="1"),
        Numbers(number=np.zeros(2)),
        Numbers(array=1.0),
        Numbers(array=np.zeros((3, 2))),
        Numbers(array=[["a"] * 3] * 2),
    ],
)
def test_params_keep_their_fields_and_shapes(params: Any) -> None:
    with pytest.raises(LaneError, match="params"):
        lanes.coerce(params, lanes.fields_of(Numbers()), np.dtype(np.float32))


def test_params_come_in_the_one_type_and_layout_that_kernels_were_compiled_for() -> None:
    read_only = np.zeros((2, 3), np.float32)
    read_only.setflags(write=False)
    unaligned = np.zeros(2 * 3 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 3)
    for array in (
        read_only,
        unaligned,
        np.zeros((3, 2)).T,
        np.zeros((2, 6))[:, ::2],
        np.zeros((2, 3), ">f4"),
        [[0] * 3] * 2,
    ):
        number, values = lanes.coerce(Numbers(True, array), lanes.fields_of(Numbers()), np.dtype(np.float32))
        assert type(number) is np.float32
        assert values.dtype == np.dtype(np.float32)
        assert values.flags.carray
    fine = np.ones((2, 3), np.float32)
    assert (
        lanes.coerce(Numbers(1, fine), lanes.fields_of(Numbers()), np.dtype(np.float32))[1] is fine
    )  # no copy without need


# ---- vectors, not scalars --------------------------------------------------------------------------------------------
def ir_of(kernel: Any, *arguments: Any) -> str:
    """LLVM's final code of all functions of a kernel; Numba keeps none of a kernel that comes from its cache."""
    kernel._cache = NullCache()
    kernel(*arguments)
    (signature,) = kernel.signatures
    return kernel.inspect_llvm(signature)


def arithmetic(code: str, kind: str) -> int:
    """Instructions that calculate with or compare numbers of a type."""
    return len(re.findall(rf"= f(?:add|sub|mul|div|neg|cmp)\b[^\n]*? {kind} ", code))


LIBM = re.compile(
    r"call [^\n]*@(?:llvm\.)?(?:a?sin|a?cos|a?tan|atan2|exp2?|log|log2|powi?|tanh|fmod|hypot|remainder)f?[.(]"
)


@pytest.mark.parametrize(("function", "branches"), [(look_ups_in_branches, False), (guarded_loop, True)])
def test_branches_become_selections_unless_they_guard_a_loop(function: Function, branches: bool) -> None:
    program = lanes.LaneProgram(np.dtype(np.float32), lanes.fields_of(P))
    program.add(function, ("float", "float", "index", "params"))
    assert bool(re.search(r"^    if ", program.text(), re.MULTILINE)) == branches


class Field(NamedTuple):
    """Discs to keep away from: rows x, y, radius."""

    discs: np.ndarray


def drift(x, u, p):
    return x[0] + 0.1 * u[0], x[1] + 0.1 * u[1]


def disc_terminal(x, p):
    total = 2.0 * (x[0] ** 2 + x[1] ** 2)
    for k in range(2):
        distance = math.sqrt((x[0] - p.discs[k, 0]) ** 2 + (x[1] - p.discs[k, 1]) ** 2)
        if distance < p.discs[k, 2]:
            total += 20.0 + 100.0 * (p.discs[k, 2] - distance)
    return total


def disc_cost(x, u, t, p):
    if x[0] > p.discs[0, 0] + 9.0:
        return p.discs[1, 0]
    return disc_terminal(x, p) + 0.1 * u[0] ** 2


DISCS = AnalyticTask(
    name="discs",
    dt=0.1,
    control_low=np.full(2, -1.0),
    control_high=np.ones(2),
    params=Field(rng.normal(size=(2, 3))),
    cost=disc_cost,
    terminal=disc_terminal,
    episode_steps=10,
    state_names=("x", "y"),
    control_names=("vx", "vy"),
    step=drift,
    reset=lambda rng: np.zeros(2),
)
"""Branches and early returns that read arrays."""


@pytest.mark.parametrize(
    "task", [make_task("pendulum-swingup"), make_task("diffdrive-costmap"), DISCS], ids=lambda t: t.name
)
def test_a_rollout_kernel_calculates_with_vectors_of_float32(task: AnalyticTask) -> None:
    single = np.dtype(np.float32)
    fields = lanes.fields_of(task.params)
    state = task.reset(np.random.default_rng(0))
    cost = task.cost(tuple(state), tuple(task.control_low), 0, task.params)
    terms = len(cost) if isinstance(cost, tuple) else 0
    text = analytic._source(task, single, fields, terms)
    drawing = "from mpcrl.kernels.propose import propose_block"
    assert drawing in text
    kernels = load_module(text.replace(drawing, "@inlined\ndef propose_block(*_):\n    return 0"), "vectors")

    controls = np.zeros((1, 3, task.nu, 64), np.float32)
    recipe = tuple(analytic._NO_RECIPE)
    values = lanes.coerce(task.params, fields, single)
    code = ir_of(kernels.costs, False, controls, controls, *recipe, state, 0, np.empty(64), *values)
    loop = "".join(re.findall(r"\ndefine [^\n]*parfor_gufunc.*?\n}", code, re.DOTALL))
    packed = arithmetic(loop, r"<(?:4|8|16) x float>")
    assert packed > 20
    # what all lanes share is calculated once, and without gather instructions the way to a look-up lane by lane
    gathers = llvmlite.binding.get_host_cpu_features().get("avx2", False)
    assert arithmetic(loop, "float") < packed * (0.25 if gathers else 2)
    assert arithmetic(loop, "double") == arithmetic(loop, r"<\d+ x double>") == 0
    assert not LIBM.search(loop)
