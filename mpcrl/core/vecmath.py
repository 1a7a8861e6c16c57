"""Elementary functions that run in SIMD lanes.

`math.sin` and its kin are scalar calls into libm, and one of them inside a lane loop keeps the whole loop scalar. The
functions here are straight lines of arithmetic, selects and bit operations, which LLVM inlines into the loop and then
vectorises. `lane_functions(dtype)` returns them as Numba dispatchers; nothing compiles before a kernel calls them.

One algorithm serves float32 and float64; the constants and the degrees of the polynomials differ. Each docstring below
states the largest error for float32 and float64: relative where the result is a normal number, unless it says absolute.
NaN passes through; infinities, zeros and their signs give what NumPy gives, except that sin, tan and wrap_to_pi turn -0
into 0. Results below the smallest normal number may become 0.

The functions carry their own compiler flags ('contract' alone), so that those of the calling kernel, 'reassoc' above
all, cannot undo a range reduction or a sign of zero inside them. Without fused multiply-add in hardware, the bounds of
sin, cos, tan and wrap_to_pi hold for |x| up to 6e3 (float32) and 6e6 (float64).
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

    A turn is 2 * math.pi here, so the result differs from that of exact turns by at most an ulp of `x`.
    """
    if not math.isfinite(x):
        return math.nan
    wrapped = math.remainder(x, 2 * math.pi)
    return -math.pi if wrapped >= math.pi else wrapped


