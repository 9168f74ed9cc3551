// Statistics, loss and gradient of groups of rows. The formulas are derived in src/crossentropy/row_loss.py; the loops over the
// elements are in tile.hpp. Compiled once per instruction set.
#include <algorithm>
#include <cmath>

#include "tile.hpp"

namespace INSTRUCTION_SET {
namespace {

constexpr int max_rows = 32;                       // of one group
constexpr std::int64_t block_elements = 2048;      // z, powers and gradient of one block share the first-level cache
constexpr std::int64_t kept_elements = 1 << 16;    // powers kept until the gradient needs them: half of a 512 kB second-level cache
constexpr std::int64_t group_elements = 1 << 14;   // rows of one group: what the vectorised finish of short rows needs
constexpr std::int64_t part_elements = 1 << 17;
constexpr std::int64_t stream_bytes = 1 << 23;     // a gradient that will not be found in a cache again
constexpr double undefined = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

using Chunk = Lanes<double, 8>;  // per-row numbers go eight rows at a time
using PerRowNumbers = double[max_rows];

// What is kept of each row for some of its classes: row_loss.RowStatistics.
struct alignas(64) Statistics {
    PerRowNumbers maximum, ties, others, profile, profile_mass, allowed, dense, dense_mass, target_sum, entropy_sum;
    std::int64_t prediction[max_rows];
};

struct alignas(64) Group {
    Statistics statistics;
    // What the gradient needs of each row: a / (n + S), the corrected entry at a unique maximum and the factors of q.
    PerRowNumbers power_factor, top_entry, mass, upstream, profile_factor, dense_factor, weight_factor, residue, label_mass, label_logit;
    bool skipped[max_rows];
    // Then K indices, weights and logits per row.
    std::int64_t* indices(std::int64_t) { return reinterpret_cast<std::int64_t*>(this + 1); }
    double* weights(std::int64_t entries) { return reinterpret_cast<double*>(indices(entries) + max_rows * entries); }
    double* logits(std::int64_t entries) { return weights(entries) + max_rows * entries; }
    double* slopes(std::int64_t entries) { return logits(entries) + max_rows * entries; }
    static std::int64_t bytes(std::int64_t entries) { return sizeof(Group) + 4 * max_rows * entries * 8 + 64; }
};

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

bool needs_transform(const Problem& p) { return p.temperature != 1 || p.softcap != 0 || p.class_bias || p.are_probabilities; }

// Strides of rows in bytes where neighbouring rows are evenly spaced for the whole array, else 0.
std::int64_t even_stride(const Problem& p, const Matrix& a) {
    if (p.inner == 1) return a.outer_stride;
    return a.outer_stride == p.inner * a.inner_stride || p.rows == p.inner ? a.inner_stride : 0;
}
INLINE char* row_start(const Problem& p, const Matrix& a, std::int64_t row) {
    if (p.inner == 1) return a.data + row * a.outer_stride;
    return a.data + row / p.inner * a.outer_stride + row % p.inner * a.inner_stride;
}

template <class T, bool Along> struct Kernel {
    static constexpr int lanes = width<T>;
    static constexpr double unscale = sizeof(T) == 4 ? 0x1p-40 : 0x1p-200;  // 2^-headroom
    static constexpr std::int64_t block_classes = Along ? block_elements : block_elements / lanes;

    struct Shape {
        std::int64_t rows_per_group, blocks, block_vectors, parts, part_classes;
        bool keeps;  // the powers until the gradient
        explicit Shape(const Problem& p) {
            std::int64_t padded = Along ? round_up(p.classes, lanes) : p.classes * lanes;
            parts = (padded + part_elements - 1) / part_elements;
            part_classes = Along ? part_elements : part_elements / lanes;
            blocks = (p.classes + block_classes - 1) / block_classes;
            rows_per_group = !Along ? lanes : blocks > 1 ? 1 : std::clamp<std::int64_t>(group_elements / padded, 1, max_rows);
            keeps = padded * (Along ? rows_per_group : 1) <= kept_elements && !p.given;
            block_vectors = Along ? (blocks > 1 ? block_elements : padded) / lanes : std::min(p.classes, block_classes);
        }
    };

    // Scratch memory of one thread.
    struct Workspace {
        T *z, *powers, *dense, *profile, *slope, *gradient, *transposed, *by_class;
        double* top;  // per block and row: powers = e^(z - top) 2^headroom
        static std::int64_t layout(const Problem& p, char* memory, Workspace* w) {
            Shape shape(p);
            std::int64_t block = shape.block_vectors * lanes;
            std::int64_t kept = shape.keeps ? block * shape.blocks * (Along ? shape.rows_per_group : 1) : block;
            std::int64_t offset = 0;
            auto take = [&](std::int64_t count, std::int64_t size) {
                char* at = memory + offset;
                offset += round_up(count * size, 64) + 64;  // the gap keeps buffers off the same cache sets
                return at;
            };
            Workspace local;
            local.z = (T*)take(block, sizeof(T));
            local.powers = (T*)take(kept, sizeof(T));
            local.dense = (T*)take(p.dense.data ? kept : 0, sizeof(T));
            local.profile = (T*)take(block, sizeof(T));
            local.slope = (T*)take(kept, sizeof(T));
            local.gradient = (T*)take(block, sizeof(T));
            local.transposed = (T*)take(block, sizeof(T));
            local.by_class = (T*)take(block, sizeof(T));
            local.top = (double*)take(shape.blocks * max_rows, sizeof(double));
            if (w) *w = local;
            return offset;
        }
    };

    // One block of classes of one row (Along) or of all rows of the group (Across).
    struct Block {
        std::int64_t index, first_class, classes, vectors;
        Tile<T> z;
        T *powers, *dense, *slope;
        Weights<T, Along> profile;
    };

    const Problem& p;
    const Shape shape;
    Workspace w;
    Group& group;
    std::int64_t first_row;
    int rows;
    bool has_slope, has_profile;

    Kernel(const Problem& problem, std::int64_t index, void* workspace, void* group_memory)
        : p(problem), shape(problem), group(*static_cast<Group*>(group_memory)) {
        if (workspace) Workspace::layout(p, static_cast<char*>(workspace), &w);
        first_row = index * shape.rows_per_group;
        rows = int(std::min(shape.rows_per_group, p.rows - first_row));
        has_slope = p.softcap != 0 || p.are_probabilities || p.mask.data;
        has_profile = p.smoothing != 0;
    }

    // ---- loading --------------------------------------------------------------------------------------------------------

    // Rows [0, count) x classes of `a` into vectors of T, padded with `padding`.
    void load(const Matrix& a, int row, std::int64_t first_class, std::int64_t classes, std::int64_t vectors, T padding, T* to) {
        if constexpr (Along) {
            const char* from = row_start(p, a, first_row + row) + first_class * a.class_stride;
            with_dtype(a.dtype, [&](auto source) { read_run<T, decltype(source)>(from, a.class_stride, classes, to); });
            for (std::int64_t i = classes; i < vectors * lanes; ++i) to[i] = padding;
            return;
        }
        std::int64_t stride = rows_are_even(a) ? even_in_group(a) : 0;
        bool by_class = stride != 0 && std::abs(stride) <= std::abs(a.class_stride);
        with_dtype(a.dtype, [&](auto source) {
            using Source = decltype(source);
            if (by_class) {
                const char* start = row_start(p, a, first_row) + first_class * a.class_stride;
                for (std::int64_t j = 0; j < classes; ++j)
                    read_run<T, Source>(start + j * a.class_stride, stride, rows, to + j * lanes);
            } else {
                for (int lane = 0; lane < rows; ++lane) {
                    const char* from = row_start(p, a, first_row + lane) + first_class * a.class_stride;
                    for (std::int64_t j = 0; j < classes; ++j)
                        to[j * lanes + lane] = widen<T>(*reinterpret_cast<const Source*>(from + j * a.class_stride));
                }
            }
        });
        bool any_skipped = std::any_of(group.skipped, group.skipped + rows, [](bool s) { return s; });
        if (rows < lanes || any_skipped)
            for (int lane = 0; lane < lanes; ++lane)
                if (lane >= rows || group.skipped[lane])
                    for (std::int64_t j = 0; j < classes; ++j) to[j * lanes + lane] = T(0);
    }
    bool rows_are_even(const Matrix& a) const {
        return p.inner == 1 || first_row / p.inner == (first_row + rows - 1) / p.inner || even_stride(p, a) != 0;
    }
    std::int64_t even_in_group(const Matrix& a) const { return p.inner == 1 ? a.outer_stride : a.inner_stride; }

    Block block_at(std::int64_t index, int row) {
        Block b;
        b.index = index;
        b.first_class = index * block_classes;
        b.classes = std::min(block_classes, p.classes - b.first_class);
        b.vectors = Along ? (b.classes + lanes - 1) / lanes : b.classes;
        std::int64_t kept = !shape.keeps ? 0 : Along && shape.blocks == 1 ? row * shape.block_vectors * lanes : index * block_elements;
        b.powers = w.powers + kept;
        b.dense = p.dense.data ? w.dense + kept : nullptr;
        b.slope = has_slope ? w.slope + kept : nullptr;
        return b;
    }

    // z of a block: where it stands, if its elements are T already, else converted and transformed in w.z.
    void load_logits(Block& b, int row) {
        constexpr T outside = -std::numeric_limits<T>::infinity();
        constexpr DType own = sizeof(T) == 4 ? DType::float32 : DType::float64;
        bool direct = Along && p.logits.dtype == own && p.logits.class_stride == sizeof(T) && !needs_transform(p) && !p.mask.data;
        if (!direct) {
            load(p.logits, row, b.first_class, b.classes, b.vectors, outside, w.z);
            b.z = whole(w.z, b.vectors);
            if constexpr (sizeof(T) == 8)
                if (needs_transform(p)) transform(b);
            if (p.mask.data) apply_mask(b, row);
            return;
        }
        const T* data = reinterpret_cast<const T*>(row_start(p, p.logits, first_row + row)) + b.first_class;
        std::int64_t before = (b.vectors - 1) * lanes;
        for (std::int64_t i = 0; i < lanes; ++i) w.z[i] = before + i < b.classes ? data[before + i] : outside;
        b.z = {data, b.vectors, w.z};
    }

    void transform(const Block& b) {
        using Real = Wide<double>;
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            double* at = reinterpret_cast<double*>(w.z) + i * lanes;
            Real x = Real::load(at), slope = 1 / p.temperature;
            if (p.are_probabilities) {
                slope = 1.0 / x;
                x = log(x);
            } else {
                if (p.temperature != 1) x = x / p.temperature;
                if (p.class_bias) {
                    const double* bias = p.class_bias + b.first_class + (Along ? i * lanes : i);
                    if constexpr (Along) {
                        double padded[lanes] = {};
                        std::memcpy(padded, bias, std::min<std::int64_t>(lanes, b.classes - i * lanes) * sizeof(double));
                        x = x + Real::load(padded);
                    } else {
                        x = x + *bias;
                    }
                }
                if (p.softcap != 0) {
                    Real angle = x / p.softcap;
                    x = tanh(angle) * p.softcap;
                    slope = tanh_slope(angle) / p.temperature;
                }
            }
            x.store(at);
            if (b.slope) slope.store(reinterpret_cast<double*>(b.slope) + i * lanes);
        }
        if (Along)  // the padding stays out of every sum, whatever the soft-cap made of it
            for (std::int64_t i = b.classes; i < b.vectors * lanes; ++i) w.z[i] = -std::numeric_limits<T>::infinity();
    }

