#include "xla_rows.hpp"

#include <algorithm>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "environment.hpp"
#include "labels.hpp"
#include "schedule.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

using namespace xla_ffi;

DType dtype_of(DataType type) {
    switch (type) {
        case DataType::f64: return DType::float64;
        case DataType::f32: return DType::float32;
        case DataType::f16: return DType::float16;
        case DataType::bf16: return DType::bfloat16;
        case DataType::s64: return DType::int64;
        case DataType::s32: return DType::int32;
        case DataType::s16: return DType::int16;
        case DataType::s8: return DType::int8;
        case DataType::u64: return DType::uint64;
        case DataType::u32: return DType::uint32;
        case DataType::u16: return DType::uint16;
        case DataType::u8: return DType::uint8;
        case DataType::pred: return DType::boolean;
    }
    throw std::invalid_argument("unsupported dtype");
}

std::int64_t bytes_of(DType dtype) {
    switch (dtype) {
        case DType::float64: case DType::int64: case DType::uint64: return 8;
        case DType::float32: case DType::int32: case DType::uint32: return 4;
        case DType::float16: case DType::bfloat16: case DType::int16: case DType::uint16: return 2;
        default: return 1;
    }
}

// A row-major array of the program.
struct Array {
    char* data = nullptr;
    DType dtype = DType::float64;
    std::int64_t rank = 0, size = 0;
    const std::int64_t* extents = nullptr;

    constexpr Array() = default;
    explicit Array(const Buffer& buffer) : data(static_cast<char*>(buffer.data)), dtype(dtype_of(buffer.dtype)), rank(buffer.rank), size(1), extents(buffer.extents) {
        for (std::int64_t axis = 0; axis < rank; ++axis) size *= extents[axis];
    }
    explicit operator bool() const { return size != 0; }
    std::int64_t item() const { return bytes_of(dtype); }
    std::int64_t last() const { return rank ? extents[rank - 1] : 1; }
};

class Call {
    const CallFrame& frame;

    static Array array(const Buffers& buffers, std::int64_t index) {
        if (index >= buffers.count || buffers.types[index] != buffer_type) throw std::invalid_argument("expected another number of arrays");
        const Buffer& buffer = *static_cast<const Buffer*>(buffers.entries[index]);
        if (buffer.size < sizeof(Buffer)) throw std::invalid_argument("arrays of an unknown version");
        return Array(buffer);
    }
    // null: not given
    const void* attribute(std::string_view name, AttributeType type) const {
        const Attributes& all = frame.attributes;
        for (std::int64_t i = 0; i < all.count; ++i)
            if (std::string_view(all.names[i]->data, all.names[i]->length) == name) {
                if (all.types[i] != type) throw std::invalid_argument("another type of the attribute " + std::string(name));
                return all.values[i];
            }
        return nullptr;
    }

public:
    explicit Call(const CallFrame& frame) : frame(frame) {}
    Array argument(std::int64_t index) const { return array(frame.arguments, index); }
    Array result(std::int64_t index) const { return array(frame.results, index); }
    void read(const char* name, double& to) const {
        const auto* scalar = static_cast<const Scalar*>(attribute(name, AttributeType::scalar));
        if (!scalar) return;
        if (scalar->dtype != DataType::f64) throw std::invalid_argument(std::string("another dtype of the attribute ") + name);
        to = *static_cast<const double*>(scalar->value);
    }
    std::string_view text(const char* name) const {
        const auto* text = static_cast<const Text*>(attribute(name, AttributeType::string));
        return text ? std::string_view(text->data, text->length) : std::string_view();
    }
    // body(i, word) for the words of a text.
    template <class Body> void words(const char* name, Body body) const {
        std::string_view rest = text(name);
        for (std::int64_t i = 0; !rest.empty(); ++i) {
            std::size_t length = std::min(rest.find(' '), rest.size());
            body(i, rest.substr(0, length));
            rest.remove_prefix(std::min(length + 1, rest.size()));
        }
    }
};

// The arrays that a call is given, by their names.
class Arguments {
    static constexpr int most = 16;
    std::string_view names[most];
    std::optional<Array> arrays[most];

public:
    explicit Arguments(const Call& call) {
        call.words("given", [&](std::int64_t i, std::string_view name) {
            if (i == most) throw std::invalid_argument("more arrays than there are names for");
            names[i] = name;
            arrays[i].emplace(call.argument(i));
        });
    }
    // Without data: absent.
    const Array& operator[](std::string_view name) const {
        static constexpr Array absent;
        for (int i = 0; i < most && arrays[i]; ++i)
            if (names[i] == name) return *arrays[i];
        return absent;
    }
};

