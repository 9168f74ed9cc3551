// exp, log1p, tanh and friends for Lanes, by polynomials of our own; branch-free, the same bits on every instruction set with fused multiply-add.
//
// Errors are a unit of the last place or two each; what they add up to is held to the bounds of tests/tolerances.py. The coefficients are those of least maximum error, from benchmarks/lab/coefficients.py.
#pragma once

#include <cmath>
#include <limits>
#include <type_traits>

#include "lanes.hpp"

namespace INSTRUCTION_SET {

// e^x = 2^k e^r with k = round(x / ln 2) and r = (x - k ln2_high) - k ln2_low. ln2_high has so few bits that k ln2_high is exact,
// and the first difference is exact too, so |r| <= 0.347 keeps full precision for every |x| <= `range`.
//
// Summands of a row are kept with a power of two that goes into the exponent field directly, 2^headroom above that of the maximum:
// terms down to e^-115 (float) of it are normal numbers; whatever is below gets an exponent field of 0 and is exactly 0.
template <class T> struct Exp;

template <> struct Exp<float> {
    static constexpr float log2e = 0x1.715476p+0f, ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
    static constexpr float round = 0x1.8p23f;  // x + round - round is x rounded to an integer
    static constexpr int mantissa = 23, bias = 127, headroom = 40;
    static constexpr float range = 512;
    static constexpr int terms = 5;
    static constexpr float coefficient[terms] = {0x1.000000p-1f, 0x1.5554dcp-3f, 0x1.5554b8p-5f, 0x1.120b80p-7f, 0x1.6d755ep-10f};
};
template <> struct Exp<double> {
    static constexpr double log2e = 0x1.71547652b82fep+0, ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
    static constexpr double round = 0x1.8p52;
    static constexpr int mantissa = 52, bias = 1023, headroom = 200;
    static constexpr double range = 4096;
    static constexpr int terms = 10;
    static constexpr double coefficient[terms] = {
        0x1.0000000000001p-1,  0x1.5555555555558p-3,  0x1.5555555553d5dp-5,  0x1.111111110f7ffp-7,  0x1.6c16c1788df34p-10,
        0x1.a01a01b00e32fp-13, 0x1.a019b9051bba9p-16, 0x1.71ddf6ae4325dp-19, 0x1.28918ede2f6f5p-22, 0x1.af63357ac079ep-26};
};

// (e^r - 1 - r) / r^2, |r| <= 0.347
template <class T, int N> INLINE Lanes<T, N> exp_tail(Lanes<T, N> r) {
    using E = Exp<T>;
    Lanes<T, N> p = E::coefficient[E::terms - 1];
    UNROLL for (int i = E::terms - 2; i >= 0; --i) p = fma(p, r, Lanes<T, N>(E::coefficient[i]));
    return p;
}

// e^r, |r| <= 0.347
template <class T, int N> INLINE Lanes<T, N> exp_reduced(Lanes<T, N> r) {
    Lanes<T, N> one = T(1);
    return fma(fma(exp_tail(r), r, one), r, one);
}

// z = x / temperature as x (high + low), to twice the precision of T: no difference of rounded quotients. Needs fused multiply-add.
template <class T> struct Scale {
    T high = 1, low = 0, log2e = Exp<T>::log2e, ln2 = T(0.693147180559945309417);
    explicit Scale(double temperature) {
        double inverse = 1 / temperature;
        high = T(inverse);
        low = sizeof(T) == 4 ? T(inverse - high) : T(std::fma(-inverse, temperature, 1.0) / temperature);
        log2e = T(1.44269504088896340736 * inverse);
        ln2 = T(0.693147180559945309417 * temperature);
    }
};
// Nothing under- or overflows that would not do so without it.
inline bool can_scale(double temperature) { return has_fma && temperature >= 0x1p-60 && temperature <= 0x1p60; }
struct NoScale { explicit NoScale(double) {} };

// What the exponentials are of: numbers as they are, numbers under a temperature, pairs of floats (pairs.hpp).
enum class Form { plain, scaled, paired };

// Where the exponentials of a row with maximum m count from. The difference z - m itself would round, which costs |z - m| / 2 ulp;
// e^z = 2^k e^r with an exact r needs no difference, only k relative to that of the maximum. From `range` on, z - m is exact for every
// z that matters (they lie within a factor of 2 of each other), and is taken first.
// With a temperature, x and m stand for x / temperature and m / temperature.
template <class T, int N, Form form = Form::plain> struct Origin {
    static constexpr bool Scaled = form == Form::scaled;
    static constexpr T offset = Exp<T>::bias + Exp<T>::headroom;
    std::conditional_t<Scaled, Scale<T>, NoScale> by;
    double temperature;
    Lanes<T, N> m, base, top, power;  // top = m - base ~ power ln 2
    Lanes<T, N> low = T(0);           // of a pair: the maximum is m + low
    Lanes<T, N> magic;                // x log2e + magic: the exponent field in its last bits
    Lanes<T, N> floor;                // gets the exponent field 0
    INLINE explicit Origin(Lanes<T, N> maximum, double temperature_ = 1) : by(temperature_), temperature(temperature_), m(maximum) {
        using E = Exp<T>;
        Lanes<T, N> zero = T(0), size = larger(m, -m);
        auto is_small = size < E::range;
        if constexpr (Scaled) is_small = size * by.high < E::range;
        base = select(is_small | (size == std::numeric_limits<T>::infinity()), zero, m);
        top = select(is_small, m, zero);
        power = (top * log2e() + E::round) - E::round;
        magic = (E::round + offset) - power;
        floor = (power - offset) * ln2();
    }
    INLINE Origin(Lanes<T, N> maximum, Lanes<T, N> low_) : Origin(maximum) { low = low_; }
    // The same in T: what one rounding of it loses goes to `lost`.
    INLINE Lanes<T, N> own_scale(Lanes<T, N>& lost) const {
        using E = Exp<T>;
        constexpr T unit = sizeof(T) == 4 ? T(0x1p-40) : T(0x1p-200);
        Lanes<T, N> r = power * E::ln2_high;
        if constexpr (Scaled) r = fma(top, Lanes<T, N>(-by.low), fma(top, Lanes<T, N>(-by.high), r));
        else r = r - top;
        r = fma(power, Lanes<T, N>(E::ln2_low), r);
        Lanes<T, N> tail = fma(exp_tail(r), r * r, r), scale = tail + T(1);
        lost = (tail - (scale - T(1))) * unit;
        return scale * unit;
    }
    INLINE T log2e() const {
        if constexpr (Scaled) return by.log2e;
        else return Exp<T>::log2e;
    }
    INLINE T ln2() const {
        if constexpr (Scaled) return by.ln2;
        else return T(0.693147180559945309417);
    }
    // e^(z - m) is exp_relative(z) times this: 2^-headroom e^(power ln 2 - top).
    INLINE Lanes<double, N> scale() const {
        using E = Exp<double>;
        Lanes<double, N> k = convert<double>(power), r = k * E::ln2_high, from = convert<double>(top);
        if constexpr (Scaled) {
            Scale<double> exact(temperature);
            r = fma(from, Lanes<double, N>(-exact.high), r) - from * exact.low;
        } else {
            r = r - from;
        }
        if constexpr (form == Form::paired) r = r - convert<double>(low);
        r = r + k * E::ln2_low;
        return exp_reduced(r) * (sizeof(T) == 4 ? 0x1p-40 : 0x1p-200);
    }
};

// e^(z + low - m - origin.low) / origin.scale() for z <= m; 0 for -inf and below every precision, NaN for NaN.
template <class T, int N, Form form>
INLINE Lanes<T, N> exp_relative(Lanes<T, N> z, const Origin<T, N, form>& origin, Lanes<T, N> low = Lanes<T, N>(T(0))) {
    using E = Exp<T>;
    Lanes<T, N> x = larger(origin.floor, z - origin.base);
    Lanes<T, N> shifted = fma(x, Lanes<T, N>(origin.log2e()), origin.magic), k = shifted - origin.magic;
    Lanes<T, N> r;
    if constexpr (form == Form::scaled) r = fma(x, Lanes<T, N>(origin.by.low), fma(x, Lanes<T, N>(origin.by.high), k * -E::ln2_high));
    else r = fma(k, Lanes<T, N>(-E::ln2_high), x);
    r = fma(k, Lanes<T, N>(-E::ln2_low), r);
    if constexpr (form == Form::paired) r = r + low;
    return exp_reduced(r) * as_real<T, N>(shift_left(as_integer(shifted), E::mantissa));
}

// e^x for x <= 0, in numbers 2^headroom as large on the way, so that subnormal results are right; NaN for NaN.
template <class T, int N> INLINE Lanes<T, N> exp_below_one(Lanes<T, N> x) {
    using E = Exp<T>;
    constexpr T ln2 = T(0.693147180559945309417), offset = E::bias + E::headroom, unit = sizeof(T) == 4 ? T(0x1p-40) : T(0x1p-200);
    x = larger(Lanes<T, N>(-offset * ln2), x);
    Lanes<T, N> shifted = fma(x, Lanes<T, N>(E::log2e), Lanes<T, N>(E::round + offset)), k = shifted - (E::round + offset);
    Lanes<T, N> r = fma(k, Lanes<T, N>(-E::ln2_low), fma(k, Lanes<T, N>(-E::ln2_high), x));
    return exp_reduced(r) * as_real<T, N>(shift_left(as_integer(shifted), E::mantissa)) * unit;
}

// round(x / ln 2)
template <int N> INLINE Lanes<double, N> nearest_power(Lanes<double, N> x) {
    using E = Exp<double>;
    return (x * E::log2e + E::round) - E::round;
}
// 2^k for integers |k| <= 1022.
template <int N> INLINE Lanes<double, N> power_of_two(Lanes<double, N> k) {
    Lanes<double, N> field = k + (Exp<double>::round + Exp<double>::bias);
    return as_real<double, N>(shift_left(as_integer(field), 52));
}

// e^x for x <= 0; 0 below -708.4, where the result would not be normal.
template <int N> INLINE Lanes<double, N> exp_nonpositive(Lanes<double, N> x) {
    using E = Exp<double>;
    using Real = Lanes<double, N>;
    Real bounded = larger(Real(-745.0), x);
    Real k = nearest_power(bounded);
    Real r = (bounded - k * E::ln2_high) - k * E::ln2_low;
    Real power = exp_reduced(r) * power_of_two(larger(Real(-1022.0), k));
    return select(x < -708.0, Real(0.0), power);
}

// e^(a - b) for a <= b, with the rounding error of the difference kept (Knuth's two-sum): it would cost |a - b| / 2 ulp.
template <int N> INLINE Lanes<double, N> exp_difference(Lanes<double, N> a, Lanes<double, N> b) {
    using Real = Lanes<double, N>;
    Real d = a - b, back = d - a;
    Real error = (a - (d - back)) - (b + back);
    Real power = exp_nonpositive(d);
    return select(d < -708.0, Real(0.0), power + power * error);
}

// e^((a - b) / temperature) for a <= b.
template <int N> INLINE Lanes<double, N> exp_difference(Lanes<double, N> a, Lanes<double, N> b, const Scale<double>& by) {
    using Real = Lanes<double, N>;
    Real d = a - b, back = d - a;
    Real error = (a - (d - back)) - (b + back);
    Real z = d * by.high, rest = fma(d, Real(by.high), -z) + (d * by.low + error * by.high);
    Real power = exp_nonpositive(z);
    return select(z < -708.0, Real(0.0), power + power * rest);
}

// e^x and 1 - e^x for x <= 0 (down to -700, where it stays). With k ln 2 + r = x and m = 2^k (e^r - 1), both without cancellation:
// e^x - 1 = m + (2^k - 1), e^x = m + 2^k.
template <int N> struct Decay {
    using Real = Lanes<double, N>;
    Real value, complement;
    INLINE explicit Decay(Real exponent) {
        using E = Exp<double>;
        Real x = larger(Real(-700.0), exponent), k = nearest_power(x);
        Real r = (x - k * E::ln2_high) - k * E::ln2_low, scale = power_of_two(k), m = scale * fma(exp_tail(r), r * r, r);
        value = m + scale;
        complement = (1.0 - scale) - m;
    }
};

// With x = -2|y|: tanh |y| = (1 - e^x) / (1 + e^x); 1 - tanh^2 = 4 e^x / (1 + e^x)^2.
template <int N> struct Tanh {
    using Real = Lanes<double, N>;
    Real value, slope;
    INLINE explicit Tanh(Real y) {
        Real exponent = larger(y, -y) * -2.0;
        Decay<N> decay(exponent);
        Real inverse = 1.0 / (decay.value + 1.0), size = decay.complement * inverse;
        value = select(y == y, select(y < 0.0, -size, size), y);
        slope = select(y == y, select(exponent < -700.0, Real(0.0), decay.value * 4.0 * (inverse * inverse)), y);
    }
};

// c^gamma for 0 <= c <= 1: products, and a root, where gamma is a small multiple of 1/2, as it mostly is.
template <int N> INLINE Lanes<double, N> power(Lanes<double, N> c, double gamma) {
    double whole = std::floor(gamma), half = gamma - whole;
    Lanes<double, N> result = 1.0;
    if (whole <= 3 && (half == 0 || half == 0.5)) {
        if (half != 0) result = square_root(c);
        for (int i = 0; i < int(whole); ++i) result = result * c;
        return result;
    }
    double each[N];
    c.store(each);
    for (double& number : each) number = std::pow(number, gamma);
    return Lanes<double, N>::load(each);
}

// 2^k (1 + f) = u with sqrt(1/2) <= 1 + f < sqrt(2); log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)), s = f / (2 + f), where
// s R is what 2 atanh(s) has beyond its first term. `extra` is added where it does not round away (log1p's lost bits).
template <int N> INLINE Lanes<double, N> log_of(Lanes<double, N> u, Lanes<double, N> extra) {
    using Real = Lanes<double, N>;
    using Integer = typename Real::Integer;
    constexpr std::int64_t sqrt_half = 0x3fe6a09e667f3bcd, one = 0x3ff0000000000000, fraction = (std::int64_t(1) << 52) - 1;
    Integer shifted = as_integer(u) + (one - sqrt_half);
    // The exponent field as a number, without a 64-bit conversion: it becomes the low bits of 2^52 + k.
    Integer exponent = shift_right(shifted, 52);
    Real k = as_real<double, N>(exponent | Integer(std::int64_t(0x4330000000000000))) - (0x1p52 + 1023.0);
    Real f = as_real<double, N>((shifted & Integer(fraction)) + sqrt_half) - 1.0;
    Real s = f / (f + 2.0), z = s * s, half_square = f * f * 0.5;
    constexpr double c[] = {0x1.5555555555555p-1, 0x1.9999999999a39p-2, 0x1.2492492476902p-2, 0x1.c71c7201ba589p-3,
                            0x1.745cf8df61849p-3, 0x1.3b1c3ca5856fbp-3, 0x1.0fbde03d1ad1dp-3, 0x1.0c0a8cab24faep-3};
    Real R = c[7];
    UNROLL for (int i = 6; i >= 0; --i) R = fma(R, z, Real(c[i]));
    R = R * z;
    return ((s * (half_square + R) + (k * Exp<double>::ln2_low + extra)) - half_square) + f + k * Exp<double>::ln2_high;
}

// log(x + rest) for x >= 0 and a rest below its last place; log 0 = -inf; NaN for x < 0 and NaN.
template <int N> INLINE Lanes<double, N> log(Lanes<double, N> x, Lanes<double, N> rest = Lanes<double, N>(0.0)) {
    using Real = Lanes<double, N>;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    auto tiny = x < 0x1p-1022;
    Real result = log_of(select(tiny, x * 0x1p54, x), select(rest == 0.0, Real(0.0), rest / x));
    result = select(tiny, result - 54 * 0.693147180559945309417, result);
    result = select(x < infinity, result, x);
    result = select(x == 0.0, Real(-infinity), result);
    return select(x < 0.0, Real(infinity - infinity), result);
}

// log(1 + x) in float for 0 <= x < 2^64: f is x itself where 1 + x needs no power of two, so that no digit of a small x is lost.
template <int N> INLINE Lanes<float, N> log1p(Lanes<float, N> x) {
    using Real = Lanes<float, N>;
    using Integer = typename Real::Integer;
    constexpr std::int32_t sqrt_half = 0x3f3504f3, one = 0x3f800000, fraction = (1 << 23) - 1;
    Real u = x + 1.0f;
    Integer shifted = as_integer(u) + (one - sqrt_half), exponent = shift_right(shifted, 23);
    Integer is_near = exponent == Integer(127);
    Real k = convert<float>(exponent) - 127.0f, f = as_real<float, N>((shifted & Integer(fraction)) + sqrt_half) - 1.0f;
    Real lost = select(x < 1.0f, x - (u - 1.0f), 1.0f - (u - x)) * as_real<float, N>(shift_left(Integer(254) - exponent, 23));
    f = select(is_near, x, f);
    // log(1 + f + lost) - log(1 + f), lost / (1 + f), is less than 2 units of the last place: three terms of 1 / (1 + f) do.
    Real extra = select(is_near, Real(0.0f), lost * fma(f, f - 1.0f, Real(1.0f)));
    Real s = f / (f + 2.0f), z = s * s, half_square = f * f * 0.5f;
    constexpr float c[] = {0x1.555556p-1f, 0x1.9998cep-2f, 0x1.24ca56p-2f, 0x1.bc6ab6p-3f};
    Real R = c[3];
    UNROLL for (int i = 2; i >= 0; --i) R = fma(R, z, Real(c[i]));
    return (fma(s, fma(R, z, half_square), fma(k, Real(Exp<float>::ln2_low), extra)) - half_square) + f + k * Exp<float>::ln2_high;
}

// log(1 + x) for x >= 0; NaN for NaN.
template <int N> INLINE Lanes<double, N> log1p(Lanes<double, N> x) {
    using Real = Lanes<double, N>;
    Real u = x + 1.0;
    // What rounding took from 1 + x; whichever is larger, 1 or x, loses no bits to the difference.
    Real lost = select(x < 1.0, x - (u - 1.0), 1.0 - (u - x));
    Real result = log_of(u, lost / u);
    return select(x < std::numeric_limits<double>::infinity(), result, x);
}

// log(1 + x) for 0 <= x <= 1. In float: 2 atanh(s), s = x / (2 + x) <= 1/3, with 2^-26 of polynomial error.
template <int N> INLINE Lanes<double, N> log1p_below_one(Lanes<double, N> x) { return log1p(x); }
template <int N> INLINE Lanes<float, N> log1p_below_one(Lanes<float, N> x) {
    constexpr float c[] = {0x1.555556p-2f, 0x1.9998cep-3f, 0x1.24ca56p-3f, 0x1.bc6ab6p-4f, 0x1.dc3ccap-4f};
    constexpr int terms = sizeof c / sizeof *c;
    Lanes<float, N> s = x / (x + 2.0f), z = s * s, p = c[terms - 1];
    UNROLL for (int i = terms - 2; i >= 0; --i) p = fma(p, z, Lanes<float, N>(c[i]));
    // 2 s as x - x s: the digits are those of x, subnormal ones too.
    return fma(-s, fma(p, -(z + z), x), x);
}

}  // namespace INSTRUCTION_SET
