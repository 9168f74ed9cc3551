// Python's arrays as a Problem. No arithmetic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <list>
#include <memory>
#include <optional>
#include <stdexcept>

#include "buffer.hpp"
#include "labels.hpp"
#include "ranges.hpp"
#include "schedule.hpp"
#include "threads.hpp"
#include "xla_rows.hpp"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

// An argument that may be None.
class Optional : public std::optional<Buffer> {
public:
    Optional() = default;
    explicit Optional(nb::handle array, Buffer::Access access = Buffer::read) {
        if (!array.is_none()) emplace(array, access);
    }
};

// bfloat16 has no place in NumPy's buffers: it comes as its bits, uint16.
DType dtype_of(const Buffer& array, bool is_bfloat16) { return is_bfloat16 ? DType::bfloat16 : array.dtype(); }

// (outer, classes, inner), or two dimensions of which `axis` holds the classes.
Matrix matrix(const Buffer& a, int axis, bool is_bfloat16 = false) {
    DType dtype = dtype_of(a, is_bfloat16);
    if (a.dimensions() == 3) return {a.data(), dtype, a.stride(0), a.stride(1), a.stride(2)};
    if (a.dimensions() != 2) throw std::invalid_argument("expected two dimensions, or (outer, classes, inner)");
    if (axis == 1) return {a.data(), dtype, a.stride(0), a.stride(1), 0};
    return {a.data(), dtype, 0, a.stride(0), a.stride(1)};
}

void set_rows(Problem& p, const Buffer& logits, int axis) {
    bool is_cube = logits.dimensions() == 3;
    p.classes = logits.extent(is_cube ? 1 : axis);
    p.inner = is_cube ? logits.extent(2) : axis == 1 ? 1 : logits.extent(1);
    p.rows = is_cube ? logits.extent(0) * p.inner : axis == 1 ? logits.extent(0) : p.inner;
}

// (rows,) or (rows, K); a first axis of 1 serves every row
template <class T> PerRow<T> per_row(const Buffer& array) {
    if (array.item_bytes() != sizeof(T)) throw std::invalid_argument("per-row numbers of the wrong size");
    return {(T*)array.data(), array.stride(0), array.dimensions() > 1 ? array.stride(1) : 0};
}
template <class T> PerRow<T> per_row(const Optional& array) { return array ? per_row<T>(*array) : PerRow<T>(); }

template <class T> T* vector_of(const Buffer& array, std::int64_t count) {
    if (array.dimensions() != 1 || array.size() != count || array.item_bytes() != sizeof(T) || (count > 1 && array.stride(0) != sizeof(T)))
        throw std::invalid_argument("expected a contiguous vector, one number per row");
    return (T*)array.data();
}

// Numbers per row, or one Python number for all.
class Numbers {
    double same = 0;
    Optional array;

public:
    explicit Numbers(nb::handle value) {
        if (PyFloat_Check(value.ptr())) same = nb::cast<double>(value);
        else if (!value.is_none()) array.emplace(value);
        else return;
        is_given = true;
    }
    bool is_given = false;
    PerRow<const double> get() const {
        if (!is_given) return {};
        return array ? per_row<const double>(*array) : PerRow<const double>{&same, 0, 0};
    }
};

const double* by_class(const Optional& array, std::int64_t classes) {
    if (!array) return nullptr;
    if (array->item_bytes() != 8 || array->size() != classes) throw std::invalid_argument("per-class numbers of the wrong size");
    return (const double*)array->data();
}

