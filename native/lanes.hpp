// Lanes<T, N>: N numbers that go through the same arithmetic.
//
// A thin layer over the vector extension of GCC and Clang (https://gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html). N is the
// same on every machine; only the number of registers that hold the N lanes differs, so every instruction set adds in the same
// order, and those with fused multiply-add give the same bits (-ffp-contract=off: `fma` is where it is written). Several registers per operation also keep the pipelines full: the steps
// of independent registers stand next to each other in the program, which a one-register loop leaves to a 64-entry scheduler.
//
// This header is compiled once per instruction set; everything has internal linkage (INSTRUCTION_SET names the namespace), so that
// the linker can never pick a body that was compiled for a newer processor.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#if defined(__AVX512F__)
#define REGISTER_BYTES 64
#elif defined(__AVX__)
#define REGISTER_BYTES 32
#else
#define REGISTER_BYTES 16
#endif

namespace INSTRUCTION_SET {

template <class T> struct IntegerOf;
template <> struct IntegerOf<float> { using type = std::int32_t; };
template <> struct IntegerOf<double> { using type = std::int64_t; };
template <> struct IntegerOf<std::int32_t> { using type = std::int32_t; };
template <> struct IntegerOf<std::int64_t> { using type = std::int64_t; };

template <class T, int N> struct Lanes {
    static constexpr int per_register = N * int(sizeof(T)) < REGISTER_BYTES ? N : REGISTER_BYTES / int(sizeof(T));
    static constexpr int registers = N / per_register;
    typedef T Register __attribute__((vector_size(per_register * sizeof(T))));
    using Integer = Lanes<typename IntegerOf<T>::type, N>;

    Register part[registers];

    Lanes() = default;
    INLINE Lanes(T value) {
        UNROLL for (int i = 0; i < registers; ++i) part[i] = Register{} + value;
    }
    static INLINE Lanes load(const T* from) {
        Lanes r;
        UNROLL for (int i = 0; i < registers; ++i) std::memcpy(&r.part[i], from + i * per_register, sizeof(Register));
        return r;
    }
    INLINE void store(T* to) const {
        UNROLL for (int i = 0; i < registers; ++i) std::memcpy(to + i * per_register, &part[i], sizeof(Register));
    }
    // Past the caches, to a multiple of a register's size; `finish_streams` (elements.hpp) ends it.
    INLINE void stream(T* to) const {
        UNROLL for (int i = 0; i < registers; ++i) {
#if defined(__AVX512F__)
            if constexpr (sizeof(Register) == 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i * per_register), (__m512i)part[i]);
            else
#endif
#if defined(__FMA__)
            if constexpr (sizeof(Register) == 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i * per_register), (__m256i)part[i]);
            else
#endif
#if defined(__SSE2__)
            if constexpr (sizeof(Register) == 16) _mm_stream_si128(reinterpret_cast<__m128i*>(to + i * per_register), (__m128i)part[i]);
            else
#endif
            std::memcpy(to + i * per_register, &part[i], sizeof(Register));
        }
    }
};

// What is computed of a register: integers wrap around, as the bits of a NaN may, and only unsigned ones are allowed to.
template <class T, class Register> INLINE auto wrapping(Register a) {
    if constexpr (std::is_integral_v<T>) {
        typedef std::make_unsigned_t<T> Unsigned __attribute__((vector_size(sizeof(Register))));
        return (Unsigned)a;
    } else {
        return a;
    }
}
#define LANES_OPERATOR(op)                                                                         \
    template <class T, int N> INLINE Lanes<T, N> operator op(Lanes<T, N> a, Lanes<T, N> b) {       \
        using Register = typename Lanes<T, N>::Register;                                           \
        Lanes<T, N> r;                                                                             \
        UNROLL for (int i = 0; i < r.registers; ++i) r.part[i] = (Register)(wrapping<T>(a.part[i]) op wrapping<T>(b.part[i])); \
        return r;                                                                                  \
    }                                                                                              \
    template <class T, int N> INLINE Lanes<T, N> operator op(Lanes<T, N> a, T b) { return a op Lanes<T, N>(b); } \
    template <class T, int N> INLINE Lanes<T, N> operator op(T a, Lanes<T, N> b) { return Lanes<T, N>(a) op b; }
LANES_OPERATOR(+)
LANES_OPERATOR(-)
LANES_OPERATOR(*)
LANES_OPERATOR(/)
LANES_OPERATOR(&)
LANES_OPERATOR(|)
#undef LANES_OPERATOR

