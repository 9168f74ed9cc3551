// Python's arrays as a Problem. No arithmetic here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "schedule.hpp"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace {

using Array = nb::ndarray<nb::ro, nb::device::cpu>;
using Output = nb::ndarray<nb::device::cpu>;

// bfloat16 has no place in NumPy's buffers: it comes as its bits, uint16.
template <class A> DType dtype_of(const A& array, bool is_bfloat16) {
    if (is_bfloat16) return DType::bfloat16;
    using Code = nb::dlpack::dtype_code;
    nb::dlpack::dtype type = array.dtype();
    auto is = [&](Code code, int bits) { return type.code == std::uint8_t(code) && type.bits == bits; };
    if (is(Code::Float, 64)) return DType::float64;
    if (is(Code::Float, 32)) return DType::float32;
    if (is(Code::Float, 16)) return DType::float16;
    if (is(Code::Int, 64)) return DType::int64;
    if (is(Code::Int, 32)) return DType::int32;
    if (is(Code::Int, 16)) return DType::int16;
    if (is(Code::Int, 8)) return DType::int8;
    if (is(Code::UInt, 64)) return DType::uint64;
    if (is(Code::UInt, 32)) return DType::uint32;
    if (is(Code::UInt, 16)) return DType::uint16;
    if (is(Code::UInt, 8)) return DType::uint8;
    if (is(Code::Bool, 8)) return DType::boolean;
    throw std::invalid_argument("unsupported dtype");
}

template <class A> char* start(const A& array) { return (char*)array.data(); }
template <class A> std::int64_t stride(const A& array, std::size_t axis) {
    // An axis of one element is stepped over by 0, so that what is the same for all rows (or classes) needs no copy.
    return array.shape(axis) == 1 ? 0 : array.stride(axis) * std::int64_t(array.itemsize());
}

// (outer, classes, inner)
template <class A> Matrix matrix(const A& array, bool is_bfloat16 = false) {
    if (array.ndim() != 3) throw std::invalid_argument("expected (outer, classes, inner)");
    return {start(array), dtype_of(array, is_bfloat16), stride(array, 0), stride(array, 1), stride(array, 2)};
}

// (rows,) or (rows, K); a first axis of 1 serves every row
template <class T, class A> PerRow<T> per_row(const std::optional<A>& array) {
    if (!array) return {};
    if (array->itemsize() != sizeof(T)) throw std::invalid_argument("per-row numbers of the wrong size");
    return {(T*)start(*array), stride(*array, 0), array->ndim() > 1 ? stride(*array, 1) : 0};
}
const double* by_class(const std::optional<Array>& array, std::int64_t classes) {
    if (!array) return nullptr;
    if (array->itemsize() != 8 || std::int64_t(array->size()) != classes) throw std::invalid_argument("per-class numbers of the wrong size");
    return (const double*)start(*array);
}

void rows(const Array& logits, bool is_bfloat16, bool has_softmax, bool are_probabilities, double temperature, double softcap,
          const std::optional<Array>& class_bias, const std::optional<Array>& mask, const std::optional<Array>& indices,
          std::optional<std::int64_t> ignored_label, const std::optional<Array>& index_weight, bool weigh_indices,
          const std::optional<Array>& dense, bool dense_is_bfloat16, double dense_scale, const std::optional<Array>& class_weight,
          double smoothing, const std::optional<Array>& target_sum, double z_loss, double focal_gamma, const std::optional<Array>& valid,
          const std::optional<Array>& upstream, bool given, const nb::dict& results, const std::optional<Output>& gradient, int threads,
          const std::string& instruction_set) {
    Problem p;
    p.rows = std::int64_t(logits.shape(0) * logits.shape(2));
    p.classes = std::int64_t(logits.shape(1));
    p.inner = std::int64_t(logits.shape(2));
    p.logits = matrix(logits, is_bfloat16);
    p.has_softmax = has_softmax;
    p.are_probabilities = are_probabilities;
    p.temperature = temperature;
    p.softcap = softcap;
    p.class_bias = by_class(class_bias, p.classes);
    if (mask) p.mask = matrix(*mask);
    if (indices) {
        p.indices = {start(*indices), dtype_of(*indices, false), stride(*indices, 0), stride(*indices, 1), 0};
        p.entries = std::int64_t(indices->shape(1));
    }
    p.ignores_label = ignored_label.has_value();
    p.ignored_label = ignored_label.value_or(0);
    p.index_weight = per_row<const double>(index_weight);
    p.weigh_indices = weigh_indices;
    if (dense) p.dense = matrix(*dense, dense_is_bfloat16);
    p.dense_scale = dense_scale;
    p.class_weight = by_class(class_weight, p.classes);
    p.smoothing = smoothing;
    p.target_sum = per_row<const double>(target_sum);
    p.z_loss = z_loss;
    p.focal_gamma = focal_gamma;
    p.valid = per_row<const bool>(valid);
    p.upstream = per_row<const double>(upstream);
    p.given = given;
    auto result = [&](const char* name) -> PerRow<double> {
        if (!results.contains(name)) return {};
        return per_row<double>(std::optional<Output>(nb::cast<Output>(results[name])));
    };
    p.loss = result("loss");
    p.maximum = result("maximum");
    p.ties = result("ties");
    p.others = result("others");
    p.target_logit = result("target_logit");
    p.profile = result("profile");
    p.profile_mass = result("profile_mass");
    p.allowed = result("allowed");
    p.dense_sum = result("dense");
    p.dense_mass = result("dense_mass");
    p.target_sum_found = result("target_sum");
    p.entropy_sum = result("entropy_sum");
    if (results.contains("prediction"))
        p.prediction = per_row<std::int64_t>(std::optional<Output>(nb::cast<Output>(results["prediction"])));
    if (gradient) p.gradient = matrix(*gradient, is_bfloat16);
    p.threads = threads;
    nb::gil_scoped_release release;
    compute_rows(p, instruction_set);
}

