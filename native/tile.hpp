// A tile of z in the first-level cache, and the loops over it.
//
// Two orientations share every loop. Along: the lanes are neighbouring classes of one row, and the row's number is the sum (or
// maximum) over the lanes at the end. Across: the lanes are neighbouring rows, one class after the other; for few classes, and for
// a class axis that is not the last. Element type float for logits of at most 32 bits (the differences that matter are exact, see
// vector_math), double for float64 and where the logits are transformed.
#pragma once

#include <cmath>

#include "problem.hpp"
#include "vector_math.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace INSTRUCTION_SET {

template <class T> constexpr int width = sizeof(T) == 4 ? 32 : 16;
template <class T> using Wide = Lanes<T, width<T>>;

// ---- elements of every dtype as float or double ------------------------------------------------------------------------

struct Float16 { std::uint16_t stored; };
struct BFloat16 { std::uint16_t stored; };

template <class T, class Source> INLINE T widen(Source x) { return T(x); }
template <> INLINE float widen<float, BFloat16>(BFloat16 x) { return bits<float>(std::uint32_t(x.stored) << 16); }
template <> INLINE float widen<float, Float16>(Float16 x) {
    // The fraction moves to float's place; a product with 2^112 corrects the exponent bias (subnormals included); infinity and NaN
    // keep an all-ones exponent.
    std::uint32_t magnitude = std::uint32_t(x.stored & 0x7fff) << 13;
    float value = bits<float>(magnitude) * 0x1p112f;
    std::uint32_t result = (x.stored & 0x7c00) == 0x7c00 ? magnitude | 0x7f800000 : bits<std::uint32_t>(value);
    return bits<float>(result | std::uint32_t(x.stored & 0x8000) << 16);
}
template <> INLINE double widen<double, BFloat16>(BFloat16 x) { return widen<float>(x); }
template <> INLINE double widen<double, Float16>(Float16 x) { return widen<float>(x); }

