// A tile of z in the first-level cache, and the loops over it.
//
// Two orientations share every loop. Along: the lanes are neighbouring classes of one row, and the row's number is the sum (or
// maximum) over the lanes at the end. Across: the lanes are neighbouring rows, one class after the other; for few classes, and for
// a class axis that is not the last. Element type float for logits of at most 32 bits (the differences that matter are exact, see
// vector_math), double for float64 and where the logits are transformed.
#pragma once

#include "pairs.hpp"

namespace INSTRUCTION_SET {

template <class T> constexpr int width = sizeof(T) == 4 ? 32 : 16;
template <class T> using Wide = Lanes<T, width<T>>;

// Vectors of z: the last one may stand elsewhere, padded with -inf (0 for weights). Where the numbers are pairs, `low` holds the rest of
// each, and both are padded in place.
template <class T> struct Tile {
    const T* data;
    std::int64_t vectors;
    const T* last;
    const T* low = nullptr;
    INLINE Wide<T> operator[](std::int64_t i) const { return Wide<T>::load(i + 1 < vectors ? data + i * width<T> : last); }
    // Without the first numbers, and one vector less.
    Tile from(std::int64_t first) const { return data ? Tile{data + first, vectors - 1, data + first + (vectors - 2) * width<T>, low ? low + first : nullptr} : *this; }
    T number(std::int64_t at) const { return at < (vectors - 1) * width<T> ? data[at] : last[at - (vectors - 1) * width<T>]; }
    template <Form form> INLINE Wide<T> rest(std::int64_t i) const {
        if constexpr (form == Form::paired) return Wide<T>::load(low + i * width<T>);
        else return T(0);
    }
};
// Per-class weights u, or a tile of weights.
template <class T, bool Along> struct Weights {
    const T* tile = nullptr;       // vectors like those of z
    const T* by_class = nullptr;   // Across only: one number per vector
    INLINE explicit operator bool() const { return tile || by_class; }
    INLINE Wide<T> operator[](std::int64_t i) const {
        if (!Along && by_class) return Wide<T>(by_class[i]);
        return Wide<T>::load(tile + i * width<T>);
    }
};

// Vector i from `from` on is brought into the cache.
template <class T> INLINE void prefetch(const char* from, std::int64_t i) {
    for (int line = 0; line < int(sizeof(Wide<T>)) / 64; ++line) __builtin_prefetch(from + i * sizeof(Wide<T>) + line * 64);
}

template <class T> INLINE Wide<T> tile_maximum(const Tile<T>& z) {
    Wide<T> m = -std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < z.vectors; ++i) m = larger(z[i], m);  // NaN is dropped here and shows in the sum
    return m;
}
// Of pairs: the greatest rest beside the maximum m.
template <class T> INLINE Wide<T> tile_rest(const Tile<T>& z, Wide<T> m) {
    Wide<T> rest = -std::numeric_limits<T>::infinity();
    for (std::int64_t i = 0; i < z.vectors; ++i)
        rest = larger(select(z[i] == m, z.template rest<Form::paired>(i), Wide<T>(-std::numeric_limits<T>::infinity())), rest);
    return rest;
}

// A sum in double whose rounding error stays below 2 ulp of T for any number of terms >= 0: up to four vectors are added in T,
// as a tree (Along: the four are the quarters of one), then double lanes take over. For T = double, whose own rounding is all there
// is: runs of 8 vectors, then a tree over a stack of runs of equal length (pairwise summation).
template <class T, bool Along> struct Sum;

