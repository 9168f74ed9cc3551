// Labels of a few classes: 32 rows in the lanes of float from the logits to the loss, for what a short row costs is what happens once
// per row. The same formulas as group.hpp (row_loss.py derives them), without what makes these need double: nothing here cancels,
// sums are of one sign, and what rounding takes from them is kept.
#pragma once

#include <bit>

#include "transfer.hpp"

namespace INSTRUCTION_SET {
namespace {

struct FewClasses : Transfer<float, false> {
    using Transfer::Transfer;
    using Integer = Vector::Integer;
    using Doubles = Lanes<double, lanes>;
    static constexpr std::int64_t most = 128;
    static_assert(most <= Shape<float, false>::block_classes, "the rows of a group are one block");

    // Class labels with their weights, a temperature, ignored rows; losses and gradient. Everything else is for `Kernel`.
    static bool takes(const Problem& p) {
        bool is_plain = p.has_softmax && !p.are_probabilities && p.softcap == 0 && !p.class_bias && !p.mask.data && !p.dense.data &&
                        p.smoothing == 0 && p.z_loss == 0 && p.focal_gamma == 0 && p.entries == 1 && !p.given;
        bool gives_losses = !p.maximum && !p.ties && !p.others && !p.target_logit && !p.entropy_sum && !p.prediction;
        return is_plain && gives_losses && p.classes <= most && p.logits.dtype != DType::float64 && (p.temperature == 1 || scales_logits(p));
    }

    void compute() {
        read_labels();
        // Whatever stands in the lanes of rows that do not count stays there.
        group.skips_some = false;
        std::fill(group.skipped, group.skipped + lanes, false);
        Block b{0, 0, p.classes, p.classes, {}, {}, nullptr, nullptr, {}};
        load(p.logits, b, 0, minus_infinity, w.z);
        if (p.classes == 2) return finish_pair(b);
        const Tile<float> z{w.z, p.classes, w.z + (p.classes - 1) * lanes};
        Vector m = tile_maximum(z);
        if constexpr (has_fma)
            if (scales()) return finish(z, b, Origin<float, lanes, Form::scaled>(m, p.temperature));
        finish(z, b, Origin<float, lanes>(m));
    }

private:
    Integer label, counts;

    template <class Label> static Integer as_lanes(const Label* from) {
        if constexpr (sizeof(Label) == 4) return Integer::load(reinterpret_cast<const std::int32_t*>(from));
        std::int32_t numbers[lanes];
        for (int r = 0; r < lanes; ++r) numbers[r] = std::int32_t(from[r]);
        return Integer::load(numbers);
    }
    void read_labels() {
        counts = Integer(-1);
        switch (p.indices.dtype) {
            case DType::int64: case DType::uint64: read_long_labels(); break;
            case DType::int32: case DType::uint32: read_labels<std::int32_t>(); break;
            case DType::int16: read_labels<std::int16_t>(); break;
            case DType::int8: read_labels<std::int8_t>(); break;
            case DType::uint16: read_labels<std::uint16_t>(); break;
            default: read_labels<std::uint8_t>(); break;
        }
        if (!p.valid) return;
        std::int32_t valid[lanes] = {};
        for (int r = 0; r < rows; ++r) valid[r] = p.valid(first_row + r) ? -1 : 0;
        counts = counts & Integer::load(valid);
    }
    // The rows' labels; those that are absent have the first one.
    template <class Label> void gather(Label* to) const {
        const char* from = p.indices.data + first_row * p.indices.outer_stride;
        if (rows == lanes && p.indices.outer_stride == sizeof(Label)) std::memcpy(to, from, lanes * sizeof(Label));
        else for (int r = 0; r < lanes; ++r) std::memcpy(to + r, from + (r < rows ? r : 0) * p.indices.outer_stride, sizeof(Label));
    }
    template <class Label> void read_labels() {
        Label given[lanes];
        gather(given);
        label = as_lanes(given);
        bool is_label = p.ignores_label && std::int64_t(Label(p.ignored_label)) == p.ignored_label;
        if (is_label || (p.ignores_label && sizeof(Label) == 4)) counts = differs(label, Integer(std::int32_t(p.ignored_label)));
    }
    void read_long_labels() {
        std::int64_t given[lanes];
        std::int32_t halves[2 * lanes];
        gather(given);
        part_pairs(reinterpret_cast<const std::int32_t*>(given), halves);
        constexpr bool low_first = std::endian::native == std::endian::little;
        const Integer high = Integer::load(halves + (low_first ? lanes : 0));
        label = Integer::load(halves + (low_first ? 0 : lanes));
        if (p.ignores_label) {
            Integer is_low = label == Integer(std::int32_t(p.ignored_label)), is_high = high == Integer(std::int32_t(p.ignored_label >> 32));
            counts = differs(is_low & is_high, Integer(-1));
        }
        label = label | differs(high, Integer(0));  // no class: -1
    }
    static Integer differs(Integer a, Integer b) { return (a == b) == Integer(0); }

