// Statistics, loss and gradient of groups of rows: which elements go through the loops of tile.hpp, and when. What happens once per
// row is in group.hpp. Compiled once per instruction set.
#include "few_classes.hpp"
#include "strip.hpp"

namespace INSTRUCTION_SET {
namespace {

template <class T, bool Along> struct Kernel : Transfer<T, Along> {
    using Base = Transfer<T, Along>;
    using typename Base::Block, typename Base::Vector;
    using Base::Base, Base::lanes, Base::minus_infinity, Base::shape, Base::w, Base::p, Base::group, Base::rows;
    using Base::first_row, Base::load, Base::write, Base::row_start, Base::is_plain, Base::has_dense;
    using LaneIndex = typename Vector::Integer;
    using Real = std::conditional_t<Along, double, Lanes<double, lanes>>;
    using Base::has_profile, Base::has_slope, Base::transforms, Base::pairs, Base::reads_labels_only, Base::reads_target_only, Base::finds_top;

    // What stands in w.bias, w.mask and w.by_class: that of which block, and the latter's sum.
    std::int64_t biased = -1, masked = -1, profiled = -1;
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
        b.dense = {nullptr, b.vectors, nullptr};
        if (has_dense()) b.dense.data = w.dense + kept, b.dense.last = b.dense.data + (b.vectors - 1) * lanes;
        if (has_dense() && is_in_place(p.dense) && !p.class_weight) b.dense.data = place(p.dense, b, row);
        b.slope = has_slope() && p.gradient.data && !reads_labels_only() ? w.slope + kept : nullptr;
        return b;
    }

    bool is_in_place(const Matrix& a) const { return Along && is_plain(a); }
    const T* place(const Matrix& a, const Block& b, int row) const {
        return reinterpret_cast<const T*>(row_start(a, row)) + b.first_class;
    }
    // The last vector of a block that stays where it is, padded.
    static void pad_last(const Tile<T>& tile, std::int64_t classes, T padding, T* last) {
        std::int64_t before = (tile.vectors - 1) * lanes;
        std::fill(last, last + lanes, padding);
        std::memcpy(last, tile.data + before, (classes - before) * sizeof(T));
    }

    // z of a block: where it stands, if its elements are T already, else converted, transformed and masked in w.z.
    void load_logits(Block& b, int row) {
        T* last = w.z + (b.vectors - 1) * lanes;
        b.z = {w.z, b.vectors, last};
        if (is_in_place(p.logits)) {
            b.z.data = place(p.logits, b, row);
            pad_last(b.z, b.classes, minus_infinity, last);
        } else {
            load(p.logits, b, row, minus_infinity, w.z);
        }
        if constexpr (sizeof(T) == 4) {
            if (pairs()) transform_to_pairs(b);
        } else {
            if (transforms()) transform(b);
        }
        if (p.mask.data) apply_mask(b, row);
    }

