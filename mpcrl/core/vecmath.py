"""Elementary functions that run in SIMD lanes.

`math.sin` and its kin are scalar calls into libm, and one of them inside a lane loop keeps the whole loop scalar. The functions here are
short straight lines of arithmetic, selects and bit operations, which LLVM inlines and then vectorises: 5 to 20 times
faster. `lane_functions(np.float32)` and `lane_functions(np.float64)` return them as Numba dispatchers.

Each function has one algorithm for both types; the types differ in constants and in the degree of a polynomial. Largest
errors that were measured (float32 against float64 NumPy on every 64th float, float64 against mpmath), relative unless
stated; "full" means every finite number:

==============  =================  =================  ===================================================================
function        float32            float64            range, and what lies outside it
==============  =================  =================  ===================================================================
TABLE
==============  =================  =================  ===================================================================

NaN passes through; infinities, zeros and their signs give what NumPy gives. These bounds need a fused multiply-add
or, without one, arguments of sin, cos, tan and wrap_to_pi below 1e4 (float32) and 1e7 (float64).

The functions carry their own compiler flags ('contract' alone), so that those of the calling kernel, 'reassoc' above
all, cannot undo a range reduction or a sign of zero inside them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from mpcrl.core.errors import InvalidInput


# ---- plain functions for users' dynamics and costs -------------------------------------------------------------------
def wrap_to_pi(x: float) -> float:
    """The angle `x` (rad) moved by whole turns into [-pi, pi); NaN for an infinite `x`.

    Turns are of 2 * math.pi, so the result differs from the exact one by at most an ulp of `x`.
    """
    if not math.isfinite(x):
        return math.nan
    wrapped = math.remainder(x, 2 * math.pi)
    return -math.pi if wrapped >= math.pi else wrapped


def smooth_abs(x: float, width: float) -> float:
    """A smooth |x|: sqrt(x^2 + width^2) - width, which is x^2 / (2 width) for |x| << width >= 0 and |x| - width beyond."""
    return math.sqrt(x * x + width * width) - width


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), for any x without overflow."""
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


PLAIN_TO_LANE: Mapping[Callable[..., float], str] = MappingProxyType(
    {getattr(math, name): name for name in "sin cos tan asin acos atan atan2 exp log tanh sqrt".split()}
    | {wrap_to_pi: "wrap_to_pi", smooth_abs: "smooth_abs", sigmoid: "sigmoid"}
)
"""What a user may call, by identity, to its name in `lane_functions(dtype)`. One argument each; atan2 and smooth_abs two."""


def lane_functions(dtype: Any) -> Mapping[str, Any]:
    """The SIMD functions of one floating-point type, as Numba dispatchers by name (the values of `PLAIN_TO_LANE`).

    Parameters
    ----------
    dtype : numpy.float32 or numpy.float64
        Type of the arguments and the result. Arguments of another type are an error of typing, or promote: convert them first.

    Raises
    ------
    InvalidInput
        For any other type.
    """
    name = np.dtype(dtype).name
    if name not in _FORMATS:
        raise InvalidInput(f"lane functions exist for float32 and float64, got {name}; convert the arrays to one of these")
    return _build(name)


# ---- building blocks ---------------------------------------------------------------------------------------------------
_UNSIGNED = {types.float32: types.uint32, types.float64: types.uint64}
_REAL = {bits: real for real, bits in _UNSIGNED.items()}


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    """The bits of a float as an unsigned integer of its size."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return _UNSIGNED[x](x), generate


@intrinsic
def _real(typing: Any, bits: Any) -> Any:
    """The float of these bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return _REAL[bits](bits), generate


