// What crosses from Python: strided arrays and the numbers of the canonical form (src/crossentropy/row_loss.py derives it).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

enum class DType : std::int32_t {
    float64, float32, float16, bfloat16, int64, int32, int16, int8, uint64, uint32, uint16, uint8, boolean
};

inline std::int64_t item_bytes(DType dtype) {
    switch (dtype) {
        case DType::float64: case DType::int64: case DType::uint64: return 8;
        case DType::float32: case DType::int32: case DType::uint32: return 4;
        case DType::int8: case DType::uint8: case DType::boolean: return 1;
        default: return 2;
    }
}

// Element (row, class) of an array seen as (outer, classes, inner), rows = outer x inner; strides in bytes. data may be null: absent.
struct Matrix {
    char* data = nullptr;
    DType dtype = DType::float64;
    std::int64_t outer_stride = 0, class_stride = 0, inner_stride = 0;
};

// One number per row (row_stride 0: the same for all), or K of them (entry_stride); strides in bytes.
template <class T> struct PerRow {
    T* data = nullptr;
    std::int64_t row_stride = 0, entry_stride = 0;
    T& operator()(std::int64_t row, std::int64_t entry = 0) const {
        return *(T*)((char*)data + row * row_stride + entry * entry_stride);
    }
    explicit operator bool() const { return data != nullptr; }
};

struct Problem {
    std::int64_t rows = 0, classes = 0, inner = 1;

    // z
    Matrix logits;
    bool has_softmax = true;        // false: the entries are log-probabilities already, lse = 0
    bool are_probabilities = false; // false unless z = log x
    double temperature = 1, softcap = 0;  // softcap 0: none
    const double* class_bias = nullptr;  // by `add_bias`
    bool bias_is_moderate = true;        // far from where floats end
    void add_bias(const double* bias) {
        class_bias = bias;
        bias_is_moderate = !bias || std::all_of(bias, bias + classes, [](double b) { return std::abs(b) < 1e30; });
    }
    Matrix mask;  // bool

    // q = sum_k b_k 1[idx_k] + g u + d (w t), g = smoothing x target_sum / (number of allowed classes)
    Matrix indices;                 // (rows, K) integers: class_stride steps over k, outer_stride over rows; inner_stride unused
    std::int64_t entries = 0;       // K
    bool ignores_label = false;     // a label equal to ignored_label is a row that does not exist
    std::int64_t ignored_label = 0;
    PerRow<const double> index_weight;
    bool weigh_indices = false;     // b_k = index_weight x class_weight[idx_k]
    Matrix dense;
    double dense_scale = 1;
    const double* class_weight = nullptr;
    double smoothing = 0;
    PerRow<const double> target_sum;  // of sparse targets; absent: 1, or the dense target's own
    double z_loss = 0, focal_gamma = 0;

    PerRow<const bool> valid;
    PerRow<const double> upstream;  // factor of the row's gradient

    // Results; absent ones are not computed. With `given`, maximum, ties, others and the masses are inputs.
    bool given = false;
    PerRow<double> loss, maximum, ties, others, target_logit, profile, profile_mass, allowed, dense_sum, dense_mass, target_sum_found, entropy_sum;
    PerRow<std::int64_t> prediction;
    Matrix gradient;
    bool reads_target_only() const { return dense_mass && !loss && !maximum && !gradient.data; }

    int threads = 1;
};

// How a problem is cut into pieces; the same for every number of threads, so that the bits are too.
struct Plan {
    std::int64_t groups = 0;  // of neighbouring rows
    std::int64_t parts = 1;   // of the classes of one group
    std::int64_t workspace_bytes = 0, group_bytes = 0, part_bytes = 0;
};

// One per instruction set (row_kernels.cpp, compiled once for each). Memory comes from the caller, aligned to 64 bytes.
struct RowKernel {
    Plan (*plan)(const Problem&);
    // Groups whose classes are one part: statistics, loss and gradient while the rows are in cache.
    void (*whole)(const Problem&, std::int64_t first_group, std::int64_t end, void* workspace, void* group_memory);
    // The same in steps, for classes in several parts.
    void (*start)(const Problem&, std::int64_t group, void* workspace, void* group_memory);
    void (*part_statistics)(const Problem&, std::int64_t group, std::int64_t part, void* workspace, void* group_memory, void* part_memory);
    void (*finish)(const Problem&, std::int64_t group, std::int64_t parts, void* workspace, void* group_memory, void* part_memory);
    void (*part_gradient)(const Problem&, std::int64_t group, std::int64_t part, void* workspace, void* group_memory);
};

// A vector of numbers with a stride in bytes (0: the same number everywhere). Of an array that was broadcast, element i has the entry
// i / repeat, modulo the period.
struct Elements {
    char* data = nullptr;
    DType dtype = DType::float64;
    std::int64_t stride = 0, repeat = 1, period = std::numeric_limits<std::int64_t>::max();
};

// The sigmoid loss of `count` elements.
struct ElementProblem {
    enum class Inputs { logits, probs, log_probs };
    std::int64_t count = 0;
    Inputs inputs = Inputs::logits;
    Elements logits, target, pos_weight;
    Elements weight, valid;     // what an element counts: 0 is not read
    double scale = 1;           // of the weights, a power of two: with it their sum is near 1
    bool ignores = false;
    double ignored = 0;         // a target that does not count either
    double smoothing = 0, focal_gamma = 0;
    double* sums = nullptr;     // one per block, of weight x loss: their sum in a fixed order is the loss for any number of threads
    double factor = 1;          // of the two below, beside the weight
    Elements losses, gradient;  // one per element
    int threads = 1;
    bool in_double() const { return logits.dtype == DType::float64 || inputs != Inputs::logits || focal_gamma != 0; }
};

struct ElementKernel {
    std::int64_t block_elements;
    void (*blocks)(const ElementProblem&, std::int64_t first, std::int64_t end);
};
