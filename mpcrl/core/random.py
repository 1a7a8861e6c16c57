"""Counter-based random numbers: the same bits for the same counter, at any thread count and in any order.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3, SC 2011) makes four words of a
counter and a key; Box-Muller makes four standard normals of them. What the words of counter and key mean is written
once, in `normal_lanes`.
"""

from __future__ import annotations

import math

import numpy as np

from mpcrl.core.compile import inlined, kernel
from mpcrl.core.intrinsics import bits_of_float32, float32_of_bits

LANES = 64
"""Samples in a block: one per SIMD lane. Measured best of 16, 32, 64, 128 and 256 on AVX2 and AVX-512."""

_f4, _i4, _u4, _u8 = np.float32, np.int32, np.uint32, np.uint64
_LOW, _HALF = _u8(0xFFFFFFFF), _u8(32)
_LN2 = _f4(math.log(2))


@inlined
def philox(c0, c1, c2, c3, k0, k1):
    """Four uint32 words of a counter (4 words) and a key (2 words); 10 rounds.

    The words live in 64-bit lanes whose high halves hold garbage until the next mask: mask and multiply become one
    instruction (vpmuludq), which in 32-bit lanes costs twice as much.
    """
    c0, c1, c2, c3, k0, k1 = _u8(c0), _u8(c1), _u8(c2), _u8(c3), _u8(k0), _u8(k1)
    for _ in range(10):
        p0, p1 = (c0 & _LOW) * _u8(0xD2511F53), (c2 & _LOW) * _u8(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1, (p0 >> _HALF) ^ c3 ^ k1, p0
        k0, k1 = (k0 + _u8(0x9E3779B9)) & _LOW, (k1 + _u8(0xBB67AE85)) & _LOW
    return _u4(c0), _u4(c1), _u4(c2), _u4(c3)


# From benchmarks/fit_vecmath.py, lowest degree first.
# log(1 + m) = m q(m) on [sqrt(1/2) - 1, sqrt(2) - 1], to 2e-7
_Q0, _Q1, _Q2 = _f4(0.9999999403953552), _f4(-0.5000037550926208), _f4(0.3333507478237152)
_Q3, _Q4, _Q5 = _f4(-0.24969437718391418), _f4(0.19899506866931915), _f4(-0.17256857454776764)
_Q6, _Q7 = _f4(0.1622997671365738), _f4(-0.10094521194696426)
# sin x = x + x^3 tail(x^2), to 2e-6, and cos x = 1 - x^2/2 + x^4 tail(x^2), to 1e-7, on [-pi/4, pi/4]
_S0, _S1 = _f4(-0.16663390398025513), _f4(0.008163281716406345)
_C0, _C1 = _f4(0.04166107252240181), _f4(-0.0013648713938891888)


@inlined
def box_muller(first, second):
    """Two independent standard normals of two random words; |z| < 6.67, to 1e-5 those of the words in float32.

    The first word is the radius. Of the second, the low 30 bits are an angle in [-pi/4, pi/4], and the two others say
    in which of the quadrants around the axes: one mirrors it, one swaps the axes.
    """
    uniform = _f4(_i4(first >> _u4(1))) * _f4(2.0**-31) + _f4(2.0**-32)  # in (0, 1], never 0
    bits = bits_of_float32(uniform)
    exponent = _i4(_i4(bits - _i4(0x3F3504F3)) >> _i4(23))  # mantissa in [sqrt(1/2), sqrt(2))
    m = float32_of_bits(_i4(bits - _i4(exponent << _i4(23)))) - _f4(1)
    q = ((((((_Q7 * m + _Q6) * m + _Q5) * m + _Q4) * m + _Q3) * m + _Q2) * m + _Q1) * m + _Q0
    radius = math.sqrt(max(_f4(exponent) * (_f4(-2) * _LN2) - _f4(2) * m * q, _f4(0)))
    x = _f4(_i4(second << _u4(2))) * _f4(math.pi / 4 * 2.0**-31)
    x2 = x * x
    sine = bits_of_float32(x + x * x2 * (_S1 * x2 + _S0))
    cosine = bits_of_float32(_f4(1) - _f4(0.5) * x2 + x2 * x2 * (_C1 * x2 + _C0))
    cosine = _i4(cosine ^ _i4(_i4(second << _u4(1)) & _i4(-(2**31))))
    swapped = _i4(_i4(cosine ^ sine) & _i4(_i4(second) >> _i4(31)))
    return radius * float32_of_bits(_i4(cosine ^ swapped)), radius * float32_of_bits(_i4(sine ^ swapped))


@kernel
def philox_words(c0, c1, c2, c3, k0, k1):
    """`philox` as a function of its own, for the known-answer test."""
    return philox(c0, c1, c2, c3, k0, k1)


@kernel
def normal_lanes(out, first_sample, seed, plan, iteration, stream):
    """Fill `out` [R, LANES] with standard normals: row r of sample n is the same whatever else is drawn.

    Counter (sample, r // 4 + stream 2^28, plan, iteration), key (low half of the seed, high half).

    Parameters
    ----------
    out : ndarray [R, LANES] float32
        R is a multiple of 4: the words of one counter.
    first_sample : int
        Number of the sample in lane 0.
    seed : int
        64 bits.
    plan, iteration : int
        Which plan since the seed, which iteration of it.
    stream : int
        Tells apart what is drawn for different ends; below 16.
    """
    words = np.empty((4, LANES), np.uint32)
    k0, k1 = _u4(seed & 0xFFFFFFFF), _u4(seed >> 32)
    for group in range(out.shape[0] // 4):
        for l in range(LANES):
            words[0, l], words[1, l], words[2, l], words[3, l] = philox(
                _u4(first_sample + l), _u4(group + (stream << 28)), _u4(plan), _u4(iteration), k0, k1
            )
        for half in range(0, 4, 2):
            for l in range(LANES):
                out[4 * group + half, l], out[4 * group + half + 1, l] = box_muller(words[half, l], words[half + 1, l])