// The numbers of an array as the core reads them, in float64.
class Doubles {
    std::unique_ptr<double[]> converted;
    const double* data = nullptr;
    std::int64_t first = 0, last = 1;

public:
    explicit Doubles(const Array& a) {
        if (!a) return;
        first = a.rank ? a.extents[0] : 1, last = a.rank > 1 ? a.last() : 1;
        if (a.dtype == DType::float64) {
            data = reinterpret_cast<const double*>(a.data);
            return;
        }
        if (a.dtype != DType::float32) throw std::invalid_argument("expected numbers in float32 or float64");
        converted.reset(new double[a.size]);
        std::copy_n(reinterpret_cast<const float*>(a.data), a.size, converted.get());
        data = converted.get();
    }
    const double* get() const { return data; }
    // A first axis of 1 serves every row.
    PerRow<const double> per_row() const { return {data, first == 1 ? 0 : std::int64_t(sizeof(double)) * last, last == 1 ? 0 : std::int64_t(sizeof(double))}; }
};

// (classes,) for every row, or (rows, classes).
Matrix matrix(const Array& a, std::int64_t inner) {
    if (!a) return {};
    std::int64_t row = a.rank == 1 ? 0 : a.last() * a.item();
    return {a.data, a.dtype, row * inner, a.item(), row};
}

// XLA's results are mostly fresh memory, which the system clears page by page when it is first written: in huge pages, as NumPy
// asks for its arrays. A wish: what comes of it does not matter.
void ask_for_huge_pages([[maybe_unused]] char* data, [[maybe_unused]] std::int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (bytes < 1 << 22) return;
    std::int64_t before = -reinterpret_cast<std::intptr_t>(data) & (sysconf(_SC_PAGESIZE) - 1);
    madvise(data + before, bytes - before, MADV_HUGEPAGE);
#endif
}

// One sum for each of the `totals`, over as many rows.
void add_up(const Problem& whole, const PerRow<const double>& row_weight, const Array& totals) {
    Problem p = whole;
    PerRow<const double> weight = row_weight;
    p.rows = whole.rows / totals.size;
    for (std::int64_t i = 0; i < totals.size; ++i) {
        p.loss.data = &whole.loss(i * p.rows);
        if (p.valid) p.valid.data = &whole.valid(i * p.rows);
        if (weight) weight.data = &row_weight(i * p.rows);
        double sum = total_loss(p, weight);
        if (totals.dtype == DType::float64) reinterpret_cast<double*>(totals.data)[i] = sum;
        else reinterpret_cast<float*>(totals.data)[i] = float(sum);
    }
}

// Numbers per row that the core computes in double, for a result of the program.
class Numbers {
    std::unique_ptr<double[]> memory;
    std::optional<Array> to;
    std::int64_t count = 0;

public:
    PerRow<double> own(std::int64_t rows) {
        memory.reset(new double[rows]);
        return {memory.get(), sizeof(double), 0};
    }
    // In the result itself, if there is one for each row and it is in double.
    PerRow<double> place(const Array& result, std::int64_t rows, bool one_by_one) {
        to.emplace(result), count = rows;
        if (one_by_one && result.dtype == DType::float64) return {reinterpret_cast<double*>(result.data), sizeof(double), 0};
        return own(rows);
    }
    const Array& result() const { return *to; }
    void deliver() const {
        if (!to || !memory) return;
        std::copy_n(memory.get(), count, reinterpret_cast<float*>(to->data));
    }
};

// What a gradient can be computed of later, of rows of labels: doubles whose bits stand in 32-bit integers, for the program may have no
// doubles. 0 ties: not by this core.
void set_statistics(Problem& p, const Array& kept) {
    std::int64_t numbers = 3 + p.entries, step = numbers * std::int64_t(sizeof(double));
    if (kept.size != 2 * p.rows * numbers || kept.dtype != DType::uint32 || p.dense.data || p.smoothing != 0 || !p.has_softmax)
        throw std::invalid_argument("other statistics than those of labels");
    double* first = reinterpret_cast<double*>(kept.data);
    p.maximum = {first, step, 0};
    p.ties = {first + 1, step, 0};
    p.others = {first + 2, step, 0};
    p.target_logit = {first + 3, step, sizeof(double)};
}

void set_undefined(const Problem& p, std::int64_t row) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    p.dense_mass(row) = nan;
    if (p.loss) p.loss(row) = nan;
    if (!p.gradient.data) return;
    char* entry = p.gradient.data + row / p.inner * p.gradient.outer_stride + row % p.inner * p.gradient.inner_stride;
    for (std::int64_t j = 0; j < p.classes; ++j, entry += p.gradient.class_stride) {
        if (p.gradient.dtype == DType::float64) *reinterpret_cast<double*>(entry) = nan;
        else *reinterpret_cast<float*>(entry) = float(nan);
    }
}

