// Numbers of every dtype as float or double, and back.
#pragma once

#include <cstdint>
#include <cstring>

#include "lanes.hpp"
#include "problem.hpp"

namespace INSTRUCTION_SET {

// Of a dtype; defined in elements.cpp for float and double, once for all kernels of an instruction set.
// to[i] = from[i * stride in bytes]
template <class T> using Reader = void (*)(const char* from, std::int64_t stride, std::int64_t count, T* to);
template <class T> Reader<T> reader(DType dtype);
// to[i * stride in bytes] = from[i], rounded once to nearest
template <class T> using Writer = void (*)(const T* from, std::int64_t count, char* to, std::int64_t stride);
template <class T> Writer<T> writer(DType dtype);

// Copy past the caches: a gradient larger than they are would first be read from memory line by line only to be overwritten.
INLINE void stream(const void* from, void* to, std::int64_t bytes) {
    using Piece = Lanes<std::int32_t, 4>;
    constexpr std::int64_t size = sizeof(Piece);
    auto* source = static_cast<const char*>(from);
    auto* target = static_cast<char*>(to);
    std::int64_t head = -reinterpret_cast<std::intptr_t>(target) & (size - 1);
    if (head > bytes) head = bytes;
    std::memcpy(target, source, head);
    std::int64_t i = head;
    for (; i + size <= bytes; i += size)
        Piece::load(reinterpret_cast<const std::int32_t*>(source + i)).stream(reinterpret_cast<std::int32_t*>(target + i));
    std::memcpy(target + i, source + i, bytes - i);
}
INLINE void finish_streams() {
#if defined(__SSE2__)
    _mm_sfence();  // streamed stores are not ordered: another thread may read them next
#endif
}

}  // namespace INSTRUCTION_SET
