#include "labels.hpp"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "running_sum.hpp"
#include "schedule.hpp"
#include "threads.hpp"

namespace {

constexpr std::int64_t chunk = 512;

template <class Label> struct Reader {
    const Labels& p;
    // Compared in 64 bits: an 8-bit label is not the ignored one for having its last 8 bits, nor an unsigned one for being beyond int64.
    bool ignores(Label label) const {
        if constexpr (sizeof(Label) == 8 && !std::numeric_limits<Label>::is_signed)
            return p.ignored_label >= 0 && label == Label(p.ignored_label);
        else
            return std::int64_t(label) == p.ignored_label;
    }
    // Labels [first, first + count) and which of their rows count.
    void read(std::int64_t first, int count, Label* labels, bool* counts) const {
        const char* from = p.labels.data + first * p.labels.stride;
        for (int i = 0; i < count; ++i) labels[i] = *reinterpret_cast<const Label*>(from + i * p.labels.stride);
        std::fill(counts, counts + count, true);
        if (p.ignores_label) for (int i = 0; i < count; ++i) counts[i] = !ignores(labels[i]);
        if (p.row_weight) for (int i = 0; i < count; ++i) counts[i] &= p.row_weight(first + i) != 0;
    }
    // A negative label is a large number without its sign.
    bool is_class(Label label) const { return std::uint64_t(label) < std::uint64_t(p.classes); }

    bool all_are_classes(const char* from, std::int64_t count) const {
        using Bits = std::make_unsigned_t<Label>;
        const Bits top = Bits(std::min<std::uint64_t>(p.classes - 1, std::numeric_limits<Label>::max()));
        // Whose highest bit is set in neither label nor top - label; of labels without a sign that is asked of the comparison.
        auto is_wrong = [&](Label label) {
            if constexpr (std::numeric_limits<Label>::is_signed) return Bits(Bits(label) | Bits(top - Bits(label)));
            else return Bits(label > top);
        };
        Bits found = 0;
        if (p.labels.stride == sizeof(Label))
            for (std::int64_t i = 0; i < count; ++i) found |= is_wrong(reinterpret_cast<const Label*>(from)[i]);
        else
            for (std::int64_t i = 0; i < count; ++i) found |= is_wrong(*reinterpret_cast<const Label*>(from + i * p.labels.stride));
        return std::numeric_limits<Label>::is_signed ? !(found >> (8 * sizeof(Label) - 1)) : !found;
    }

    struct Part { std::int64_t wrong = -1, counted = 0; };
    Part check(std::int64_t first, std::int64_t end) const {
        Part part;
        if (!p.row_weight && !(p.ignores_label && std::uint64_t(p.ignored_label) < std::uint64_t(p.classes))) {
            // The usual case: all are classes, and none of these is ignored.
            if (all_are_classes(p.labels.data + first * p.labels.stride, end - first)) return {-1, end - first};
        }
        Label labels[chunk];
        bool counts[chunk];
        for (; first < end; first += chunk) {
            int count = int(std::min(chunk, end - first)), counted = 0, wrong = 0;
            read(first, count, labels, counts);
            for (int i = 0; i < count; ++i) counted += counts[i], wrong += counts[i] & !is_class(labels[i]);
            part.counted += counted;
            for (int i = 0; wrong; ++i)
                if (counts[i] && !is_class(labels[i])) return {first + i, part.counted};
        }
        return part;
    }

    LabelScan scan() const {
        constexpr std::int64_t step = 1 << 14;
        std::int64_t steps = (p.count + step - 1) / step;
        std::vector<Part> parts(steps);
        parallel_for(steps, workers_for(double(p.count), p.threads, steps),
                     [&](std::int64_t i, int) { parts[i] = check(i * step, std::min(p.count, (i + 1) * step)); });
        LabelScan result;
        for (const Part& part : parts) {
            result.counted += part.counted;
            result.wrong = part.wrong;
            if (part.wrong >= 0) return result;
        }
        result.weight = p.class_weight || p.row_weight ? weight() : double(result.counted);
        return result;
    }

    double weight() const {
        RunningSum sum;
        Label labels[chunk];
        bool counts[chunk];
        for (std::int64_t first = 0; first < p.count; first += chunk) {
            int count = int(std::min(chunk, p.count - first));
            read(first, count, labels, counts);
            for (int i = 0; i < count; ++i) {
                double value = p.class_weight ? p.class_weight[counts[i] ? std::int64_t(labels[i]) : 0] : 1;
                sum.add_if(counts[i], p.row_weight ? p.row_weight(first + i) * value : value);
            }
        }
        return sum.result();
    }

    void which_count(std::int64_t first, int count, bool* counts) const {
        Label labels[chunk];
        read(first, count, labels, counts);
    }
};

template <class Body> auto with_reader(const Labels& labels, Body body) {
    switch (labels.labels.dtype) {
        case DType::int64: return body(Reader<std::int64_t>{labels});
        case DType::int32: return body(Reader<std::int32_t>{labels});
        case DType::int16: return body(Reader<std::int16_t>{labels});
        case DType::int8: return body(Reader<std::int8_t>{labels});
        case DType::uint64: return body(Reader<std::uint64_t>{labels});
        case DType::uint32: return body(Reader<std::uint32_t>{labels});
        case DType::uint16: return body(Reader<std::uint16_t>{labels});
        default: return body(Reader<std::uint8_t>{labels});
    }
}

}  // namespace

LabelScan scan_labels(const Labels& labels) {
    return with_reader(labels, [](auto reader) { return reader.scan(); });
}

double total_loss(const Problem& p, const PerRow<const double>& row_weight) {
    RunningSum sum;
    if (!p.valid && !p.ignores_label && !row_weight) {
        sum.add_all(&p.loss(0), p.rows);
        return sum.result();
    }
    Labels labels;
    labels.labels = {p.indices.data, p.indices.dtype, p.indices.outer_stride};
    labels.ignored_label = p.ignored_label;
    labels.ignores_label = p.ignores_label;
    bool counts[chunk];
    for (std::int64_t first = 0; first < p.rows; first += chunk) {
        int count = int(std::min(chunk, p.rows - first));
        if (p.ignores_label) with_reader(labels, [&](auto reader) { reader.which_count(first, count, counts); });
        else std::fill(counts, counts + count, true);
        if (p.valid) for (int i = 0; i < count; ++i) counts[i] &= p.valid(first + i);
        for (int i = 0; i < count; ++i) {
            double loss = p.loss(first + i);
            sum.add_if(counts[i], row_weight ? loss * row_weight(first + i) : loss);
        }
    }
    return sum.result();
}