template <> struct Sum<float, true> {
    Lanes<double, 8> total = 0.0;
    INLINE void add(Wide<float> x) { total = total + convert<double>(halve_sum(halve_sum(x))); }
    INLINE double result() { return sum(total); }
};
template <> struct Sum<float, false> {
    Wide<float> run = 0.0f;
    Lanes<double, 32> total = 0.0;
    int length = 0;
    INLINE void add(Wide<float> x) {
        run = run + x;
        if (++length == 4) flush();
    }
    INLINE void flush() {
        total = total + convert<double>(run);
        run = 0.0f;
        length = 0;
    }
    INLINE Lanes<double, 32> result() {
        flush();
        return total;
    }
};
template <bool Along> struct Sum<double, Along> {
    Wide<double> run = 0.0, levels[12];
    int length = 0, runs = 0;
    INLINE void add(Wide<double> x) {
        run = run + x;
        if (++length == 8) flush();
    }
    INLINE void flush() {
        // Like a binary counter: level l holds the sum of 2^l runs.
        int level = 0;
        for (int n = runs; n & 1; n >>= 1) run = levels[level++] + run;
        levels[level] = run;
        ++runs;
        run = 0.0;
        length = 0;
    }
    INLINE auto result() {
        Wide<double> total = run;
        for (int level = 0, n = runs; n; n >>= 1, ++level)
            if (n & 1) total = levels[level] + total;
        if constexpr (Along) return sum(total);
        else return total;
    }
};
// Blocks hold at most 2048 elements: 128 vectors of doubles in 16 runs, or 64 of floats.

// Number of lanes set, per lane or in all.
template <class T, bool Along> INLINE auto count(typename Wide<T>::Integer n) {
    if constexpr (Along) return double(sum(n));
    else return convert<double>(n);
}

// sum e^(z - m) / scale over all but the maxima, and how many maxima there are; the powers go to `powers` where they are kept.
template <class T, bool Along, Form form, class Total>
INLINE void tile_exp(const Tile<T>& given, const Origin<T, width<T>, form>& from, T* powers, const char* next, Total& others, Total& ties) {
    using Integer = typename Wide<T>::Integer;
    const Tile<T> z = given;  // copies, since powers that are stored might be part of what is referred to
    const Origin<T, width<T>, form> origin = from;
    Sum<T, Along> total;
    Integer top = typename IntegerOf<T>::type(0);
    for (std::int64_t i = 0; i < z.vectors; ++i) {
        Wide<T> x = z[i], rest = z.template rest<form>(i);
        if (next) prefetch<T>(next, i);
        Wide<T> power = exp_relative(x, origin, rest);
        if (powers) power.store(powers + i * width<T>);
        Integer is_top = x == origin.m;
        if constexpr (form == Form::paired) is_top = is_top & (rest == origin.low);
        top = top - is_top;
        total.add(select(is_top, Wide<T>(T(0)), power));
    }
    others = total.result();
    ties = count<T, Along>(top);
}

// sum w (z - m), where w = 0 wins over an infinite z. Of pairs, m's rest is `low`.
template <class T, bool Along> INLINE auto tile_weighted(const Tile<T>& z, Wide<T> m, Wide<T> low, const Weights<T, Along>& w) {
    Sum<T, Along> total;
    for (std::int64_t i = 0; i < z.vectors; ++i) {
        Wide<T> weight = w[i], distance = z[i] - m;
        if (z.low) distance = distance + (z.template rest<Form::paired>(i) - low);
        total.add(select(weight == T(0), Wide<T>(T(0)), weight * distance));
    }
    return total.result();
}
// A sum that is exact but for double's own rounding: losses and denominators multiply it.
template <class T, bool Along> struct Mass : Sum<T, Along> {};
template <> struct Mass<float, true> {
    Lanes<double, 8> total = 0.0;
    INLINE void add(Wide<float> x) { total = total + halve_sum(halve_sum(convert<double>(x))); }
    INLINE double result() { return sum(total); }
};
template <> struct Mass<float, false> {
    Lanes<double, 32> total = 0.0;
    INLINE void add(Wide<float> x) { total = total + convert<double>(x); }
    INLINE Lanes<double, 32> result() { return total; }
};
template <class T, bool Along> INLINE auto tile_mass(std::int64_t vectors, const Weights<T, Along>& w) {
    Mass<T, Along> total;
    for (std::int64_t i = 0; i < vectors; ++i) total.add(w[i]);
    return total.result();
}

