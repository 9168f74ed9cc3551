// Statistics, loss and gradient of groups of rows: which elements go through the loops of tile.hpp, and when. What happens once per
// row is in group.hpp. Compiled once per instruction set.
#include "few_classes.hpp"

namespace INSTRUCTION_SET {
namespace {

template <class T, bool Along> struct Kernel : Transfer<T, Along> {
    using Base = Transfer<T, Along>;
    using typename Base::Block, typename Base::Vector;
    using Base::Base, Base::lanes, Base::minus_infinity, Base::own_dtype, Base::shape, Base::w, Base::p, Base::group, Base::rows;
    using Base::first_row, Base::load, Base::write, Base::row_start, Base::streams, Base::gradient_is_plain, Base::has_dense;
    using LaneIndex = typename Vector::Integer;
    using Real = std::conditional_t<Along, double, Lanes<double, lanes>>;
    using Base::has_profile, Base::has_slope, Base::transforms, Base::reads_labels_only, Base::finds_top;

    // What stands in w.by_class: that of which block, and its sum.
    std::int64_t profiled = -1;
    Real profile_mass = 0.0;

    // ---- blocks ---------------------------------------------------------------------------------------------------------

    Block block_at(std::int64_t index, int row) {
        Block b;
        b.index = index;
        b.first_class = index * shape.block_classes;
        b.classes = std::min(shape.block_classes, p.classes - b.first_class);
        b.vectors = Along ? (b.classes + lanes - 1) / lanes : b.classes;
        std::int64_t kept = !shape.keeps ? 0 : (Along && shape.blocks == 1 ? row : index) * shape.block_vectors * lanes;
        b.powers = w.powers + kept;
        b.dense = has_dense() ? w.dense + kept : nullptr;
        b.slope = has_slope() && !reads_labels_only() ? w.slope + kept : nullptr;
        return b;
    }

    // z of a block: where it stands, if its elements are T already, else converted and transformed in w.z.
    void load_logits(Block& b, int row) {
        bool in_place = Along && p.logits.dtype == own_dtype && p.logits.class_stride == sizeof(T) && !transforms();
        if (in_place) {
            const T* data = reinterpret_cast<const T*>(row_start(p.logits, row)) + b.first_class;
            std::int64_t before = (b.vectors - 1) * lanes;
            T* last = w.z + before;
            std::fill(last, last + lanes, minus_infinity);
            std::memcpy(last, data + before, (b.classes - before) * sizeof(T));
            b.z = {data, b.vectors, last};
            if (p.mask.data) apply_mask(b, row);
            return;
        }
        load(p.logits, b, row, minus_infinity, w.z);
        b.z = {w.z, b.vectors, w.z + (b.vectors - 1) * lanes};
        if constexpr (sizeof(T) == 8)
            if (transforms()) transform(b);
        if (p.mask.data) apply_mask(b, row);
    }

    void transform(const Block& b) {
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            double* at = reinterpret_cast<double*>(w.z) + i * lanes;
            Vector x = Vector::load(reinterpret_cast<T*>(at)), slope = 1 / p.temperature;
            if (p.are_probabilities) {
                slope = 1.0 / x;
                x = log(x);
            } else {
                if (p.temperature != 1) x = x / p.temperature;
                if (p.class_bias) x = x + bias(b, i);
                if (p.softcap != 0) {
                    Vector angle = x / p.softcap;
                    auto finite = larger(x, -x) < infinity;  // an infinite logit says what it says without a cap
                    Tanh<lanes> capped(angle);
                    x = select(finite, capped.value * p.softcap, x);
                    slope = capped.slope / p.temperature;
                }
            }
            x.store(at);
            if (b.slope) slope.store(b.slope + i * lanes);
        }
        if (Along) std::fill(w.z + b.classes, w.z + b.vectors * lanes, minus_infinity);  // whatever the soft-cap made of the padding
    }
    Vector bias(const Block& b, std::int64_t i) const {
        const double* from = p.class_bias + b.first_class;
        if constexpr (!Along) return Vector(from[i]);
        T padded[lanes] = {};
        std::memcpy(padded, from + i * lanes, std::min<std::int64_t>(lanes, b.classes - i * lanes) * sizeof(T));
        return Vector::load(padded);
    }