    // Masked classes: z = -inf and no slope, whatever the logit is. Without a transform the other slopes are 1.
    void apply_mask(const Block& b, int row) {
        load(p.mask, row, b.first_class, b.classes, b.vectors, T(0), w.profile);
        for (std::int64_t i = 0; i < b.vectors; ++i) {
            T* at = w.z + i * lanes;
            auto out = Wide<T>::load(w.profile + i * lanes) == T(0);
            select(out, Wide<T>(-std::numeric_limits<T>::infinity()), Wide<T>::load(at)).store(at);
            Wide<T> slope = needs_transform(p) && b.slope ? Wide<T>::load(b.slope + i * lanes) : Wide<T>(T(1));
            select(out, Wide<T>(T(0)), slope).store(b.slope + i * lanes);
        }
    }

    // w t of a block.
    void load_dense(const Block& b, int row, Statistics& s) {
        load(p.dense, row, b.first_class, b.classes, b.vectors, T(0), b.dense);
        Weights<T, Along> plain{b.dense};
        set(s.target_sum, row, tile_mass(b.vectors, plain));
        if (p.class_weight)
            for (std::int64_t i = 0; i < b.vectors * lanes; ++i) {
                std::int64_t j = Along ? i : i / lanes;
                if (j < b.classes) b.dense[i] = T(b.dense[i] * p.class_weight[b.first_class + j]);
            }
    }