// sum t; NaN where an entry is negative.
template <class T, bool Along> struct TargetMass {
    static constexpr int lanes = Along ? 8 : width<T>;
    Mass<T, Along> mass;
    Lanes<T, lanes> least = T(0);
    INLINE void add(Wide<T> t) {
        mass.add(t);
        least = smaller(smallest<lanes>(t), least);  // NaN is dropped here and shows in the mass
    }
    INLINE auto result() {
        auto wrong = convert<double>(select(least < T(0), Lanes<T, lanes>(std::numeric_limits<T>::quiet_NaN()), Lanes<T, lanes>(T(0))));
        if constexpr (Along) return mass.result() + sum(wrong);
        else return mass.result() + wrong;
    }
};
// Of a tile; `next` comes from memory meanwhile.
template <class T, bool Along> INLINE auto tile_target_mass(const Tile<T>& t, const char* next) {
    TargetMass<T, Along> total;
    for (std::int64_t i = 0; i < t.vectors; ++i) {
        if (next) prefetch<T>(next, i);
        total.add(t[i]);
    }
    return total.result();
}
// The same beside sum t (z - m) as in tile_weighted, in one look at t.
template <class T, bool Along, class Total>
INLINE void tile_dense(const Tile<T>& z, Wide<T> m, Wide<T> low, const Tile<T>& t, const char* next, Total& dot, Total& mass) {
    Sum<T, Along> products;
    TargetMass<T, Along> masses;
    for (std::int64_t i = 0; i < z.vectors; ++i) {
        Wide<T> weight = t[i], distance = z[i] - m;
        if (next) prefetch<T>(next, i);
        if (z.low) distance = distance + (z.template rest<Form::paired>(i) - low);
        products.add(select(weight == T(0), Wide<T>(T(0)), weight * distance));
        masses.add(weight);
    }
    dot = products.result();
    mass = masses.result();
}

// What is the same for a row's entries: a scale / (n + S), g, d, and the upstream factor.
template <class T> struct GradientFactors { Wide<T> power, profile, dense, upstream; };

// Across: entries that are known otherwise, one class per row.
template <class T> struct LabelEntries {
    bool any = false;
    typename Wide<T>::Integer label;
    Wide<T> value;
};

// Powers of a row: those that were kept, or formed once more.
template <class T> struct KeptPowers {
    const T* powers;
    KeptPowers from(std::int64_t first) const { return {powers + first}; }
    INLINE Wide<T> operator[](std::int64_t i) const { return Wide<T>::load(powers + i * width<T>); }
};
template <class T, Form form> struct NewPowers {
    const Tile<T> z;
    const Origin<T, width<T>, form> origin;
    const char* next;  // from where the next block comes meanwhile
    NewPowers from(std::int64_t first) const { return {z.from(first), origin, next}; }
    INLINE Wide<T> operator[](std::int64_t i) const {
        if (next) prefetch<T>(next, i);
        return exp_relative(z[i], origin, z.template rest<form>(i));
    }
};
template <class T, Form form> INLINE void tile_powers(NewPowers<T, form> powers, T* to) {
    for (std::int64_t i = 0; i < powers.z.vectors; ++i) powers[i].store(to + i * width<T>);
}

// Vectors [first, end) of upstream slope (a p - g u - d w t). The upstream factor comes last: it would round a p and q apart.
template <class T, bool Along, bool Streams = false, class Powers>
INLINE void tile_gradient(std::int64_t first, std::int64_t end, Powers powers, const GradientFactors<T>& f, const Weights<T, Along>& u,
                          const Tile<T>& dense, const T* slope, const LabelEntries<T>& labels, T* to) {
    // 0 wins over NaN as well: an ignored row has factor 0, and powers of whatever its lanes held. The factor of an undefined row is NaN,
    // and stands in its entries as it is: a product of two NaN has the sign of either, as the compiler orders them.
    const auto counts = (f.upstream < T(0)) | (f.upstream > T(0));
    for (std::int64_t i = first; i < end; ++i) {
        Wide<T> g = powers[i] * f.power;
        if (u) g = g - f.profile * u[i];
        if (dense.data) g = g - f.dense * dense[i];
        if (slope) g = select(g == T(0), g, g * Wide<T>::load(slope + i * width<T>));  // 0 wins over an infinite slope
        g = select(counts, g * f.upstream, f.upstream);
        if (!Along && labels.any) g = select(labels.label == typename Wide<T>::Integer(i), labels.value, g);
        if constexpr (Streams) g.stream(to + i * width<T>);
        else g.store(to + i * width<T>);
    }
}

}  // namespace INSTRUCTION_SET