    // Masked classes: z = -inf and no slope, whatever the logit is. Without a transform the other slopes are 1.
    void apply_mask(Block& b, int row) {
        load(p.mask, b, row, T(0), w.profile);
        const Tile<T> given = b.z;
        b.z = {w.z, b.vectors, w.z + (b.vectors - 1) * lanes};
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            auto out = Vector::load(w.profile + i * lanes) == T(0);
            select(out, Vector(minus_infinity), given[i]).store(w.z + i * lanes);
            if (!b.slope) continue;
            Vector slope = transforms() ? Vector::load(b.slope + i * lanes) : Vector(T(1));
            select(out, Vector(T(0)), slope).store(b.slope + i * lanes);
        }
    }

    // w t of a block; returns the sum of t.
    Real load_dense(const Block& b, int row) {
        load(p.dense, b, row, T(0), b.dense);
        Real sum = tile_mass(b.vectors, Weights<T, Along>{b.dense});
        if (!p.class_weight) return sum;
        const double* weight = p.class_weight + b.first_class;
        for (std::int64_t j = 0; j < b.classes; ++j) {
            if (Along) b.dense[j] = T(b.dense[j] * weight[j]);
            else for (int lane = 0; lane < lanes; ++lane) b.dense[j * lanes + lane] = T(b.dense[j * lanes + lane] * weight[j]);
        }
        return sum;
    }