    // u of a block: class weights (or 1) of the classes that the mask allows. Call after load_logits, which loads the mask.
    void load_profile(Block& b) {
        for (std::int64_t j = 0; j < b.classes; ++j) w.by_class[j] = p.class_weight ? T(p.class_weight[b.first_class + j]) : T(1);
        if (Along) for (std::int64_t j = b.classes; j < b.vectors * lanes; ++j) w.by_class[j] = 0;
        if (p.mask.data) {
            for (std::int64_t i = 0; i < b.vectors; ++i) {
                Wide<T> weight = Along ? Wide<T>::load(w.by_class + i * lanes) : Wide<T>(w.by_class[i]);
                Wide<T> mask = Wide<T>::load(w.profile + i * lanes);
                (mask * weight).store(w.profile + i * lanes);
            }
            b.profile.tile = w.profile;
        } else if (Along) {
            b.profile.tile = w.by_class;
        } else {
            b.profile.by_class = w.by_class;
        }
    }

    // One number (Along) or one per row (Across) into per-row numbers.
    static void set(double* to, int row, double value) { to[row] = value; }
    template <int N> static void set(double* to, int, Lanes<double, N> value) { value.store(to); }

    // One number of what is the same in every lane (Along), or all of them.
    static auto number(Wide<T> x) {
        if constexpr (Along) return double(x.part[0][0]);
        else return convert<double>(x);
    }

    // m of a block as vectors (Along: the same in every lane), and where z is counted from.
    static Wide<T> largest(const Tile<T>& z) {
        if constexpr (Along) return Wide<T>(maximum(tile_maximum(z)));
        else return tile_maximum(z);
    }
    struct Reference {
        Wide<T> from, K;
        explicit Reference(Wide<T> m) {
            using E = Exp<T>;
            Wide<T> size = larger(m, -m);
            auto finite = size < std::numeric_limits<T>::infinity();
            m = select(finite, m, Wide<T>(T(0)));
            from = select(size < E::far, Wide<T>(T(0)), m);
            K = ((m - from) * E::log2e + E::round) - E::round;
        }
    };
    // e^(reference - m) 2^K, what turns powers into e^(z - m) 2^headroom.
    static auto rest_of(Wide<T> m, const Reference& r) {
        auto finite = larger(m, -m) < std::numeric_limits<T>::infinity();
        Wide<T> rest = select(finite, m, Wide<T>(T(0))) - r.from;
        if constexpr (Along) return exp_remainder(Chunk(double(rest.part[0][0])), Chunk(double(r.K.part[0][0]))).part[0][0];
        else return exp_remainder(convert<double>(rest), convert<double>(r.K));
    }
    static Wide<T> as_wide(double x) { return Wide<T>(T(x)); }
    template <int N> static Wide<T> as_wide(Lanes<double, N> x) { return convert<T>(x); }

    // ---- statistics -----------------------------------------------------------------------------------------------------

    void block_statistics(std::int64_t index, int row, Statistics& s) {
        Block b = block_at(index, row);
        if (reads_labels_only()) {
            read_labels(row, s);
            return;
        }
        load_logits(b, row);
        Wide<T> m = p.has_softmax ? largest(b.z) : Wide<T>(T(0));
        Wide<T> from = m;  // of weighted sums: in a block of -inf alone the difference to m is not defined, but -inf
        from = select(from == -std::numeric_limits<T>::infinity(), Wide<T>(T(0)), from);
        if (p.has_softmax) {
            Reference reference(m);
            Scale<T, lanes> scale(reference.K);
            const char* next = Along && b.z.data != w.z && b.first_class + b.classes < p.classes
                                   ? reinterpret_cast<const char*>(b.z.data + b.classes) : nullptr;
            auto rest = rest_of(m, reference);
            T* powers = p.gradient.data || p.entropy_sum ? b.powers : nullptr;
            decltype(rest) others, ties;
            tile_exp<T, Along>(b.z, m, reference.from, scale, as_wide(rest), powers, next, others, ties);
            set(s.maximum, row, number(m));
            set(s.ties, row, ties);
            set(s.others, row, others * rest * unscale);
            set(w.top + index * max_rows, row, number(m));
            if (p.entropy_sum) set(s.entropy_sum, row, tile_weighted(b.z, from, Weights<T, Along>{powers}) * unscale);
        } else {
            for (int r = Along ? row : 0; r < (Along ? row + 1 : lanes); ++r) s.maximum[r] = 0, s.ties[r] = 1, s.others[r] = 0;
        }
        if (has_profile) {
            load_profile(b);
            set(s.profile, row, tile_weighted(b.z, from, b.profile));
            set(s.profile_mass, row, tile_mass(b.vectors, b.profile));
            count_allowed(b, row, s);
        }
        if (p.dense.data) {
            load_dense(b, row, s);
            Weights<T, Along> weighted{b.dense};
            set(s.dense, row, tile_weighted(b.z, from, weighted));
            set(s.dense_mass, row, tile_mass(b.vectors, weighted));
        }
        if (finds_top()) find_top(b, row, m, s);
        find_labels(b, row);
    }

