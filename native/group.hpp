// A group of up to 32 rows: what is kept of each, and everything that happens once per row. Formulas: row_loss.py.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "pairs.hpp"
#include "problem.hpp"

namespace INSTRUCTION_SET {
namespace {

constexpr int max_rows = 32;
constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

constexpr int chunk_rows = 8;  // per-row numbers go so many rows at a time
using Chunk = Lanes<double, chunk_rows>;
using Numbers = double[max_rows];

// What is kept of each row for some of its classes: row_loss.RowStatistics.
struct alignas(64) Statistics {
    Numbers maximum, ties, others, profile, profile_mass, allowed, dense, dense_mass, target_sum, entropy_sum;
    std::int64_t prediction[max_rows];
};

struct alignas(64) Group {
    Statistics statistics;
    Numbers loss;
    Numbers origin;  // the maximum before the temperature divides it
    // What the gradient needs of each row: the upstream factor, a / (n + S), s, g, and the entry at a certain class without s - q.
    Numbers upstream, power_factor, mass, smoothing, residue;
    bool skipped[max_rows];
    bool skips_some;
    // Then K indices, weights b_k, logits r_k (z_k until `finish`) and slopes per row.
    std::int64_t* indices(std::int64_t) { return reinterpret_cast<std::int64_t*>(this + 1); }
    double* weights(std::int64_t entries) { return reinterpret_cast<double*>(this + 1) + max_rows * entries; }
    double* logits(std::int64_t entries) { return weights(entries) + max_rows * entries; }
    double* slopes(std::int64_t entries) { return logits(entries) + max_rows * entries; }
    static std::int64_t bytes(std::int64_t entries) { return std::int64_t(sizeof(Group)) + 4 * max_rows * entries * 8; }
};

bool scales_logits(const Problem& p) {
    return p.temperature != 1 && can_scale(p.temperature) && p.has_softmax && p.softcap == 0 && !p.class_bias && !p.are_probabilities;
}

bool transforms_logits(const Problem& p) {
    return (p.temperature != 1 && !scales_logits(p)) || p.softcap != 0 || p.class_bias || p.are_probabilities;
}
// Logits of at most 32 bits are transformed to pairs of floats, where these are exact enough and nothing overflows: half of the
// time that doubles take.
bool pairs_logits(const Problem& p) {
    return has_fma && p.logits.dtype != DType::float64 && transforms_logits(p) && !p.are_probabilities && p.temperature >= 1 &&
           p.temperature <= 0x1p60 && p.bias_is_moderate && p.softcap <= most_softcap;
}

struct RowGroup {
    const Problem& p;
    Group& group;
    std::int64_t first_row;
    int rows;

    bool has_profile() const { return p.smoothing != 0; }
    bool has_dense() const { return p.dense.data != nullptr; }
    // A temperature alone leaves the logits as they are: maximum, order and weighted sums scale with it, the exponentials count in it.
    bool scales() const { return scales_logits(p); }
    bool transforms() const { return transforms_logits(p); }
    bool pairs() const { return pairs_logits(p); }
    const double* origins() const { return scales() ? group.origin : group.statistics.maximum; }
    // The slope varies over the classes; else it is the same for all and part of the upstream factor.
    bool has_slope() const { return p.softcap != 0 || p.are_probabilities || p.mask.data; }
    bool finds_top() const { return p.prediction || (p.gradient.data && p.has_softmax && (has_dense() || has_profile())); }
    // Labels of log-probabilities: only their own entries are read.
    bool reads_labels_only() const { return !p.has_softmax && !has_dense() && !has_profile() && !p.prediction; }
    // Nothing but the target's mass is asked for.
    bool reads_target_only() const { return p.reads_target_only(); }