    Weights<T, Along> by_class() const {
        Weights<T, Along> weights;
        (Along ? weights.tile : weights.by_class) = w.by_class;
        return weights;
    }
    // u of a block: class weights (or 1) of the classes that the mask allows.
    void load_profile(Block& b, int row) {
        if (profiled != b.index) {
            profiled = b.index;
            for (std::int64_t j = 0; j < b.classes; ++j) w.by_class[j] = p.class_weight ? T(p.class_weight[b.first_class + j]) : T(1);
            if (Along) std::fill(w.by_class + b.classes, w.by_class + b.vectors * lanes, T(0));
            if (!p.mask.data) profile_mass = tile_mass(b.vectors, by_class());
        }
        if (!p.mask.data) {
            b.profile = by_class();
            return;
        }
        load(p.mask, b, row, T(0), w.profile);
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            Vector weight = Along ? Vector::load(w.by_class + i * lanes) : Vector(w.by_class[i]);
            (Vector::load(w.profile + i * lanes) * weight).store(w.profile + i * lanes);
        }
        b.profile.tile = w.profile;
    }

    // One number (Along) or one per row (Across) into per-row numbers; what is the same in every lane as one number.
    static void set(double* to, int row, double value) { to[row] = value; }
    template <int N> static void set(double* to, int, Lanes<double, N> value) { value.store(to); }
    template <class U> static auto number(Lanes<U, lanes> x) {
        if constexpr (Along) return double(x.part[0][0]);
        else return convert<double>(x);
    }
    // ---- statistics -----------------------------------------------------------------------------------------------------

    void block_statistics(std::int64_t index, int row, Statistics& s) {
        Block b = block_at(index, row);
        load_logits(b, row);
        Vector m = T(0);
        Real scale = 1.0;
        if (p.has_softmax) {
            m = tile_maximum(b.z);
            if constexpr (Along) m = Vector(maximum(m));
            scale = exponentials(b, row, m, s);
        } else {
            for (int r = Along ? row : 0; r < (Along ? row + 1 : lanes); ++r) s.maximum[r] = 0, s.ties[r] = 1, s.others[r] = 0;
        }
        Vector from = select(m == minus_infinity, Vector(T(0)), m);  // of -inf alone, sums are relative to 0: -inf
        if (p.entropy_sum) set(s.entropy_sum, row, tile_weighted(b.z, from, Weights<T, Along>{b.powers}) * scale);
        if (has_profile()) {
            load_profile(b, row);
            set(s.profile, row, tile_weighted(b.z, from, b.profile));
            set(s.profile_mass, row, p.mask.data ? tile_mass(b.vectors, b.profile) : profile_mass);
            count_allowed(b, row, s);
        }
        if (has_dense()) {
            Real target_sum = load_dense(b, row);
            set(s.target_sum, row, target_sum);
            set(s.dense, row, tile_weighted(b.z, from, Weights<T, Along>{b.dense}));
            set(s.dense_mass, row, p.class_weight ? tile_mass(b.vectors, Weights<T, Along>{b.dense}) : target_sum);
        }
        if (finds_top()) find_top(b, row, m, s);
        find_labels(b, row);
    }

    // e^(z - m) in units of the number returned.
    Real exponentials(Block& b, int row, Vector m, Statistics& s) {
        bool in_place = b.z.data != w.z;
        bool last = b.first_class + b.classes == p.classes;
        // The next block comes from memory while this one is computed; the next row, where a row is one block.
        const char* next = !in_place || (last && row + 1 >= rows) ? nullptr : last ? row_start(p.logits, row + 1) : reinterpret_cast<const char*>(b.z.data + b.classes);
        T* powers = p.gradient.data || p.entropy_sum ? b.powers : nullptr;
        decltype(number(m)) others, ties;
        set(s.maximum, row, number(m));
        return with_origin(m, [&](const auto& origin) {
            tile_exp<T, Along>(b.z, origin, powers, next, others, ties);
            set(s.ties, row, ties);
            Real scale = note_origin(origin, b.index, row);
            set(s.others, row, others * scale);
            return scale;
        });
    }
    template <class Body> auto with_origin(Vector m, Body body) const {
        if constexpr (has_fma)
            if (Base::scales()) return body(Origin<T, lanes, true>(m, p.temperature));
        return body(Origin<T, lanes>(m));
    }
    template <class Counted> Real note_origin(const Counted& origin, std::int64_t index, int row) {
        Real scale = number(origin.scale()), top = number(origin.m);
        set(w.top + index * max_rows, row, Base::scales() ? top / p.temperature : top);
        set(w.scale + index * max_rows, row, scale);
        return scale;
    }

    void count_allowed(const Block& b, int row, Statistics& s) {
        if (p.mask.data) {
            load(p.mask, b, row, T(0), w.gradient);  // not in use yet
            set(s.allowed, row, tile_mass(b.vectors, Weights<T, Along>{w.gradient}));
        } else {
            for (int r = Along ? row : 0; r < (Along ? row + 1 : lanes); ++r) s.allowed[r] = double(b.classes);
        }
    }

    // Index of the first maximum.
    void find_top(const Block& b, int row, Vector m, Statistics& s) {
        if constexpr (Along) {
            s.prediction[row] = b.first_class;
            for (std::int64_t i = 0; i < b.vectors; ++i) {
                Vector x = b.z[i];
                if (sum(x == m) == 0) continue;
                T value[lanes];
                x.store(value);
                s.prediction[row] += i * lanes + (std::find(value, value + lanes, m.part[0][0]) - value);
                return;
            }
        } else {
            Vector at = T(0);  // the last assignment is the first maximum
            for (std::int64_t j = b.classes - 1; j >= 0; --j) at = select(b.z[j] == m, Vector(T(j)), at);
            T found[lanes];
            at.store(found);
            for (int lane = 0; lane < lanes; ++lane) s.prediction[lane] = b.first_class + std::int64_t(found[lane]);
        }
    }

    void find_labels(const Block& b, int row) {
        if constexpr (!Along)
            if (has_label_lanes(b)) return find_label_lanes(b);
        const std::int64_t* indices = group.indices(p.entries);
        double* logits = group.logits(p.entries);
        for (std::int64_t i = Along ? row * p.entries : 0, end = Along ? i + p.entries : rows * p.entries; i < end; ++i) {
            std::int64_t j = indices[i] - b.first_class;
            if (std::uint64_t(j) >= std::uint64_t(b.classes)) continue;
            if constexpr (Along) logits[i] = j / lanes + 1 < b.z.vectors ? b.z.data[j] : b.z.last[j % lanes];
            else logits[i] = b.z.data[j * lanes + (p.entries == 1 ? i : i / p.entries)];
        }
    }

    // Across, with one label per row and few classes: the labels' entries by comparison, for all rows at once.
    static constexpr std::int64_t few_classes = 32;
    bool has_label_lanes(const Block& b) const { return p.entries == 1 && shape.blocks == 1 && b.classes <= few_classes; }
    LaneIndex label_lanes() { return convert<typename IntegerOf<T>::type>(Lanes<std::int64_t, lanes>::load(group.indices(1))); }
    void find_label_lanes(const Block& b) {
        LaneIndex label = label_lanes();
        Vector found = std::numeric_limits<T>::quiet_NaN();
        for (std::int64_t j = 0; j < b.classes; ++j) found = select(label == LaneIndex(j), b.z[j], found);
        found.store(w.label_logit);
        convert<double>(found).store(group.logits(1));
    }

    // Log-probabilities under labels: the labels' own entries and slopes.
    void read_label_entries() {
        const std::int64_t* indices = group.indices(p.entries);
        double *logits = group.logits(p.entries), *slopes = group.slopes(p.entries);
        Reader<double> read = reader<double>(p.logits.dtype);
        for (std::int64_t i = 0; i < rows * p.entries; ++i) {
            int r = int(i / p.entries);
            slopes[i] = 1;
            if (!group.skipped[r] && std::uint64_t(indices[i]) < std::uint64_t(p.classes))
                read(row_start(p.logits, r) + indices[i] * p.logits.class_stride, 0, 1, logits + i);
        }
        if (!p.are_probabilities) return;
        for (std::int64_t i = 0; i < rows * p.entries; i += chunk_rows) {
            std::int64_t bytes = std::min<std::int64_t>(chunk_rows, rows * p.entries - i) * sizeof(double);
            alignas(64) double part[chunk_rows] = {};
            std::memcpy(part, logits + i, bytes);
            Chunk x = Chunk::load(part);
            log(x).store(part);
            std::memcpy(logits + i, part, bytes);
            (1.0 / x).store(part);
            std::memcpy(slopes + i, part, bytes);
        }
    }

    void statistics_of_blocks(std::int64_t index, Statistics& s) {
        if constexpr (Along) {
            for (int row = 0; row < rows; ++row)
                if (!group.skipped[row]) block_statistics(index, row, s);
        } else {
            block_statistics(index, 0, s);
        }
    }

    void part_statistics(std::int64_t part, Statistics& total) {
        std::int64_t first = part * shape.part_blocks, end = std::min(shape.blocks, first + shape.part_blocks);
        if (reads_labels_only()) {
            if (part == 0) read_label_entries();
            for (int r = 0; r < rows; ++r) total.maximum[r] = 0, total.ties[r] = 1, total.others[r] = 0;
            return;
        }
        if (end == first + 1) return statistics_of_blocks(first, total);
        RowGroup::MergeTree tree(*this);
        for (std::int64_t index = first; index < end; ++index) {
            statistics_of_blocks(index, tree.incoming);
            tree.add();
        }
        tree.result(total);
    }

    // ---- gradient -------------------------------------------------------------------------------------------------------

    void part_gradient(std::int64_t part) {
        std::int64_t first = part * shape.part_blocks, end = std::min(shape.blocks, first + shape.part_blocks);
        for (std::int64_t index = first; index < end; ++index) {
            if constexpr (Along) {
                for (int row = 0; row < rows; ++row) group.skipped[row] ? clear(index, row) : block_gradient(index, row);
            } else {
                block_gradient(index, 0);
            }
        }
        finish_streams();
    }

    void clear(std::int64_t index, int row) {
        Block b = block_at(index, row);
        std::fill(w.gradient, w.gradient + b.classes, T(0));
        write(b, row, w.gradient);
    }

    void block_gradient(std::int64_t index, int row) {
        Block b = block_at(index, row);
        if (!shape.keeps && !reads_labels_only()) {
            load_logits(b, row);
            if (has_dense()) load_dense(b, row);
            if (p.has_softmax) {
                Vector m;
                if constexpr (Along) m = T(Base::origins()[row]);
                else m = convert<T>(Lanes<double, lanes>::load(Base::origins()));
                with_origin(m, [&](const auto& origin) {
                    tile_powers<T>(b.z, origin, b.powers);
                    note_origin(origin, index, row);
                });
            }
        }
        if (!p.has_softmax) std::fill(b.powers, b.powers + b.vectors * lanes, T(0));
        if (has_profile()) load_profile(b, row);
        if (sizeof(T) == 4 && shape.blocks > 1) lift(b, row);

        Factors f = row_factors(index, row);
        bool straight = Along && gradient_is_plain() && !streams();
        T* to = straight ? reinterpret_cast<T*>(row_start(p.gradient, row)) + b.first_class : w.gradient;
        std::int64_t full = straight ? b.classes / lanes : b.vectors;
        LabelEntries<T> labels;
        if constexpr (!Along)
            if (corrects_label_lanes(b)) labels = {true, label_lanes(), label_entries(b)};
        tile_gradient<T, Along>(0, full, b.powers, f, b.profile, b.dense, b.slope, labels, to);
        if (full < b.vectors) {  // the last vector reaches beyond the row
            tile_gradient<T, Along>(full, b.vectors, b.powers, f, b.profile, b.dense, b.slope, labels, w.gradient);
            std::memcpy(to + full * lanes, w.gradient + full * lanes, (b.classes - full * lanes) * sizeof(T));
        }
        if (!labels.any) correct(b, row, to);
        if (!straight) write(b, row, to);
    }

    // a / (n + S) for a block's powers, in their units, which count from the block's own maximum.
    double power_factor(std::int64_t index, int r) const {
        if (!p.has_softmax) return 0;
        double top = w.top[index * max_rows + r], m = group.statistics.maximum[r], factor = group.power_factor[r] * w.scale[index * max_rows + r];
        if ((shape.blocks == 1 && !rounds_origin()) || top == m) return factor;
        return factor * exp_nonpositive(Lanes<double, 2>(top - m)).part[0][0];
    }

    // A block far below the row's maximum: its factor would be subnormal as a float, while powers times factor is not yet. Its powers
    // have 2^headroom to give.
    void lift(const Block& b, int row) {
        for (int r = Along ? row : 0; r < (Along ? row + 1 : rows); ++r) {
            if (std::abs(power_factor(b.index, r)) > 0x1p-80) continue;
            constexpr T down = T(0x1p-40);
            w.scale[b.index * max_rows + r] *= 0x1p40;
            for (std::int64_t j = Along ? 0 : r; j < b.vectors * lanes; j += Along ? 1 : lanes) b.powers[j] *= down;
        }
    }

    // The maximum that was given is what the temperature made of the one that was read.
    bool rounds_origin() const { return p.given && Base::scales(); }

    using Factors = GradientFactors<T>;
    Factors row_factors(std::int64_t index, int row) const {
        if constexpr (Along) {
            return {T(power_factor(index, row)), T(group.smoothing[row]), T(p.dense_scale), T(group.upstream[row])};
        } else {
            auto numbers = [](const double* from) { return convert<T>(Lanes<double, lanes>::load(from)); };
            Numbers power;
            for (int r = 0; r < lanes && shape.blocks > 1; ++r) power[r] = power_factor(index, r);
            if (shape.blocks == 1) power_lanes(index).store(power);
            return {numbers(power), numbers(group.smoothing), T(p.dense_scale), numbers(group.upstream)};
        }
    }
    Lanes<double, lanes> power_lanes(std::int64_t index) const {
        if (!p.has_softmax) return 0.0;
        using Doubles = Lanes<double, lanes>;
        Doubles factor = Doubles::load(group.power_factor) * Doubles::load(w.scale + index * max_rows);
        if (rounds_origin()) factor = factor * exp_nonpositive(Doubles::load(w.top + index * max_rows) - Doubles::load(group.statistics.maximum));
        return factor;
    }

    // Across: what stands in the gradient at the labels, where q is b there and 0 elsewhere.
    bool corrects_label_lanes(const Block& b) const {
        return !Along && has_label_lanes(b) && p.has_softmax && !has_profile() && !has_dense() && !b.slope;
    }
    Vector label_entries(const Block& b) {
        using Doubles = Lanes<double, lanes>;
        auto numbers = [](const double* from) { return Doubles::load(from); };
        const Statistics& s = group.statistics;
        Doubles weight = numbers(group.weights(1)), upstream = numbers(group.upstream);
        Vector power = with_origin(convert<T>(numbers(Base::origins())), [&](const auto& origin) { return exp_relative(Vector::load(w.label_logit), origin); });
        Doubles entry = power_lanes(b.index) * convert<double>(power) - weight;
        auto is_certain = (numbers(s.ties) == 1.0) & (numbers(s.others) < 1.0) & (numbers(group.logits(1)) == 0.0) & (weight > 0.0);
        entry = select(is_certain, numbers(group.residue), entry);
        return convert<T>(select(upstream == 0.0, upstream, upstream * entry));
    }

    // The entries that are not a p - g u - d w t: at the labels, and where p > 1/2 may cancel.
    void correct(const Block& b, int row, T* to) {
        const Statistics& s = group.statistics;
        const std::int64_t* indices = group.indices(p.entries);
        const double *weights = group.weights(p.entries), *logits = group.logits(p.entries), *slopes = group.slopes(p.entries);
        if (!p.entries && !finds_top()) return;
        for (int r = Along ? row : 0; r < (Along ? row + 1 : rows); ++r) {
            if (group.skipped[r] || group.upstream[r] == 0) continue;  // their entries are 0 already, and not -0
            bool is_certain = s.ties[r] == 1 && s.others[r] < 1 && p.has_softmax;
            std::int64_t top = is_certain && finds_top() ? s.prediction[r] - b.first_class : -1;
            double factor = p.entries ? power_factor(b.index, r) : 0;
            for (std::int64_t i = r * p.entries; i < (r + 1) * p.entries; ++i) {
                std::int64_t j = indices[i] - b.first_class;
                if (std::uint64_t(j) >= std::uint64_t(b.classes) || weights[i] == 0) continue;
                std::int64_t at = Along ? j : j * lanes + r;
                if (is_certain && logits[i] == 0) top = j;
                double slope = reads_labels_only() ? slopes[i] : b.slope ? double(b.slope[at]) : 1;
                double value = (p.has_softmax ? factor * double(b.powers[at]) : 0) - measure(b, r, j);
                to[at] = T(group.upstream[r] * (slope * value));
            }
            if (std::uint64_t(top) >= std::uint64_t(b.classes)) continue;
            // Where q is a good part of s; elsewhere a p - q has nothing to cancel.
            double q = measure(b, r, top);
            std::int64_t at = Along ? top : top * lanes + r;
            if (q > 0.25 * group.mass[r])
                to[at] = T(group.upstream[r] * ((b.slope ? double(b.slope[at]) : 1) * (group.residue[r] + (group.mass[r] - q))));
        }
    }
    // q_j of one class of a block.
    double measure(const Block& b, int r, std::int64_t j) const {
        std::int64_t at = Along ? j : j * lanes + r;
        double q = 0;
        for (std::int64_t i = r * p.entries; i < (r + 1) * p.entries; ++i)
            if (group.indices(p.entries)[i] == j + b.first_class) q += group.weights(p.entries)[i];
        if (has_profile()) q += group.smoothing[r] * double(b.profile.tile ? b.profile.tile[at] : b.profile.by_class[j]);
        if (b.dense) q += p.dense_scale * double(b.dense[at]);
        return q;
    }
};

