// One of the two outcomes of an element, the positive one or, where `flips`, the negative one: its loss -log(own), its own and the
// other's probability, each to all of its digits, and how steeply the loss falls (own > other: rises) with x.
#pragma once

#include "tile.hpp"

namespace INSTRUCTION_SET {

template <class T> class OfLogits {
    using Vector = Wide<T>;
    Vector x, decay;
    INLINE Vector probability(typename Vector::Integer is_larger) const {
        Vector more = T(1) / (T(1) + decay);
        return select(is_larger, more, decay * more);
    }

public:
    using Mask = typename Vector::Integer;
    INLINE OfLogits(Vector v, Mask flips) : x(select(flips, -v, v)), decay(exp_below_one(-select(v == v, larger(v, -v), v))) {}
    INLINE Vector loss() const { return larger(-x, Vector(T(0))) + log1p_below_one(decay); }  // terms >= 0
    INLINE Vector own() const { return probability(x > T(0)); }
    INLINE Vector other() const { return probability(x < T(0)); }
    INLINE Vector steepness() const { return other(); }
};

template <int N> class OfProbs {
    using Vector = Lanes<double, N>;
    using Mask = typename Vector::Integer;
    Vector v, complement;
    Mask flips;

public:
    INLINE OfProbs(Vector v_, Mask flips_) : v(v_), complement(1.0 - v_), flips(flips_) {}
    INLINE Vector loss() const { return -log(own(), select(flips, (1.0 - complement) - v, Vector(0.0))); }
    INLINE Vector own() const { return select(flips, complement, v); }
    INLINE Vector other() const { return select(flips, v, complement); }
    INLINE Vector steepness() const { return 1.0 / own(); }
};

template <int N> class OfLogProbs {
    using Vector = Lanes<double, N>;
    using Mask = typename Vector::Integer;
    Vector x, p, complement;
    Mask flips;

public:
    INLINE OfLogProbs(Vector v, Mask flips_) : x(v), p(exp_below_one(v)), complement(Decay<N>(v).complement), flips(flips_) {}
    INLINE Vector loss() const {
        // log(1 - e^x) by the form that does not cancel: Maechler 2012, "Accurately computing log(1 - exp(-|a|))".
        auto is_near = x > -0.693147180559945309417;
        Vector rounded = 1.0 - p, rest = (1.0 - rounded) - p;
        return -select(flips, log(select(is_near, complement, rounded), select(is_near, Vector(0.0), rest)), x);
    }
    INLINE Vector own() const { return select(flips, complement, p); }
    INLINE Vector other() const { return select(flips, p, complement); }
    INLINE Vector steepness() const { return select(flips, p / complement, Vector(1.0)); }
};

}  // namespace INSTRUCTION_SET