    bool finds_top() const { return p.prediction || (p.gradient.data && p.has_softmax && (p.dense.data || has_profile)); }

    void count_allowed(const Block& b, int row, Statistics& s) {
        if (!p.mask.data) {
            for (int r = Along ? row : 0; r < (Along ? row + 1 : lanes); ++r) s.allowed[r] = double(b.classes);
            return;
        }
        load(p.mask, row, b.first_class, b.classes, b.vectors, T(0), w.transposed);
        Weights<T, Along> mask{w.transposed};
        set(s.allowed, row, tile_mass(b.vectors, mask));
    }

    // Index of the first maximum.
    void find_top(const Block& b, int row, Wide<T> m, Statistics& s) {
        if constexpr (Along) {
            for (std::int64_t i = 0; i < b.vectors; ++i) {
                Wide<T> x = b.z[i];
                if (sum(x == m) == 0) continue;
                for (int lane = 0; lane < lanes; ++lane) {
                    T value[lanes];
                    x.store(value);
                    if (value[lane] == m.part[0][0]) {
                        s.prediction[row] = b.first_class + i * lanes + lane;
                        return;
                    }
                }
            }
            s.prediction[row] = b.first_class;
        } else {
            // The last assignment is the first maximum.
            Wide<T> at = T(0);
            for (std::int64_t j = b.classes - 1; j >= 0; --j) at = select(b.z[j] == m, Wide<T>(T(j)), at);
            T found[lanes];
            at.store(found);
            for (int lane = 0; lane < lanes; ++lane) s.prediction[lane] = b.first_class + std::int64_t(found[lane]);
        }
    }

    void find_labels(const Block& b, int row) {
        std::int64_t* indices = group.indices(p.entries);
        double* logits = group.logits(p.entries);
        int begin = Along ? row : 0, end = Along ? row + 1 : rows;
        for (int r = begin; r < end; ++r)
            for (std::int64_t k = 0; k < p.entries; ++k) {
                std::int64_t j = indices[r * p.entries + k] - b.first_class;
                if (j < 0 || j >= b.classes || group.skipped[r]) continue;
                std::int64_t at = Along ? j : j * lanes + r;
                const T* vector = at / lanes + 1 < b.z.vectors ? b.z.data + at : b.z.last + at % lanes;
                logits[r * p.entries + k] = *vector;
            }
    }

    // Labels of log-probabilities: only their own entries are read.
    bool reads_labels_only() const { return !p.has_softmax && !p.dense.data && !has_profile && !p.prediction; }
    void read_labels(int row, Statistics& s) {
        std::int64_t* indices = group.indices(p.entries);
        double* logits = group.logits(p.entries);
        int begin = Along ? row : 0, end = Along ? row + 1 : rows;
        for (int r = begin; r < end; ++r) {
            s.maximum[r] = 0, s.ties[r] = 1, s.others[r] = 0;
            if (group.skipped[r]) continue;
            const char* start = row_start(p, p.logits, first_row + r);
            for (std::int64_t k = 0; k < p.entries; ++k) {
                std::int64_t j = indices[r * p.entries + k];
                if (j < 0 || j >= p.classes) continue;
                with_dtype(p.logits.dtype, [&](auto source) {
                    logits[r * p.entries + k] = widen<double>(*reinterpret_cast<const decltype(source)*>(start + j * p.logits.class_stride));
                });
            }
        }
        for (std::int64_t i = begin * p.entries; i < end * p.entries; ++i) group.slopes(p.entries)[i] = 1;
        if (!p.are_probabilities) return;
        for (std::int64_t i = begin * p.entries; i < end * p.entries; i += 8) {
            std::int64_t n = std::min<std::int64_t>(8, end * p.entries - i) * sizeof(double);
            alignas(64) double part[8] = {};
            std::memcpy(part, logits + i, n);
            Chunk x = Chunk::load(part);
            log(x).store(part);
            std::memcpy(logits + i, part, n);
            (1.0 / x).store(part);
            std::memcpy(group.slopes(p.entries) + i, part, n);
        }
    }

    void part_statistics(std::int64_t part, Statistics& total) {
        std::int64_t per_part = shape.part_classes / block_classes;
        std::int64_t first = part * per_part, end = shape.parts == 1 ? shape.blocks : std::min(shape.blocks, first + per_part);
        MergeTree tree{*this};
        for (std::int64_t index = first; index < end; ++index) {
            Statistics& s = index + 1 == end && tree.count == 0 ? total : tree.incoming;
            if constexpr (Along) {
                for (int row = 0; row < rows; ++row)
                    if (!group.skipped[row]) block_statistics(index, row, s);
            } else {
                block_statistics(index, 0, s);
            }
            if (&s != &total) tree.add();
        }
        if (tree.count) tree.result(total);
    }

    // Blocks merge like the digits of a binary counter, level l holding 2^l of them: rounding errors grow with the logarithm of
    // their number.
    struct MergeTree {
        Kernel& kernel;
        std::int64_t count = 0;
        Statistics incoming, levels[24];
        void add() {
            int level = 0;
            for (std::int64_t n = count; n & 1; n >>= 1, ++level) kernel.merge(incoming, levels[level]);
            levels[level] = incoming;
            ++count;
        }
        void result(Statistics& total) {
            bool first = true;
            int level = 0;
            for (std::int64_t n = count; n; n >>= 1, ++level)
                if (n & 1) first ? void(total = levels[level]) : kernel.merge(total, levels[level]), first = false;
        }
    };