// Comparisons give all ones or all zeros per lane.
#define LANES_COMPARISON(op)                                                                                      \
    template <class T, int N> INLINE typename Lanes<T, N>::Integer operator op(Lanes<T, N> a, Lanes<T, N> b) {    \
        typename Lanes<T, N>::Integer r;                                                                          \
        UNROLL for (int i = 0; i < a.registers; ++i) {                                                            \
            auto mask = a.part[i] op b.part[i];                                                                   \
            static_assert(sizeof mask == sizeof r.part[i]);                                                       \
            std::memcpy(&r.part[i], &mask, sizeof mask);                                                          \
        }                                                                                                         \
        return r;                                                                                                 \
    }                                                                                                             \
    template <class T, int N> INLINE typename Lanes<T, N>::Integer operator op(Lanes<T, N> a, T b) {              \
        return a op Lanes<T, N>(b);                                                                               \
    }
LANES_COMPARISON(==)
LANES_COMPARISON(!=)
LANES_COMPARISON(<)
LANES_COMPARISON(>)
LANES_COMPARISON(<=)
#undef LANES_COMPARISON

template <class T, int N> INLINE Lanes<T, N> operator-(Lanes<T, N> a) {
    UNROLL for (int i = 0; i < a.registers; ++i) a.part[i] = -a.part[i];
    return a;
}

#if defined(__FMA__)
constexpr bool has_fma = true;
#else
constexpr bool has_fma = false;
#endif
// a b + c, rounded once where the instruction set can.
template <class Register, class T> INLINE Register fma_register(Register a, Register b, Register c, T) {
#if defined(__AVX512F__)
    if constexpr (sizeof a == 64 && sizeof(T) == 4) return (Register)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
    else if constexpr (sizeof a == 64) return (Register)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
    else
#endif
#if defined(__FMA__)
    if constexpr (sizeof a == 32 && sizeof(T) == 4) return (Register)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    else if constexpr (sizeof a == 32) return (Register)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
    else if constexpr (sizeof a == 16 && sizeof(T) == 4) return (Register)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
    else if constexpr (sizeof a == 16) return (Register)_mm_fmadd_pd((__m128d)a, (__m128d)b, (__m128d)c);
    else
#endif
    return a * b + c;
}
template <class T, int N> INLINE Lanes<T, N> fma(Lanes<T, N> a, Lanes<T, N> b, Lanes<T, N> c) {
    UNROLL for (int i = 0; i < c.registers; ++i) c.part[i] = fma_register(a.part[i], b.part[i], c.part[i], T());
    return c;
}

// Where `mask`, a; else b.
template <class T, int N>
INLINE Lanes<T, N> select(Lanes<typename IntegerOf<T>::type, N> mask, Lanes<T, N> a, Lanes<T, N> b) {
    UNROLL for (int i = 0; i < a.registers; ++i) a.part[i] = mask.part[i] ? a.part[i] : b.part[i];
    return a;
}
template <class T, int N> INLINE Lanes<T, N> select(typename Lanes<T, N>::Integer mask, Lanes<T, N> a, T b) {
    return select(mask, a, Lanes<T, N>(b));
}

// The larger one; b where a comparison with NaN decides (that is: a NaN in b is kept, a NaN in a is dropped).
template <class T, int N> INLINE Lanes<T, N> larger(Lanes<T, N> a, Lanes<T, N> b) {
    UNROLL for (int i = 0; i < a.registers; ++i) a.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
    return a;
}

template <int N> INLINE Lanes<double, N> square_root(Lanes<double, N> a) {
    UNROLL for (int i = 0; i < a.registers; ++i)
        for (int j = 0; j < a.per_register; ++j) a.part[i][j] = __builtin_sqrt(a.part[i][j]);
    return a;
}

// The smaller one; NaN as for `larger`.
template <class T, int N> INLINE Lanes<T, N> smaller(Lanes<T, N> a, Lanes<T, N> b) {
    UNROLL for (int i = 0; i < a.registers; ++i) a.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
    return a;
}

template <class To, class From> INLINE To bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
template <class T, int N> INLINE typename Lanes<T, N>::Integer as_integer(Lanes<T, N> a) {
    return bits<typename Lanes<T, N>::Integer>(a);
}
template <class T, int N> INLINE Lanes<T, N> as_real(Lanes<typename IntegerOf<T>::type, N> a) { return bits<Lanes<T, N>>(a); }
template <class T, int N> INLINE Lanes<T, N> shift_left(Lanes<T, N> a, int count) {
    UNROLL for (int i = 0; i < a.registers; ++i) a.part[i] <<= count;
    return a;
}
// Zeros come in from the left.
template <class T, int N> INLINE Lanes<T, N> shift_right(Lanes<T, N> a, int count) {
    using Register = typename Lanes<T, N>::Register;
    typedef std::make_unsigned_t<T> Unsigned __attribute__((vector_size(sizeof(Register))));
    UNROLL for (int i = 0; i < a.registers; ++i) a.part[i] = (Register)((Unsigned)a.part[i] >> count);
    return a;
}