    template <Form form> void finish(const Tile<float>& z, const Block& b, const Origin<float, lanes, form>& origin) {
        const Vector zero = 0.0f, undefined_ = std::numeric_limits<float>::quiet_NaN();
        const Vector m = origin.m;
        // Pairs, and what rounding takes from the sum of the pairs: 128 terms lose no more than two do.
        Vector sum = zero, lost = zero, run = zero, found = undefined_, own = zero;
        Integer tops = 0;
        const char* next = next_group(p.logits);
        for (std::int64_t j = 0; j < p.classes; ++j) {
            if (next) prefetch<float>(next, j);
            Vector x = z[j], power = exp_relative(x, origin);
            if (p.gradient.data) power.store(w.powers + j * lanes);
            Integer is_top = x == m, is_own = label == Integer(std::int32_t(j));
            tops = tops - is_top;
            run = run + select(is_top, zero, power);
            found = select(is_own, x, found);
            own = select(is_own, power, own);
            if (j % 2 == 0) continue;
            Vector next = sum + run, back = next - sum;
            lost = lost + ((sum - (next - back)) + (run - back));
            sum = next, run = zero;
        }
        Vector scale_lost;
        const Vector ties = convert<float>(tops), scale = origin.own_scale(scale_lost), total = sum + (run + lost), others = fma(total, scale, total * scale_lost);
        Vector distance = m - found;
        if constexpr (form == Form::scaled)  // a class that cannot occur is infinitely far at any temperature
            distance = select(distance < std::numeric_limits<float>::infinity(), fma(distance, Vector(origin.by.low), distance * origin.by.high), distance);
        Vector loss = log1p(others + (ties - 1.0f)) + distance;
        Integer defined = (larger(m, -m) < std::numeric_limits<float>::infinity()) & (others == others) & (loss == loss);
        give_losses(select(defined, loss, undefined_));
        if (!p.gradient.data) return;

        Vector factor = select(counts, select(defined, row_factors(), undefined_), zero), inverse = 1.0f / (ties + others);
        Vector chance = scale * inverse;
        // Where the label is the only maximum, p - 1 is what the others have.
        Vector entry = select((ties == 1.0f) & (found == m), -(others * inverse), own * chance - 1.0f);
        Integer is_zero = factor == zero;  // 0 wins over NaN: an ignored row has powers of whatever its lanes held
        for (std::int64_t j = 0; j < p.classes; ++j) {
            Vector g = select(label == Integer(std::int32_t(j)), entry, Vector::load(w.powers + j * lanes) * chance);
            select(is_zero, zero, g * factor).store(w.gradient + j * lanes);
        }
        write(b, 0, w.gradient);
    }