    // Statistics of disjoint classes: row_loss.merge.
    void merge(Statistics& a, const Statistics& b) {
        for (int r = 0; r < rows; r += 8) {
            auto get = [r](const double* from) { return Chunk::load(from + r); };
            Chunk ma = get(a.maximum), mb = get(b.maximum), m = larger(ma, mb);
            auto a_wins = mb <= ma, tie = ma == mb;
            Chunk shift_a = exp_difference(ma, m), shift_b = exp_difference(mb, m);
            shift_a = select(ma == -infinity, Chunk(0.0), shift_a);
            shift_b = select(mb == -infinity, Chunk(0.0), shift_b);
            Chunk na = get(a.ties), nb = get(b.ties), sa = get(a.others), sb = get(b.others);
            Chunk zero = 0.0;
            // The losing block's maxima join its sum.
            Chunk loser_a = select(ma == -infinity, zero, (na + sa) * shift_a), loser_b = select(mb == -infinity, zero, (nb + sb) * shift_b);
            select(tie, na + nb, select(a_wins, na, nb)).store(a.ties + r);
            select(tie, sa + sb, select(a_wins, sa + loser_b, sb + loser_a)).store(a.others + r);
            m.store(a.maximum + r);
            if (p.entropy_sum) {
                // sum e^(z - m) (z - m): both factors shift.
                auto moved = [&](Chunk e, Chunk n, Chunk s, Chunk top, Chunk shift) {
                    return select(top == -infinity, zero, shift * (e + (n + s) * select(top == m, zero, top - m)));
                };
                (moved(get(a.entropy_sum), na, sa, ma, shift_a) + moved(get(b.entropy_sum), nb, sb, mb, shift_b)).store(a.entropy_sum + r);
            }
            auto shifted = [&](double* to, const double* mass_a, const double* other, const double* mass_b) {
                auto moved = [&](Chunk value, Chunk mass, Chunk top) {
                    Chunk from = select(top == -infinity, zero, top);  // as in block_statistics
                    Chunk by = select(m == -infinity, zero, from - m);
                    return select(mass == 0.0, value, value + mass * by);
                };
                (moved(get(to), get(mass_a), ma) + moved(get(other), get(mass_b), mb)).store(to + r);
            };
            auto add = [&](double* to, const double* other) { (get(to) + get(other)).store(to + r); };
            if (has_profile) {
                shifted(a.profile, a.profile_mass, b.profile, b.profile_mass);
                add(a.profile_mass, b.profile_mass);
                add(a.allowed, b.allowed);
            }
            if (p.dense.data) {
                shifted(a.dense, a.dense_mass, b.dense, b.dense_mass);
                add(a.dense_mass, b.dense_mass);
                add(a.target_sum, b.target_sum);
            }
            if (finds_top()) {
                alignas(64) std::int64_t keep[8];
                a_wins.store(keep);
                // The first maximum wins a tie, whichever side it is on.
                alignas(64) std::int64_t ties[8];
                tie.store(ties);
                for (int lane = 0; lane < 8; ++lane)
                    if (!keep[lane] || (ties[lane] && b.prediction[r + lane] < a.prediction[r + lane])) a.prediction[r + lane] = b.prediction[r + lane];
            }
        }
    }

    // ---- per-row numbers ------------------------------------------------------------------------------------------------

    // Which rows count, their labels and weights.
    void start() {
        for (int r = 0; r < max_rows; ++r) {
            group.skipped[r] = r < rows && p.valid && !p.valid(first_row + r);
            group.statistics.maximum[r] = 0, group.statistics.ties[r] = 1, group.statistics.others[r] = 0;
        }
        if (p.entries == 0) return;
        std::int64_t* indices = group.indices(p.entries);
        double *weights = group.weights(p.entries), *logits = group.logits(p.entries);
        for (std::int64_t i = 0; i < max_rows * p.entries; ++i) logits[i] = undefined;  // until a class is found
        with_dtype(p.indices.dtype, [&](auto source) {
            using Source = decltype(source);
            if constexpr (std::is_integral_v<Source>)
                for (int r = 0; r < rows; ++r)
                    for (std::int64_t k = 0; k < p.entries; ++k) {
                        const char* at = p.indices.data + (first_row + r) * p.indices.outer_stride + k * p.indices.class_stride;
                        std::int64_t j = std::int64_t(*reinterpret_cast<const Source*>(at));
                        if (p.ignores_label && j == p.ignored_label) group.skipped[r] = true;
                        double weight = p.index_weight ? p.index_weight(first_row + r, k) : 1;
                        if (p.weigh_indices && j >= 0 && j < p.classes) weight *= p.class_weight[j];
                        indices[r * p.entries + k] = j;
                        weights[r * p.entries + k] = weight;
                    }
        });
    }

    // The labels' logits become r = z - m; sum b and sum b r, where b = 0 wins. NaN where a label was not found.
    void label_sums() {
        const Statistics& s = group.statistics;
        double *weights = group.weights(p.entries), *logits = group.logits(p.entries);
        for (int r = 0; r < rows; ++r) {
            double mass = 0, dot = 0;
            for (std::int64_t i = r * p.entries; i < (r + 1) * p.entries; ++i) {
                if (!p.given) logits[i] -= s.maximum[r];
                mass += weights[i];
                dot += weights[i] == 0 && logits[i] == logits[i] ? 0 : weights[i] * logits[i];
            }
            group.label_mass[r] = mass;
            group.label_logit[r] = dot;
        }
    }