def _polynomial(*coefficients: float) -> Any:
    """c[0] + c[1] x + c[2] x^2 + ... with constants of the argument's own type."""

    @intrinsic
    def polynomial(typing: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            def horner(coefficients: Any, x: Any) -> Any:
                constants = [ir.Constant(x.type, c) for c in coefficients]
                value = constants.pop()
                while constants:
                    value = builder.fadd(builder.fmul(value, x), constants.pop())
                return value

            x = args[0]
            if len(coefficients) < 7:
                return horner(coefficients, x)
            square = builder.fmul(x, x)  # even and odd powers apart: half the latency of a long chain, at one operation more
            return builder.fadd(builder.fmul(horner(coefficients[1::2], square), x), horner(coefficients[0::2], square))

        return x(x), generate

    return polynomial


class _Format(NamedTuple):
    """What differs between float32 and float64."""

    real: Any
    unsigned: Any
    mantissa: int  # stored bits of it
    bias: int  # of the exponent
    pi: tuple[float, float]  # sum is pi; k * pi[0] is exact for the k that occur
    half_pi: tuple[float, float, float]  # the same for pi / 2
    log2: tuple[float, float]  # the same for log 2
    exp_low: float  # here exp is set to 0
    exp_high: float  # here exp is infinite
    tanh_high: float  # here tanh rounds to 1
    # Minimax polynomials (Remez exchange on the relative error of the whole function, 50 digits), coefficients lowest first, then rounded
    sin: tuple[float, ...]  # sin r = r + r s sin(s), s = r^2, |r| <= 1.6 (sloppy k of float32) or pi/2
    cot: tuple[float, ...]  # r cot r = 1 + s cot(s), s = r^2, |r| <= pi/4
    expm1: tuple[float, ...]  # e^f = 1 + f expm1(f), |f| <= log(2) / 2
    log: tuple[float, ...]  # log((1 + q) / (1 - q)) = 2 q + q z log(z), z = q^2, |q| <= 3 - 2 sqrt 2
    asin: tuple[float, ...]  # asin t = t + t z asin(z), z = t^2 <= 1/4
    atan: tuple[float, ...]  # atan t = t + t s atan(s), s = t^2 <= 1


_FORMATS = {
    "float32": _Format(
        real=np.float32,
        unsigned=np.uint32,
        mantissa=23,
        bias=127,
        pi=(3217 / 1024, -8.90890987648163e-06),
        half_pi=(3217 / 2048, -4.4535845518112183e-06, -8.705515752716054e-10),
        log2=(355 / 512, -0.00021219444170128554),
        exp_low=-87.5,
        exp_high=89.0,
        tanh_high=10.0,
        sin=(-0.16666658222675323, 0.008333034813404083, -0.00019807158969342709, 2.6001707738032565e-06),
        cot=(-0.3333330452442169, -0.022226426750421524, -0.0020966280717402697, -0.000247869233135134),
        expm1=(1.0, 0.4999999701976776, 0.16666506230831146, 0.041667137295007706, 0.008369076065719128, 0.0013888874091207981),
        log=(0.6666677594184875, 0.3997756838798523, 0.2987107038497925),
        asin=(0.16666752099990845, 0.07495288550853729, 0.04547160491347313, 0.024172956123948097, 0.04217822477221489),
        atan=(
            -0.3333239257335663, 0.1997421383857727, -0.1404132843017578, 0.09968473762273788,
            -0.06020314246416092, 0.024734074249863625, -0.004822537302970886,
        ),
    ),
    "float64": _Format(
        real=np.float64,
        unsigned=np.uint64,
        mantissa=52,
        bias=1023,
        pi=(float.fromhex("0x1.921fb548p+1"), -1.7411031391008332e-09),
        half_pi=(float.fromhex("0x1.921fb544p+0"), float.fromhex("0x1.0b4611a8p-34"), -2.508278806334010e-20),
        log2=(0.6931471806019545, -4.2009150726810846e-11),
        exp_low=-708.7,
        exp_high=710.0,
        tanh_high=20.0,
        sin=(
            -0.16666666666666186, 0.008333333333285483, -0.00019841269825039766, 2.755731659842596e-06,
            -2.5051880135700505e-08, 1.6048091004365515e-10, -7.373289899564236e-13,
        ),
        cot=(
            -0.33333333333327364, -0.022222222225274774, -0.002116402062897534, -0.00021164066559164595,
            -2.1375670357063416e-05, -2.170200147489289e-06, -2.1019260382594947e-07, -2.9641952991055574e-08,
        ),
        expm1=(
            1.000000000000001, 0.4999999999999955, 0.1666666666661609, 0.04166666666713268, 0.008333333367130467,
            0.0013888888764594198, 0.00019841190884476375, 2.4801690860985727e-05, 2.763254388790093e-06, 2.7557307871134713e-07,
        ),
        log=(
            0.6666666666658745, 0.40000000052162815, 0.28571417146585876, 0.22223370573912204, 0.18123675802384343, 0.16819451877720976,
        ),
        asin=(
            0.16666666666683566, 0.07499999996152071, 0.044642860183837736, 0.03038182488768472, 0.022374880144958108,
            0.017314031796499155, 0.014323085043731781, 0.009377026720113273, 0.018266681320336858, -0.011727612663040416, 0.03153980410357639,
        ),
        atan=(
            -0.33333333333325155, 0.19999999998772547, -0.14285714220648751, 0.11111109345986893, -0.09090880196627352,
            0.07691994237881361, -0.06664273643710683, 0.05868954399135175, -0.05206474946334821, 0.04576587706118805, -0.038710543714515766,
            0.030190438811736123, -0.020621145975484242, 0.011664622655938029, -0.005136624614935322, 0.001627698857674635,
            -0.0003270905210844193, 3.111442563923762e-05,
        ),
    ),
}  # fmt: skip


# ---- the functions -----------------------------------------------------------------------------------------------------
@functools.cache
def _build(name: str) -> Mapping[str, Any]:
    """Dispatchers with the constants of one format frozen into them; nothing compiles before a kernel calls them."""
    form = _FORMATS[name]
    real, unsigned = form.real, form.unsigned
    # forceinline works on LLVM's level: a third of the compile time of Numba's own inline="always" for six calls, and the flags below stay
    lane = njit(forceinline=True, error_model="numpy", fastmath={"contract"})

    zero, half, one, two = real(0), real(0.5), real(1), real(2)
    infinity, nan = real(math.inf), real(math.nan)
    pi, half_pi, turn, inverse_pi = real(math.pi), real(math.pi / 2), real(2 * math.pi), real(1 / math.pi)
    below_pi = np.nextafter(pi, zero)
    two_over_pi, inverse_turn, log2_e = real(2 / math.pi), real(0.5 / math.pi), real(1 / math.log(2))
    pi_high, pi_low = map(real, form.pi)
    half_pi_high, half_pi_mid, half_pi_low = map(real, form.half_pi)
    turn_high, turn_low = two * pi_high, two * pi_low
    log2_high, log2_low = map(real, form.log2)
    # Adding `rounder` rounds to an integer and leaves it in the low bits; subtracting it again gives the integer as a float.
    # With a bias added, a shift by `mantissa` makes those bits the exponent of a power of two.
    rounder = real(1.5 * 2.0**form.mantissa)
    exp_rounder, tanh_rounder = real(rounder + form.bias - 1), real(rounder + form.bias)
    mantissa, top = unsigned(form.mantissa), unsigned(8 * real().itemsize - 1)
    exp_low, exp_high, tanh_high = real(form.exp_low), real(form.exp_high), real(form.tanh_high)

    sin_tail, cot_tail = _polynomial(*form.sin), _polynomial(1.0, *form.cot)
    expm1_tail, twice_exp = _polynomial(*form.expm1), _polynomial(2.0, *(2 * c for c in form.expm1))
    log_tail, asin_tail, atan_tail = _polynomial(*form.log), _polynomial(*form.asin), _polynomial(*form.atan)

    @lane
    def flip_if_odd(r, y):  # type: ignore[no-untyped-def]
        """`r`, negated where the integer in the low bits of `y` is odd."""
        return _real(unsigned(_bits(r) ^ unsigned(_bits(y) << top)))

    @lane
    def half_wave(r):  # type: ignore[no-untyped-def]
        """sin r for |r| <= 1.6; the bounds hold back rounding and the reduction of huge arguments, which loses its way."""
        s = r * r
        return min(max(r + r * s * sin_tail(s), -one), one)

    @lane
    def sin(x):  # type: ignore[no-untyped-def]
        y = x * inverse_pi + rounder
        k = y - rounder
        return flip_if_odd(half_wave(x - k * pi_high - k * pi_low), y)

    @lane
    def cos(x):  # type: ignore[no-untyped-def]
        y = x * inverse_pi + half + rounder
        k = y - rounder - half
        return flip_if_odd(half_wave(x - k * pi_high - k * pi_low), y)

    @lane
    def tan(x):  # type: ignore[no-untyped-def]
        y = x * two_over_pi + rounder
        k = y - rounder
        r = x - k * half_pi_high - k * half_pi_mid - k * half_pi_low
        c = cot_tail(r * r)
        odd = unsigned(_bits(y) & unsigned(1)) != unsigned(0)
        above = -c if odd else r
        below = r if odd else c
        return above / below

    @lane
    def exp(x):  # type: ignore[no-untyped-def]
        x = min(max(x, exp_low), exp_high)
        y = x * log2_e + exp_rounder
        k = y - exp_rounder
        f = x - k * log2_high - k * log2_low
        return twice_exp(f) * _real(unsigned(_bits(y) << mantissa))  # 2 e^f times 2^(k-1): 2^128 is no float32

    @lane
    def sigmoid(x):  # type: ignore[no-untyped-def]
        return one / (one + exp(-x))

    @lane
    def tanh(x):  # type: ignore[no-untyped-def]
        v = min(abs(x), tanh_high) * -two
        y = v * log2_e + tanh_rounder
        k = y - tanh_rounder
        f = v - k * log2_high - k * log2_low
        scale = _real(unsigned(_bits(y) << mantissa))
        m = scale * (f * expm1_tail(f)) + (scale - one)  # e^(-2|x|) - 1 without cancellation
        return math.copysign(m / (m + two), x)

    tiny, lift, lift_bits = np.finfo(real).tiny, real(2.0 ** (form.mantissa + 1)), form.mantissa + 1
    bits_of_one, exponent_mask = unsigned(real(1).view(unsigned)), unsigned(2**form.mantissa - 1)
    root_half = unsigned(real(math.sqrt(0.5)).view(unsigned))
    to_one = unsigned(bits_of_one - root_half)
    whole = real(2.0**form.mantissa)
    whole_bits = unsigned(whole.view(unsigned))
    offset, offset_lifted = real(whole + form.bias), real(whole + form.bias + lift_bits)

    @lane
    def log(x):  # type: ignore[no-untyped-def]
        lifted = x * lift
        small = x < tiny
        z = lifted if small else x
        shift = offset_lifted if small else offset
        bits = unsigned(_bits(z) + to_one)  # the exponent changes at sqrt 1/2 now: 1 + f in [sqrt 1/2, sqrt 2)
        e = _real(unsigned(unsigned(bits >> mantissa) | whole_bits)) - shift
        f = _real(unsigned(unsigned(bits & exponent_mask) + root_half)) - one
        q = f / (two + f)
        z = q * q
        value = e * log2_high + (f - q * (f - z * log_tail(z)) + e * log2_low)
        special = -infinity if x == zero else nan
        value = value if x > zero else special
        return value if x < infinity else x

    @lane
    def asin(x):  # type: ignore[no-untyped-def]
        a = abs(x)
        outer = a > half
        z = half - half * a if outer else a * a
        t = math.sqrt(z) if outer else a
        p = t + t * z * asin_tail(z)
        p = half_pi - two * p if outer else p
        return math.copysign(p, x)

    @lane
    def acos(x):  # type: ignore[no-untyped-def]
        a = abs(x)
        outer = a > half
        z = half - half * a if outer else a * a
        t = math.sqrt(z) if outer else a
        p = t + t * z * asin_tail(z)
        start = (pi if x < zero else zero) if outer else half_pi
        return start + math.copysign(two * p if outer else p, x if outer else -x)

    @lane
    def atan(x):  # type: ignore[no-untyped-def]
        a = abs(x)
        t = min(a, one / a)
        s = t * t
        p = t + t * s * atan_tail(s)
        p = half_pi - p if a > one else p
        return math.copysign(p, x)

    smallest = np.nextafter(zero, one)

    @lane
    def atan2(y, x):  # type: ignore[no-untyped-def]
        ax, ay = abs(x), abs(y)
        steep = ay > ax
        above = ax if steep else ay
        below = ay if steep else ax
        t = above / max(below, smallest)
        t = one if above == infinity else t
        s = t * t
        p = t + t * s * atan_tail(s)
        p = half_pi - p if steep else p
        p = pi - p if unsigned(_bits(x) >> top) != unsigned(0) else p
        return math.copysign(p, y)

    @lane
    def sqrt(x):  # type: ignore[no-untyped-def]
        return math.sqrt(x)

    @lane
    def wrap_to_pi(x):  # type: ignore[no-untyped-def]
        k = x * inverse_turn + rounder - rounder
        r = x - k * turn_high - k * turn_low
        r = r - turn if r >= pi else r
        r = r + turn if r < -pi else r
        return min(max(r, -pi), below_pi)

    @lane
    def smooth_abs(x, width):  # type: ignore[no-untyped-def]
        return math.sqrt(x * x + width * width) - width

    functions = (sin, cos, tan, asin, acos, atan, atan2, exp, log, tanh, sigmoid, sqrt, wrap_to_pi, smooth_abs)
    return MappingProxyType({function.py_func.__name__: function for function in functions})
