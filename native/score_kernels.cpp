// Rows of predictions scored against their labels, from one read: loss, entropy, prediction, and the loss over a grid of
// temperatures with its derivatives (src/crossentropy/evaluation/temperature_sums.py). Compiled once per instruction set.
//
// The lanes are rows. With d_j = z_j - max z, b = 1 / T, u = log b and the mean <.> under p_j ~ e^(b d_j), a row with the label y has
//
//     loss = log sum_j e^(b d_j) - b d_y,    d loss / du = b (<d> - d_y),    d^2 loss / du^2 = d loss / du + b^2 (<d^2> - <d>^2)
//
// and e^(2 b d) = (e^(b d))^2: one exponential and its squares give a class at every temperature. Squaring doubles the relative
// error, so the eighth square is off by 2^8 times as much as the first: 1e-13 of a summand.
#include <algorithm>

#include "elements.hpp"
#include "half.hpp"
#include "score_problem.hpp"
#include "vector_math.hpp"

namespace INSTRUCTION_SET {
namespace {

constexpr int lanes = 8;
using Real = Lanes<double, lanes>;
using Mask = Real::Integer;

// Rows are taken in the order of their folds, so that the lanes of a group add to the same sums; a block is long enough for the
// last, partly filled group of every fold not to matter.
constexpr std::int64_t block_rows = 1024;
// e^(b lowest) is 0 here for every b >= 1/16, and 0 times `lowest` is 0, which it would not be for -inf.
constexpr double lowest = -11200;
// e and its next three squares are normal numbers from here on (others are slow), and beside the maximum's 1 it is nothing.
constexpr double smallest = 0x1p-127;
constexpr double infinity = std::numeric_limits<double>::infinity();

struct Group {
    std::int64_t rows[lanes];  // of `count`; the others are copies of one of them, and are not counted
    int count;
    std::int64_t classes;
    double *raw, *d, *e;  // (classes, lanes)
};

// Over the rows of a fold, lane by lane. `product` is that of (1 + x) over rows of weight 1, less 1, x being the sum of e^(b d) over
// the classes below the maximum: the logarithm is taken once for all of them, and no small x is lost.
struct Sums {
    Real weight, gap, variance, product[temperatures], loss[temperatures], slope[temperatures], bend[temperatures];
    std::int64_t factors;
};

// Over the classes below the maximum: the sums of e^(b d), e^(b d) d and e^(b d) d^2.
struct Moments { Real others, first, second; };

INLINE Real absent(Mask where, Real otherwise) { return select(where, Real(0.0), otherwise); }

// log(1 + x) for x >= 0
INLINE Real log1p_plain(Real x) {
    Real u = x + 1.0;
    Real lost = select(x < 1.0, x - (u - 1.0), 1.0 - (u - x));
    return log_of(u, lost / u);
}

// e^(b d) of every class below the maximum, 0 for the maximum itself.
INLINE void exponentials(const Group& g, double b, double* to) {
    using E = Exp<double>;
    for (std::int64_t j = 0; j < g.classes; ++j) {
        Real d = Real::load(g.d + j * lanes), x = d * b;
        Real power = nearest_power(x), r = (x - power * E::ln2_high) - power * E::ln2_low;
        Real e = ((exp_tail(r) * r + 1.0) * r + 1.0) * power_of_two(power);
        absent(d == 0.0, e).store(to + j * lanes);
    }
}

// At `points` temperatures, each half the one before: the sums of e^(b d), e^(b d) d and e^(b d) d^2 over the classes below the
// maximum. Leaves the exponentials for the next temperature. Few points at a time, so that their sums stay in registers.
template <int points> INLINE void squares(const Group& g, double* exponentials, Moments* at) {
    static_assert(points <= 3);
    Moments m[points];
    UNROLL for (int k = 0; k < points; ++k) m[k] = {Real(0.0), Real(0.0), Real(0.0)};
    for (std::int64_t j = 0; j < g.classes; ++j) {
        Real d = Real::load(g.d + j * lanes), e = Real::load(exponentials + j * lanes);
        e = absent(e < smallest, e);
        UNROLL for (int k = 0; k < points; ++k) {
            Real ed = e * d;
            m[k].others = m[k].others + e;
            m[k].first = m[k].first + ed;
            m[k].second = m[k].second + ed * d;
            e = e * e;
        }
        e.store(exponentials + j * lanes);
    }
    UNROLL for (int k = 0; k < points; ++k) at[k] = m[k];
}

void score(const ScoreProblem& p, const Group& g, Sums& sums) {
    const Inputs inputs = p.inputs;
    // The greatest value, the first class that has it, the sum
    Real top = Real::load(g.raw), place = 0.0, total = top;
    for (std::int64_t j = 1; j < g.classes; ++j) {
        Real v = Real::load(g.raw + j * lanes);
        Mask up = v > top;
        top = select(up, v, top);
        place = select(up, Real(double(j)), place);
        if (inputs == Inputs::probs) total = total + v;
    }
    Mask impossible = top <= (inputs == Inputs::probs ? 0.0 : -infinity);
    Real reference = select(impossible, Real(1.0), top);

    // d and e^d. Of probabilities e^d is a quotient; else the rounding error of d is kept in it.
    Real ties = -1.0, others = 0.0, weighted = 0.0;
    Real scaled_up = select(reference < 0x1p-900, Real(0x1p200), 1.0), inverse_reference = 1.0 / (reference * scaled_up);
    Origin<double, lanes> origin(reference);
    Real scale = origin.scale();
    for (std::int64_t first = 0; first < g.classes; first += 256) {  // blocks keep the rounding of long sums small
        Real s = 0.0, t = 0.0;
        std::int64_t end = std::min(first + 256, g.classes);
        auto add = [&](std::int64_t j, Real d, Real e) {
            Mask is_top = d == 0.0;
            d.store(g.d + j * lanes);
            e.store(g.e + j * lanes);
            ties = ties + select(is_top, Real(1.0), Real(0.0));
            s = s + absent(is_top, e);
            t = t + e * d;
        };
        if (inputs == Inputs::probs) {
            for (std::int64_t j = first; j < end; ++j) {
                Real v = Real::load(g.raw + j * lanes), e = select(v == reference, Real(1.0), v * scaled_up * inverse_reference);
                Real d = log_of(larger(Real(0x1p-1022), e), Real(0.0));
                add(j, select(e == 0.0, Real(lowest), d), e);
            }
        } else {
            for (std::int64_t j = first; j < end; ++j) {
                Real v = Real::load(g.raw + j * lanes);
                add(j, larger(Real(lowest), v - reference), select(v == reference, Real(1.0), exp_relative(v, origin) * scale));
            }
        }
        others = others + s;
        weighted = weighted + t;
    }
    others = absent(impossible, others + ties);
    Real inverse = 1.0 / (others + 1.0);
    Real lse = log1p_plain(others), mean = weighted * inverse;
    Real entropy = absent(impossible, lse - mean);

    // What was given to the label
    double chosen[lanes], weight[lanes];
    for (int r = 0; r < lanes; ++r) {
        std::int64_t label = p.labels[g.rows[r]];
        chosen[r] = label >= 0 && label < g.classes ? g.raw[label * lanes + r] : std::numeric_limits<double>::quiet_NaN();
        weight[r] = r >= g.count ? 0.0 : p.weights ? p.weights[g.rows[r]] : 1.0;
    }
    Real given = Real::load(chosen), w = Real::load(weight), loss, d_label, label_probability, prediction_probability;
    if (inputs == Inputs::probs) {
        d_label = log(given / reference);
        loss = 0.0 - log(given);
        label_probability = given;
        prediction_probability = top;
    } else if (inputs == Inputs::log_probs) {
        d_label = given - reference;
        loss = 0.0 - given;
        label_probability = exp_nonpositive(given);
        prediction_probability = exp_nonpositive(top);
    } else {
        d_label = given - reference;
        loss = lse - d_label;
        label_probability = exp_nonpositive(-loss);
        prediction_probability = absent(impossible, inverse);
    }

    auto put = [&](double* to, Real value) {
        if (!to) return;
        double all[lanes];
        value.store(all);
        for (int r = 0; r < g.count; ++r) to[g.rows[r]] = all[r];
    };
    put(p.loss, loss + 0.0);
    put(p.entropy, entropy);
    put(p.label_probability, label_probability);
    put(p.prediction_probability, prediction_probability);
    put(p.row_sum, total);
    if (p.prediction) {
        double all[lanes];
        select(impossible, Real(-1.0), place).store(all);
        for (int r = 0; r < g.count; ++r) p.prediction[g.rows[r]] = std::int64_t(all[r]);
    }
    if (!p.by_temperature) return;

    Real variance = 0.0;
    for (std::int64_t j = 0; j < g.classes; ++j) {
        Real off = Real::load(g.d + j * lanes) - mean;
        variance = variance + Real::load(g.e + j * lanes) * (off * off);
    }
    // Rows of infinite loss, and the copies that fill the last group, take part as rows of weight 0 without any loss.
    Mask counted = (loss < infinity) & (w > 0.0);
    w = select(counted, w, 0.0);
    d_label = select(counted, d_label, 0.0);
    sums.weight = sums.weight + w;
    sums.gap = sums.gap + select(counted, w * (lse - d_label - entropy), 0.0);
    sums.variance = sums.variance + select(counted, w * w * (variance * inverse), 0.0);

    Moments at[temperatures];
    exponentials(g, p.inverse_temperature[0], g.e);
    for (int k = 0; k < temperatures; k += 3) squares<3>(g, g.e, at + k);
    for (int k = 0; k < temperatures; ++k) {
        Real b = p.inverse_temperature[k], x = select(counted, at[k].others + ties, 0.0), sum_inverse = 1.0 / (x + 1.0);
        Real first = select(counted, at[k].first, 0.0) * sum_inverse, second = select(counted, at[k].second, 0.0) * sum_inverse;
        Real slope = b * (first - d_label), spread = larger(second - first * first, Real(0.0));
        sums.slope[k] = sums.slope[k] + w * slope;
        sums.bend[k] = sums.bend[k] + w * (slope + b * b * spread);
        if (p.weights) {
            sums.loss[k] = sums.loss[k] + w * (log1p_plain(x) - b * d_label);
        } else {
            sums.product[k] = sums.product[k] + x * (sums.product[k] + 1.0);
            sums.loss[k] = sums.loss[k] - b * d_label;
        }
    }
}

// Take the logarithm of the products, before they could overflow or at the end.
void take_logs(Sums& sums) {
    for (int k = 0; k < temperatures; ++k) {
        sums.loss[k] = sums.loss[k] + log1p_plain(sums.product[k]);
        sums.product[k] = Real(0.0);
    }
    sums.factors = 0;
}

// The rows of a block in the order of their folds; those of fold f are order[start[f]] up to order[start[f + 1]]. The fold comes from
// the bits of a row's numbers: it is the same for any order and any split of the rows.
void by_fold(const ScoreProblem& p, Reader<double> read, std::int64_t first, std::int64_t count, std::int64_t* order, std::int64_t* start) {
    std::uint64_t mixed[block_rows] = {};
    double values[block_rows];
    for (std::int64_t j = 0; j < p.classes; ++j) {
        read(p.values.data + first * p.values.outer_stride + j * p.values.class_stride, p.values.outer_stride, count, values);
#pragma omp simd
        for (std::int64_t r = 0; r < count; ++r) {
            std::uint64_t m = (mixed[r] ^ bits<std::uint64_t>(values[r])) * 0x9E3779B97F4A7C15u;
            mixed[r] = m ^ m >> 29;
        }
    }
    std::int64_t at[folds] = {};
    for (std::int64_t r = 0; r < count; ++r) ++at[mixed[r] = (mixed[r] >> 32) * folds >> 32];
    start[0] = 0;
    for (int f = 0; f < folds; ++f) start[f + 1] = start[f] + at[f], at[f] = start[f];
    for (std::int64_t r = 0; r < count; ++r) order[at[mixed[r]]++] = first + r;
}

template <class Source> void gather_as(const Matrix& from, const Group& g) {
    for (std::int64_t j = 0; j < g.classes; ++j)
        for (int r = 0; r < lanes; ++r)
            g.raw[j * lanes + r] = widen<double>(*reinterpret_cast<const Source*>(from.data + g.rows[r] * from.outer_stride + j * from.class_stride));
}
void gather(const Matrix& from, const Group& g) {
    switch (from.dtype) {
        case DType::float64: return gather_as<double>(from, g);
        case DType::float32: return gather_as<float>(from, g);
        default: return gather_as<Float16>(from, g);
    }
}

void block(const ScoreProblem& p, std::int64_t index, double* memory) {
    std::int64_t first = index * block_rows, count = std::min(block_rows, p.rows - first);
    std::int64_t order[block_rows], start[folds + 1] = {0, count};
    if (p.by_temperature) by_fold(p, reader<double>(p.values.dtype), first, count, order, start);
    else for (std::int64_t r = 0; r < count; ++r) order[r] = first + r;
    std::int64_t most_factors = std::int64_t(1000 / std::log2(double(p.classes + 1)));
    Group g{{}, 0, p.classes, memory, memory + p.classes * lanes, memory + 2 * p.classes * lanes};
    double gap = 0, variance = 0;
    for (int f = 0; f < (p.by_temperature ? folds : 1); ++f) {
        Sums sums;
        for (Real& s : sums.product) s = Real(0.0);
        for (Real& s : sums.loss) s = Real(0.0);
        for (Real& s : sums.slope) s = Real(0.0);
        for (Real& s : sums.bend) s = Real(0.0);
        sums.weight = sums.gap = sums.variance = Real(0.0);
        sums.factors = 0;
        for (std::int64_t r = start[f]; r < start[f + 1]; r += lanes) {
            g.count = int(std::min<std::int64_t>(lanes, start[f + 1] - r));
            for (int i = 0; i < lanes; ++i) g.rows[i] = order[r + (i < g.count ? i : 0)];
            gather(p.values, g);
            score(p, g, sums);
            if (++sums.factors == most_factors) take_logs(sums);
        }
        if (!p.by_temperature) return;
        take_logs(sums);
        double* to = p.by_temperature + (index * folds + f) * sums_per_fold;
        *to++ = sum(sums.weight);
        for (Real& s : sums.loss) *to++ = sum(s);
        for (Real& s : sums.slope) *to++ = sum(s);
        for (Real& s : sums.bend) *to++ = sum(s);
        gap += sum(sums.gap);
        variance += sum(sums.variance);
    }
    p.gap[2 * index] = gap;
    p.gap[2 * index + 1] = variance;
}

std::int64_t bytes(std::int64_t classes) { return 3 * lanes * classes * std::int64_t(sizeof(double)); }

void blocks(const ScoreProblem& p, std::int64_t first, std::int64_t end, void* memory) {
    for (std::int64_t i = first; i < end; ++i) block(p, i, static_cast<double*>(memory));
}

}  // namespace

extern const ScoreKernel score_kernel;
const ScoreKernel score_kernel = {block_rows, bytes, blocks};

}  // namespace INSTRUCTION_SET