template <class A> Elements elements(const A& array, bool is_bfloat16 = false) {
    if (array.ndim() != 1) throw std::invalid_argument("expected a vector");
    return {start(array), dtype_of(array, is_bfloat16), stride(array, 0)};
}

void binary(const Array& logits, bool is_bfloat16, const Array& target, bool target_is_bfloat16, const std::optional<Array>& pos_weight,
            const std::optional<Array>& valid, double smoothing, double upstream,
            const std::optional<Output>& losses, const std::optional<Output>& sums, const std::optional<Output>& gradient, int threads,
            const std::string& instruction_set) {
    ElementProblem p;
    p.count = std::int64_t(logits.shape(0));
    p.logits = elements(logits, is_bfloat16);
    p.target = elements(target, target_is_bfloat16);
    if (pos_weight) p.pos_weight = elements(*pos_weight);
    if (valid) p.valid = elements(*valid);
    if (gradient) p.gradient = elements(*gradient, is_bfloat16);
    p.smoothing = smoothing;
    p.upstream = upstream;
    if (losses) p.losses = (double*)start(*losses);
    if (sums) {
        if (std::int64_t(sums->shape(0)) != element_blocks(p.count)) throw std::invalid_argument("one sum per block");
        p.sums = (double*)start(*sums);
    }
    p.threads = threads;
    nb::gil_scoped_release release;
    compute_elements(p, instruction_set);
}

template <class T, class A> T* vector_of(const A& array, std::int64_t count) {
    if (array.ndim() != 1 || std::int64_t(array.shape(0)) != count || array.itemsize() != sizeof(T) || (count > 1 && array.stride(0) != 1))
        throw std::invalid_argument("expected a contiguous vector, one number per row");
    return (T*)start(array);
}

void scores(const Array& values, int inputs, const Array& labels, const std::optional<Array>& weights, const nb::dict& results,
            const std::vector<double>& inverse_temperature, const std::optional<Output>& by_temperature, const std::optional<Output>& gap,
            int threads, const std::string& instruction_set) {
    if (values.ndim() != 2 || values.shape(1) < 1) throw std::invalid_argument("expected (rows, classes), one class or more");
    ScoreProblem p;
    p.rows = std::int64_t(values.shape(0));
    p.classes = std::int64_t(values.shape(1));
    p.values = {start(values), dtype_of(values, false), stride(values, 0), stride(values, 1), 0};
    p.inputs = Inputs(inputs);
    p.labels = vector_of<const std::int64_t>(labels, p.rows);
    if (weights) p.weights = vector_of<const double>(*weights, p.rows);
    auto result = [&](const char* name) { return results.contains(name) ? vector_of<double>(nb::cast<Output>(results[name]), p.rows) : nullptr; };
    p.loss = result("loss");
    p.entropy = result("entropy");
    p.label_probability = result("label_probability");
    p.prediction_probability = result("prediction_probability");
    p.row_sum = result("row_sum");
    if (results.contains("prediction")) p.prediction = vector_of<std::int64_t>(nb::cast<Output>(results["prediction"]), p.rows);
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
    m.def("rows", &rows, "logits"_a, "is_bfloat16"_a, "has_softmax"_a, "are_probabilities"_a, "temperature"_a, "softcap"_a,
          "class_bias"_a.none(), "mask"_a.none(), "indices"_a.none(), "ignored_label"_a.none(), "index_weight"_a.none(), "weigh_indices"_a,
          "dense"_a.none(), "dense_is_bfloat16"_a, "dense_scale"_a, "class_weight"_a.none(), "smoothing"_a, "target_sum"_a.none(),
          "z_loss"_a, "focal_gamma"_a, "valid"_a.none(), "upstream"_a.none(), "given"_a, "results"_a, "gradient"_a.none(), "threads"_a,
          "instruction_set"_a);
    m.attr("folds") = folds;
    m.attr("sums_per_fold") = sums_per_fold;
    m.def("score_blocks", &score_blocks, "rows"_a);
    m.def("scores", &scores, "values"_a, "inputs"_a, "labels"_a, "weights"_a.none(), "results"_a, "inverse_temperature"_a,
          "by_temperature"_a.none(), "gap"_a.none(), "threads"_a, "instruction_set"_a);
    m.def("element_blocks", &element_blocks, "count"_a);
    m.def("binary", &binary, "logits"_a, "is_bfloat16"_a, "target"_a, "target_is_bfloat16"_a, "pos_weight"_a.none(), "valid"_a.none(),
           "smoothing"_a, "upstream"_a, "losses"_a.none(), "sums"_a.none(), "gradient"_a.none(), "threads"_a,
          "instruction_set"_a);
}
