// 16-bit numbers as they are stored, and as float or double.
#pragma once

#include <cstdint>

#include "lanes.hpp"

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

}  // namespace INSTRUCTION_SET