def smooth_abs(x: float, width: float) -> float:
    """A smooth |x|: sqrt(x^2 + width^2) - width, near x^2 / (2 width) where |x| << width and |x| - width where >>."""
    return math.sqrt(x * x + width * width) - width


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), for any x without overflow."""
    e = math.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


PLAIN_TO_LANE: Mapping[Callable[..., float], str] = MappingProxyType(
    {getattr(math, name): name for name in ("sin", "cos", "tan", "asin", "acos", "atan", "atan2")}
    | {getattr(math, name): name for name in ("exp", "log", "tanh", "sqrt")}
    | {wrap_to_pi: "wrap_to_pi", smooth_abs: "smooth_abs", sigmoid: "sigmoid"}
)
"""Functions that a user may call, to their names in `lane_functions(dtype)`. atan2 and smooth_abs take two arguments,
the others one."""


def lane_functions(dtype: Any) -> Mapping[str, Any]:
    """The SIMD functions of one floating-point type, as Numba dispatchers by name: those of `PLAIN_TO_LANE`, and decay.

    Parameters
    ----------
    dtype : numpy.float32 or numpy.float64
        Type of the arguments and of the result. Convert arguments of other types first: they promote the result.

    Raises
    ------
    InvalidInput
        For any other type.
    """
    name = np.dtype(dtype).name
    if name not in _FORMATS:
        raise InvalidInput(f"lane functions exist for float32 and float64, got {name}: use one of these two")
    return _build(name)


# ---- what the functions are built from -------------------------------------------------------------------------------
_UNSIGNED = {types.float32: types.uint32, types.float64: types.uint64}
_FLOAT = {bits: real for real, bits in _UNSIGNED.items()}


def _bitcast(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.bitcast(args[0], context.get_value_type(signature.return_type))


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    """The bits of a float as an unsigned integer of its size."""
    return _UNSIGNED[x](x), _bitcast


@intrinsic
def _float(typing: Any, bits: Any) -> Any:
    """The float with these bits."""
    return _FLOAT[bits](bits), _bitcast


def _polynomial(*coefficients: float) -> Any:
    """c[0] + c[1] x + c[2] x^2 + ... with constants of the argument's own type."""

    def horner(builder: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
        value = ir.Constant(x.type, coefficients[-1])
        for c in coefficients[-2::-1]:
            value = builder.fadd(builder.fmul(value, x), ir.Constant(x.type, c))
        return value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        if len(coefficients) < 8:
            return horner(builder, x, coefficients)
        # Even and odd powers apart: half the latency of a long chain for one operation more.
        square = builder.fmul(x, x)
        odd = builder.fmul(horner(builder, square, coefficients[1::2]), x)
        return builder.fadd(odd, horner(builder, square, coefficients[0::2]))

    @intrinsic
    def polynomial(typing: Any, x: Any) -> Any:
        return x(x), generate

    return polynomial


class _Format(NamedTuple):
    """What differs between float32 and float64."""

    real: Any
    unsigned: Any
    mantissa: int  # stored bits of it
    bias: int  # of the exponent
    # Constants in parts that add up to them; an integer as large as may occur times a part, but for the last, is exact.
    pi: tuple[float, float]
    half_pi: tuple[float, float, float]
    log2: tuple[float, float]
    exp_range: tuple[float, float]  # exp is 0 and infinite at these
    tanh_high: float  # tanh rounds to 1 here
    # Minimax polynomials, lowest power first, from benchmarks/fit_vecmath.py, with their largest relative errors.
    sin: tuple[float, ...]  # sin r = r + r s sin(s), s = r^2, |r| <= 1.6: 2e-8, 3e-16
    cot: tuple[float, ...]  # r cot r = 1 + s cot(s), s = r^2, |r| <= pi/4: 2e-8, 4e-16
    decay: tuple[float, ...]  # 2^f = 1 + f decay(f), |f| <= 1/2: 2e-7, 5e-16
    expm1: tuple[float, ...]  # exp f = 1 + f expm1(f), |f| <= log(2)/2: 3e-8, 2e-15 of exp(f) - 1
    log: tuple[float, ...]  # log((1+q) / (1-q)) = 2q + q z log(z), z = q^2, |q| <= 3 - 2 sqrt 2: 1e-9, 2e-16
    asin: tuple[float, ...]  # asin t = t + t z asin(z), z = t^2 <= 1/4: 7e-9, 3e-16
    atan: tuple[float, ...]  # atan t = t + t s atan(s), s = t^2 <= 1: 2e-7, 2e-16


# fmt: off
_FORMATS = {
    "float32": _Format(
        real=np.float32, unsigned=np.uint32, mantissa=23, bias=127,
        pi=(3217 / 1024, -8.90890987648163e-06),
        half_pi=(3217 / 2048, -4.4535845518112183e-06, -8.705515752716054e-10),
        log2=(355 / 512, -0.00021219444170128554),
        exp_range=(-87.5, 89.0), tanh_high=10.0,
        sin=(-0.16666658222675323, 0.008333034813404083, -0.00019807158969342709, 2.6001707738032565e-06),
        cot=(-0.3333330452442169, -0.022226441651582718, -0.0020965791773051023, -0.00024791547912172973),
        decay=(
            0.6931471228599548, 0.24022351205348969, 0.05550500378012657, 0.00966624729335308, 0.0013333535753190517
        ),
        expm1=(
            1.0, 0.4999999701976776, 0.16666506230831146, 0.041667137295007706, 0.008369076065719128,
            0.0013888876419514418
        ),
        log=(0.6666677594184875, 0.39977559447288513, 0.2987135946750641),
        asin=(0.16666752099990845, 0.07495288550853729, 0.04547160491347313, 0.024172963574528694, 0.0421782061457634),
        atan=(
            -0.3333239257335663, 0.1997421383857727, -0.140413299202919, 0.09968479722738266, -0.06020323559641838,
            0.024734143167734146, -0.004822557792067528
        ),
    ),
    "float64": _Format(
        real=np.float64, unsigned=np.uint64, mantissa=52, bias=1023,
        pi=(3.1415926553308964, -1.7411031391008332e-09),
        half_pi=(1.5707963267341256, 6.077100509014471e-11, -2.508278806334166e-20),
        log2=(0.6931471806019545, -4.2009150726810846e-11),
        exp_range=(-708.7, 710.0), tanh_high=20.0,
        sin=(
            -0.1666666666666604, 0.008333333333273475, -0.00019841269821721717, 2.7557316178493826e-06,
            -2.505185336289475e-08, 1.6047254139204207e-10, -7.363092769249717e-13
        ),
        cot=(
            -0.3333333333332731, -0.02222222222530042, -0.002116402062510306, -0.00021164066834792624,
            -2.1375659914430624e-05, -2.170221799948666e-06, -2.10169421614018e-07, -2.9651972918594484e-08
        ),
        decay=(
            0.6931471805599462, 0.24022650695909856, 0.05550410866465326, 0.009618129107735967, 0.001333355820047769,
            0.0001540353025561629, 1.525267312703882e-05, 1.3215541944278902e-06, 1.0205865102512388e-07,
            7.0549104032123655e-09
        ),
        expm1=(
            1.000000000000001, 0.4999999999999955, 0.16666666666616092, 0.041666666667132625, 0.00833333336712974,
            0.0013888888764610567, 0.0001984119088531809, 2.480169084278759e-05, 2.7632543563842983e-06,
            2.755731447593566e-07
        ),
        log=(
            0.6666666666658735, 0.40000000052219703, 0.285714171365465, 0.22223371336170997, 0.18123649813461498,
            0.16819778661869336
        ),
        asin=(
            0.16666666666683566, 0.07499999996152197, 0.04464286018376083, 0.03038182488999697, 0.022374880105489305,
            0.017314032207761305, 0.014323082336959806, 0.009377038007012272, 0.018266652455457496,
            -0.011727571444219384, 0.031539779001977054
        ),
        atan=(
            -0.33333333333325155, 0.19999999998772422, -0.1428571422064459, 0.11111109345909247, -0.09090880195724572,
            0.07691994230875462, -0.06664273605654819, 0.05868954249597833, -0.05206474511785902, 0.04576586759580804,
            -0.03871052816809416, 0.030190419585362196, -0.020621128244312205, 0.01166461070704704,
            -0.005136618940140939, 0.0016276970759414775, -0.0003270901941662543, 3.111439980398399e-05
        ),
    ),
}
# fmt: on

# forceinline acts in LLVM, after each function was compiled once with its own flags; Numba's inline="always" compiles
# the body again at each call (three times slower for a kernel with six calls) and leaves the flags to the caller.
_lane = njit(forceinline=True, error_model="numpy", fastmath={"contract"})


@functools.cache
def _build(name: str) -> Mapping[str, Any]:
    """All functions of one format by name."""
    functions = [build(_FORMATS[name]) for build in (_periodic, _exponential, _logarithm, _inverse, _algebraic)]
    return MappingProxyType({f.py_func.__name__: f for group in functions for f in group})


# In the builders below, adding `rounder` to a float rounds it to an integer and leaves that in the low bits; taking it
# away again gives the integer as a float. The first argument of min and max is the variable, because a NaN there stays.


def _periodic(form: _Format) -> tuple[Any, ...]:
    """sin, cos, tan, wrap_to_pi: Cody and Waite's reduction by pi, pi / 2 or 2 pi in parts."""
    real, unsigned = form.real, form.unsigned
    half, one, pi, turn = real(0.5), real(1), real(math.pi), real(2 * math.pi)
    below_pi = np.nextafter(pi, half)
    per_pi, per_half_pi, per_turn = real(1 / math.pi), real(2 / math.pi), real(0.5 / math.pi)
    pi_high, pi_low = map(real, form.pi)
    half_pi_high, half_pi_mid, half_pi_low = map(real, form.half_pi)
    turn_high, turn_low = 2 * pi_high, 2 * pi_low
    rounder = real(1.5 * 2.0**form.mantissa)
    no_bits, low_bit, to_sign = unsigned(0), unsigned(1), unsigned(8 * real().itemsize - 1)
    sin_tail, r_cot_r = _polynomial(*form.sin), _polynomial(1.0, *form.cot)

    @_lane
    def half_wave(r, y):
        """(-1)^y sin r for |r| <= 1.6 and an integer in the low bits of y, held within [-1, 1]."""
        s = r * r  # infinite if x is huge and the reduction fails: then sin_tail is infinite as well, and nothing NaN
        wave = min(max(r + r * s * sin_tail(s), -one), one)
        return _float(unsigned(_bits(wave) ^ unsigned(_bits(y) << to_sign)))

    @_lane
    def sin(x):
        """Absolute error 2e-7 for |x| <= 1e6, 4e-16 for |x| <= 1e9; within [-1, 1] for every finite x."""
        y = x * per_pi + rounder
        k = y - rounder
        return half_wave(x - k * pi_high - k * pi_low, y)

    @_lane
    def cos(x):
        """Errors and bounds of sin; cos(0) is 1."""
        y = x * per_pi + half + rounder
        k = y - rounder - half
        return half_wave(x - k * pi_high - k * pi_low, y)

    @_lane
    def tan(x):
        """Error 3e-7 for |x| <= 1e5, 1e-15 for |x| <= 1e9, zeros and poles included; meaningless beyond 6e6, 3e15."""
        y = x * per_half_pi + rounder
        k = y - rounder
        r = x - k * half_pi_high - k * half_pi_mid - k * half_pi_low
        c = r_cot_r(r * r)
        odd = unsigned(_bits(y) & low_bit) != no_bits
        above = -c if odd else r
        below = r if odd else c
        return above / below

    @_lane
    def wrap_to_pi(x):
        """Absolute error (on the circle) 5e-7 for |x| <= 1e6, 1e-15 for |x| <= 1e9; in [-pi, pi) for every finite x."""
        k = x * per_turn + rounder - rounder
        r = x - k * turn_high - k * turn_low
        r = r - turn if r >= pi else r
        r = r + turn if r < -pi else r
        return min(max(r, -pi), below_pi)

    return sin, cos, tan, wrap_to_pi


def _exponential(form: _Format) -> tuple[Any, ...]:
    """exp, sigmoid, tanh: e^x = 2^k e^f with |f| <= log(2) / 2."""
    real, unsigned = form.real, form.unsigned
    one, two, log2_e = real(1), real(2), real(1 / math.log(2))
    low, high, tanh_high = *map(real, form.exp_range), real(form.tanh_high)
    log2_high, log2_low = map(real, form.log2)
    mantissa = unsigned(form.mantissa)
    # With the bias in its low bits, a shift by `mantissa` turns k into the float 2^k.
    rounder = real(1.5 * 2.0**form.mantissa + form.bias)
    half_rounder = real(1.5 * 2.0**form.mantissa + form.bias - 1)
    least, decay_tail = real(form.bias - 1), _polynomial(*form.decay)
    expm1_tail, twice_exp = _polynomial(*form.expm1), _polynomial(2.0, *(2 * c for c in form.expm1))

    @_lane
    def exp(x):
        """Error 2e-7, 1e-15; 0 below -86.9, -708.0, where results would be smaller than 1.7e-38, 3.2e-308."""
        x = min(max(x, low), high)
        y = x * log2_e + half_rounder
        k = y - half_rounder
        f = x - k * log2_high - k * log2_low
        return twice_exp(f) * _float(unsigned(_bits(y) << mantissa))  # 2^(k-1), because k = bias + 1 occurs

    @_lane
    def decay(x):
        """2^-x for x >= 0, with half of exp's work; error 2e-7, 6e-16; never 0, but 2^(1 - bias) at least."""
        y = rounder - min(x, least)
        f = (rounder - y) - min(x, least)
        return (one + f * decay_tail(f)) * _float(unsigned(_bits(y) << mantissa))

    @_lane
    def sigmoid(x):
        """Error 2e-7, 1e-15."""
        return one / (one + exp(-x))

    @_lane
    def tanh(x):
        """Error 2.5e-7, 2e-15, small x included; within [-1, 1]."""
        v = min(abs(x), tanh_high) * -two
        y = v * log2_e + rounder
        k = y - rounder
        f = v - k * log2_high - k * log2_low
        scale = _float(unsigned(_bits(y) << mantissa))
        m = scale * (f * expm1_tail(f)) + (scale - one)  # e^v - 1, exact in its leading bits also for small v
        return math.copysign(m / (m + two), x)

    return exp, decay, sigmoid, tanh


def _logarithm(form: _Format) -> tuple[Any, ...]:
    """log: log x = e log 2 + log(1 + f) with 1 + f in [sqrt 1/2, sqrt 2), and q = f / (2 + f)."""
    real, unsigned = form.real, form.unsigned
    zero, one, two, infinity, nan = real(0), real(1), real(2), real(math.inf), real(math.nan)
    log2_high, log2_low = map(real, form.log2)
    log_tail = _polynomial(*form.log)
    mantissa, mantissa_mask = unsigned(form.mantissa), unsigned(2**form.mantissa - 1)
    root_half = real(math.sqrt(0.5)).view(unsigned)
    root_half_to_one = unsigned(one.view(unsigned) - root_half)
    # Subnormal numbers are lifted by 2^(mantissa + 1). An integer or-ed into `base` is base + integer.
    smallest_normal, lift = np.finfo(real).tiny, real(2.0 ** (form.mantissa + 1))
    base = real(2.0**form.mantissa)
    base_bits, bias = base.view(unsigned), real(base + form.bias)
    lifted_bias = real(bias + form.mantissa + 1)

    @_lane
    def log(x):
        """Error 1e-7, 4e-16, subnormal x and x near 1 included; -inf at 0, NaN below."""
        lifted, small = x * lift, x < smallest_normal
        z = lifted if small else x
        e_bias = lifted_bias if small else bias
        bits = unsigned(_bits(z) + root_half_to_one)  # so that the exponent changes at sqrt 1/2, not at 1
        e = _float(unsigned(unsigned(bits >> mantissa) | base_bits)) - e_bias
        f = _float(unsigned(unsigned(bits & mantissa_mask) + root_half)) - one
        q = f / (two + f)
        s = q * q
        value = e * log2_high + (f - q * (f - s * log_tail(s)) + e * log2_low)
        at_most_zero = -infinity if x == zero else nan
        value = value if x > zero else at_most_zero
        return value if x < infinity else x

    return (log,)


def _inverse(form: _Format) -> tuple[Any, ...]:
    """asin, acos, atan, atan2."""
    real, unsigned = form.real, form.unsigned
    zero, half, one, two = real(0), real(0.5), real(1), real(2)
    pi, half_pi = real(math.pi), real(math.pi / 2)
    no_bits, from_sign = unsigned(0), unsigned(8 * real().itemsize - 1)
    asin_tail, atan_tail = _polynomial(*form.asin), _polynomial(*form.atan)

    @_lane
    def folded_asin(a, outer):
        """asin a for a <= 1/2, and half of acos a = 2 asin sqrt((1 - a) / 2) beyond, where `outer`; NaN for a > 1."""
        z = half - half * a if outer else a * a
        t = math.sqrt(z) if outer else a
        return t + t * z * asin_tail(z)

    @_lane
    def asin(x):
        """Error 3e-7, 1e-15; NaN for |x| > 1."""
        a = abs(x)
        outer = a > half
        p = folded_asin(a, outer)
        p = half_pi - two * p if outer else p
        return math.copysign(p, x)

    @_lane
    def acos(x):
        """Error 3e-7, 1e-15, x near 1 included; NaN for |x| > 1."""
        a = abs(x)
        outer = a > half
        p = folded_asin(a, outer)
        p = two * p if outer else p
        start = pi if x < zero else zero
        start = start if outer else half_pi
        side = x if outer else -x
        return start + math.copysign(p, side)

    @_lane
    def folded_atan(t, folded):
        """atan t for 0 <= t <= 1, and pi / 2 minus it where `folded`."""
        s = t * t
        p = t + t * s * atan_tail(s)
        return half_pi - p if folded else p

    @_lane
    def atan(x):
        """Error 3e-7, 5e-16."""
        a = abs(x)
        return math.copysign(folded_atan(min(a, one / a), a > one), x)

    @_lane
    def atan2(y, x):
        """Error 3e-7, 1e-15."""
        ax, ay = abs(x), abs(y)
        steep = ay > ax
        above = ax if steep else ay
        below = ay if steep else ax
        below = one if below == zero else below
        t = above / below
        t = one if above == below else t  # inf / inf
        p = folded_atan(t, steep)
        p = pi - p if unsigned(_bits(x) >> from_sign) != no_bits else p
        return math.copysign(p, y)

    return asin, acos, atan, atan2


def _algebraic(form: _Format) -> tuple[Any, ...]:
    @_lane
    def sqrt(x):
        """Rounded correctly; NaN below 0."""
        return math.sqrt(x)

    @_lane
    def smooth_abs(x, width):
        """sqrt(x^2 + width^2) - width; absolute error 2e-7, 4e-16 of |x| + width."""
        return math.sqrt(x * x + width * width) - width

    return sqrt, smooth_abs