    void finish() {
        Statistics& s = group.statistics;
        if (p.given) take_given();
        if (p.entries) label_sums();
        double temperature = has_slope && needs_transform(p) ? 1 : p.temperature;  // else the slope is part of the row's factor
        for (int r = 0; r < rows; r += 8) {
            auto get = [r](const double* from) { return Chunk::load(from + r); };
            Chunk m = get(s.maximum), n = get(s.ties), S = get(s.others), zero = 0.0;
            Chunk total = n + S, L = log1p(S + (n - 1.0)), lse = m + L;
            auto defined = (larger(m, -m) < infinity) & (S == S);
            Chunk mass = zero, g = zero, loss = zero;
            if (p.entries) {
                mass = mass + get(group.label_mass);
                loss = loss - get(group.label_logit);
                defined = defined & (loss == loss);
            }
            if (has_profile) {
                alignas(64) double spread[8];
                for (int lane = 0; lane < 8; ++lane)
                    spread[lane] = p.dense.data ? s.target_sum[r + lane]
                                   : p.target_sum && r + lane < rows ? p.target_sum(first_row + r + lane) : 1;
                Chunk P = get(s.profile);
                g = Chunk::load(spread) * p.smoothing / get(s.allowed);
                mass = mass + g * get(s.profile_mass);
                loss = loss - select(g == 0.0, zero, g * P);
                defined = defined & (P == P);
            }
            if (p.dense.data) {
                Chunk D = get(s.dense);
                mass = mass + get(s.dense_mass) * p.dense_scale;
                loss = loss - select(Chunk(p.dense_scale) == 0.0, zero, D * p.dense_scale);
                defined = defined & (D == D);
            }
            if (p.focal_gamma != 0) {
                alignas(64) double value[8] = {}, slope[8] = {}, log_sum[8];
                L.store(log_sum);
                for (int lane = 0; lane < 8 && r + lane < rows; ++lane) focal(r + lane, log_sum[lane], value[lane], slope[lane]);
                loss = Chunk::load(value);
                mass = Chunk::load(slope);
            } else {
                loss = loss + select(mass == 0.0, zero, mass * L);
            }
            if (p.z_loss != 0) loss = loss + lse * lse * p.z_loss;
            loss = select(defined, loss, undefined);

            alignas(64) double factor[8];
            for (int lane = 0; lane < 8; ++lane)
                factor[lane] = p.upstream && r + lane < rows ? p.upstream(first_row + r + lane) / temperature : 0;
            Chunk upstream = select(defined, Chunk::load(factor), Chunk(undefined));
            Chunk spread = lse * (2 * p.z_loss);
            if (p.z_loss == 0) spread = zero;
            Chunk a = p.has_softmax ? mass + spread : zero;
            (upstream * a / total).store(group.power_factor + r);
            (upstream * g).store(group.profile_factor + r);
            (upstream * p.dense_scale).store(group.dense_factor + r);
            upstream.store(group.upstream + r);
            mass.store(group.mass + r);
            g.store(group.weight_factor + r);
            // At a unique maximum: a p - q = 2 zeta lse p + (s - q) - s S / (n + S); all but q.
            (spread / total + mass - mass * (S / total)).store(group.top_entry + r);
            (spread / total - mass * (S / total)).store(group.residue + r);
            loss.store(group.label_logit + r);
            Chunk shown = select(S == S, m, undefined);
            shown.store(s.maximum + r);
        }
        results();
    }

    // b f(l) and b f'(l), which takes the label's weight's place in the gradient: row_loss.focal and focal_slope.
    void focal(int r, double log_sum, double& value, double& slope) {
        double& b = group.weights(1)[r];
        double l = log_sum - group.logits(1)[r];
        double chance = -std::expm1(-l), power = std::pow(chance, p.focal_gamma);
        double ratio = l > 0 ? l / chance : 1, decaying = std::isinf(l) ? 0 : ratio * std::exp(-l);
        value = b == 0 ? 0 : b * l * power;
        slope = b * power * (1 + p.focal_gamma * decaying);
        b = slope;
    }

    void take_given() {
        Statistics& s = group.statistics;
        double* logits = group.logits(p.entries);
        for (int r = 0; r < rows; ++r) {
            std::int64_t row = first_row + r;
            s.maximum[r] = p.maximum(row), s.ties[r] = p.ties(row), s.others[r] = p.others(row);
            for (std::int64_t k = 0; k < p.entries; ++k) logits[r * p.entries + k] = p.target_logit(row, k);
            if (has_profile) s.profile[r] = 0, s.profile_mass[r] = p.profile_mass(row), s.allowed[r] = p.allowed(row);
            if (p.dense.data) s.dense[r] = 0, s.dense_mass[r] = p.dense_mass(row), s.target_sum[r] = p.target_mass(row);
            if (finds_top()) s.prediction[r] = p.prediction(row);
        }
    }

    void results() {
        const Statistics& s = group.statistics;
        if (p.given) return;
        auto give = [&](const PerRow<double>& to, const double* from, double skipped) {
            if (to) for (int r = 0; r < rows; ++r) to(first_row + r) = group.skipped[r] ? skipped : from[r];
        };
        give(p.loss, group.label_logit, 0);
        give(p.maximum, s.maximum, 0);
        give(p.ties, s.ties, 1);
        give(p.others, s.others, 0);
        give(p.profile, s.profile, 0);
        give(p.profile_mass, s.profile_mass, 0);
        give(p.allowed, s.allowed, 1);
        give(p.dense_sum, s.dense, 0);
        give(p.dense_mass, s.dense_mass, 0);
        give(p.target_mass, s.target_sum, 0);
        give(p.entropy_sum, s.entropy_sum, 0);
        if (p.prediction) for (int r = 0; r < rows; ++r) p.prediction(first_row + r) = group.skipped[r] ? 0 : s.prediction[r];
        if (p.target_logit)
            for (int r = 0; r < rows; ++r)
                for (std::int64_t k = 0; k < p.entries; ++k)
                    p.target_logit(first_row + r, k) = group.skipped[r] ? 0 : group.logits(p.entries)[r * p.entries + k];
    }

    // ---- gradient -------------------------------------------------------------------------------------------------------

