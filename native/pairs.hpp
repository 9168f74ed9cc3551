// Numbers as unevaluated sums of two floats, high + low with |low| <= ulp(high) / 2: 48 bits at a fraction of what doubles cost.
//
// Sums after Knuth, products by fused multiply-add (Dekker 1971, https://doi.org/10.1007/BF01397083); absolute errors of a few 2^-48.
// What is not finite has a low part without meaning.
#pragma once

#include "vector_math.hpp"

namespace INSTRUCTION_SET {

// One number for all lanes.
struct PairOf {
    float high, low;
    explicit PairOf(double x) : high(float(x)), low(float(x - high)) {}
};

template <int N> struct Pair {
    using Real = Lanes<float, N>;
    Real high, low;
};

// a + b, exactly, for |a| >= |b|.
template <int N> INLINE Pair<N> sum_of_ordered(Lanes<float, N> a, Lanes<float, N> b) {
    Lanes<float, N> s = a + b;
    return {s, b - (s - a)};
}
template <int N> INLINE Pair<N> operator+(Pair<N> a, Pair<N> b) {
    Lanes<float, N> s = a.high + b.high, back = s - a.high;
    Lanes<float, N> error = (a.high - (s - back)) + (b.high - back);
    return sum_of_ordered(s, error + (a.low + b.low));
}
template <int N> INLINE Pair<N> operator*(Pair<N> a, PairOf b) {
    Lanes<float, N> high = b.high, product = a.high * high;
    Lanes<float, N> error = fma(a.high, high, -product);
    return sum_of_ordered(product, fma(a.low, high, fma(a.high, Lanes<float, N>(b.low), error)));
}

// cap tanh(z / cap) with an error of about 2^-32 cap, which is below half an ulp of a softmax up to this cap.
constexpr double most_softcap = 64;

// With |z / cap| = y: e^(-2 y) = 2^k (1 + p), tanh y = 1 - w and 1 - tanh^2 y = 2 w / (1 + e^(-2 y)), where
// w = 2 e^(-2 y) / (1 + e^(-2 y)). All but the last terms of p need both floats.
template <int N> struct Capped {
    using Real = Lanes<float, N>;
    Pair<N> value;
    Real slope;
    INLINE Capped(Pair<N> z, PairOf cap, PairOf inverse_cap) {
        using E = Exp<float>;
        constexpr float most = 43.5f;  // e^(-2 y) is a normal number
        Pair<N> angle = z * inverse_cap;
        auto is_negative = z.high < 0.0f;
        Real size = larger(angle.high, -angle.high);
        auto is_moderate = size < most;
        Real x = smaller(size, Real(most)) * -2.0f, rest = select(is_moderate, select(is_negative, angle.low, -angle.low) * 2.0f, 0.0f);

        Real k = (x * E::log2e + E::round) - E::round, exact = fma(k, Real(-E::ln2_high), x), tail = k * E::ln2_low;
        Real r = exact - tail, r_low = ((exact - r) - tail) + rest;
        Real half = r * 0.5f, square = r * half, square_low = fma(r, half, -square), first = r + square;
        constexpr float c[] = {0x1.555556p-3f, 0x1.555556p-5f, 0x1.1110e0p-7f, 0x1.6c1670p-10f, 0x1.a12502p-13f, 0x1.a136d2p-16f};
        Real third = c[5];
        UNROLL for (int i = 4; i >= 0; --i) third = fma(third, r, Real(c[i]));
        third = third * ((square + square) * r);
        Real p = first + third;
        Real p_low = ((r - first) + square) + ((first - p) + third) + fma(r_low, p + 1.0f, square_low);

        Real scale = as_real<float, N>(shift_left(as_integer(k + (E::round + E::bias)), E::mantissa));
        Pair<N> decay = sum_of_ordered(scale, scale * p);
        decay.low = fma(scale, p_low, decay.low);
        Pair<N> sum = sum_of_ordered(Real(1.0f), decay.high);
        sum.low = sum.low + decay.low;
        Real inverse = 1.0f / sum.high, twice = decay.high + decay.high, w = twice * inverse;
        Real w_low = (fma(-w, sum.high, twice) + fma(-w, sum.low, decay.low + decay.low)) * inverse;
        slope = select(is_moderate, (w + w_low) * (inverse + inverse), 0.0f);

        Real high = cap.high, product = w * high;
        Real lost = fma(w, high, -product) + fma(w_low, high, w * cap.low);
        Pair<N> capped = Pair<N>{high, Real(cap.low)} + Pair<N>{-product, -lost};
        value = {select(is_negative, -capped.high, capped.high), select(is_negative, -capped.low, capped.low)};
    }
};

}  // namespace INSTRUCTION_SET
