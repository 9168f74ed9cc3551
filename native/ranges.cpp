#include "ranges.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

#include "schedule.hpp"
#include "threads.hpp"

namespace {

constexpr std::int64_t chunk = 1 << 14;

template <class T> struct Limits {
    T low, high, ignored;
    bool ignores, allows_nan;

    explicit Limits(const Range& range)
        : low(clamped(range.low)), high(clamped(range.high)), ignored(clamped(range.ignored)),
          ignores(range.ignores && double(ignored) == range.ignored), allows_nan(range.allows_nan) {}
    static T clamped(double value) {
        using L = std::numeric_limits<T>;
        if (value <= double(L::lowest())) return L::has_infinity && value < double(L::lowest()) ? T(-L::infinity()) : L::lowest();
        return value >= double(L::max()) ? L::max() : T(value);
    }
    bool holds(T x) const { return (x >= low) & (x <= high); }
};

template <class T> std::int64_t count(const Elements& numbers, std::int64_t size, const Range& range) {
    Limits<T> limits(range);
    std::int64_t pieces = (size + chunk - 1) / chunk;
    std::atomic<std::int64_t> ignored{0};
    std::atomic<bool> is_wrong{false};
    parallel_for(pieces, workers_for(double(size) * sizeof(T) * 0.1, range.threads, pieces), [&](std::int64_t piece, int) {
        if (is_wrong.load(std::memory_order_relaxed)) return;
        const T* x = reinterpret_cast<const T*>(numbers.data) + piece * chunk;
        int length = int(std::min(chunk, size - piece * chunk)), outside = 0, special = 0;
        for (int i = 0; i < length; ++i) outside += !limits.holds(x[i]);
        if (!outside) {
            if (limits.ignores && limits.holds(limits.ignored))
                for (int i = 0; i < length; ++i) special += x[i] == limits.ignored;
        } else {
            for (int i = 0; i < length; ++i) {
                bool is_ignored = limits.ignores && x[i] == limits.ignored, is_nan = limits.allows_nan && x[i] != x[i];
                special += is_ignored;
                if (!limits.holds(x[i]) && !is_ignored && !is_nan) is_wrong = true;
            }
        }
        if (special) ignored += special;
    });
    return is_wrong ? -1 : ignored.load();
}

template <class T> double number(const char* at) { return double(*reinterpret_cast<const T*>(at)); }
using Read = double (*)(const char*);
template <class T> std::int64_t integer(const char* at) { return std::int64_t(*reinterpret_cast<const T*>(at)); }

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

bool labels_within(const Problem& p, const Range& range) {
    Read read = p.logits.dtype == DType::float64 ? number<double> : p.logits.dtype == DType::float32 ? number<float> : nullptr;
    std::int64_t (*label_at)(const char*) = nullptr;
    switch (p.indices.dtype) {
        case DType::int64: label_at = integer<std::int64_t>; break;
        case DType::int32: label_at = integer<std::int32_t>; break;
        case DType::int16: label_at = integer<std::int16_t>; break;
        case DType::int8: label_at = integer<std::int8_t>; break;
        case DType::uint64: label_at = integer<std::uint64_t>; break;
        case DType::uint32: label_at = integer<std::uint32_t>; break;
        case DType::uint16: label_at = integer<std::uint16_t>; break;
        default: label_at = integer<std::uint8_t>; break;
    }
    if (!read) return false;
    std::int64_t pieces = (p.rows + chunk - 1) / chunk;
    std::atomic<bool> is_wrong{false};
    parallel_for(pieces, workers_for(double(p.rows) * 10, p.threads, pieces), [&](std::int64_t piece, int) {
        int wrong = 0;
        std::int64_t end = std::min(p.rows, (piece + 1) * chunk);
        for (std::int64_t row = piece * chunk; row < end; ++row) {
            std::int64_t label = label_at(p.indices.data + row * p.indices.outer_stride);
            // A row that does not count stands for nothing; one that row_weight leaves out is looked at by who reports.
            if (std::uint64_t(label) >= std::uint64_t(p.classes) || (p.ignores_label && label == p.ignored_label)) continue;
            const char* at = p.logits.data + row / p.inner * p.logits.outer_stride + row % p.inner * p.logits.inner_stride;
            double x = read(at + label * p.logits.class_stride);
            wrong += (x < range.low) | (x > range.high);
        }
        if (wrong) is_wrong = true;
    });
    return !is_wrong;
}
