// Rows of neighbouring classes to classes of neighbouring rows, and back: squares of 32-byte vectors, turned in registers.
#pragma once

#include <algorithm>

#include "tile.hpp"

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Index{__VA_ARGS__})
#endif

namespace INSTRUCTION_SET {

template <class T> struct Square {
    static constexpr int side = 32 / int(sizeof(T));
    typedef T Row __attribute__((vector_size(32)));
    typedef typename IntegerOf<T>::type Index __attribute__((vector_size(32)));
    Row row[side];

    // Each round exchanges within pairs of rows: single numbers, then pairs, then halves of the vectors.
    INLINE void transpose() {
        Row t[side];
        if constexpr (side == 8) {
            UNROLL for (int i = 0; i < 8; i += 2) {
                t[i] = SHUFFLE(row[i], row[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
                t[i + 1] = SHUFFLE(row[i], row[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
            }
            UNROLL for (int i = 0; i < 8; i += 2) {
                int from = i / 4 * 4 + i % 4 / 2;
                row[i] = SHUFFLE(t[from], t[from + 2], 0, 1, 8, 9, 4, 5, 12, 13);
                row[i + 1] = SHUFFLE(t[from], t[from + 2], 2, 3, 10, 11, 6, 7, 14, 15);
            }
            UNROLL for (int i = 0; i < 4; ++i) {
                t[i] = SHUFFLE(row[i], row[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
                t[i + 4] = SHUFFLE(row[i], row[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
            }
        } else {
            Row u[side];
            UNROLL for (int i = 0; i < 4; i += 2) {
                u[i] = SHUFFLE(row[i], row[i + 1], 0, 4, 2, 6);
                u[i + 1] = SHUFFLE(row[i], row[i + 1], 1, 5, 3, 7);
            }
            UNROLL for (int i = 0; i < 4; ++i)
                t[i] = i & 2 ? SHUFFLE(u[i - 2], u[i], 2, 3, 6, 7) : SHUFFLE(u[i], u[i + 2], 0, 1, 4, 5);
        }
        UNROLL for (int i = 0; i < side; ++i) row[i] = t[i];
    }
};

// Rows of two classes, one after the other, are two vectors whose even and odd numbers part; and back.
template <class T> INLINE void part_pairs(const T* from, T* to) {
    constexpr int side = Square<T>::side;
    using Row = typename Square<T>::Row;
    using Index [[maybe_unused]] = typename Square<T>::Index;
    UNROLL for (int r = 0; r < width<T>; r += side) {
        Row a, b, even, odd;
        std::memcpy(&a, from + 2 * r, sizeof a);
        std::memcpy(&b, from + 2 * r + side, sizeof b);
        if constexpr (side == 8) even = SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14), odd = SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
        else even = SHUFFLE(a, b, 0, 2, 4, 6), odd = SHUFFLE(a, b, 1, 3, 5, 7);
        std::memcpy(to + r, &even, sizeof even);
        std::memcpy(to + width<T> + r, &odd, sizeof odd);
    }
}
template <class T> INLINE void join_pairs(const T* from, T* to) {
    constexpr int side = Square<T>::side;
    using Row = typename Square<T>::Row;
    using Index [[maybe_unused]] = typename Square<T>::Index;
    UNROLL for (int r = 0; r < width<T>; r += side) {
        Row even, odd, a, b;
        std::memcpy(&even, from + r, sizeof even);
        std::memcpy(&odd, from + width<T> + r, sizeof odd);
        if constexpr (side == 8) a = SHUFFLE(even, odd, 0, 8, 1, 9, 2, 10, 3, 11), b = SHUFFLE(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
        else a = SHUFFLE(even, odd, 0, 4, 1, 5), b = SHUFFLE(even, odd, 2, 6, 3, 7);
        std::memcpy(to + 2 * r, &a, sizeof a);
        std::memcpy(to + 2 * r + side, &b, sizeof b);
    }
}

// to[j width + r] = from[r step + j] for a vector of rows r. Reads up to a square's side beyond the last row.
template <class T> INLINE void classes_of_rows(const T* from, std::int64_t step, std::int64_t classes, T* to) {
    if (classes == 2 && step == 2) return part_pairs(from, to);
    constexpr int side = Square<T>::side;
    for (int r = 0; r < width<T>; r += side)
        for (std::int64_t j = 0; j < classes; j += side) {
            Square<T> square;
            UNROLL for (int i = 0; i < side; ++i) std::memcpy(&square.row[i], from + (r + i) * step + j, sizeof square.row[i]);
            square.transpose();
            std::int64_t here = std::min<std::int64_t>(side, classes - j);
            T* at = to + j * width<T> + r;
            if (here == side) { UNROLL for (int i = 0; i < side; ++i) std::memcpy(at + i * width<T>, &square.row[i], sizeof square.row[i]); }
            else for (int i = 0; i < here; ++i) std::memcpy(at + i * width<T>, &square.row[i], sizeof square.row[i]);
        }
}

// The inverse, rows one after the other. Writes up to a square's side beyond the last row.
template <class T> INLINE void rows_of_classes(const T* from, std::int64_t classes, T* to) {
    if (classes == 2) return join_pairs(from, to);
    constexpr int side = Square<T>::side;
    for (int r = 0; r < width<T>; r += side)
        // From the last classes to the first: whatever a vector writes beyond its row is overwritten by the next one.
        for (std::int64_t j = (classes - 1) / side * side; j >= 0; j -= side) {
            Square<T> square;
            std::int64_t here = std::min<std::int64_t>(side, classes - j);
            UNROLL for (int i = 0; i < side; ++i)
                std::memcpy(&square.row[i], from + (j + (i < here ? i : 0)) * width<T> + r, sizeof square.row[i]);
            square.transpose();
            UNROLL for (int i = 0; i < side; ++i) std::memcpy(to + (r + i) * classes + j, &square.row[i], sizeof square.row[i]);
        }
}

}  // namespace INSTRUCTION_SET