    // f1 f2 = f, both normal numbers of T where f is too small for one: powers are up to 2^headroom.
    static void split(double f, T& f1, T& f2) {
        constexpr double small = sizeof(T) == 4 ? 0x1p-80 : 0x1p-800, step = sizeof(T) == 4 ? 0x1p80 : 0x1p700;
        bool is_small = std::fabs(f) < small && f != 0;
        f1 = T(is_small ? f * step : f);
        f2 = T(is_small ? 1 / step : 1);
    }

    void block_gradient(std::int64_t index, int row) {
        Block b = block_at(index, row);
        if (reads_labels_only()) {
            b.slope = nullptr;
        } else if (!shape.keeps) {
            Statistics unused;
            load_logits(b, row);
            if (p.dense.data) load_dense(b, row, unused);
            if (p.has_softmax) {
                const Statistics& s = group.statistics;
                Wide<T> m;
                if constexpr (Along) m = T(s.maximum[row]);
                else m = convert<T>(Lanes<double, lanes>::load(s.maximum));
                Reference reference(m);
                Scale<T, lanes> scale(reference.K);
                tile_powers<T>(b.z, m, reference.from, scale, as_wide(rest_of(m, reference)), b.powers);
                set(w.top + index * max_rows, row, number(m));
            }
        } else if (has_profile && p.mask.data) {
            load(p.mask, row, b.first_class, b.classes, b.vectors, T(0), w.profile);
        }
        if (!p.has_softmax) std::fill(b.powers, b.powers + b.vectors * lanes, T(0));
        if (has_profile) load_profile(b);

        Wide<T> f1 = T(0), f2 = T(1), gu, dq;
        row_factors(index, row, f1, f2, gu, dq);
        bool straight = Along && writes_straight();
        T* to = straight ? reinterpret_cast<T*>(row_start(p, p.gradient, first_row + row)) + b.first_class : w.gradient;
        std::int64_t full = straight ? b.classes / lanes : b.vectors;
        tile_gradient<T, Along>(full, b.powers, f1, f2, gu, b.profile, dq, b.dense, b.slope, to);
        if (full < b.vectors) {
            Weights<T, Along> rest = b.profile;
            if (rest.tile) rest.tile += full * lanes;
            tile_gradient<T, Along>(1, b.powers + full * lanes, f1, f2, gu, rest, dq, b.dense ? b.dense + full * lanes : nullptr,
                                    b.slope ? b.slope + full * lanes : nullptr, w.gradient);
            std::memcpy(to + full * lanes, w.gradient, (b.classes - full * lanes) * sizeof(T));
        }
        correct(b, row, to);
        if (!straight) write(b, row, to);
    }

    void row_factors(std::int64_t index, int row, Wide<T>& f1, Wide<T>& f2, Wide<T>& gu, Wide<T>& dq) {
        const double* top = w.top + index * max_rows;
        int begin = Along ? row : 0, end = Along ? row + 1 : lanes;
        alignas(64) T first[max_rows], second[max_rows], profile[max_rows], dense[max_rows];
        for (int r = begin; r < end; ++r) {
            bool counts = r < rows && !group.skipped[r];
            double shift = 1;
            if (counts && p.has_softmax && top[r] != group.statistics.maximum[r]) {
                Chunk d = top[r] - group.statistics.maximum[r];
                shift = exp_nonpositive(d).part[0][0];
            }
            split(counts ? group.power_factor[r] * unscale * shift : 0, first[r], second[r]);
            profile[r] = T(counts ? group.profile_factor[r] : 0);
            dense[r] = T(counts ? group.dense_factor[r] : 0);
        }
        if constexpr (Along) {
            f1 = first[row], f2 = second[row], gu = profile[row], dq = dense[row];
        } else {
            f1 = Wide<T>::load(first), f2 = Wide<T>::load(second), gu = Wide<T>::load(profile), dq = Wide<T>::load(dense);
        }
    }

    // The entries that are not a p - g u - d w t: at the labels, and at a unique maximum.
    void correct(const Block& b, int row, T* to) {
        int begin = Along ? row : 0, end = Along ? row + 1 : rows;
        const Statistics& s = group.statistics;
        std::int64_t* indices = group.indices(p.entries);
        double *weights = group.weights(p.entries), *logits = group.logits(p.entries);
        for (int r = begin; r < end; ++r) {
            if (group.skipped[r]) continue;
            bool unique = s.ties[r] == 1 && s.others[r] < 1 && p.has_softmax;  // p > 1/2
            auto slope = [&](std::int64_t at) { return b.slope ? double(b.slope[at]) : 1.0; };
            auto slope_at = [&](int row, std::int64_t k, std::int64_t at) { return reads_labels_only() ? group.slopes(p.entries)[row * p.entries + k] : slope(at); };
            // Where q is a good part of s; elsewhere a p - q has nothing to cancel.
            auto correct_top = [&](std::int64_t j, std::int64_t at) {
                double q = 0;
                for (std::int64_t k = 0; k < p.entries; ++k)
                    if (indices[r * p.entries + k] == j + b.first_class) q += weights[r * p.entries + k];
                if (has_profile) q += group.weight_factor[r] * double(!Along && b.profile.by_class ? b.profile.by_class[j] : b.profile.tile[at]);
                if (b.dense) q += p.dense_scale * double(b.dense[at]);
                if (q > 0.25 * group.mass[r]) to[at] = T(group.upstream[r] * slope(at) * (group.residue[r] + (group.mass[r] - q)));
            };
            std::int64_t top = unique && finds_top() ? s.prediction[r] - b.first_class : -1;
            for (std::int64_t k = 0; k < p.entries; ++k) {
                std::int64_t j = indices[r * p.entries + k] - b.first_class;
                if (j < 0 || j >= b.classes) continue;
                std::int64_t at = Along ? j : j * lanes + r;
                double weight = weights[r * p.entries + k];
                if (unique && logits[r * p.entries + k] == 0) top = j;
                if (weight != 0) to[at] = T(to[at] - group.upstream[r] * slope_at(r, k, at) * weight);
            }
            if (top >= 0 && top < b.classes) correct_top(top, Along ? top : top * lanes + r);
        }
    }