    // Which rows count, their labels and weights.
    void start() {
        std::fill(group.skipped, group.skipped + max_rows, false);
        for (int r = 0; r < rows && p.valid; ++r) group.skipped[r] = !p.valid(first_row + r);
        if (p.entries) {
            switch (p.indices.dtype) {
                case DType::int64: read_labels<std::int64_t>(); break;
                case DType::int32: read_labels<std::int32_t>(); break;
                case DType::int16: read_labels<std::int16_t>(); break;
                case DType::int8: read_labels<std::int8_t>(); break;
                case DType::uint64: read_labels<std::uint64_t>(); break;
                case DType::uint32: read_labels<std::uint32_t>(); break;
                case DType::uint16: read_labels<std::uint16_t>(); break;
                default: read_labels<std::uint8_t>(); break;
            }
            read_weights();
            double* logits = group.logits(p.entries);
            std::fill(logits, logits + max_rows * p.entries, undefined);  // until the class is found
        }
        group.skips_some = (p.valid || p.ignores_label) && std::find(group.skipped, group.skipped + rows, true) != group.skipped + rows;
        // Rows that are skipped or absent stand for z = (0): nothing overflows where the whole vector is computed.
        set_nothing(group.statistics, 0, max_rows, true);
    }

    // Rows [from, end) without a softmax: one maximum of 0, in the first of the blocks that merge, stands for lse = 0.
    static void set_nothing(Statistics& s, int from, int end, bool is_first) {
        for (int r = from; r < end; ++r) s.maximum[r] = 0, s.ties[r] = is_first, s.others[r] = 0;
    }

    template <class Label> void read_labels() {
        std::int64_t* indices = group.indices(p.entries);
        const char* from = p.indices.data + first_row * p.indices.outer_stride;
        auto label = [&](int r, std::int64_t k) {
            return std::int64_t(*reinterpret_cast<const Label*>(from + r * p.indices.outer_stride + k * p.indices.class_stride));
        };
        if (p.entries == 1) {
            if (sizeof(Label) == sizeof(*indices) && p.indices.outer_stride == sizeof(Label)) std::memcpy(indices, from, rows * sizeof(Label));
            else for (int r = 0; r < rows; ++r) indices[r] = label(r, 0);
            for (int r = 0; r < rows && p.ignores_label; ++r) group.skipped[r] |= indices[r] == p.ignored_label;
            return;
        }
        for (int r = 0; r < rows; ++r)
            for (std::int64_t k = 0; k < p.entries; ++k) indices[r * p.entries + k] = label(r, k);
    }

    void read_weights() {
        const std::int64_t* indices = group.indices(p.entries);
        double* weights = group.weights(p.entries);
        bool same = !p.index_weight || (p.index_weight.row_stride == 0 && p.index_weight.entry_stride == 0);
        std::fill(weights, weights + max_rows * p.entries, p.index_weight ? p.index_weight(0) : 1);
        for (int r = 0; r < rows && !same; ++r)
            for (std::int64_t k = 0; k < p.entries; ++k) weights[r * p.entries + k] = p.index_weight(first_row + r, k);
        for (std::int64_t i = 0; i < rows * p.entries && p.weigh_indices; ++i)
            weights[i] *= indices[i] >= 0 && indices[i] < p.classes ? p.class_weight[indices[i]] : 0;
    }

