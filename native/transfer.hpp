// The elements of a group of rows, in and out: any dtype and strides, as tiles whose lanes are classes (Along) or rows (Across).
#pragma once

#include "cut.hpp"
#include "elements.hpp"
#include "transpose.hpp"

namespace INSTRUCTION_SET {
namespace {

template <class T, bool Along> struct Transfer : RowGroup {
    static constexpr int lanes = width<T>;
    static constexpr T minus_infinity = -std::numeric_limits<T>::infinity();
    static constexpr DType own_dtype = sizeof(T) == 4 ? DType::float32 : DType::float64;
    using Vector = Wide<T>;

    // One block of classes of one row (Along) or of all rows of the group (Across).
    struct Block {
        std::int64_t index, first_class, classes, vectors;
        Tile<T> z, dense;
        T *powers, *slope;
        Weights<T, Along> profile;
    };

    const Shape<T, Along> shape;
    Workspace<T, Along> w;

    Transfer(const Problem& problem, std::int64_t index, void* workspace, void* group_memory)
        : RowGroup{problem, *static_cast<Group*>(group_memory), 0, 0}, shape(problem) {
        w.place(p, static_cast<char*>(workspace));
        turn_to(index);
    }
    void turn_to(std::int64_t index) {
        first_row = index * shape.rows_per_group;
        rows = int(std::min(shape.rows_per_group, p.rows - first_row));
    }

    char* row_start(const Matrix& a, int row) const {
        std::int64_t i = first_row + row;
        if (p.inner == 1) return a.data + i * a.outer_stride;
        return a.data + i / p.inner * a.outer_stride + i % p.inner * a.inner_stride;
    }
    // Bytes from one row of the group to the next; 0 where they are not evenly spaced.
    std::int64_t row_step(const Matrix& a) const {
        if (p.inner == 1) return a.outer_stride;
        bool even = first_row / p.inner == (first_row + rows - 1) / p.inner || a.outer_stride == p.inner * a.inner_stride;
        return even ? a.inner_stride : 0;
    }
    // Across, of rows that are `step` apart: are neighbouring rows closer together than neighbouring classes?
    static bool rows_together(const Matrix& a, std::int64_t step) { return step != 0 && std::abs(step) <= std::abs(a.class_stride); }

    // Are its rows runs of T, as the loops read and write them?
    bool is_plain(const Matrix& a) const { return a.dtype == own_dtype && a.class_stride == sizeof(T); }

    // Across: where the next group's rows stand one after the other, to come from memory while this group is computed.
    const char* next_group(const Matrix& a) const {
        bool is_one_piece = is_plain(a) && p.inner == 1 && a.outer_stride == p.classes * a.class_stride;
        return is_one_piece ? row_start(a, lanes) : nullptr;
    }

    // Elements of `a`, block b: one row's (Along) or all rows', as vectors, padded.
    void load(const Matrix& a, const Block& b, int row, T padding, T* to) {
        Reader<T> read = reader<T>(a.dtype);
        std::int64_t offset = b.first_class * a.class_stride;
        if constexpr (Along) {
            read(row_start(a, row) + offset, a.class_stride, b.classes, to);
            std::fill(to + b.classes, to + b.vectors * lanes, padding);
        } else {
            std::int64_t step = row_step(a);
            if (rows_together(a, step)) {
                const char* start = row_start(a, 0) + offset;
                for (std::int64_t j = 0; j < b.classes; ++j) read(start + j * a.class_stride, step, rows, to + j * lanes);
            } else {
                load_transposed(a, b, read, to);
            }
            if (rows == lanes && !group.skips_some) return;
            for (int lane = 0; lane < lanes; ++lane)
                if (lane >= rows || group.skipped[lane])
                    for (std::int64_t j = 0; j < b.classes; ++j) to[j * lanes + lane] = T(0);
        }
    }
    void load_transposed(const Matrix& a, const Block& b, Reader<T> read, T* to) {
        const char* start = row_start(a, 0) + b.first_class * a.class_stride;
        std::int64_t step = row_step(a), row_bytes = b.classes * a.class_stride;
        // In place where every vector that reaches beyond its row stays within the array.
        bool in_place = is_plain(a) && step >= row_bytes && p.inner == 1 &&
                        p.rows - first_row >= lanes + Square<T>::side;
        if (in_place) return classes_of_rows(reinterpret_cast<const T*>(start), step / std::int64_t(sizeof(T)), b.classes, to);
        if (step && step == row_bytes) read(start, a.class_stride, rows * b.classes, w.rows);
        else
            for (int lane = 0; lane < rows; ++lane)
                read(row_start(a, lane) + b.first_class * a.class_stride, a.class_stride, b.classes, w.rows + lane * b.classes);
        std::fill(w.rows + rows * b.classes, w.rows + lanes * b.classes, T(0));
        classes_of_rows(w.rows, b.classes, b.classes, to);
    }

    void write(const Block& b, int row, const T* from) {
        const Matrix& g = p.gradient;
        Writer<T> write = writer<T>(g.dtype);
        std::int64_t offset = b.first_class * g.class_stride, step = Along ? 0 : row_step(g);
        if constexpr (Along) {
            char* to = row_start(g, row) + offset;
            if (is_plain(g) && streams_gradient(p)) stream(from, to, b.classes * sizeof(T));
            else write(from, b.classes, to, g.class_stride);
        } else if (rows_together(g, step)) {
            char* start = row_start(g, 0) + offset;
            for (std::int64_t j = 0; j < b.classes; ++j) write(from + j * lanes, rows, start + j * g.class_stride, step);
        } else {
            rows_of_classes(from, b.classes, w.rows);
            char* start = row_start(g, 0) + offset;
            if (is_plain(g) && streams_gradient(p) && step == b.classes * std::int64_t(sizeof(T)))
                stream(w.rows, start, rows * b.classes * sizeof(T));
            else if (step && step == b.classes * g.class_stride)
                write(w.rows, rows * b.classes, start, g.class_stride);
            else
                for (int lane = 0; lane < rows; ++lane)
                    write(w.rows + lane * b.classes, b.classes, row_start(g, lane) + offset, g.class_stride);
        }
    }
};

}  // namespace
}  // namespace INSTRUCTION_SET
