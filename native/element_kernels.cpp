// The sigmoid loss, element by element: pos_weight t f(-log p) + (1 - t) f(-log(1 - p)) and its derivative
// (src/crossentropy/binary_loss.py). Compiled once per instruction set.
#include <algorithm>
#include <cmath>

#include "elements.hpp"
#include "outcome.hpp"

namespace INSTRUCTION_SET {
namespace {

constexpr std::int64_t block_elements = 2048;

// Entries [first, first + count) of what a problem's elements have, as T.
template <class T> void load(const Elements& a, std::int64_t first, std::int64_t count, T* to) {
    Reader<T> read = reader<T>(a.dtype);
    if (a.repeat == 1) {
        // A period's entries once, from where the block starts in it; the rest is a copy of what stands there already.
        std::int64_t at = first % a.period, known = std::min(count, a.period), head = std::min(known, a.period - at);
        read(a.data + at * a.stride, a.stride, head, to);
        read(a.data, a.stride, known - head, to + head);
        for (; known < count; known *= 2) std::copy(to, to + std::min(known, count - known), to + known);
        return;
    }
    for (std::int64_t i = 0, end; i < count; i = end) {
        end = std::min(count, i + a.repeat - (first + i) % a.repeat);
        T entry;
        read(a.data + (first + i) / a.repeat % a.period * a.stride, 0, 1, &entry);
        std::fill(to + i, to + end, entry);
    }
}

template <class T> class Block {
    using Vector = Wide<T>;
    using Weight = Lanes<double, width<T>>;
    using Inputs = ElementProblem::Inputs;
    static constexpr int lanes = width<T>;
    static constexpr std::int64_t vectors = block_elements / lanes;
    // Is a target read in double, so that 1 - t keeps what T would round away?
    static constexpr bool is_float = sizeof(T) == 4;

    const ElementProblem& p;
    const std::int64_t first, count;
    const bool weighs = p.weight.data || p.valid.data || p.ignores, is_exact = is_float && p.target.dtype == DType::float64;
    bool is_hard = false;      // is every target 0 or 1, where that saves a logarithm or a power?
    bool is_moderate = true;   // does T hold what multiplies the losses, with room?
    // x becomes the loss, t its derivative. `rest`: 1 - t after smoothing, where it is not formed from t.
    alignas(64) T x[block_elements], t[block_elements], rest[block_elements], positive_weight[block_elements];
    alignas(64) double weight[block_elements];

    INLINE Weight weights(std::int64_t i) const { return Weight::load(weight + i * lanes); }

    // Entries of the block, and 0 behind the last.
    template <class Number> void take(const Elements& a, Number* to) const {
        load(a, first, count, to);
        std::fill(to + count, to + block_elements, Number(0));
    }
    void check(const double* numbers, double factor, std::int64_t how_many) {
        int extreme = 0;
        for (std::int64_t i = 0; i < how_many; ++i) {
            double size = std::abs(numbers[i]) * factor;
            extreme += (size != 0) & !((size > 1e-30) & (size < 1e30));
        }
        if (is_float && extreme) is_moderate = false;
    }

    // 0 or 1 times the weights: what a number leaves, by vectors, since a branch would be taken at random.
    template <class Number, class Keeps> void weigh(const Number* numbers, Keeps keeps) {
        using Numbers = Lanes<Number, lanes>;
        for (std::int64_t i = 0; i < vectors; ++i) {
            auto kept = keeps(Numbers::load(numbers + i * lanes));
            (weights(i) * convert<double>(select(kept, Numbers(Number(1)), Numbers(Number(0))))).store(weight + i * lanes);
        }
    }

    void read_weights() {
        if (p.weight.data) {
            take(p.weight, weight);
            if (p.scale != 1)
                for (std::int64_t i = 0; i < vectors; ++i) (weights(i) * p.scale).store(weight + i * lanes);
            check(weight, std::abs(p.factor), count);
        } else {
            std::fill(weight, weight + count, 1.0);
            std::fill(weight + count, weight + block_elements, 0.0);
        }
        if (!p.valid.data) return;
        take(p.valid, positive_weight);  // not in use yet: the stack of a thread may be small
        weigh(positive_weight, [&](Vector valid) { return valid != T(0); });
    }
    void read_targets() {
        take(p.target, t);
        if (p.ignores) weigh(t, [&](Vector target) { return target != T(p.ignored); });
    }
    void read_exact_targets() {
        alignas(64) double exact[block_elements];
        double keep = 1 - p.smoothing, half = p.smoothing / 2;
        take(p.target, exact);
        if (p.ignores) weigh(exact, [&](Weight target) { return target != p.ignored; });
        if (weighs)  // what does not count may be anything
            for (std::int64_t i = 0; i < vectors; ++i) select(weights(i) == 0.0, Weight(0.0), Weight::load(exact + i * lanes)).store(exact + i * lanes);
        check(exact, 1, count);
        for (std::int64_t i = 0; i < block_elements; ++i) t[i] = T(exact[i] * keep + half), rest[i] = T((1 - exact[i]) * keep + half);
    }
    void read_positive_weights() {
        if constexpr (!is_float) return take(p.pos_weight, positive_weight);
        alignas(64) double exact[block_elements];
        take(p.pos_weight, exact);
        check(exact, 1, count);
        for (std::int64_t i = 0; i < block_elements; ++i) positive_weight[i] = T(exact[i]);
    }

    void read() {
        take(p.logits, x);
        if (weighs) read_weights();
        else check(&p.factor, 1, 1);
        if constexpr (is_float) is_exact ? read_exact_targets() : read_targets();
        else read_targets();
        if (p.pos_weight.data) read_positive_weights();
        T neutral = p.inputs == Inputs::logits ? 0 : p.inputs == Inputs::probs ? T(0.5) : T(-1);
        std::fill(x + count, x + block_elements, neutral);
        if (weighs)  // what does not count is not read: whatever stood there
            for (std::int64_t i = 0; i < vectors; ++i) {
                auto leaves_out = convert<T>(select(weights(i) == Weight(0.0), Weight(1.0), Weight(0.0))) == T(1);
                select(leaves_out, Vector(neutral), Vector::load(x + i * lanes)).store(x + i * lanes);
                if (!is_exact) select(leaves_out, Vector(T(0)), Vector::load(t + i * lanes)).store(t + i * lanes);
            }
        if (!is_float && p.smoothing == 0 && (p.focal_gamma != 0 || p.inputs != Inputs::logits)) {
            int soft = 0;
            for (std::int64_t i = 0; i < count; ++i) soft += t[i] != 0 && t[i] != 1;
            is_hard = soft == 0;
        }
    }

    // One of the two terms of the loss and of its derivative: that of the positive outcome, or of the negative one where `flips`.
    template <class Outcome> INLINE void add(Vector v, typename Vector::Integer flips, Vector coefficient, Vector& loss, Vector& slope) const {
        Vector zero = T(0);
        Outcome outcome(v, flips);
        Vector l = outcome.loss(), steepness = p.gradient.data ? outcome.steepness() : zero;
        if constexpr (!is_float)
            if (p.focal_gamma != 0) {  // row_loss.focal and focal_slope
                Vector chance = outcome.other(), factor = power(chance, p.focal_gamma);
                if (p.gradient.data) {
                    Vector ratio = select(l == zero, Vector(T(1)), l / chance);
                    Vector decaying = select(l == std::numeric_limits<T>::infinity(), zero, ratio * outcome.own());
                    steepness = steepness * factor * (decaying * T(p.focal_gamma) + T(1));
                }
                l = l * factor;
            }
        loss = loss + select(coefficient == zero, zero, coefficient * l);
        Vector change = select(coefficient == zero, zero, coefficient * steepness);
        slope = slope + select(flips, change, -change);
    }

    template <class Outcome> INLINE void compute(std::int64_t i) {
        Vector keep = T(1 - p.smoothing), half = T(p.smoothing / 2), one = T(1), zero = T(0);
        Vector v = Vector::load(x + i * lanes), q = Vector::load(t + i * lanes);
        Vector positive = is_exact ? q : q * keep + half, negative = is_exact ? Vector::load(rest + i * lanes) : (one - q) * keep + half;
        if (p.pos_weight.data) positive = positive * Vector::load(positive_weight + i * lanes);
        Vector loss = zero, slope = zero;
        auto never = zero == one, always = zero == zero;
        if (is_hard) {
            auto flips = q == zero;
            add<Outcome>(v, flips, select(flips, negative, positive), loss, slope);
        } else {
            add<Outcome>(v, never, positive, loss, slope);
            add<Outcome>(v, always, negative, loss, slope);
        }
        select(v == v, loss, v).store(x + i * lanes);
        if (p.gradient.data) select(v == v, slope, v).store(t + i * lanes);
    }

    // What each element counts in the results; a factor of 0 wins over NaN and infinity.
    void scale(T* numbers) const {
        if (!weighs && p.factor == 1) return;
        Vector zero = T(0), factor = T(p.factor);
        for (std::int64_t i = 0; i < vectors; ++i) {
            Vector by = weighs ? convert<T>(weights(i) * p.factor) : factor;
            select(by == zero, zero, Vector::load(numbers + i * lanes) * by).store(numbers + i * lanes);
        }
    }

public:
    Block(const ElementProblem& problem, std::int64_t index)
        : p(problem), first(index * block_elements), count(std::min(block_elements, problem.count - first)) {
        read();
        if (is_moderate) give(index);
    }
    explicit operator bool() const { return is_moderate; }

private:
    void give(std::int64_t index) {
        if (is_float || p.inputs == Inputs::logits)
            for (std::int64_t i = 0; i < vectors; ++i) compute<OfLogits<T>>(i);
        else if constexpr (!is_float) {
            if (p.inputs == Inputs::probs)
                for (std::int64_t i = 0; i < vectors; ++i) compute<OfProbs<lanes>>(i);
            else
                for (std::int64_t i = 0; i < vectors; ++i) compute<OfLogProbs<lanes>>(i);
        }
        if (p.sums) {
            std::fill(x + count, x + block_elements, T(0));
            Weight total = 0.0;
            for (std::int64_t i = 0; i < vectors; ++i) {
                Weight loss = convert<double>(Vector::load(x + i * lanes));
                total = total + (weighs ? loss * weights(i) : loss);
            }
            p.sums[index] = sum(total);
        }
        if (p.losses.data) {
            scale(x);
            writer<T>(p.losses.dtype)(x, count, p.losses.data + first * p.losses.stride, p.losses.stride);
        }
        if (p.gradient.data) {
            scale(t);
            writer<T>(p.gradient.dtype)(t, count, p.gradient.data + first * p.gradient.stride, p.gradient.stride);
        }
    }
};

// Each in a frame of its own, since a block takes much of a small stack. False where T does not hold a weight.
template <class T> __attribute__((noinline)) bool compute(const ElementProblem& p, std::int64_t index) { return bool(Block<T>(p, index)); }

void blocks(const ElementProblem& p, std::int64_t first, std::int64_t end) {
    for (std::int64_t i = first; i < end; ++i)
        // Float has no digits to spare for powers and logarithms of probabilities.
        if (p.in_double() || !compute<float>(p, i)) compute<double>(p, i);
}

}  // namespace

extern const ElementKernel element_kernel;
const ElementKernel element_kernel = {block_elements, blocks};

}  // namespace INSTRUCTION_SET