    // Statistics of disjoint classes: row_loss.merge.
    void merge(Statistics& a, const Statistics& b) const {
        using Few = Lanes<double, 8>;  // mostly there is one row
        Scale<double> by(p.temperature);
        for (int r = 0; r < rows; r += 8) {
            auto get = [r](const double* from) { return Few::load(from + r); };
            Few ma = get(a.maximum), mb = get(b.maximum), m = larger(ma, mb), zero = 0.0;
            auto a_wins = mb <= ma, tie = ma == mb, a_empty = ma == -infinity, b_empty = mb == -infinity;
            auto power = [&](Few top) { return scales() ? exp_difference(top, m, by) : exp_difference(top, m); };
            Few shift_a = select(a_empty, zero, power(ma)), shift_b = select(b_empty, zero, power(mb));
            Few na = get(a.ties), nb = get(b.ties), sa = get(a.others), sb = get(b.others);
            // The losing block's maxima join its sum. Of nothing but -inf the sum is 0, or NaN if there is one among them.
            Few losing_a = select(a_empty, sa, (na + sa) * shift_a), losing_b = select(b_empty, sb, (nb + sb) * shift_b);
            select(tie, na + nb, select(a_wins, na, nb)).store(a.ties + r);
            select(tie, sa + sb, select(a_wins, sa + losing_b, sb + losing_a)).store(a.others + r);
            m.store(a.maximum + r);
            if (p.entropy_sum) {
                // sum e^(z - m) (z - m): both factors shift.
                auto moved = [&](Few e, Few n, Few s, Few top, Few shift) {
                    return select(top == -infinity, zero, shift * (e + (n + s) * select(top == m, zero, top - m)));
                };
                (moved(get(a.entropy_sum), na, sa, ma, shift_a) + moved(get(b.entropy_sum), nb, sb, mb, shift_b)).store(a.entropy_sum + r);
            }
            auto shifted = [&](double* to, const double* mass_a, const double* other, const double* mass_b) {
                auto moved = [&](Few value, Few mass, Few top) {
                    Few from = select(top == -infinity, zero, top);  // of -inf alone, sums are relative to 0
                    Few by = select(m == -infinity, zero, from - m);
                    return select(mass == 0.0, value, value + mass * by);
                };
                (moved(get(to), get(mass_a), ma) + moved(get(other), get(mass_b), mb)).store(to + r);
            };
            auto add = [&](double* to, const double* other) { (get(to) + get(other)).store(to + r); };
            if (has_profile()) {
                shifted(a.profile, a.profile_mass, b.profile, b.profile_mass);
                add(a.profile_mass, b.profile_mass);
                add(a.allowed, b.allowed);
            }
            if (has_dense()) {
                shifted(a.dense, a.dense_mass, b.dense, b.dense_mass);
                add(a.dense_mass, b.dense_mass);
                add(a.target_sum, b.target_sum);
            }
            if (finds_top())  // the first maximum wins a tie, whichever side it is on
                for (int i = r; i < r + 8; ++i) {
                    double left = ma.part[(i - r) / ma.per_register][(i - r) % ma.per_register];
                    double right = mb.part[(i - r) / mb.per_register][(i - r) % mb.per_register];
                    if (right > left || (right == left && b.prediction[i] < a.prediction[i])) a.prediction[i] = b.prediction[i];
                }
        }
    }

    // Blocks merge like the digits of a binary counter, level l holding 2^l of them: rounding errors grow with the logarithm of
    // their number.
    struct MergeTree {
        const RowGroup& rows;
        std::int64_t count = 0;
        Statistics memory[25], *levels[24], *incoming = memory + 24;
        explicit MergeTree(const RowGroup& of) : rows(of) {
            for (int level = 0; level < 24; ++level) levels[level] = memory + level;
        }
        void add() {
            int level = 0;
            for (std::int64_t n = count; n & 1; n >>= 1, ++level) rows.merge(*incoming, *levels[level]);
            std::swap(incoming, levels[level]);  // what stood there is the next one's memory
            ++count;
        }
        void result(Statistics& total) const {
            bool first = true;
            int level = 0;
            for (std::int64_t n = count; n; n >>= 1, ++level)
                if (n & 1) first ? void(total = *levels[level]) : rows.merge(total, *levels[level]), first = false;
        }
    };