template <class Target, class T> INLINE Target narrow(T x) { return Target(x); }
template <> INLINE BFloat16 narrow<BFloat16, float>(float x) {
    std::uint32_t b = bits<std::uint32_t>(x);
    std::uint32_t rounded = (b + 0x7fff + (b >> 16 & 1)) >> 16;  // to nearest, ties to even
    return {std::uint16_t((b & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded)};
}
template <> INLINE Float16 narrow<Float16, float>(float x) {
    std::uint32_t b = bits<std::uint32_t>(x), sign = b >> 16 & 0x8000, size = b & 0x7fffffff;
    // Below 2^-14 the result is subnormal: adding 0.5 puts its unit, 2^-24, into the last place of the sum, which rounds it.
    std::uint32_t small = bits<std::uint32_t>(bits<float>(size) + 0.5f) - 0x3f000000;
    std::uint32_t normal = (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13;
    std::uint32_t large = size > 0x7f800000 ? 0x7e00 : 0x7c00;  // NaN, infinity; from 65520 on rounds to infinity
    std::uint32_t result = size < 0x38800000 ? small : size < 0x477ff000 ? normal : large;
    return {std::uint16_t(sign | result)};
}
// Through float: rounding twice could miss a tie by 2^-29 of a unit, so the first step rounds to odd.
INLINE float to_odd(double x) {
    float nearest = float(x);
    if (!(std::fabs(x) < 3e38) || double(nearest) == x) return nearest;
    std::uint32_t b = bits<std::uint32_t>(nearest);
    if (std::fabs(double(nearest)) > std::fabs(x)) --b;  // towards zero
    return bits<float>(b | 1);
}
template <> INLINE BFloat16 narrow<BFloat16, double>(double x) { return narrow<BFloat16>(to_odd(x)); }
template <> INLINE Float16 narrow<Float16, double>(double x) { return narrow<Float16>(to_odd(x)); }

template <class Body> INLINE void with_dtype(DType dtype, Body body) {
    switch (dtype) {
        case DType::float64: return body(double{});
        case DType::float32: return body(float{});
        case DType::float16: return body(Float16{});
        case DType::bfloat16: return body(BFloat16{});
        case DType::int64: return body(std::int64_t{});
        case DType::int32: return body(std::int32_t{});
        case DType::int16: return body(std::int16_t{});
        case DType::int8: return body(std::int8_t{});
        case DType::uint64: return body(std::uint64_t{});
        case DType::uint32: return body(std::uint32_t{});
        case DType::uint16: return body(std::uint16_t{});
        case DType::uint8: return body(std::uint8_t{});
        case DType::boolean: return body(bool{});
    }
}

// to[i] = from[i]; bytes between elements of `from`.
template <class T, class Source> void read_run(const char* from, std::int64_t stride, std::int64_t count, T* to) {
    if (stride == std::int64_t(sizeof(Source))) {
        const Source* source = reinterpret_cast<const Source*>(from);
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) to[i] = widen<T>(source[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) to[i] = widen<T>(*reinterpret_cast<const Source*>(from + i * stride));
    }
}
template <class T, class Target> void write_run(const T* from, std::int64_t count, char* to, std::int64_t stride) {
    if (stride == std::int64_t(sizeof(Target))) {
        Target* target = reinterpret_cast<Target*>(to);
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) target[i] = narrow<Target>(from[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) *reinterpret_cast<Target*>(to + i * stride) = narrow<Target>(from[i]);
    }
}

// Copy past the caches: a gradient larger than they are would first be read from memory line by line only to be overwritten.
INLINE void stream(const void* from, void* to, std::int64_t bytes) {
#if defined(__SSE2__)
    auto* source = static_cast<const char*>(from);
    auto* target = static_cast<char*>(to);
    std::int64_t head = -reinterpret_cast<std::intptr_t>(target) & 15;
    if (head > bytes) head = bytes;
    std::memcpy(target, source, head);
    std::int64_t i = head;
    for (; i + 16 <= bytes; i += 16)
        _mm_stream_si128(reinterpret_cast<__m128i*>(target + i), _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
    std::memcpy(target + i, source + i, bytes - i);
#else
    std::memcpy(to, from, bytes);
#endif
}
INLINE void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();  // streamed stores are not ordered: another thread may read them next
#endif
}

// ---- the loops ------------------------------------------------------------------------------------------------------------

// Vectors of z: the last one may stand elsewhere, padded with -inf (0 for weights).
template <class T> struct Tile {
    const T* data;
    std::int64_t vectors;
    const T* last;
    INLINE Wide<T> operator[](std::int64_t i) const { return Wide<T>::load(i + 1 < vectors ? data + i * width<T> : last); }
};
template <class T> INLINE Tile<T> whole(const T* data, std::int64_t vectors) {
    return {data, vectors, data + (vectors - 1) * width<T>};
}

// Per-class weights u, or a tile of weights.
template <class T, bool Along> struct Weights {
    const T* tile = nullptr;       // vectors like those of z
    const T* by_class = nullptr;   // Across only: one number per vector
    INLINE explicit operator bool() const { return tile || by_class; }
    INLINE Wide<T> operator[](std::int64_t i) const {
        if (!Along && by_class) return Wide<T>(by_class[i]);
        return Wide<T>::load(tile + i * width<T>);
    }
};

template <class T> INLINE Wide<T> tile_maximum(const Tile<T>& z) {
    Wide<T> m = -std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < z.vectors; ++i) m = larger(z[i], m);  // NaN is dropped here and shows in the sum
    return m;
}

// A sum in double whose rounding error stays below 2 ulp of T for any number of terms >= 0: up to four vectors are added in T,
// as a tree (Along: the four are the quarters of one), then double lanes take over. For T = double, whose own rounding is all there
// is: runs of 8 vectors, then a tree over a stack of runs of equal length (pairwise summation).
template <class T, bool Along> struct Sum;

template <> struct Sum<float, true> {
    Lanes<double, 8> total = 0.0;
    INLINE void add(Wide<float> x) { total = total + convert<double>(halve_sum(halve_sum(x))); }
    INLINE double result() { return sum(total); }
};
template <> struct Sum<float, false> {
    Wide<float> run = 0.0f;
    Lanes<double, 32> total = 0.0;
    int length = 0;
    INLINE void add(Wide<float> x) {
        run = run + x;
        if (++length == 4) flush();
    }
    INLINE void flush() {
        total = total + convert<double>(run);
        run = 0.0f;
        length = 0;
    }
    INLINE Lanes<double, 32> result() {
        flush();
        return total;
    }
};
template <bool Along> struct Sum<double, Along> {
    Wide<double> run = 0.0, levels[12];
    int length = 0, runs = 0;
    INLINE void add(Wide<double> x) {
        run = run + x;
        if (++length == 8) flush();
    }
    INLINE void flush() {
        // Like a binary counter: level l holds the sum of 2^l runs.
        int level = 0;
        for (int n = runs; n & 1; n >>= 1) run = levels[level++] + run;
        levels[level] = run;
        ++runs;
        run = 0.0;
        length = 0;
    }
    INLINE auto result() {
        Wide<double> total = run;
        for (int level = 0, n = runs; n; n >>= 1, ++level)
            if (n & 1) total = levels[level] + total;
        if constexpr (Along) return sum(total);
        else return total;
    }
};
// Blocks hold at most 2048 elements: 128 vectors of doubles in 16 runs, or 64 of floats.

// Number of lanes set, per lane or in all.
template <class T, bool Along> INLINE auto count(typename Wide<T>::Integer n) {
    if constexpr (Along) return double(sum(n));
    else return convert<double>(n);
}

// The power as the gradient wants it: e^(z - m) 2^headroom, exactly 2^headroom at the maximum. `rest` is e^(reference - m).
template <class T> INLINE Wide<T> relative_power(Wide<T> power, typename Wide<T>::Integer is_top, Wide<T> rest) {
    constexpr T one = sizeof(T) == 4 ? T(0x1p40) : T(0x1p200);
    static_assert(Exp<T>::headroom == (sizeof(T) == 4 ? 40 : 200));
    return select(is_top, Wide<T>(one), power * rest);
}

// sum e^z over all but the maxima, scaled, and how many maxima there are; the powers go to `powers` where they are kept.
// `reference` and `scale` as vector_math wants them; z - reference is exact where it matters.
template <class T, bool Along, class Total>
INLINE void tile_exp(const Tile<T>& z, Wide<T> m, Wide<T> reference, const Scale<T, width<T>>& scale, Wide<T> rest, T* powers,
                     const char* next, Total& others, Total& ties) {
    using Integer = typename Wide<T>::Integer;
    Sum<T, Along> total;
    Integer top = typename IntegerOf<T>::type(0);
    for (std::int64_t i = 0; i < z.vectors; ++i) {
        Wide<T> x = z[i];
        // The next block comes from memory while this one is computed.
        if (next) for (int line = 0; line < int(sizeof x) / 64; ++line) __builtin_prefetch(next + i * sizeof x + line * 64);
        Wide<T> power = exp_scaled(x - reference, scale);
        Integer is_top = x == m;
        if (powers) relative_power<T>(power, is_top, rest).store(powers + i * width<T>);
        top = top - is_top;
        total.add(select(is_top, Wide<T>(T(0)), power));
    }
    others = total.result();
    ties = count<T, Along>(top);
}
template <class T>
INLINE void tile_powers(const Tile<T>& z, Wide<T> m, Wide<T> reference, const Scale<T, width<T>>& scale, Wide<T> rest, T* powers) {
    for (std::int64_t i = 0; i < z.vectors; ++i) {
        Wide<T> x = z[i];
        relative_power<T>(exp_scaled(x - reference, scale), x == m, rest).store(powers + i * width<T>);
    }
}

// sum w (z - m), where w = 0 wins over an infinite z.
template <class T, bool Along> INLINE auto tile_weighted(const Tile<T>& z, Wide<T> m, const Weights<T, Along>& w) {
    Sum<T, Along> total;
    for (std::int64_t i = 0; i < z.vectors; ++i) {
        Wide<T> weight = w[i];
        total.add(select(weight == T(0), Wide<T>(T(0)), weight * (z[i] - m)));
    }
    return total.result();
}
template <class T, bool Along> INLINE auto tile_mass(std::int64_t vectors, const Weights<T, Along>& w) {
    if constexpr (sizeof(T) == 8) {
        Sum<T, Along> total;
        for (std::int64_t i = 0; i < vectors; ++i) total.add(w[i]);
        return total.result();
    } else {  // exact but for double's own rounding: losses and denominators multiply it
        Lanes<double, width<T>> total = 0.0;
        for (std::int64_t i = 0; i < vectors; ++i) total = total + convert<double>(w[i]);
        if constexpr (Along) return sum(total);
        else return total;
    }
}

// g = slope (f2 (f1 e) - gu u - dq t): a p - q with everything per row in the factors.
template <class T, bool Along>
INLINE void tile_gradient(std::int64_t vectors, const T* powers, Wide<T> f1, Wide<T> f2, Wide<T> gu, const Weights<T, Along>& u,
                          Wide<T> dq, const T* dense, const T* slope, T* to) {
    for (std::int64_t i = 0; i < vectors; ++i) {
        Wide<T> g = Wide<T>::load(powers + i * width<T>) * f1 * f2;
        if (u) g = g - gu * u[i];
        if (dense) g = g - dq * Wide<T>::load(dense + i * width<T>);
        if (slope) g = select(g == T(0), g, g * Wide<T>::load(slope + i * width<T>));  // 0 wins over an infinite slope
        g.store(to + i * width<T>);
    }
}

}  // namespace INSTRUCTION_SET
