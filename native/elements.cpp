// Runs of numbers of every dtype, read as float or double and written from them.
#include "elements.hpp"

#include <cmath>

#include "half.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace INSTRUCTION_SET {
namespace {

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

// As many of the first numbers as the instruction set converts by itself: how many.
template <class From, class To> INLINE std::int64_t convert_run(const From*, std::int64_t, To*) { return 0; }
#if defined(__F16C__)
template <> INLINE std::int64_t convert_run(const Float16* from, std::int64_t count, float* to) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    return i;
}
template <> INLINE std::int64_t convert_run(const float* from, std::int64_t count, Float16* to) {
    std::int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
    return i;
}
#endif

template <class T, class Source> void read_run(const char* from, std::int64_t stride, std::int64_t count, T* to) {
    if (stride == std::int64_t(sizeof(Source))) {
        const Source* source = reinterpret_cast<const Source*>(from);
#pragma omp simd
        for (std::int64_t i = convert_run(source, count, to); i < count; ++i) to[i] = widen<T>(source[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) to[i] = widen<T>(*reinterpret_cast<const Source*>(from + i * stride));
    }
}
template <class T, class Target> void write_run(const T* from, std::int64_t count, char* to, std::int64_t stride) {
    if (stride == std::int64_t(sizeof(Target))) {
        Target* target = reinterpret_cast<Target*>(to);
#pragma omp simd
        for (std::int64_t i = convert_run(from, count, target); i < count; ++i) target[i] = narrow<Target>(from[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) *reinterpret_cast<Target*>(to + i * stride) = narrow<Target>(from[i]);
    }
}

}  // namespace

template <class T> Reader<T> reader(DType dtype) {
    switch (dtype) {
        case DType::float64: return read_run<T, double>;
        case DType::float32: return read_run<T, float>;
        case DType::float16: return read_run<T, Float16>;
        case DType::bfloat16: return read_run<T, BFloat16>;
        case DType::int64: return read_run<T, std::int64_t>;
        case DType::int32: return read_run<T, std::int32_t>;
        case DType::int16: return read_run<T, std::int16_t>;
        case DType::int8: return read_run<T, std::int8_t>;
        case DType::uint64: return read_run<T, std::uint64_t>;
        case DType::uint32: return read_run<T, std::uint32_t>;
        case DType::uint16: return read_run<T, std::uint16_t>;
        case DType::uint8: return read_run<T, std::uint8_t>;
        case DType::boolean: return read_run<T, std::uint8_t>;  // 0 or 1; GCC does not vectorise bool
    }
    return nullptr;
}
template <class T> Writer<T> writer(DType dtype) {
    switch (dtype) {
        case DType::float64: return write_run<T, double>;
        case DType::float32: return write_run<T, float>;
        case DType::float16: return write_run<T, Float16>;
        default: return write_run<T, BFloat16>;
    }
}

template Reader<float> reader(DType);
template Reader<double> reader(DType);
template Writer<float> writer(DType);
template Writer<double> writer(DType);

}  // namespace INSTRUCTION_SET