    // Loss and the gradient's factors from the statistics.
    void finish() {
        Statistics& s = group.statistics;
        if (p.given) take_given();
        if (scales()) take_origins();
        Numbers label_mass, label_sum;
        if (p.entries > 1) label_sums(label_mass, label_sum);
        double temperature = has_slope() && transforms() ? 1 : p.temperature;
        bool divides = scales() && !p.given;  // what was counted before the temperature
        for (int r = 0; r < rows; r += chunk_rows) {
            auto get = [r](const double* from) { return Chunk::load(from + r); };
            Chunk m = get(s.maximum), n = get(s.ties), S = get(s.others), zero = 0.0;
            // log n + log1p(S / n) as log1p of all but one maximum.
            Chunk total = n + S, L = log1p(S + (n - 1.0)), lse = m + L;
            auto defined = (larger(m, -m) < infinity) & (S == S);
            Chunk mass = zero, g = zero, loss = zero;
            if (p.entries) {
                if (p.entries == 1) {
                    Chunk b = get(group.weights(1)), relative = get(group.logits(1));
                    if (!p.given) relative = relative - get(origins());
                    if (divides) relative = relative / p.temperature;
                    relative.store(group.logits(1) + r);
                    mass = b;
                    loss = -select((b == 0.0) & (relative == relative), zero, b * relative);
                } else {
                    mass = get(label_mass);
                    loss = -get(label_sum);
                }
                defined = defined & (loss == loss);
            }
            if (has_profile()) {
                Numbers spread;
                for (int i = r; i < r + chunk_rows; ++i) spread[i] = has_dense() ? s.target_sum[i] : p.target_sum && i < rows ? p.target_sum(first_row + i) : 1;
                Chunk P = get(s.profile);
                g = get(spread) * p.smoothing / get(s.allowed);
                mass = mass + g * get(s.profile_mass);
                loss = loss - select(g == 0.0, zero, g * P);
                defined = defined & (P == P);
            }
            if (has_dense()) {
                Chunk D = get(s.dense), W = get(s.dense_mass);
                mass = mass + W * p.dense_scale;
                loss = loss - D * p.dense_scale;
                defined = defined & (D == D) & (W == W);
            }
            if (p.focal_gamma != 0) focal(r, L, loss, mass);
            else loss = loss + select(mass == 0.0, zero, mass * L);
            if (p.z_loss != 0) loss = loss + lse * lse * p.z_loss;
            select(defined, loss, undefined).store(group.loss + r);
            select(S == S, m, undefined).store(s.maximum + r);
            if (!p.gradient.data) continue;

            Chunk factor = p.upstream(first_row);
            if (p.upstream.row_stride != 0) {
                Numbers each;
                for (int i = r; i < r + chunk_rows; ++i) each[i] = i < rows ? p.upstream(first_row + i) : 0;
                factor = get(each);
            }
            Chunk upstream = select(defined, factor / temperature, undefined);
            Chunk spread = p.z_loss == 0 ? zero : lse * (2 * p.z_loss);
            Chunk a = p.has_softmax ? mass + spread : zero;
            upstream.store(group.upstream + r);
            select(defined, a / total, undefined).store(group.power_factor + r);
            mass.store(group.mass + r);
            g.store(group.smoothing + r);
            // Where p > 1/2: a p - q = 2 zeta lse p + (s - q) - s S / (n + S); this is all but s - q.
            (spread / total - mass * (S / total)).store(group.residue + r);
        }
        for (int r = 0; r < rows && group.skips_some; ++r)
            if (group.skipped[r]) group.upstream[r] = 0;
        if (!p.given) give_results();
    }

    // The maxima as they were read, and what was summed of them, divided by the temperature.
    void take_origins() {
        Statistics& s = group.statistics;
        auto divide = [&](Numbers& numbers) {
            for (int r = 0; r < rows; ++r) numbers[r] /= p.temperature;
        };
        for (int r = 0; r < max_rows; ++r) group.origin[r] = p.given ? s.maximum[r] * p.temperature : s.maximum[r];
        if (p.given) return;
        divide(s.maximum);
        if (has_profile()) divide(s.profile);
        if (has_dense()) divide(s.dense);
        if (p.entropy_sum) divide(s.entropy_sum);
    }

