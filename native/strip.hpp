// A gradient whose classes lie far apart (the class axis is not the last): computed for 128 rows in scratch memory, then written class
// by class. Group by group a class would get two cache lines at a time, and where classes lie a multiple of 4 kB apart, as in images,
// all of them meet in the same few places of each cache: 1.4 ns per logit to write such lines in turn, 0.5 in runs of eight.
// Reading in runs gains nothing (0.35 to 0.44 ns whatever their length).
#pragma once

#include <cstring>

#include "transfer.hpp"

namespace INSTRUCTION_SET {
namespace {

class Strip {
    static constexpr std::int64_t most_rows = 128, most_classes = 128;
    const Problem& given;
    Problem p;  // the same with the gradient in the strip
    char* memory;

public:
    static bool takes(const Problem& q) {
        std::int64_t size = item_bytes(q.gradient.dtype);
        return q.gradient.data && q.inner >= most_rows && q.classes <= most_classes && q.gradient.inner_stride == size &&
               std::abs(q.gradient.class_stride) > size;
    }
    static std::int64_t bytes(const Problem& q) { return takes(q) ? q.classes * most_rows * item_bytes(q.gradient.dtype) : 0; }

    Strip(const Problem& problem, char* memory_) : given(problem), p(problem), memory(memory_) {}

    // `body(problem, first, end)` computes groups.
    template <class Body> void compute(std::int64_t first, std::int64_t end, std::int64_t rows_per_group, Body body) {
        const Matrix& to = given.gradient;
        std::int64_t size = item_bytes(to.dtype), class_bytes = most_rows * size;
        bool streams = streams_gradient(given);
        for (std::int64_t group = first, groups; group < end; group += groups) {
            std::int64_t row = group * rows_per_group, in_image = std::min(given.inner - row % given.inner, given.rows - row);
            groups = std::min(end - group, std::min(in_image, most_rows) / rows_per_group);
            if (groups == 0) {  // rows of two images, or the last ones
                groups = 1;
                body(given, group, group + 1);
                continue;
            }
            p.gradient = {memory - row * size, to.dtype, given.inner * size, class_bytes, size};  // as if all rows were there
            body(p, group, group + groups);
            char* start = to.data + row / given.inner * to.outer_stride + row % given.inner * size;
            for (std::int64_t j = 0; j < given.classes; ++j) {
                const char* computed = memory + j * class_bytes;
                if (streams) stream(computed, start + j * to.class_stride, groups * rows_per_group * size);
                else std::memcpy(start + j * to.class_stride, computed, groups * rows_per_group * size);
            }
        }
    }
};

}  // namespace
}  // namespace INSTRUCTION_SET