// Fills the arrays of `results`; returns the sum of row_weight x loss over the rows that count, if `wants_total`.
nb::object rows(nb::handle logits_array, int axis, bool is_bfloat16, bool has_softmax, bool are_probabilities, double temperature, double softcap,
                nb::handle class_bias_array, nb::handle mask_array, nb::handle indices_array, std::optional<std::int64_t> ignored_label,
                nb::handle index_weight_number, bool weigh_indices, nb::handle dense_array, bool dense_is_bfloat16, double dense_scale,
                nb::handle class_weight_array, double smoothing, nb::handle target_sum_array, double z_loss, double focal_gamma,
                nb::handle valid_array, nb::handle row_weight_array, nb::handle upstream_number, const nb::dict& results, bool wants_total,
                nb::handle gradient_array, int threads, const std::string& instruction_set) {
    Buffer logits(logits_array);
    Optional class_bias(class_bias_array), mask(mask_array), indices(indices_array), dense(dense_array), class_weight(class_weight_array),
        target_sum(target_sum_array), valid(valid_array), row_weight(row_weight_array), gradient(gradient_array, Buffer::write);
    Numbers index_weight(index_weight_number), upstream(upstream_number);
    Problem p;
    set_rows(p, logits, axis);
    p.logits = matrix(logits, axis, is_bfloat16);
    p.has_softmax = has_softmax;
    p.are_probabilities = are_probabilities;
    p.temperature = temperature;
    p.softcap = softcap;
    p.add_bias(by_class(class_bias, p.classes));
    if (mask) p.mask = matrix(*mask, axis);
    if (indices) {
        p.entries = indices->dimensions() > 1 ? indices->extent(1) : 1;
        p.indices = {indices->data(), indices->dtype(), indices->stride(0), p.entries > 1 ? indices->stride(1) : 0, 0};
    }
    p.ignores_label = ignored_label.has_value();
    p.ignored_label = ignored_label.value_or(0);
    p.index_weight = index_weight.get();
    p.weigh_indices = weigh_indices;
    if (dense) p.dense = matrix(*dense, axis, dense_is_bfloat16);
    p.dense_scale = dense_scale;
    p.class_weight = by_class(class_weight, p.classes);
    p.smoothing = smoothing;
    p.target_sum = per_row<const double>(target_sum);
    p.z_loss = z_loss;
    p.focal_gamma = focal_gamma;
    p.valid = per_row<const bool>(valid);
    p.upstream = upstream.get();
    Optional outputs[14];
    int next = 0;
    auto result = [&]<class T>(const char* name, PerRow<T>& to) {
        PyObject* array = PyDict_GetItemString(results.ptr(), name);
        if (!array) return;
        outputs[next].emplace(array, Buffer::write);
        to = per_row<T>(outputs[next++]);
    };
    if (PyDict_Size(results.ptr())) {
        result("loss", p.loss);
        result("maximum", p.maximum);
        result("ties", p.ties);
        result("others", p.others);
        result("target_logit", p.target_logit);
        result("profile", p.profile);
        result("profile_mass", p.profile_mass);
        result("allowed", p.allowed);
        result("dense", p.dense_sum);
        result("dense_mass", p.dense_mass);
        result("target_sum", p.target_sum_found);
        result("entropy_sum", p.entropy_sum);
        result("prediction", p.prediction);
    }
    if (gradient) p.gradient = matrix(*gradient, axis, is_bfloat16);
    p.threads = threads;
    double total = 0;
    {
        nb::gil_scoped_release release;
        std::unique_ptr<double[]> losses;
        if (wants_total && !p.loss) {
            losses.reset(new double[p.rows]);
            p.loss = {losses.get(), sizeof(double), 0};
        }
        compute_rows(p, instruction_set);
        if (wants_total) total = total_loss(p, per_row<const double>(row_weight));
    }
    return wants_total ? nb::object(nb::float_(total)) : nb::object(nb::none());
}

// How many rows count and their weight; None where a label is no class, or for what is not read here.
nb::object labels(nb::handle labels_array, std::int64_t classes, nb::handle ignored_label, nb::handle class_weight_array,
                  nb::handle row_weight_array, int threads) {
    Buffer labels(labels_array);
    Optional class_weight(class_weight_array), row_weight(row_weight_array);
    Labels p;
    p.labels = {labels.data(), labels.dtype(), labels.stride(0)};
    p.count = labels.extent(0);
    p.classes = classes;
    int is_too_large = 0;
    p.ignores_label = !ignored_label.is_none();
    if (p.ignores_label) p.ignored_label = PyLong_AsLongLongAndOverflow(ignored_label.ptr(), &is_too_large);
    if (is_too_large || !labels.is_aligned()) return nb::none();
    p.class_weight = by_class(class_weight, classes);
    p.row_weight = per_row<const double>(row_weight);
    p.threads = threads;
    LabelScan scan;
    {
        nb::gil_scoped_release release;
        scan = scan_labels(p);
    }
    if (scan.wrong >= 0) return nb::none();
    return nb::make_tuple(scan.counted, scan.weight);
}

// How many of a vector's numbers are `ignored`; None where another is outside [low, high], or for what is not read here.
nb::object within(nb::handle array, double low, double high, std::optional<double> ignored, bool allows_nan, bool ends_only, int threads) {
    Buffer numbers(array);
    if (!numbers.is_aligned() || (numbers.size() > 1 && numbers.stride(0) != numbers.item_bytes())) return nb::none();
    Range range{low, high, allows_nan, ends_only, ignored.has_value(), ignored.value_or(0), threads};
    std::int64_t found;
    {
        nb::gil_scoped_release release;
        found = count_ignored({numbers.data(), numbers.dtype(), numbers.item_bytes()}, numbers.size(), range);
    }
    return found < 0 ? nb::object(nb::none()) : nb::object(nb::int_(found));
}

