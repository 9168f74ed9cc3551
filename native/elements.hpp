// Numbers of every dtype as float or double, and back.
#pragma once

#include <cmath>
#include <cstdint>

#include "lanes.hpp"
#include "problem.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace INSTRUCTION_SET {

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

// to[i] = from[i * stride in bytes]
template <class T, class Source> void read_run(const char* from, std::int64_t stride, std::int64_t count, T* to) {
    if (stride == std::int64_t(sizeof(Source))) {
        const Source* source = reinterpret_cast<const Source*>(from);
#pragma omp simd
        for (std::int64_t i = convert_run(source, count, to); i < count; ++i) to[i] = widen<T>(source[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) to[i] = widen<T>(*reinterpret_cast<const Source*>(from + i * stride));
    }
}
template <class T> using Reader = void (*)(const char* from, std::int64_t stride, std::int64_t count, T* to);
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

// to[i * stride in bytes] = from[i], rounded once to nearest
template <class T, class Target> void write_run(const T* from, std::int64_t count, char* to, std::int64_t stride) {
    if (stride == std::int64_t(sizeof(Target))) {
        Target* target = reinterpret_cast<Target*>(to);
#pragma omp simd
        for (std::int64_t i = convert_run(from, count, target); i < count; ++i) target[i] = narrow<Target>(from[i]);
    } else {
        for (std::int64_t i = 0; i < count; ++i) *reinterpret_cast<Target*>(to + i * stride) = narrow<Target>(from[i]);
    }
}
template <class T> using Writer = void (*)(const T* from, std::int64_t count, char* to, std::int64_t stride);
template <class T> Writer<T> writer(DType dtype) {
    switch (dtype) {
        case DType::float64: return write_run<T, double>;
        case DType::float32: return write_run<T, float>;
        case DType::float16: return write_run<T, Float16>;
        default: return write_run<T, BFloat16>;
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

}  // namespace INSTRUCTION_SET
