// The sigmoid loss, element by element: loss = pos_weight t softplus(-x) + (1 - t) softplus(x) and its derivative
// (src/crossentropy/binary_loss.py). Compiled once per instruction set.
#include <algorithm>

#include "elements.hpp"
#include "tile.hpp"

namespace INSTRUCTION_SET {
namespace {

constexpr std::int64_t block_elements = 2048;

template <class T> struct Kernel {
    static constexpr int lanes = width<T>;
    static constexpr std::int64_t vectors = block_elements / lanes;
    using Vector = Wide<T>;

    // Elements [first, first + count) of a strided vector as T; a stride of 0 repeats one number.
    static void load(const Elements& a, std::int64_t first, std::int64_t count, T* to) {
        reader<T>(a.dtype)(a.data + first * a.stride, a.stride, count, to);
    }

    static void block(const ElementProblem& p, std::int64_t index) {
        std::int64_t first = index * block_elements, count = std::min(block_elements, p.count - first);
        alignas(64) T x[block_elements], t[block_elements], scratch[block_elements];
        if (count < block_elements) std::fill(x + count, x + block_elements, T(0)), std::fill(t + count, t + block_elements, T(0));
        load(p.logits, first, count, x);
        load(p.target, first, count, t);
        if (p.valid.data) {
            load(p.valid, first, count, scratch);
            for (std::int64_t i = 0; i < count; ++i)
                if (scratch[i] == 0) x[i] = t[i] = 0;  // not read: whatever stood there
        }
        bool weighs = p.pos_weight.data != nullptr;
        if (weighs) load(p.pos_weight, first, count, scratch);
        Vector keep = T(1 - p.smoothing), half = T(p.smoothing / 2), one = T(1), zero = T(0);
        bool wants_slope = p.gradient.data != nullptr;
        for (std::int64_t i = 0; i < vectors; ++i) {
            Vector v = Vector::load(x + i * lanes), q = Vector::load(t + i * lanes);
            Vector positive = q * keep + half, negative = (one - q) * keep + half;
            if (weighs) positive = positive * Vector::load(scratch + i * lanes);
            Vector size = larger(v, -v);
            size = select(v == v, size, v);
            Vector decay = exp_below_one(-size), tail = log1p_below_one(decay);
            // softplus(-x) and softplus(x), each a sum of terms >= 0
            Vector miss = larger(-v, zero) + tail, alarm = larger(v, zero) + tail;
            Vector loss = select(positive == T(0), zero, positive * miss) + select(negative == T(0), zero, negative * alarm);
            select(v == v, loss, v).store(x + i * lanes);
            if (!wants_slope) continue;
            Vector more = one / (one + decay), less = decay * more;
            auto up = v < T(0);
            Vector slope = negative * select(up, less, more) - positive * select(up, more, less);
            select(v == v, slope, v).store(t + i * lanes);
        }
        if (p.valid.data) {
            load(p.valid, first, count, scratch);
            for (std::int64_t i = 0; i < count; ++i)
                if (scratch[i] == 0) x[i] = t[i] = 0;
        }
        if (p.losses) std::copy(x, x + count, p.losses + first);
        if (p.sums) {
            std::fill(x + count, x + block_elements, T(0));
            Lanes<double, lanes> total = 0.0;
            for (std::int64_t i = 0; i < vectors; ++i) total = total + convert<double>(Vector::load(x + i * lanes));
            p.sums[index] = sum(total);
        }
        if (wants_slope) {
            Vector upstream = T(p.upstream);
            for (std::int64_t i = 0; i < vectors; ++i) (Vector::load(t + i * lanes) * upstream).store(t + i * lanes);
            writer<T>(p.gradient.dtype)(t, count, p.gradient.data + first * p.gradient.stride, p.gradient.stride);
        }
    }
};

void blocks(const ElementProblem& p, std::int64_t first, std::int64_t end) {
    for (std::int64_t i = first; i < end; ++i) p.logits.dtype == DType::float64 ? Kernel<double>::block(p, i) : Kernel<float>::block(p, i);
}

}  // namespace

extern const ElementKernel element_kernel;
const ElementKernel element_kernel = {block_elements, blocks};

}  // namespace INSTRUCTION_SET
