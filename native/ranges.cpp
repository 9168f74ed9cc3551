#include "ranges.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "schedule.hpp"
#include "threads.hpp"

namespace {

constexpr std::int64_t chunk = 1 << 14, labels_at_once = 1 << 12;

template <class T> struct Limits {
    T low, high, ignored;
    bool ignores, allows_nan, ends_only;

    explicit Limits(const Range& range)
        : low(clamped(range.low)), high(clamped(range.high)), ignored(clamped(range.ignored)),
          ignores(range.ignores && double(ignored) == range.ignored && !is_beyond(range.ignored)), allows_nan(range.allows_nan), ends_only(range.ends_only) {}
    static T clamped(double value) {
        using L = std::numeric_limits<T>;
        if (value <= double(L::lowest())) return L::has_infinity && value < double(L::lowest()) ? T(-L::infinity()) : L::lowest();
        return value >= double(L::max()) ? L::max() : T(value);
    }
    // The greatest integer of 64 bits is not a double: it rounds to the power of two above.
    static bool is_beyond(double value) {
        using L = std::numeric_limits<T>;
        return L::is_integer && value >= std::ldexp(1.0, L::digits);
    }
    bool holds(T x) const { return ends_only ? (x == low) | (x == high) : (x >= low) & (x <= high); }
};

template <class T> std::int64_t count(const Elements& numbers, std::int64_t size, const Range& range) {
    Limits<T> limits(range);
    std::int64_t pieces = (size + chunk - 1) / chunk;
    std::atomic<std::int64_t> ignored{0};
    std::atomic<bool> is_wrong{false};
    parallel_for(pieces, workers_for(double(size) * sizeof(T) * 0.1, range.threads, pieces), [&](std::int64_t piece, int) {
        if (is_wrong.load(std::memory_order_relaxed)) return;
        const T* x = reinterpret_cast<const T*>(numbers.data) + piece * chunk;
        int length = int(std::min(chunk, size - piece * chunk)), outside = 0, special = 0, nan = 0;
        bool may_lie_inside = limits.holds(limits.ignored);
        for (int i = 0; i < length; ++i) outside += !limits.holds(x[i]);
        if (limits.ignores && (outside || may_lie_inside))
            for (int i = 0; i < length; ++i) special += x[i] == limits.ignored;
        if (limits.allows_nan && outside)
            for (int i = 0; i < length; ++i) nan += x[i] != x[i];
        if (outside != nan + (may_lie_inside ? 0 : special)) is_wrong = true;
        if (special) ignored += special;
    });
    return is_wrong ? -1 : ignored.load();
}

template <class Label> void read_labels(const char* from, std::int64_t stride, std::int64_t count, std::int64_t* to) {
    for (std::int64_t i = 0; i < count; ++i) to[i] = std::int64_t(*reinterpret_cast<const Label*>(from + i * stride));
}
void read_labels(const Matrix& labels, std::int64_t first, std::int64_t end, std::int64_t* to) {
    std::int64_t stride = labels.outer_stride, count = end - first;
    const char* from = labels.data + first * stride;
    switch (labels.dtype) {
        case DType::int64: return read_labels<std::int64_t>(from, stride, count, to);
        case DType::int32: return read_labels<std::int32_t>(from, stride, count, to);
        case DType::int16: return read_labels<std::int16_t>(from, stride, count, to);
        case DType::int8: return read_labels<std::int8_t>(from, stride, count, to);
        case DType::uint64: return read_labels<std::uint64_t>(from, stride, count, to);
        case DType::uint32: return read_labels<std::uint32_t>(from, stride, count, to);
        case DType::uint16: return read_labels<std::uint16_t>(from, stride, count, to);
        default: return read_labels<std::uint8_t>(from, stride, count, to);
    }
}

// The entries at the labels lie in as many cache lines, and mostly pages: those of rows to come are asked for early.
template <class T> bool gather(const Problem& p, const Range& range, double* values) {
    constexpr std::int64_t ahead = 24;
    std::int64_t pieces = (p.rows + labels_at_once - 1) / labels_at_once;
    std::atomic<bool> is_wrong{false};
    parallel_for(pieces, workers_for(double(p.rows) * 20, p.threads, pieces), [&](std::int64_t piece, int) {
        std::int64_t first = piece * labels_at_once, end = std::min(p.rows, first + labels_at_once), labels[labels_at_once];
        read_labels(p.indices, first, end, labels);
        auto address = [&](std::int64_t row, std::int64_t label) {
            std::int64_t outer = p.inner == 1 ? row : row / p.inner, inner = p.inner == 1 ? 0 : row % p.inner;
            return p.logits.data + outer * p.logits.outer_stride + inner * p.logits.inner_stride + label * p.logits.class_stride;
        };
        int wrong = 0;
        for (std::int64_t row = first; row < end; ++row) {
            std::int64_t label = labels[row - first];
            if (row + ahead < end) __builtin_prefetch(address(row + ahead, std::int64_t(std::min(std::uint64_t(labels[row - first + ahead]), std::uint64_t(p.classes - 1)))));
            values[row] = 1;
            // A row that does not count stands for nothing; one that row_weight leaves out is looked at by who reports.
            if (std::uint64_t(label) >= std::uint64_t(p.classes) || (p.ignores_label && label == p.ignored_label)) continue;
            double x = double(*reinterpret_cast<const T*>(address(row, label)));
            values[row] = x;
            wrong += (x < range.low) | (x > range.high);
        }
        if (wrong) is_wrong = true;
    });
    return !is_wrong;
}

}  // namespace

std::int64_t count_ignored(const Elements& numbers, std::int64_t size, const Range& range) {
    switch (numbers.dtype) {
        case DType::float64: return count<double>(numbers, size, range);
        case DType::float32: return count<float>(numbers, size, range);
        case DType::int64: return count<std::int64_t>(numbers, size, range);
        case DType::int32: return count<std::int32_t>(numbers, size, range);
        case DType::int16: return count<std::int16_t>(numbers, size, range);
        case DType::int8: return count<std::int8_t>(numbers, size, range);
        case DType::uint8: return count<std::uint8_t>(numbers, size, range);
        default: return -1;
    }
}

bool gather_labelled(const Problem& p, const Range& range, double* values) {
    if (p.logits.dtype == DType::float64) return gather<double>(p, range, values);
    return p.logits.dtype == DType::float32 && gather<float>(p, range, values);
}
