"""Elementwise functions of the Triton kernels, in float32 or float64, as exact as the bounds of the losses need.

A compiler that fuses z - m with the product that z was would take an entry that is the maximum for a smaller one: the
kernels are compiled without fusion, and multiply and add in one step (``tl.fma``) where it is safe. No result here
depends on whether ``tl.fma`` rounds once or twice, since the interpreter's rounds twice.
"""

import triton
import triton.language as tl
from triton import knobs

INFINITY = tl.constexpr(float("inf"))
LOG2_E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# log2 e over the float32 nearest to it, less 1.
DRIFT = tl.constexpr(1.33498e-8)
# The interpreter has no instructions of a device, and rounds a fused product twice.
IS_INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
# ln 2 in two parts, the first of 9 bits: times an integer of 8 bits it is exact in float32.
LN2_HIGH, LN2_LOW = tl.constexpr(0.693359375), tl.constexpr(-2.1219444005469058e-4)
# 1.5 x 2^23, to which a float32 is added to round it to an integer, and 127, the bias of its exponent.
ROUNDER = tl.constexpr(12582912.0 + 127.0)
# e^r = 1 + r + r^2 (C2 + C3 r + ... + C6 r^4) within 2^-26 for |r| <= 0.348: Chebyshev's fit, rounded to float32.
C2, C3, C4 = tl.constexpr(0.5), tl.constexpr(0.16666576266288757), tl.constexpr(0.04166655242443085)
C5, C6 = tl.constexpr(0.008363353088498116), tl.constexpr(0.0013926400570198894)


@triton.jit
def difference_error(z, m, d):
    """The rounding error of d = z - m, for finite numbers: ``row_loss.difference_error``."""
    back = d - z
    return (z - (d - back)) - (m + back)