// Fill `values` (rows,) with the entries at the labels; False where one is outside [low, high], or cannot be read.
bool labelled(nb::handle logits_array, int axis, nb::handle labels_array, std::optional<std::int64_t> ignored_label, double low, double high,
              nb::handle values_array, int threads) {
    Buffer logits(logits_array), labels(labels_array), values(values_array, Buffer::write);
    Problem p;
    set_rows(p, logits, axis);
    p.logits = matrix(logits, axis);
    p.indices = {labels.data(), labels.dtype(), labels.stride(0), 0, 0};
    p.ignores_label = ignored_label.has_value();
    p.ignored_label = ignored_label.value_or(0);
    p.threads = threads;
    Range range{low, high, true};
    nb::gil_scoped_release release;
    return gather_labelled(p, range, (double*)values.data());
}

Elements elements(const Buffer& array, bool is_bfloat16 = false) {
    if (array.dimensions() != 1) throw std::invalid_argument("expected a vector");
    return {array.data(), dtype_of(array, is_bfloat16), array.stride(0)};
}
// Of an array that was broadcast: its own entries, each of which serves `repeat` elements in turn.
Elements broadcast(const Buffer& array, std::int64_t repeat, std::int64_t count) {
    Elements a = elements(array);
    if (repeat < 1 || array.size() < 1 || count % (array.size() * repeat)) throw std::invalid_argument("entries that do not serve all elements");
    a.repeat = repeat;
    a.period = array.size();
    return a;
}

// Fills `losses`, of every element, or `sums`, of blocks; and `gradient`.
void binary(nb::handle logits_array, bool is_bfloat16, int inputs, nb::handle target_array, bool target_is_bfloat16,
            std::optional<double> ignored_label, nb::handle valid_array, nb::handle pos_weight_array, std::int64_t pos_weight_repeat,
            nb::handle weight_array, std::int64_t weight_repeat, double scale, double smoothing, double focal_gamma, double factor, nb::handle losses_array,
            nb::handle sums_array, nb::handle gradient_array, int threads, const std::string& instruction_set) {
    Buffer logits(logits_array), target(target_array);
    Optional pos_weight(pos_weight_array), weight(weight_array), valid(valid_array), losses(losses_array, Buffer::write),
        sums(sums_array, Buffer::write), gradient(gradient_array, Buffer::write);
    ElementProblem p;
    p.count = logits.extent(0);
    p.inputs = ElementProblem::Inputs(inputs);
    p.logits = elements(logits, is_bfloat16);
    p.target = elements(target, target_is_bfloat16);
    if (pos_weight) p.pos_weight = broadcast(*pos_weight, pos_weight_repeat, p.count);
    if (weight) p.weight = broadcast(*weight, weight_repeat, p.count);
    if (valid) p.valid = elements(*valid);
    p.ignores = ignored_label.has_value();
    p.ignored = ignored_label.value_or(0);
    p.smoothing = smoothing;
    p.focal_gamma = focal_gamma;
    p.factor = factor;
    p.scale = scale;
    if (losses) p.losses = elements(*losses);
    if (gradient) p.gradient = elements(*gradient, is_bfloat16);
    if (sums) {
        if (sums->size() != element_blocks(p.count)) throw std::invalid_argument("one sum per block");
        p.sums = (double*)sums->data();
    }
    for (const Optional* each : {&valid, &losses, &gradient})
        if (*each && (*each)->size() != p.count) throw std::invalid_argument("one number per element");
    if (target.size() != p.count) throw std::invalid_argument("one target per element");
    p.threads = threads;
    nb::gil_scoped_release release;
    compute_elements(p, instruction_set);
}