    void transform(Block& b) {
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            Vector x = b.z[i], slope = 1 / p.temperature;
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
            x.store(w.z + i * lanes);
            if (b.slope) slope.store(b.slope + i * lanes);
        }
        b.z.data = w.z;
        if (Along) std::fill(w.z + b.classes, w.z + b.vectors * lanes, minus_infinity);  // whatever the soft-cap made of the padding
    }
    // The same to pairs of floats.
    void transform_to_pairs(Block& b) {
        if (p.class_bias && biased != b.index) load_bias(b);
        const PairOf temperature(1 / p.temperature), cap(p.softcap), inverse(1 / p.softcap);
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            Vector x = b.z[i], slope = 1.0f;
            Pair<lanes> z{x, Vector(0.0f)};
            if (p.temperature != 1) z = z * temperature;
            if (p.class_bias) {
                auto bias = [&](const T* from) { return Along ? Vector::load(from + i * lanes) : Vector(from[i]); };
                z = z + Pair<lanes>{bias(w.bias), bias(w.bias_rest)};
            }
            if (p.softcap != 0) {
                Capped<lanes> capped(z, cap, inverse);
                z = capped.value;
                slope = capped.slope;
            }
            // An infinite logit says what it says, with a cap or without.
            auto finite = larger(x, -x) < std::numeric_limits<float>::infinity();
            select(finite, z.high, x).store(w.z + i * lanes);
            select(finite, z.low, 0.0f).store(w.z_rest + i * lanes);
            if (b.slope) (slope * temperature.high).store(b.slope + i * lanes);
        }
        b.z.data = w.z, b.z.low = w.z_rest;
        if (!Along) return;
        std::fill(w.z + b.classes, w.z + b.vectors * lanes, minus_infinity);
        std::fill(w.z_rest + b.classes, w.z_rest + b.vectors * lanes, T(0));
    }
    void load_bias(const Block& b) {
        biased = b.index;
        const double* from = p.class_bias + b.first_class;
        for (std::int64_t j = 0; j < b.classes; ++j) w.bias[j] = T(from[j]), w.bias_rest[j] = T(from[j] - double(w.bias[j]));
        if (!Along) return;
        std::fill(w.bias + b.classes, w.bias + b.vectors * lanes, T(0));
        std::fill(w.bias_rest + b.classes, w.bias_rest + b.vectors * lanes, T(0));
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
        load_mask(b, row);
        const Tile<T> given = b.z;
        b.z = {w.z, b.vectors, w.z + (b.vectors - 1) * lanes, given.low};
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            auto out = Vector::load(w.mask + i * lanes) == T(0);
            select(out, Vector(minus_infinity), given[i]).store(w.z + i * lanes);
            if (given.low) select(out, Vector(T(0)), Vector::load(w.z_rest + i * lanes)).store(w.z_rest + i * lanes);
            if (!b.slope) continue;
            Vector slope = transforms() ? Vector::load(b.slope + i * lanes) : Vector(T(1));
            select(out, Vector(T(0)), slope).store(b.slope + i * lanes);
        }
    }

    // 1 for classes that can occur; once for all rows where it is the same for them.
    void load_mask(const Block& b, int row) {
        bool is_shared = p.mask.outer_stride == 0 && p.mask.inner_stride == 0 && !group.skips_some;
        if (is_shared && masked == b.index) return;
        masked = is_shared ? b.index : -1;
        load(p.mask, b, row, T(0), w.mask);
    }

    // t of a block: where it stands, if its elements are T already and no weights have to change it, else in w.dense.
    void load_dense(const Block& b, int row) {
        T *last = const_cast<T*>(b.dense.last), *to = last - (b.vectors - 1) * lanes;
        if (b.dense.data == to) load(p.dense, b, row, T(0), to);
        else pad_last(b.dense, b.classes, T(0), last);
    }
    // It becomes w t.
    void weigh_dense(const Block& b) {
        const double* weight = p.class_weight + b.first_class;
        T* t = const_cast<T*>(b.dense.data);
        for (std::int64_t j = 0; j < b.classes; ++j) {
            if (Along) t[j] = T(t[j] * weight[j]);
            else for (int lane = 0; lane < lanes; ++lane) t[j * lanes + lane] = T(t[j * lanes + lane] * weight[j]);
        }
    }
    // The masses of the target, and sum w t (z - m) where it is given z. A negative entry shows in all, whatever its weight is.
    void dense_statistics(const Block& b, int row, Vector m, Vector rest, Statistics& s) {
        if constexpr (!Along)
            if (sums_along_rows()) return dense_along_rows(b, m, s);
        load_dense(b, row);
        const char* next = next_place(p.dense, b, row);
        Real target_sum = 0.0, dot = 0.0, mass = 0.0;
        if (p.class_weight) target_sum = tile_target_mass<T, Along>(b.dense, nullptr), weigh_dense(b);
        if (b.z.data) tile_dense<T, Along>(b.z, m, rest, b.dense, next, dot, mass);
        else mass = tile_target_mass<T, Along>(b.dense, next);
        if (!p.class_weight) target_sum = mass;
        else mass = mass + (target_sum - target_sum);
        set(s.dense, row, dot);
        set(s.dense_mass, row, mass);
        set(s.target_sum, row, target_sum);
    }

    // Across, with two vectors of classes or more: the double sums of one row take fewer registers than those of all, and rows that
    // stand where they are need not be turned. Whether they do changes no bit.
    bool sums_along_rows() const {
        return p.classes >= 2 * lanes && shape.blocks == 1 && classes_together(p) && !p.class_weight && !p.mask.data && !transforms();
    }
    void dense_along_rows(const Block& b, Vector m, Statistics& s) {
        const std::int64_t vectors = (b.classes + lanes - 1) / lanes, last = b.classes - lanes, seen = vectors * lanes - b.classes;
        const bool has_z = b.z.data, turns_z = has_z && !is_plain(p.logits), turns_t = !is_plain(p.dense);
        if (turns_t || p.gradient.data) load_dense(b, 0);
        if (turns_t) rows_of_classes(b.dense.data, b.classes, w.dense_rows);
        if (turns_z) rows_of_classes(b.z.data, b.classes, w.rows);
        T top[lanes], ends[lanes];
        m.store(top);
        for (int r = 0; r < lanes; ++r) {
            double dot = 0, mass = 0;
            if (r < rows && !group.skipped[r]) {
                const T* t = turns_t ? w.dense_rows + r * b.classes : reinterpret_cast<const T*>(row_start(p.dense, r));
                const T* z = turns_z ? w.rows + r * b.classes : has_z ? reinterpret_cast<const T*>(row_start(p.logits, r)) : nullptr;
                // The last vector ends with the row: what it shares with the one before weighs nothing.
                Vector::load(t + last).store(ends);
                std::fill(ends, ends + seen, T(0));
                const Tile<T> target{t, vectors, ends};
                if (has_z) tile_dense<T, true>({z, vectors, z + last}, top[r], T(0), target, turns_t ? nullptr : row_start(p.dense, r + lanes), dot, mass);
                else mass = tile_target_mass<T, true>(target, nullptr);
            }
            s.dense[r] = dot, s.dense_mass[r] = mass, s.target_sum[r] = mass;
        }
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
        load_mask(b, row);
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            Vector weight = Along ? Vector::load(w.by_class + i * lanes) : Vector(w.by_class[i]);
            (Vector::load(w.mask + i * lanes) * weight).store(w.profile + i * lanes);
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
        if (reads_target_only()) {
            set_nothing(index, row, s);
            b.z = {};
            return dense_statistics(b, row, T(0), T(0), s);
        }
        load_logits(b, row);
        Vector m = T(0), rest = T(0);
        Real scale = 1.0;
        if (p.has_softmax) {
            m = tile_maximum(b.z);
            if constexpr (Along) m = Vector(maximum(m));
            if (b.z.low) {
                rest = tile_rest(b.z, m);
                if constexpr (Along) rest = Vector(maximum(rest));
            }
            scale = exponentials(b, row, m, rest, s);
        } else {
            set_nothing(index, row, s);
        }
        Vector from = select(m == minus_infinity, Vector(T(0)), m);  // of -inf alone, sums are relative to 0: -inf
        if (p.entropy_sum) set(s.entropy_sum, row, tile_weighted(b.z, from, rest, Weights<T, Along>{b.powers}) * scale);
        if (has_profile()) {
            load_profile(b, row);
            set(s.profile, row, tile_weighted(b.z, from, rest, b.profile));
            set(s.profile_mass, row, p.mask.data ? tile_mass(b.vectors, b.profile) : profile_mass);
            count_allowed(b, row, s);
        }
        if (has_dense()) dense_statistics(b, row, from, rest, s);
        if (finds_top()) find_top(b, row, m, rest, s);
        find_labels(b, row);
    }

    static void set_nothing(std::int64_t index, int row, Statistics& s) {
        Base::set_nothing(s, Along ? row : 0, Along ? row + 1 : lanes, index == 0);
    }

    // The next block comes from memory while this one is computed; the next row or group, where a row is one block.
    const char* next_place(const Matrix& a, const Block& b, int row) const {
        if constexpr (!Along) return shape.blocks == 1 ? Base::next_group(a) : nullptr;
        bool last = b.first_class + b.classes == p.classes;
        if (!is_in_place(a) || (last && row + 1 >= rows)) return nullptr;
        return last ? row_start(a, row + 1) : row_start(a, row) + (b.first_class + b.classes) * a.class_stride;
    }

    // e^(z - m) in units of the number returned.
    Real exponentials(Block& b, int row, Vector m, Vector rest, Statistics& s) {
        const char* next = next_place(p.logits, b, row);
        T* powers = p.gradient.data || p.entropy_sum ? b.powers : nullptr;
        decltype(number(m)) others, ties;
        set(s.maximum, row, number(m) + number(rest));
        return with_origin(m, rest, [&](const auto& origin) {
            tile_exp<T, Along>(b.z, origin, powers, next, others, ties);
            set(s.ties, row, ties);
            Real scale = note_origin(origin, b.index, row);
            set(s.others, row, others * scale);
            return scale;
        });
    }
    template <class Body> auto with_origin(Vector m, Vector rest, Body body) const {
        if constexpr (has_fma)
            if (Base::scales()) return body(Origin<T, lanes, Form::scaled>(m, p.temperature));
        if constexpr (has_fma && sizeof(T) == 4)
            if (pairs()) return body(Origin<T, lanes, Form::paired>(m, rest));
        return body(Origin<T, lanes>(m));
    }
    template <class Counted> Real note_origin(const Counted& origin, std::int64_t index, int row) {
        Real scale = number(origin.scale()), top = number(origin.m) + number(origin.low);
        set(w.top + index * max_rows, row, Base::scales() ? top / p.temperature : top);
        set(w.scale + index * max_rows, row, scale);
        return scale;
    }

    void count_allowed(const Block& b, int row, Statistics& s) {
        if (p.mask.data) {
            load_mask(b, row);
            set(s.allowed, row, tile_mass(b.vectors, Weights<T, Along>{w.mask}));
        } else {
            for (int r = Along ? row : 0; r < (Along ? row + 1 : lanes); ++r) s.allowed[r] = double(b.classes);
        }
    }

    // Index of the first maximum.
    void find_top(const Block& b, int row, Vector m, Vector rest, Statistics& s) {
        auto is_top = [&](std::int64_t i) {
            return b.z.low ? (b.z[i] == m) & (b.z.template rest<Form::paired>(i) == rest) : b.z[i] == m;
        };
        if constexpr (Along) {
            s.prediction[row] = b.first_class;
            for (std::int64_t i = 0; i < b.vectors; ++i) {
                auto here = is_top(i);
                if (sum(here) == 0) continue;
                typename IntegerOf<T>::type value[lanes];
                here.store(value);
                s.prediction[row] += i * lanes + (std::find(value, value + lanes, -1) - value);
                return;
            }
        } else {
            Vector at = T(0);  // the last assignment is the first maximum
            for (std::int64_t j = b.classes - 1; j >= 0; --j) at = select(is_top(j), Vector(T(j)), at);
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
            std::int64_t at = Along ? j : j * lanes + (p.entries == 1 ? i : i / p.entries);
            logits[i] = !Along || j / lanes + 1 < b.z.vectors ? b.z.data[at] : b.z.last[j % lanes];
            if (b.z.low) logits[i] += b.z.low[at];
        }
    }

    // Across, with one label per row and few classes: the labels' entries by comparison, for all rows at once.
    static constexpr std::int64_t few_classes = 32;
    bool has_label_lanes(const Block& b) const { return p.entries == 1 && shape.blocks == 1 && b.classes <= few_classes; }
    LaneIndex label_lanes() { return convert<typename IntegerOf<T>::type>(Lanes<std::int64_t, lanes>::load(group.indices(1))); }
    void find_label_lanes(const Block& b) {
        LaneIndex label = label_lanes();
        Vector found = std::numeric_limits<T>::quiet_NaN(), rest = T(0);
        for (std::int64_t j = 0; j < b.classes; ++j) found = select(label == LaneIndex(j), b.z[j], found);
        for (std::int64_t j = 0; j < b.classes && b.z.low; ++j) rest = select(label == LaneIndex(j), b.z.template rest<Form::paired>(j), rest);
        found.store(w.label_logit);
        rest.store(w.label_rest);
        (convert<double>(found) + convert<double>(rest)).store(group.logits(1));
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
            Base::set_nothing(total, 0, rows, part == 0);
            return;
        }
        if (end == first + 1) return statistics_of_blocks(first, total);
        RowGroup::MergeTree tree(*this);
        for (std::int64_t index = first; index < end; ++index) {
            statistics_of_blocks(index, *tree.incoming);
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
        const bool is_read_again = !shape.keeps && !reads_labels_only();
        if (has_profile()) load_profile(b, row);
        if (is_read_again) {
            load_logits(b, row);
            if (has_dense()) load_dense(b, row);
            if (has_dense() && p.class_weight) weigh_dense(b);
        }
        if (is_read_again && p.has_softmax) {
            bool is_written = with_origin(origin_of(row), origin_rest(row), [&](const auto& origin) {
                note_origin(origin, index, row);
                bool streams = streams_block(b, row);
                NewPowers powers{b.z, origin, streams ? next_place(p.logits, b, row) : nullptr};
                if (streams) stream_block(b, row, powers);
                else tile_powers<T>(powers, b.powers);
                return streams;
            });
            if (is_written) return;
        } else if (streams_block(b, row)) {
            return stream_block(b, row, KeptPowers<T>{b.powers});
        }
        if (!p.has_softmax) std::fill(b.powers, b.powers + b.vectors * lanes, T(0));
        lift(b, row);

        Factors f = row_factors(index, row);
        KeptPowers<T> powers{b.powers};
        bool straight = Along && is_plain(p.gradient) && !streams_gradient(p);
        T* to = straight ? gradient_of(b, row) : w.gradient;
        std::int64_t full = straight ? b.classes / lanes : b.vectors;
        LabelEntries<T> labels;
        if constexpr (!Along)
            if (corrects_label_lanes(b)) labels = {true, label_lanes(), label_entries(b)};
        tile_gradient<T, Along>(0, full, powers, f, b.profile, b.dense, b.slope, labels, to);
        if (full < b.vectors) {  // the last vector reaches beyond the row
            tile_gradient<T, Along>(full, b.vectors, powers, f, b.profile, b.dense, b.slope, labels, w.gradient);
            std::memcpy(to + full * lanes, w.gradient + full * lanes, (b.classes - full * lanes) * sizeof(T));
        }
        if (!labels.any) correct(b, row, to);
        if (!straight) write(b, row, to);
    }

    // One of a row's many blocks, without an entry that `correct` changes, goes past the caches as it is computed: while it waits for
    // memory, the next exponentials are formed.
    bool streams_block(const Block& b, int row) const {
        if (!Along || shape.blocks == 1 || !p.has_softmax || !is_plain(p.gradient) || !streams_gradient(p)) return false;
        auto has = [&](std::int64_t j) { return std::uint64_t(j - b.first_class) < std::uint64_t(b.classes); };
        const std::int64_t* indices = group.indices(p.entries);
        if (std::any_of(indices + row * p.entries, indices + (row + 1) * p.entries, has)) return false;
        if (finds_top() && has(group.statistics.prediction[row])) return false;
        return b.classes % lanes == 0 && b.vectors > 2 && std::intptr_t(gradient_of(b, row)) % sizeof(T) == 0 && !is_lifted(b, row);
    }
    T* gradient_of(const Block& b, int row) const { return reinterpret_cast<T*>(row_start(p.gradient, row)) + b.first_class; }
    template <class Powers> void stream_block(const Block& b, int row, const Powers& powers) const {
        Factors f = row_factors(b.index, row);
        T* to = gradient_of(b, row);
        // Stores past the caches begin at a multiple of a register's size: what stands before, and behind the last of them, does not.
        std::int64_t before = (-std::intptr_t(to) & (REGISTER_BYTES - 1)) / std::int64_t(sizeof(T)), behind = before ? lanes - before : 0;
        if (!before) return tile_gradient<T, Along, true>(0, b.vectors, powers, f, b.profile, b.dense, b.slope, {}, to);
        for (std::int64_t i : {std::int64_t(0), b.vectors - 1}) tile_gradient<T, Along>(i, i + 1, powers, f, b.profile, b.dense, b.slope, {}, w.gradient);
        std::memcpy(to, w.gradient, before * sizeof(T));
        std::memcpy(to + b.classes - behind, w.gradient + b.classes - behind, behind * sizeof(T));
        Weights<T, Along> profile = b.profile;
        if (profile.tile) profile.tile += before;
        tile_gradient<T, Along, true>(0, b.vectors - 1, powers.from(before), f, profile, b.dense.from(before), b.slope ? b.slope + before : nullptr, {}, to + before);
    }

    // The maximum of a row (Along) or of all rows as T, and what that leaves of it.
    Vector origin_of(int row) const {
        if constexpr (Along) return T(Base::origins()[row]);
        else return convert<T>(Lanes<double, lanes>::load(Base::origins()));
    }
    Vector origin_rest(int row) const {
        if constexpr (sizeof(T) == 8) return T(0);
        else if constexpr (Along) return T(Base::origins()[row] - double(T(Base::origins()[row])));
        else return convert<T>(Lanes<double, lanes>::load(Base::origins()) - convert<double>(origin_of(row)));
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
    bool is_lifted(const Block& b, int r) const { return sizeof(T) == 4 && shape.blocks > 1 && !(std::abs(power_factor(b.index, r)) > 0x1p-80); }
    void lift(const Block& b, int row) {
        for (int r = Along ? row : 0; r < (Along ? row + 1 : rows); ++r) {
            if (!is_lifted(b, r)) continue;
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
        Vector power = with_origin(origin_of(0), origin_rest(0), [&](const auto& origin) {
            return exp_relative(Vector::load(w.label_logit), origin, Vector::load(w.label_rest));
        });
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
        if (b.dense.data) q += p.dense_scale * double(b.dense.number(at));
        return q;
    }
};

// ---- entry points ---------------------------------------------------------------------------------------------------------

// Along for long rows.
bool goes_along(const Problem& p) { return p.classes > 128 && classes_together(p); }
template <class Body> auto dispatch(const Problem& p, Body body) {
    bool in_double = p.logits.dtype == DType::float64 || (transforms_logits(p) && !pairs_logits(p));
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
        plan.workspace_bytes = workspace.place(p, nullptr) + Strip::bytes(p);
        plan.group_bytes = Group::bytes(p.entries);
        plan.part_bytes = sizeof(Statistics);
        return plan;
    });
}

void groups(const Problem& p, std::int64_t first, std::int64_t end, void* workspace, void* group_memory) {
    if (FewClasses::takes(p)) {
        FewClasses rows(p, first, workspace, group_memory);
        for (std::int64_t group = first; group < end; ++group) rows.turn_to(group), rows.compute();
        return;
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

void whole(const Problem& p, std::int64_t first, std::int64_t end, void* workspace, void* group_memory) {
    if (!goes_along(p) && Strip::takes(p)) {
        dispatch(p, [&]<class T, bool Along>() {
            char* behind = static_cast<char*>(workspace) + Workspace<T, Along>().place(p, nullptr);
            Strip(p, behind).compute(first, end, width<T>, [&](const Problem& q, std::int64_t from, std::int64_t to) {
                groups(q, from, to, workspace, group_memory);
            });
        });
    } else {
        groups(p, first, end, workspace, group_memory);
    }
    finish_streams();
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
        for (std::int64_t part = 0; part < parts; ++part) *tree.incoming = states[part], tree.add();
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