// ---- entry points ---------------------------------------------------------------------------------------------------------

// Along for long rows whose classes are closer together than the rows are.
bool goes_along(const Problem& p) {
    return p.classes > 128 && (p.inner == 1 || std::abs(p.logits.class_stride) <= std::abs(p.logits.inner_stride));
}
template <class Body> auto dispatch(const Problem& p, Body body) {
    bool transforms = (p.temperature != 1 && !scales_logits(p)) || p.softcap != 0 || p.class_bias || p.are_probabilities;
    bool in_double = p.logits.dtype == DType::float64 || transforms;
    if (goes_along(p)) return in_double ? body.template operator()<double, true>() : body.template operator()<float, true>();
    return in_double ? body.template operator()<double, false>() : body.template operator()<float, false>();
}

Plan plan(const Problem& p) {
    return dispatch(p, [&]<class T, bool Along>() {
        Shape<T, Along> shape(p);
        Workspace<T, Along> workspace;
        Plan plan;
        plan.groups = (p.rows + shape.rows_per_group - 1) / shape.rows_per_group;
        plan.parts = shape.parts;
        plan.workspace_bytes = workspace.place(p, nullptr);
        plan.group_bytes = Group::bytes(p.entries);
        plan.part_bytes = sizeof(Statistics);
        return plan;
    });
}

