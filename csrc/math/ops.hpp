// The primitive layer: everything the elementary functions and the maps are made of.
//
// Rules for code written on top of it (they are what makes one text vectorise on every ISA and
// give the same bits on all of them):
//   - no `if`, early return, table, gather or libm call in a lane: compute both sides, `select` one;
//   - no conversion between floating point and integers (AVX2 has none for 64 bit): round with
//     `magic` and use the bits of the rounded sum;
//   - no arithmetic right shift and no multiplication of 64-bit integers (AVX2 has neither);
//   - fused multiply-adds are written out (`fma`), the compiler may not contract (-ffp-contract=off);
//   - min, max and abs come from select and bits: x86, NEON and CUDA disagree on NaN and -0.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FM_INLINE __host__ __device__ __forceinline__
#else
#define FM_INLINE __attribute__((always_inline)) inline
#endif

#ifndef FM_ISA
#define FM_ISA portable
#endif

namespace fastmap::FM_ISA {

// How a lane is computed. `fast` is only right for ordinary input (each map says which, see
// map.hpp), `exact` for all input; on ordinary input both give the same bits.
enum class Path { fast, exact };

template <class T> struct Float;

template <> struct Float<float> {
  using Bits = std::uint32_t;
  using SignedBits = std::int32_t;
  static constexpr int mantissa_bits = 23;
  static constexpr Bits bias = 127, sign = 0x80000000u, quiet_nan = 0x7fc00000u;
  static constexpr float inf = __builtin_inff(), max = 0x1.fffffep127f, min_normal = 0x1p-126f;
  // Products and quotients of two numbers inside (small, large) neither over- nor underflow.
  static constexpr float small = 0x1p-60f, large = 0x1p60f;
};

template <> struct Float<double> {
  using Bits = std::uint64_t;
  using SignedBits = std::int64_t;
  static constexpr int mantissa_bits = 52;
  static constexpr Bits bias = 1023, sign = 0x8000000000000000u, quiet_nan = 0x7ff8000000000000u;
  static constexpr double inf = __builtin_inf(), max = 0x1.fffffffffffffp1023, min_normal = 0x1p-1022;
  static constexpr double small = 0x1p-500, large = 0x1p500;
};

template <class T> using BitsOf = typename Float<T>::Bits;

FM_INLINE std::uint32_t bits(float x) { return __builtin_bit_cast(std::uint32_t, x); }
FM_INLINE std::uint64_t bits(double x) { return __builtin_bit_cast(std::uint64_t, x); }
FM_INLINE float from_bits(std::uint32_t b) { return __builtin_bit_cast(float, b); }
FM_INLINE double from_bits(std::uint64_t b) { return __builtin_bit_cast(double, b); }

FM_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
FM_INLINE double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
FM_INLINE float sqrt(float x) { return __builtin_sqrtf(x); }
FM_INLINE double sqrt(double x) { return __builtin_sqrt(x); }

template <class T> FM_INLINE T select(bool condition, T yes, T no) { return condition ? yes : no; }
template <class T> FM_INLINE T abs(T x) { return from_bits(bits(x) & ~Float<T>::sign); }
template <class T> FM_INLINE T copysign(T magnitude, T sign) {
  return from_bits((bits(magnitude) & ~Float<T>::sign) | (bits(sign) & Float<T>::sign));
}
template <class T> FM_INLINE bool is_negative(T x) { return (bits(x) & Float<T>::sign) != 0; }  // -0 too
// A NaN in the first argument is kept.
template <class T> FM_INLINE T min(T x, T y) { return select(x > y, y, x); }
template <class T> FM_INLINE T max(T x, T y) { return select(x < y, y, x); }
template <class T> FM_INLINE T nan() { return from_bits(Float<T>::quiet_nan); }
// By the bits: GCC moves a comparison x != x into the selects that x came from, and then cannot
// vectorise their conditions any more.
template <class T> FM_INLINE bool is_nan(T x) {
  using S = typename Float<T>::SignedBits;
  return S(bits(x) & ~Float<T>::sign) > S(bits(Float<T>::inf));
}
template <class T> FM_INLINE bool is_finite(T x) { return abs(x) <= Float<T>::max; }

// 1.5 * 2^mantissa_bits: adding it rounds to an integer (to nearest even), whose two's complement
// is then in the low bits of the sum.
template <class T> FM_INLINE constexpr T magic() {
  return T(3) * T(BitsOf<T>(1) << (Float<T>::mantissa_bits - 1));
}
template <class T> FM_INLINE T round_even(T x) { return (x + magic<T>()) - magic<T>(); }

// 2^n for an integral n with a normal result.
template <class T> FM_INLINE T pow2(T n) {
  return from_bits((bits(n + magic<T>()) << Float<T>::mantissa_bits) +
                   (Float<T>::bias << Float<T>::mantissa_bits));
}

// v * 2^n. Exact path: in two normal steps, so that a subnormal result is rounded once.
template <Path P, class T> FM_INLINE T scale_by_pow2(T v, T n) {
  if constexpr (P == Path::fast) return v * pow2(n);
  const T half = round_even(n * T(0.5));
  return v * pow2(half) * pow2(n - half);
}

// An unevaluated sum hi + lo, |lo| small against |hi|: twice the precision where a formula cancels.
template <class T> struct HiLo {
  T hi, lo;
};

// hi + lo == a + b exactly (Knuth).
template <class T> FM_INLINE HiLo<T> two_sum(T a, T b) {
  const T s = a + b, bb = s - a;
  return {s, (a - (s - bb)) + (b - bb)};
}
// The same for |a| >= |b| or a == 0 (Dekker).
template <class T> FM_INLINE HiLo<T> fast_two_sum(T a, T b) {
  const T s = a + b;
  return {s, b - (s - a)};
}
// hi + lo == a * b exactly, unless lo underflows.
template <class T> FM_INLINE HiLo<T> two_product(T a, T b) {
  const T p = a * b;
  return {p, fma(a, b, -p)};
}
// 1 / x to a few units without a division, for an x that is normal as its reciprocal is: a guess from the bits, within
// 5.1 %, and steps of Newton. The divider is the slowest unit of a processor; this leaves it free.
FM_INLINE float reciprocal(float x) {
  const float a = from_bits(std::uint32_t(0x7ef311c7) - bits(x)), b = a * fma(-x, a, 2.f),
              c = b * fma(-x, b, 2.f);
  return c * fma(-x, c, 2.f);
}
FM_INLINE double reciprocal(double x) {
  const double a = from_bits(std::uint64_t(0x7fde6238502484ba) - bits(x)), b = a * fma(-x, a, 2.0),
               c = b * fma(-x, b, 2.0), d = c * fma(-x, c, 2.0);
  return d * fma(-x, d, 2.0);
}
// a / b to half a unit, b as above.
template <class T> FM_INLINE T quotient_by_newton(T a, T b) {
  const T r = reciprocal(b), q = a * r;
  return fma(fma(-q, b, a), r, q);
}
// The faster way of the two: in float32 a division takes no longer.
template <class T> FM_INLINE T quotient(T a, T b) { return a / b; }
FM_INLINE double quotient(double a, double b) { return quotient_by_newton(a, b); }

// a / b to about twice the precision, hi being a.hi / b.hi. b.hi must be normal as its reciprocal is.
template <class T> FM_INLINE HiLo<T> divide(HiLo<T> a, HiLo<T> b) {
  const T q = a.hi / b.hi;
  return {q, quotient(fma(-q, b.hi, a.hi) + (a.lo - q * b.lo), b.hi)};
}
// The same by one division, none where b is the same for all: hi may be a unit off, which lo makes up for.
template <class T> FM_INLINE HiLo<T> divide_by_reciprocal(HiLo<T> a, HiLo<T> b) {
  const T r = 1 / b.hi, q = a.hi * r;
  return {q, (fma(-q, b.hi, a.hi) + (a.lo - q * b.lo)) * r};
}
// a b and a + b to about twice the precision, not normalised.
template <class T> FM_INLINE HiLo<T> multiply(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> p = two_product(a.hi, b.hi);
  return {p.hi, p.lo + fma(a.hi, b.lo, a.lo * b.hi)};
}
template <class T> FM_INLINE HiLo<T> multiply(HiLo<T> a, T b) {
  const HiLo<T> p = two_product(a.hi, b);
  return {p.hi, fma(a.lo, b, p.lo)};
}
template <class T> FM_INLINE HiLo<T> add(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> s = two_sum(a.hi, b.hi);
  return {s.hi, s.lo + (a.lo + b.lo)};
}
template <class T> FM_INLINE HiLo<T> negate(HiLo<T> a) { return {-a.hi, -a.lo}; }
template <class T> FM_INLINE HiLo<T> select(bool condition, HiLo<T> yes, HiLo<T> no) {
  return {select(condition, yes.hi, no.hi), select(condition, yes.lo, no.lo)};
}

// c0 + c1 x + c2 x^2 + ... Even and odd coefficients by Horner's rule in x^2 side by side: half the
// latency of one chain, which is what bounds a loop whose body is one long dependency.
template <class T> FM_INLINE T every_second(T, T c0) { return c0; }
template <class T> FM_INLINE T every_second(T, T c0, T) { return c0; }
template <class T, class... Rest> FM_INLINE T every_second(T square, T c0, T, Rest... rest) {
  return fma(square, every_second(square, rest...), c0);
}
template <class T, class... Rest> FM_INLINE T polynomial(T x, T c0, T c1, Rest... rest) {
  const T square = x * x;
  return fma(x, every_second(square, c1, rest...), every_second(square, c0, c1, rest...));
}

}  // namespace fastmap::FM_ISA