@triton.jit
def above(z, m):
    """z, but not so far below the finite m that e^(z - m) would not be 0: no -inf, and NaN as it is."""
    floor = m - tl.maximum(1000.0, tl.abs(m) * 0.0009765625)
    return tl.maximum(z, floor, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exp(d, error):
    """e^(d + error) for d <= 1, error far below an ulp of 1; float32 results below 2^-126 are 0.

    In float32 within an ulp, and the same on every device: what a device calls 2^x is good to 2 ulp at best.
    """
    if d.dtype == tl.float64:
        power = tl.exp(d) * (1.0 + error)
    else:
        # d = k ln 2 + r with an exact r; 2^k is made of its bits, 0 for k = -127.
        d = tl.maximum(d, -88.0, propagate_nan=tl.PropagateNan.ALL)
        rounded = tl.fma(d, LOG2_E, ROUNDER)
        k = rounded - ROUNDER
        r = tl.fma(k, -LN2_LOW, tl.fma(k, -LN2_HIGH, d)) + error
        scale = (rounded.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
        power = tl.fma(tl.fma(tl.fma(tl.fma(C6, r, C5), r, C4), r, C3), r, C2)
        power = tl.fma(tl.fma(power, r, 1.0), r, 1.0) * scale
    return power


@triton.jit
def exp_of_difference(z, m):
    """e^(z - m) for z <= m, m finite: 0 for -inf, NaN for NaN; in float32 within an ulp, the difference unrounded."""
    finite = above(z, m)
    d = finite - m
    # Below the most negative m there is no number to take for -inf.
    return tl.where(z == -INFINITY, 0.0, exp(d, difference_error(finite, m, d)))


@triton.jit
def fused(a, b, c):
    """a b + c of float32 numbers, rounded once, in the interpreter too."""
    if IS_INTERPRETED:
        result = (a.to(tl.float64) * b.to(tl.float64) + c.to(tl.float64)).to(tl.float32)
    else:
        result = tl.fma(a, b, c)
    return result


@triton.jit
def device_exp2(x):
    """2^x by the device's own instruction, within 2 ulp; results below 2^-126 are 0."""
    if IS_INTERPRETED:
        result = tl.exp2(x)
    else:
        result = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return result


@triton.jit
def unit(top):
    """What sums of e^z for z <= top are counted in: ``rate`` and ``origin`` of ``in_units``, two numbers per sum.

    float32: the unit is 2^origin with a whole number, so that another one changes a sum by an exact factor.
    """
    base = tl.where(tl.abs(top) < INFINITY, top, 0.0)
    if top.dtype == tl.float64:
        rate, origin = base, base
    else:
        # From 2^30 on float32 numbers are 64 apart and more, and all but the largest are 0 in either base; the product
        # with log2 e would be off by more than an exponent can hold.
        rate = tl.where(tl.abs(base) < 1073741824.0, LOG2_E, 1.0)
        origin = tl.floor(base * rate)
    return rate, origin


@triton.jit
def in_units(z, rate, origin):
    """e^z / 2^origin (float64: e^(z - origin)), for z up to what the unit was made for; 0 for -inf, NaN for NaN.

    float32: z rate - origin is rounded once, by half an ulp of the exponent, so that what is near the unit is as exact
    as the device's 2^x, and what is far below it by |z - top| ulp more. float32's log2 e is too small by DRIFT of
    itself, which ``drift`` makes good for a whole sum.
    """
    if z.dtype == tl.float64:  # noqa: SIM108 (one expression, or two returns, would need one type)
        result = exp_of_difference(z, origin)
    else:
        result = device_exp2(fused(z, rate, -origin))
    return result


@triton.jit
def ratio(origin, larger):
    """The unit of one origin in the unit of another that is no smaller; whatever they are, a finite number."""
    apart = tl.abs(larger - origin)
    if origin.dtype == tl.float64:
        d = -tl.minimum(apart, 1000.0)
        result = exp(d, tl.where(apart < 1000.0, -difference_error(larger, origin, apart), 0.0))
    else:
        result = ((-tl.minimum(apart, 127.0) + ROUNDER).to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
    return result


@triton.jit
def unit_over_top(top, rate, origin):
    """2^origin / e^top, in float32 as many ulp wrong as 1 is; what a sum in units becomes relative to the maximum."""
    if top.dtype == tl.float64:
        result = tl.where(top == top, 1.0, 1.0).to(tl.float64)
    else:
        base = tl.where(tl.abs(top) < INFINITY, top, 0.0)
        result = exp(fused(-base, rate, origin) * LN2, 0.0)
    return result


@triton.jit
def drift(distance):
    """e^distance over the power that ``in_units`` takes for it, distance <= 0: 1 for float64 and far below."""
    if distance.dtype == tl.float64:
        result = tl.where(distance == distance, 1.0, 1.0).to(tl.float64)
    else:
        result = 1.0 + tl.maximum(distance, -200.0) * DRIFT
    return result


@triton.jit
def log1p(x):
    """log(1 + x) for float64 x >= 0: the rounding error of 1 + x is a factor of the logarithm (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def one_minus_exp(x):
    """1 - e^-x for float64 x >= 0: the rounding error of e^-x is a factor of its logarithm (Kahan)."""
    u = tl.exp(-x)
    logarithm = tl.log(tl.where((u == 1.0) | (u == 0.0), 0.5, u))
    return tl.where(u == 1.0, x, tl.where(u == 0.0, 1.0, (1.0 - u) * (x / -logarithm)))


@triton.jit
def power(c, exponent):
    """c^exponent for float64 c in [0, 1], exponent >= 0; exp(exponent log c) would be off by the size of its argument.

    c = 2^e f: 2^(exponent e) is exact but for its fraction, since e has few bits; f^exponent has a small logarithm.
    """
    bits = c.to(tl.int64, bitcast=True)
    e = (bits >> 52) - 1022
    f = ((bits & 0x000FFFFFFFFFFFFF) | 0x3FE0000000000000).to(tl.float64, bitcast=True)  # in [1/2, 1)
    low = f < 0.7071067811865476
    f = tl.where(low, 2.0 * f, f)
    e = tl.where(low, e - 1, e).to(tl.float64)
    high = exponent.to(tl.float32).to(tl.float64)
    whole = tl.floor(high * e + 0.5)
    fraction = (high * e - whole) + (exponent - high) * e + exponent * (tl.log(f) * LOG2_E)
    result = tl.exp2(fraction) * tl.exp2(whole)
    # Subnormal numbers count as 0.
    return tl.where(c < 2.2250738585072014e-308, tl.where(exponent == 0.0, 1.0, 0.0), result)


@triton.jit
def tanh(x):
    """tanh x, within a few ulp at every size."""
    size = tl.abs(x)
    if x.dtype == tl.float64:
        # 1 - e^-2|x| without cancellation.
        decay = tl.exp(-2.0 * size)
        result = one_minus_exp(2.0 * size) / (1.0 + decay)
    else:
        # Cephes tanhf: an odd polynomial below 0.625, where 1 - e^-2|x| would cancel.
        square = x * x
        series = -5.70498872745e-3 * square + 2.06390887954e-2
        series = (series * square - 5.37397155531e-2) * square + 1.33314422036e-1
        series = (series * square - 3.33332819422e-1) * square * size + size
        decay = exp(-2.0 * size, 0.0)
        result = tl.where(size < 0.625, series, (1.0 - decay) / (1.0 + decay))
    return tl.where(x < 0.0, -result, result)


@triton.jit
def times(coefficient, value):
    """coefficient * value, where a coefficient of 0 wins over an infinite or undefined value: ``row_loss.times``."""
    return coefficient * tl.where((coefficient == 0.0) & ~(tl.abs(value) < INFINITY), 0.0, value)