    // Two classes are a sigmoid of their difference v, other - own, with what its rounding took: loss = softplus(v), and the gradient
    // is p of the other class, once with each sign.
    void finish_pair(const Block& b) {
        const Vector zero = 0.0f, undefined_ = std::numeric_limits<float>::quiet_NaN();
        constexpr float infinite = std::numeric_limits<float>::infinity();
        const Vector first = Vector::load(w.z), second = Vector::load(w.z + lanes), m = larger(first, second);
        Integer is_first = label == Integer(0);
        Vector own = select(is_first, first, select(label == Integer(1), second, undefined_)), other = select(is_first, second, first);
        Vector v = other - own, back = v - other, lost = (other - (v - back)) - (own + back);
        lost = select(larger(v, -v) < infinite, lost, zero);
        if (scales()) {
            const Scale<float> by(p.temperature);
            // A class that cannot occur is infinitely far at any temperature.
            Vector scaled = v * by.high, rest = fma(v, Vector(by.high), -scaled) + fma(v, Vector(by.low), lost * by.high);
            lost = select(larger(scaled, -scaled) < infinite, rest, zero);
            v = scaled;
        }
        Vector decay = exp_below_one(-larger(v, -v));
        decay = decay - decay * select(v < zero, -lost, lost);
        Vector loss = larger(v, zero) + log1p_below_one(decay);
        Integer defined = (larger(m, -m) < infinite) & (v == v);
        give_losses(select(defined, loss, undefined_));
        if (!p.gradient.data) return;

        Vector factor = select(counts, select(defined, row_factors(), undefined_), zero);
        Vector chance = select(v < zero, decay, Vector(1.0f)) / (decay + 1.0f), g = select(factor == zero, zero, chance * factor);
        select(is_first, zero - g, g).store(w.gradient);  // 0 and not -0 in a row that does not count
        select(is_first, g, zero - g).store(w.gradient + lanes);
        write(b, 0, w.gradient);
    }

    bool has_weights() const { return p.weigh_indices || (p.index_weight && p.index_weight.row_stride != 0); }
    // b of each row; what the label's class weighs times what the row does.
    Doubles weights() const {
        Numbers weight;
        std::int32_t labels[lanes];
        label.store(labels);
        for (int r = 0; r < lanes; ++r) {
            weight[r] = p.index_weight && r < rows ? p.index_weight(first_row + r) : 1;
            if (p.weigh_indices) weight[r] *= std::uint32_t(labels[r]) < std::uint32_t(p.classes) ? p.class_weight[labels[r]] : 0;
        }
        return Doubles::load(weight);
    }
    void give_losses(Vector loss) {
        if (!p.loss) return;
        Doubles result = convert<double>(select(counts, loss, Vector(0.0f)));
        double same = p.index_weight ? p.index_weight(0) : 1;
        if (has_weights() || same != 1) {
            Doubles weight = has_weights() ? weights() : Doubles(same);
            result = select((weight == 0.0) & (result == result), Doubles(0.0), weight * result);
        }
        if (p.loss.row_stride == sizeof(double) && rows == lanes) return result.store(&p.loss(first_row));
        result.store(group.loss);
        for (int r = 0; r < rows; ++r) p.loss(first_row + r) = group.loss[r];
    }
    // The upstream gradient, the temperature's slope and b: what multiplies p - 1[label].
    Vector row_factors() const {
        double same = p.index_weight && !has_weights() ? p.index_weight(0) : 1;
        if (p.upstream.row_stride == 0 && !has_weights()) return float(p.upstream(first_row) / p.temperature * same);
        Numbers upstream;
        for (int r = 0; r < lanes; ++r) upstream[r] = p.upstream(first_row + (r < rows ? r : 0)) / p.temperature * same;
        Doubles factor = Doubles::load(upstream);
        return convert<float>(has_weights() ? factor * weights() : factor);
    }
};

}  // namespace
}  // namespace INSTRUCTION_SET