void whole(const Problem& p, std::int64_t first, std::int64_t end, void* workspace, void* group_memory) {
    if (FewClasses::takes(p)) {
        for (std::int64_t group = first; group < end; ++group) FewClasses(p, group, workspace, group_memory).compute();
        return finish_streams();
    }
    dispatch(p, [&]<class T, bool Along>() {
        for (std::int64_t group = first; group < end; ++group) {
            Kernel<T, Along> kernel(p, group, workspace, group_memory);
            kernel.start();
            if (!p.given) kernel.part_statistics(0, kernel.group.statistics);
            kernel.finish();
            if (p.gradient.data) kernel.part_gradient(0);
        }
    });
}

void start(const Problem& p, std::int64_t group, void* workspace, void* group_memory) {
    dispatch(p, [&]<class T, bool Along>() { Kernel<T, Along>(p, group, workspace, group_memory).start(); });
}
void part_statistics(const Problem& p, std::int64_t group, std::int64_t part, void* workspace, void* group_memory, void* part_memory) {
    dispatch(p, [&]<class T, bool Along>() {
        Kernel<T, Along>(p, group, workspace, group_memory).part_statistics(part, *static_cast<Statistics*>(part_memory));
    });
}
void finish(const Problem& p, std::int64_t group, std::int64_t parts, void* workspace, void* group_memory, void* part_memory) {
    dispatch(p, [&]<class T, bool Along>() {
        Kernel<T, Along> kernel(p, group, workspace, group_memory);
        RowGroup::MergeTree tree(kernel);
        auto* states = static_cast<Statistics*>(part_memory);
        for (std::int64_t part = 0; part < parts; ++part) tree.incoming = states[part], tree.add();
        if (parts) tree.result(kernel.group.statistics);
        kernel.finish();
    });
}
void part_gradient(const Problem& p, std::int64_t group, std::int64_t part, void* workspace, void* group_memory) {
    dispatch(p, [&]<class T, bool Along>() { Kernel<T, Along>(p, group, workspace, group_memory).part_gradient(part); });
}

}  // namespace

extern const RowKernel row_kernel;
const RowKernel row_kernel = {plan, whole, start, part_statistics, finish, part_gradient};

}  // namespace INSTRUCTION_SET