void compute(const Call& call) {
    // XLA's threads take denormal numbers for 0. The core computes as it does for NumPy, and so do the threads that it starts.
    Environment ordinary(FE_DFL_ENV);
    Arguments given(call);
    const Array &logits = given["logits"], &indices = given["indices"], &valid = given["valid"];
    if (logits.rank != 3) throw std::invalid_argument("expected logits (outer, classes, inner)");
    Doubles class_bias(given["class_bias"]), index_weight(given["index_weight"]), class_weight(given["class_weight"]),
        target_sum(given["target_sum"]), upstream(given["upstream"]), row_weight(given["row_weight"]);
    Problem p;
    p.classes = logits.extents[1];
    p.inner = logits.extents[2];
    p.rows = logits.extents[0] * p.inner;
    auto cube = [&](const Array& a) {
        std::int64_t step = a.item() * p.inner;
        return Matrix{a.data, a.dtype, p.classes * step, step, p.inner == 1 ? 0 : a.item()};
    };
    p.logits = cube(logits);
    p.has_softmax = call.text("inputs") == "logits";
    p.are_probabilities = call.text("inputs") == "probs";
    call.read("temperature", p.temperature);
    call.read("softcap", p.softcap);
    p.add_bias(class_bias.get());
    p.mask = matrix(given["class_mask"], p.inner);
    if (indices) {
        p.entries = indices.last();
        p.indices = {indices.data, indices.dtype, p.entries * indices.item(), p.entries > 1 ? indices.item() : 0, 0};
    }
    p.index_weight = index_weight.per_row();
    p.dense = matrix(given["dense"], p.inner);
    call.read("dense_scale", p.dense_scale);
    p.class_weight = class_weight.get();
    call.read("label_smoothing", p.smoothing);
    p.target_sum = target_sum.per_row();
    call.read("z_loss", p.z_loss);
    call.read("focal_gamma", p.focal_gamma);
    if (valid) p.valid = {reinterpret_cast<const bool*>(valid.data), sizeof(bool), 0};
    p.upstream = upstream.per_row();
    p.threads = 0;  // every core

    Numbers losses, masses;
    bool adds_up = false;
    call.words("gives", [&](std::int64_t i, std::string_view name) {
        Array result = call.result(i);
        if (name == "loss" || name == "total") {
            adds_up = name == "total";
            if (!result || (adds_up ? p.rows % result.size != 0 : result.size != p.rows)) throw std::invalid_argument("another number of losses than rows");
            p.loss = losses.place(result, p.rows, !adds_up);
        } else if (name == "mass") {
            if (result.size != p.rows) throw std::invalid_argument("another number of masses than rows");
            p.dense_mass = masses.place(result, p.rows, true);
        } else if (name == "gradient") {
            ask_for_huge_pages(result.data, result.size * result.item());
            p.gradient = cube(result);
        } else if (name == "statistics") {
            set_statistics(p, result);
        } else {
            throw std::invalid_argument("no result " + std::string(name));
        }
    });
    if (const Array& kept = given["statistics"]) {
        set_statistics(p, kept);
        p.given = true;
        for (std::int64_t i = 0; i < p.rows; ++i) p.given &= p.ties(i) != 0;
        if (!p.given) p.maximum = p.ties = p.others = p.target_logit = {};
    }
    // What nobody could refuse before: the kernel finds what is negative or NaN, and an infinite entry has an infinite mass.
    if (p.dense.data && !p.dense_mass) p.dense_mass = masses.own(p.rows);
    compute_rows(p, std::string(call.text("instruction_set")));
    for (std::int64_t i = 0; i < p.rows && p.dense_mass; ++i)
        if (!(p.dense_mass(i) <= std::numeric_limits<double>::max())) set_undefined(p, i);
    if (adds_up) add_up(p, row_weight.per_row(), losses.result());
    else losses.deliver();
    masses.deliver();
}

Error* error(const CallFrame& frame, const char* message, std::int32_t code) {
    ErrorDescription description{sizeof(ErrorDescription), nullptr, message, code};
    return frame.api->create_error(&description);
}

}  // namespace

Error* xla_rows(CallFrame* frame) {
    if (Extension* first = frame->extensions; first && first->type == metadata_extension) {
        Version& version = reinterpret_cast<MetadataExtension*>(first)->metadata->version;
        version.major = major_version;
        version.minor = minor_version;
        return nullptr;
    }
    try {
        if (frame->size < sizeof(CallFrame) || frame->stage != execute_stage) throw std::invalid_argument("a call of an unknown version");
        compute(Call(*frame));
    } catch (const std::bad_alloc&) {
        return error(*frame, "out of memory", resource_exhausted);
    } catch (const std::exception& exception) {
        return error(*frame, exception.what(), invalid_argument);
    }
    return nullptr;
}
