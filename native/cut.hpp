// How the rows of a problem are cut into groups, blocks and parts, and the scratch memory of one thread.
#pragma once

#include "group.hpp"
#include "tile.hpp"

namespace INSTRUCTION_SET {
namespace {

constexpr std::int64_t block_elements = 2048;     // z, powers and gradient of one block share the first-level cache
constexpr std::int64_t kept_elements = 1 << 16;   // powers kept until the gradient needs them: half of a 512 kB second-level cache
constexpr std::int64_t group_elements = 1 << 14;  // short rows form groups, whose once-per-row work is vectorised
constexpr std::int64_t part_elements = 1 << 17;   // classes beyond this are several parts
constexpr std::int64_t stream_bytes = 1 << 23;    // a gradient that will not be found in a cache again

bool streams_gradient(const Problem& p) { return p.rows * p.classes * item_bytes(p.gradient.dtype) >= stream_bytes; }

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Are the classes of a row closer together than the rows are?
bool classes_together(const Problem& p) {
    std::int64_t row_stride = p.inner == 1 ? p.logits.outer_stride : p.logits.inner_stride;
    return row_stride == 0 || std::abs(p.logits.class_stride) <= std::abs(row_stride);
}

// How rows of T are cut. By the layout alone, never by the number of rows or threads: a row has the same bits in any company.
template <class T, bool Along> struct Shape {
    static constexpr int lanes = width<T>;
    static constexpr std::int64_t block_classes = Along ? block_elements : 2 * block_elements / lanes;
    static constexpr std::int64_t part_blocks = part_elements / block_elements;

    std::int64_t rows_per_group, blocks, block_vectors, parts;
    bool keeps;  // the powers of all blocks until the gradient

    explicit Shape(const Problem& p) {
        blocks = (p.classes + block_classes - 1) / block_classes;
        parts = (blocks + part_blocks - 1) / part_blocks;
        std::int64_t padded = Along ? round_up(p.classes, lanes) : p.classes * lanes;  // elements of a row, or of all rows
        rows_per_group = !Along ? lanes : blocks > 1 ? 1 : std::clamp<std::int64_t>(group_elements / padded, 1, max_rows);
        keeps = padded * (Along ? rows_per_group : 1) <= kept_elements && !p.given;
        block_vectors = Along ? (blocks > 1 ? block_elements : padded) / lanes : std::min(p.classes, block_classes);
    }
};

// Scratch memory of one thread.
template <class T, bool Along> struct Workspace {
    T *z, *powers, *dense, *profile, *by_class, *mask, *slope, *gradient, *rows, *dense_rows, *label_logit, *label_rest;
    T *z_rest, *bias, *bias_rest;  // where logits are pairs
    double *top, *scale;  // per block and row: e^(z - top) = power scale

    // Places the buffers from `start` on (null: nowhere yet); returns the bytes they take.
    std::int64_t place(const Problem& p, char* start) {
        Shape<T, Along> shape(p);
        std::int64_t block = shape.block_vectors * shape.lanes;
        std::int64_t kept = shape.keeps ? block * shape.blocks * (Along ? shape.rows_per_group : 1) : block;
        std::int64_t bytes = 0;
        auto take = [&]<class Number>(Number*& buffer, std::int64_t count) {
            if (start) buffer = reinterpret_cast<Number*>(start + bytes);
            bytes += round_up(count * std::int64_t(sizeof(Number)), 64) + 64;  // the gap keeps buffers off the same cache sets
        };
        take(z, block);
        take(powers, kept);
        take(dense, p.dense.data ? kept : 0);
        take(slope, kept);
        take(profile, block);
        take(by_class, block);
        take(mask, p.mask.data ? block : 0);
        take(gradient, block);
        take(rows, block + shape.lanes);  // a square beyond the last row
        take(dense_rows, !Along && p.dense.data ? block + shape.lanes : 0);
        if (!Along) take(label_logit, shape.lanes), take(label_rest, shape.lanes);
        bool pairs = pairs_logits(p);
        take(z_rest, pairs ? block : 0);
        take(bias, pairs ? block : 0);
        take(bias_rest, pairs ? block : 0);
        take(top, shape.blocks * max_rows);
        take(scale, shape.blocks * max_rows);
        return bytes;
    }
};

}  // namespace
}  // namespace INSTRUCTION_SET