// The first and the second half of the lanes.
template <class T, int N> INLINE void halves(const Lanes<T, N>& a, Lanes<T, N / 2>& low, Lanes<T, N / 2>& high) {
    constexpr int half = a.registers / 2;
    if constexpr (half > 0) {
        UNROLL for (int i = 0; i < half; ++i) low.part[i] = a.part[i], high.part[i] = a.part[i + half];
    } else {
        std::memcpy(&low, &a, sizeof low);
        std::memcpy(&high, reinterpret_cast<const char*>(&a) + sizeof low, sizeof high);
    }
}
// Lane l of the result is lane l plus lane l + N/2.
template <class T, int N> INLINE Lanes<T, N / 2> halve_sum(Lanes<T, N> a) {
    Lanes<T, N / 2> low, high;
    halves(a, low, high);
    return low + high;
}
template <class T, int N> INLINE T sum(Lanes<T, N> a) {
    if constexpr (N == 1) return a.part[0][0];
    else return sum(halve_sum(a));
}
template <class T, int N> INLINE T maximum(Lanes<T, N> a) {
    if constexpr (N == 1) return a.part[0][0];
    else {
        Lanes<T, N / 2> low, high;
        halves(a, low, high);
        return maximum(larger(low, high));
    }
}
// The smallest of N lanes in M of them: lane l stands for the lanes l + k M.
template <int M, class T, int N> INLINE Lanes<T, M> smallest(Lanes<T, N> a) {
    if constexpr (N == M) return a;
    else {
        Lanes<T, N / 2> low, high;
        halves(a, low, high);
        return smallest<M>(smaller(low, high));
    }
}

template <class Register> using Element = std::remove_cvref_t<decltype(Register{}[0])>;
template <class From, class To, class In, class Out>
constexpr bool converts = std::is_same_v<Element<In>, From> && std::is_same_v<Element<Out>, To>;

// Numbers of one register to another type. GCC takes float <-> double apart into 16-byte halves.
template <class Out, class In> INLINE Out convert_register(In in) {
#if defined(__AVX512F__)
    if constexpr (converts<float, double, In, Out> && sizeof(Out) == 64) return (Out)_mm512_cvtps_pd((__m256)in);
    else if constexpr (converts<double, float, In, Out> && sizeof(In) == 64) return (Out)_mm512_cvtpd_ps((__m512d)in);
    else
#endif
#if defined(__FMA__)
    if constexpr (converts<float, double, In, Out> && sizeof(Out) == 32) return (Out)_mm256_cvtps_pd((__m128)in);
    else if constexpr (converts<double, float, In, Out> && sizeof(In) == 32) return (Out)_mm256_cvtpd_ps((__m256d)in);
    else
#endif
    return __builtin_convertvector(in, Out);
}
// Two halves of a register: through memory, they would be stored one by one and could not be loaded together before they are there.
template <class Register, class Half> INLINE Register join(Half low, Half high) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Half) == 32) return (Register)_mm512_insertf64x4(_mm512_castpd256_pd512((__m256d)low), (__m256d)high, 1);
    else
#endif
#if defined(__FMA__)
    if constexpr (sizeof(Half) == 16) return (Register)_mm256_insertf128_pd(_mm256_castpd128_pd256((__m128d)low), (__m128d)high, 1);
    else
#endif
    {
        Half both[2] = {low, high};
        return bits<Register>(both);
    }
}
template <class To, class From, int N> INLINE Lanes<To, N> convert(Lanes<From, N> a) {
    if constexpr (sizeof(To) == sizeof(From)) {
        Lanes<To, N> r;
        UNROLL for (int i = 0; i < r.registers; ++i) r.part[i] = __builtin_convertvector(a.part[i], typename Lanes<To, N>::Register);
        return r;
    } else {
        // The register of the wider type decides how many lanes go at once.
        constexpr int step = sizeof(To) > sizeof(From) ? Lanes<To, N>::per_register : Lanes<From, N>::per_register;
        typedef To Out __attribute__((vector_size(step * sizeof(To))));
        typedef From In __attribute__((vector_size(step * sizeof(From))));
        // Through an array and not into the result, which would stay in memory, half a register at a time.
        if constexpr (sizeof(To) * 2 == sizeof(From) && Lanes<To, N>::per_register == 2 * step && step == Lanes<From, N>::per_register) {
            Lanes<To, N> r;
            UNROLL for (int i = 0; i < r.registers; ++i)
                r.part[i] = join<typename Lanes<To, N>::Register>(convert_register<Out>(a.part[2 * i]), convert_register<Out>(a.part[2 * i + 1]));
            return r;
        }
        alignas(64) To result[N];
        UNROLL for (int i = 0; i < N / step; ++i) {
            In in;
            std::memcpy(&in, reinterpret_cast<const char*>(&a) + i * sizeof in, sizeof in);
            Out out = convert_register<Out>(in);
            std::memcpy(result + i * step, &out, sizeof out);
        }
        return Lanes<To, N>::load(result);
    }
}

}  // namespace INSTRUCTION_SET