    bool streams() const { return p.rows * p.classes * element_size() >= stream_bytes; }
    std::int64_t element_size() const { return p.gradient.dtype == DType::float64 ? 8 : p.gradient.dtype == DType::float32 ? 4 : 2; }
    bool same_type() const { return p.gradient.dtype == (sizeof(T) == 4 ? DType::float32 : DType::float64); }
    bool writes_straight() const { return same_type() && p.gradient.class_stride == sizeof(T) && !streams(); }

    void write(const Block& b, int row, const T* from) {
        const Matrix& g = p.gradient;
        if constexpr (Along) {
            char* to = row_start(p, g, first_row + row) + b.first_class * g.class_stride;
            if (same_type() && g.class_stride == sizeof(T)) {
                stream(from, to, b.classes * sizeof(T));
                return;
            }
            with_dtype(g.dtype, [&](auto target) { write_floating<decltype(target)>(from, b.classes, to, g.class_stride); });
            return;
        }
        std::int64_t stride = rows_are_even(g) ? even_in_group(g) : 0;
        bool by_class = stride != 0 && std::abs(stride) <= std::abs(g.class_stride);
        with_dtype(g.dtype, [&](auto target) {
            using Target = decltype(target);
            if (by_class) {
                char* start = row_start(p, g, first_row) + b.first_class * g.class_stride;
                for (std::int64_t j = 0; j < b.classes; ++j) write_floating<Target>(from + j * lanes, rows, start + j * g.class_stride, stride);
                return;
            }
            for (int lane = 0; lane < rows; ++lane)
                for (std::int64_t j = 0; j < b.classes; ++j) w.transposed[lane * b.classes + j] = from[j * lanes + lane];
            if (same_type() && g.class_stride == sizeof(T) && shape.blocks == 1 && stride == p.classes * std::int64_t(sizeof(T))) {
                char* to = row_start(p, g, first_row);
                if (streams()) stream(w.transposed, to, rows * b.classes * sizeof(T));
                else std::memcpy(to, w.transposed, rows * b.classes * sizeof(T));
                return;
            }
            for (int lane = 0; lane < rows; ++lane)
                write_floating<Target>(w.transposed + lane * b.classes, b.classes,
                                       row_start(p, g, first_row + lane) + b.first_class * g.class_stride, g.class_stride);
        });
    }
    template <class Target> static void write_floating(const T* from, std::int64_t count, char* to, std::int64_t stride) {
        if constexpr (!std::is_integral_v<Target>) write_run<T, Target>(from, count, to, stride);
    }

    void part_gradient(std::int64_t part) {
        if (!p.gradient.data) return;
        std::int64_t per_part = shape.part_classes / block_classes;
        std::int64_t first = part * per_part, end = shape.parts == 1 ? shape.blocks : std::min(shape.blocks, first + per_part);
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
};

// ---- entry points ---------------------------------------------------------------------------------------------------------

// By the layout alone, never by the number of rows: a row has the same bits in any company.
bool goes_along(const Problem& p) {
    if (p.classes <= 32) return false;
    return p.inner == 1 || std::abs(p.logits.class_stride) <= std::abs(p.logits.inner_stride);
}
template <class Body> auto dispatch(const Problem& p, Body body) {
    bool wide = p.logits.dtype == DType::float64 || needs_transform(p);
    if (goes_along(p)) return wide ? body.template operator()<double, true>() : body.template operator()<float, true>();
    return wide ? body.template operator()<double, false>() : body.template operator()<float, false>();
}

Plan plan(const Problem& p) {
    return dispatch(p, [&]<class T, bool Along>() {
        using K = Kernel<T, Along>;
        typename K::Shape shape(p);
        Plan plan;
        plan.groups = (p.rows + shape.rows_per_group - 1) / shape.rows_per_group;
        plan.parts = shape.parts;
        plan.group_elements = shape.rows_per_group * p.classes;
        plan.workspace_bytes = K::Workspace::layout(p, nullptr, nullptr);
        plan.group_bytes = round_up(Group::bytes(p.entries), 64);
        plan.part_bytes = sizeof(Statistics);
        return plan;
    });
}

void whole(const Problem& p, std::int64_t group, void* workspace, void* group_memory) {
    dispatch(p, [&]<class T, bool Along>() {
        Kernel<T, Along> kernel(p, group, workspace, group_memory);
        kernel.start();
        if (!p.given) kernel.part_statistics(0, kernel.group.statistics);
        kernel.finish();
        kernel.part_gradient(0);
    });
}

void part_statistics(const Problem& p, std::int64_t group, std::int64_t part, void* workspace, void* group_memory, void* part_memory) {
    dispatch(p, [&]<class T, bool Along>() {
        Kernel<T, Along> kernel(p, group, workspace, group_memory);
        kernel.part_statistics(part, *static_cast<Statistics*>(part_memory));
    });
}

void merge_parts(const Problem& p, std::int64_t group, std::int64_t parts, void* group_memory, void* part_memory) {
    dispatch(p, [&]<class T, bool Along>() {
        Kernel<T, Along> kernel(p, group, nullptr, group_memory);
        if (parts == 0) return kernel.start();
        auto* states = static_cast<Statistics*>(part_memory);
        typename Kernel<T, Along>::MergeTree tree{kernel};
        for (std::int64_t part = 0; part < parts; ++part) tree.incoming = states[part], tree.add();
        tree.result(kernel.group.statistics);
        kernel.finish();
    });
}

void part_gradient(const Problem& p, std::int64_t group, std::int64_t part, void* workspace, void* group_memory) {
    dispatch(p, [&]<class T, bool Along>() { Kernel<T, Along>(p, group, workspace, group_memory).part_gradient(part); });
}

}  // namespace

extern const RowKernel row_kernel;
const RowKernel row_kernel = {plan, whole, part_statistics, merge_parts, part_gradient};

}  // namespace INSTRUCTION_SET