void scores(nb::handle values_array, int inputs, nb::handle labels_array, nb::handle weights_array, const nb::dict& results,
            const std::vector<double>& inverse_temperature, nb::handle by_temperature_array, nb::handle gap_array, int threads,
            const std::string& instruction_set) {
    Buffer values(values_array), labels(labels_array);
    Optional weights(weights_array), by_temperature(by_temperature_array, Buffer::write), gap(gap_array, Buffer::write);
    if (values.dimensions() != 2 || values.extent(1) < 1) throw std::invalid_argument("expected (rows, classes), one class or more");
    ScoreProblem p;
    p.rows = values.extent(0);
    p.classes = values.extent(1);
    p.values = {values.data(), values.dtype(), values.stride(0), values.stride(1), 0};
    p.inputs = Inputs(inputs);
    p.labels = vector_of<const std::int64_t>(labels, p.rows);
    if (weights) p.weights = vector_of<const double>(*weights, p.rows);
    std::list<Buffer> held;
    auto place = [&]<class Number>(Number*& to, const char* name) {
        if (results.contains(name)) to = vector_of<Number>(held.emplace_back(results[name], Buffer::write), p.rows);
    };
    place(p.loss, "loss");
    place(p.entropy, "entropy");
    place(p.label_probability, "label_probability");
    place(p.prediction_probability, "prediction_probability");
    place(p.row_sum, "row_sum");
    place(p.prediction, "prediction");
    if (by_temperature) {
        std::int64_t blocks = score_blocks(p.rows);
        if (!gap || inverse_temperature.size() != temperatures) throw std::invalid_argument("expected 9 temperatures and both sums");
        std::copy(inverse_temperature.begin(), inverse_temperature.end(), p.inverse_temperature);
        p.by_temperature = vector_of<double>(*by_temperature, blocks * folds * sums_per_fold);
        p.gap = vector_of<double>(*gap, blocks * 2);
    }
    p.threads = threads;
    nb::gil_scoped_release release;
    compute_scores(p, instruction_set);
}

}  // namespace

NB_MODULE(_native, m) {
    m.def("instruction_sets", &instruction_sets, "Instruction sets of this build that this machine has, best first.");
    m.def("environment", [](const char* name) { const char* value = std::getenv(name); return std::string(value ? value : ""); }, "name"_a);
    m.def("rows", &rows, "logits"_a, "axis"_a, "is_bfloat16"_a, "has_softmax"_a, "are_probabilities"_a, "temperature"_a, "softcap"_a,
          "class_bias"_a.none(), "mask"_a.none(), "indices"_a.none(), "ignored_label"_a.none(), "index_weight"_a.none(), "weigh_indices"_a,
          "dense"_a.none(), "dense_is_bfloat16"_a, "dense_scale"_a, "class_weight"_a.none(), "smoothing"_a, "target_sum"_a.none(),
          "z_loss"_a, "focal_gamma"_a, "valid"_a.none(), "row_weight"_a.none(), "upstream"_a.none(), "results"_a, "wants_total"_a,
          "gradient"_a.none(), "threads"_a, "instruction_set"_a);
    m.def("labels", &labels, "labels"_a, "classes"_a, "ignored_label"_a.none(), "class_weight"_a.none(), "row_weight"_a.none(), "threads"_a = 0);
    m.attr("folds") = folds;
    m.attr("sums_per_fold") = sums_per_fold;
    m.def("score_blocks", &score_blocks, "rows"_a);
    m.def("scores", &scores, "values"_a, "inputs"_a, "labels"_a, "weights"_a.none(), "results"_a, "inverse_temperature"_a,
          "by_temperature"_a.none(), "gap"_a.none(), "threads"_a, "instruction_set"_a);
    m.def("lend_pool", [](std::uintptr_t parallel, std::uintptr_t size) {
        lend_pool({reinterpret_cast<decltype(Pool::parallel)>(parallel), reinterpret_cast<decltype(Pool::size)>(size)});
    }, "gomp_parallel"_a, "omp_get_max_threads"_a);
    m.def("within", &within, "numbers"_a, "low"_a, "high"_a, "ignored"_a.none(), "allows_nan"_a, "ends_only"_a, "threads"_a = 0);
    m.def("labelled", &labelled, "logits"_a, "axis"_a, "labels"_a, "ignored_label"_a.none(), "low"_a, "high"_a, "values"_a,
          "threads"_a = 0);
    m.def("xla_rows", [] { return nb::capsule(reinterpret_cast<const void*>(&xla_rows)); }, "The core as a handler of XLA's foreign function interface.");
    m.def("element_blocks", &element_blocks, "count"_a);
    m.def("binary", &binary, "logits"_a, "is_bfloat16"_a, "inputs"_a, "target"_a, "target_is_bfloat16"_a, "ignored_label"_a.none(),
          "valid"_a.none(), "pos_weight"_a.none(), "pos_weight_repeat"_a, "weight"_a.none(), "weight_repeat"_a, "scale"_a, "smoothing"_a,
          "focal_gamma"_a, "factor"_a, "losses"_a.none(), "sums"_a.none(), "gradient"_a.none(), "threads"_a, "instruction_set"_a);
}