    // The labels' logits become r = z - m; sum b and sum b r, where b = 0 wins. NaN where a label was not found.
    void label_sums(double* label_mass, double* label_sum) {
        const Statistics& s = group.statistics;
        double *weights = group.weights(p.entries), *logits = group.logits(p.entries);
        for (int r = 0; r < rows; ++r) {
            double mass = 0, dot = 0;
            for (std::int64_t i = r * p.entries; i < (r + 1) * p.entries; ++i) {
                if (!p.given) logits[i] -= origins()[r];
                if (scales() && !p.given) logits[i] /= p.temperature;
                double product = weights[i] * logits[i];
                mass += weights[i];
                dot += weights[i] == 0 && logits[i] == logits[i] ? 0 : product;
            }
            label_mass[r] = mass;
            label_sum[r] = dot;
        }
        std::fill(label_mass + rows, label_mass + max_rows, 0.0);
        std::fill(label_sum + rows, label_sum + max_rows, 0.0);
    }

    // b f(l), and b f'(l), which takes the weight's place in the gradient: row_loss.focal and focal_slope.
    void focal(int first, Chunk log_sum, Chunk& loss, Chunk& mass) {
        double* weights = group.weights(1) + first;
        Chunk zero = 0.0, b = Chunk::load(weights), l = log_sum - Chunk::load(group.logits(1) + first);
        Decay<chunk_rows> decay(-l);
        Chunk chance = decay.complement, factor = power(chance, p.focal_gamma);
        Chunk ratio = select(l == 0.0, Chunk(1.0), l / chance), decaying = select(l == infinity, zero, ratio * decay.value);
        loss = select(b == 0.0, zero, b * l * factor);
        mass = b * factor * (decaying * p.focal_gamma + 1.0);
        mass.store(weights);
    }

    void take_given() {
        Statistics& s = group.statistics;
        double* logits = group.logits(p.entries);
        for (int r = 0; r < rows; ++r) {
            std::int64_t row = first_row + r;
            s.maximum[r] = p.maximum(row), s.ties[r] = p.ties(row), s.others[r] = p.others(row);
            for (std::int64_t k = 0; k < p.entries; ++k) logits[r * p.entries + k] = p.target_logit(row, k);
            if (has_profile()) s.profile[r] = 0, s.profile_mass[r] = p.profile_mass(row), s.allowed[r] = p.allowed(row);
            if (has_dense()) s.dense[r] = 0, s.dense_mass[r] = p.dense_mass(row), s.target_sum[r] = p.target_sum_found(row);
            if (finds_top()) s.prediction[r] = p.prediction(row);
        }
    }

    void give_results() {
        const Statistics& s = group.statistics;
        auto give = [&](const PerRow<double>& to, const double* from, double skipped) {
            if (!to) return;
            if (to.row_stride == sizeof(double)) std::memcpy(&to(first_row), from, rows * sizeof(double));
            else for (int r = 0; r < rows; ++r) to(first_row + r) = from[r];
            if (group.skips_some)
                for (int r = 0; r < rows; ++r)
                    if (group.skipped[r]) to(first_row + r) = skipped;
        };
        give(p.loss, group.loss, 0);
        give(p.maximum, s.maximum, 0);
        give(p.ties, s.ties, 1);
        give(p.others, s.others, 0);
        give(p.profile, s.profile, 0);
        give(p.profile_mass, s.profile_mass, 0);
        give(p.allowed, s.allowed, 1);
        give(p.dense_sum, s.dense, 0);
        give(p.dense_mass, s.dense_mass, 0);
        give(p.target_sum_found, s.target_sum, 0);
        give(p.entropy_sum, s.entropy_sum, 0);
        for (int r = 0; r < rows && p.prediction; ++r) p.prediction(first_row + r) = group.skipped[r] ? 0 : s.prediction[r];
        for (int r = 0; r < rows && p.target_logit; ++r)
            for (std::int64_t k = 0; k < p.entries; ++k)
                p.target_logit(first_row + r, k) = group.skipped[r] ? 0 : group.logits(p.entries)[r * p.entries + k];
    }
};

}  // namespace
}  // namespace INSTRUCTION_SET
