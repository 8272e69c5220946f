// Logarithms as HiLo, precise enough that e^(c log x) is right to the last place although c log x may be as
// large as the format's exponents, and the products that lead there.
//
// The logarithm: log m = s + s^3/12 + s^5/80 + ..., s = 2 (m - 1)/(m + 1), with the first two terms in HiLo,
// as SLEEF's pow does (Shibata and Petrogalli, "SLEEF: A Portable Vectorized Library of C Standard
// Mathematical Functions", IEEE TPDS 31, 2020).
#pragma once

#include "math/elementary.hpp"

namespace fastmap::FM_ISA::math {

// a b and a + b to about twice the precision. Exact: where they are infinite, lo is 0; a == 0 makes a b 0.
template <Path P, class T> FM_INLINE HiLo<T> multiply(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> p = two_product(a.hi, b.hi);
  const T lo = fma(a.hi, b.lo, fma(a.lo, b.hi, p.lo));
  if constexpr (P == Path::exact)
    return {select(a.hi == 0, T(0), p.hi), select(is_finite(p.hi) & (a.hi != 0), lo, T(0))};
  return {p.hi, lo};
}
template <Path P, class T> FM_INLINE HiLo<T> add(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> s = two_sum(a.hi, b.hi);
  const T lo = s.lo + (a.lo + b.lo);
  if constexpr (P == Path::exact) return {s.hi, select(is_finite(s.hi), lo, T(0))};
  return {s.hi, lo};
}

template <class T> struct LogSeries;
template <> struct LogSeries<float> {
  static constexpr float twelfth = 0x1.555556p-4f, twelfth_rest = -0x1.555556p-29f;
};
template <> struct LogSeries<double> {
  static constexpr double twelfth = 0x1.5555555555555p-4, twelfth_rest = 0x1.5555555555555p-58;
};
// (log((2 + s)/(2 - s)) - s - s^3/12) / s^5 as a polynomial in s^2 on |s| <= 0.3432; relative error 2^-26.0
// and 2^-54.0, of the logarithm 2^-40.1 and 2^-69.2.
FM_INLINE float log_series_tail(float w) {
  return polynomial(w, 0x1.99999ap-7f, 0x1.24921p-9f, 0x1.c7041cp-12f, 0x1.827ccap-14f);
}
FM_INLINE double log_series_tail(double w) {
  return polynomial(w, 0x1.999999999999ap-7, 0x1.24924924922fcp-9, 0x1.c71c71c74d1cp-12,
                    0x1.745d173c57417p-14, 0x1.3b13aa0342a95p-16, 0x1.11154601f4abdp-18,
                    0x1.e01b9e2a1cd4cp-21, 0x1.da90000729459p-23);
}

// k ln 2 + log((g + f)/(g - f)) for f2 = 2 f, |f / g| <= 0.1716. Relative error about 2^-36 and 2^-66 at the
// ends of that range, where rounding the tail dominates, and 2^-43 and 2^-90 for small f.
template <class T> FM_INLINE HiLo<T> log_series(T k, HiLo<T> f2, HiLo<T> g) {
  using C = Constants<T>;
  const T reciprocal = 1 / g.hi, q = f2.hi * reciprocal;
  const HiLo<T> s{q, (fma(-q, g.hi, f2.hi) + fma(-q, g.lo, f2.lo)) * reciprocal};
  HiLo<T> w = two_product(s.hi, s.hi);
  w.lo = fma(2 * s.hi, s.lo, w.lo);
  HiLo<T> c = fast_two_sum(LogSeries<T>::twelfth, w.hi * log_series_tail(w.hi));
  c.lo = c.lo + LogSeries<T>::twelfth_rest;
  const HiLo<T> cubic = multiply<Path::fast>(s, multiply<Path::fast>(w, c));
  const HiLo<T> sum = fast_two_sum(s.hi, cubic.hi);
  const HiLo<T> head = fast_two_sum(k * C::ln2_hi, sum.hi);  // k ln2_hi is exact and 0 or larger
  return fast_two_sum(head.hi, head.lo + fma(k, C::ln2_lo, sum.lo + (s.lo + cubic.lo)));
}

// A positive number m 2^k, m in [sqrt(1/2), sqrt(2)].
template <class T> struct LogBase {
  HiLo<T> m;
  T k;
};

// log x. Fast: x positive, normal, finite.
template <Path P, class T> FM_INLINE HiLo<T> precise_log(T x) {
  const Scaled<T> y = scaled<P>(x, Constants<T>::sqrt_half);
  return log_or_limit<P>(log_series(y.k, HiLo<T>{2 * (y.m - 1), 0}, two_sum(y.m, T(1))), x);
}

// log(x / base), relatively accurate next to base: x is scaled so that m - base.m.hi is exact.
template <Path P, class T> FM_INLINE HiLo<T> precise_log(T x, const LogBase<T>& base) {
  const Scaled<T> y = scaled<P>(x, Constants<T>::sqrt_half * base.m.hi);
  const HiLo<T> f2 = fast_two_sum(2 * (y.m - base.m.hi), -2 * base.m.lo), g = two_sum(y.m, base.m.hi);
  return log_or_limit<P>(log_series(y.k - base.k, f2, HiLo<T>{g.hi, g.lo + base.m.lo}), x);
}

// log(1 + x), x >= -1, and 1 + x itself. Fast: 1 + x.hi in [small, large].
template <class T> struct Log1p {
  HiLo<T> log, one_plus;
};
template <Path P, class T> FM_INLINE Log1p<T> precise_log1p(HiLo<T> x) {
  const HiLo<T> sum = two_sum(T(1), x.hi);
  HiLo<T> w = fast_two_sum(sum.hi, sum.lo + x.lo);
  if constexpr (P == Path::exact) w = select(x.hi > Float<T>::large, HiLo<T>{x.hi, 0}, w);
  const Scaled<T> y = scaled<P>(w.hi, Constants<T>::sqrt_half);
  // w.lo 2^-k. It is 0 where 2^-k is not a normal number.
  T rest = w.lo * from_bits(bits(T(1)) - (bits(w.hi) - bits(y.m)));
  if constexpr (P == Path::exact) rest = select(w.lo == 0, T(0), rest);
  // Where k == 0 x itself is at hand, which 1 + x has not all digits of.
  const HiLo<T> f = select(y.k == 0, x, fast_two_sum(y.m - 1, rest)), g = two_sum(y.m, T(1));
  return {log_or_limit<P>(log_series(y.k, HiLo<T>{2 * f.hi, 2 * f.lo}, HiLo<T>{g.hi, g.lo + rest}), w.hi), w};
}

// (e^r - 1 - r - r^2/2) / r^3 on |r| <= 0.347; error of e^r 2^-30.9 and 2^-64.0.
FM_INLINE float exp_cubic_tail(float r) {
  return polynomial(r, 0x1.555556p-3f, 0x1.55551ap-5f, 0x1.110fb2p-7f, 0x1.6d1038p-10f, 0x1.a2fa7ap-13f);
}
FM_INLINE double exp_cubic_tail(double r) {
  return polynomial(r, 0x1.5555555555555p-3, 0x1.5555555555556p-5, 0x1.1111111111486p-7,
                    0x1.6c16c16c16098p-10, 0x1.a01a019d97446p-13, 0x1.a01a01a7ba0cp-16, 0x1.71de463fd65b2p-19,
                    0x1.27e4d9323e47ap-22, 0x1.ae32cec18b8e6p-26, 0x1.1f76cb08ce7d8p-29,
                    0x1.ac41c961fd6cap-33);
}

// exp_parts with r + r^2/2 in HiLo, of which r is hi and s has the rest: exp_parts itself leaves a tenth of an ULP
// where it rounds r^2/2, by which neighbours may go the wrong way where a map is as flat as x^0.01.
template <class T> FM_INLINE ExpParts<T> precise_exp_parts(HiLo<T> x) {
  using C = Constants<T>;
  const T n = fma(x.hi, C::log2e, magic<T>()) - magic<T>();
  const T head = fma(-n, C::ln2_hi, x.hi);  // exact
  const T r = fma(-n, C::ln2_lo, head);
  const T rest = fma(-n, C::ln2_lo, head - r) + x.lo;  // what rounding r lost
  const HiLo<T> half_square = two_product(T(0.5) * r, r), sum = fast_two_sum(r, half_square.hi);
  const T tail = fma(2 * r * half_square.hi, exp_cubic_tail(r), half_square.lo);
  return {n, sum.hi, sum.lo + (tail + fma(rest, sum.hi + tail, rest))};  // e^(r + rest) = e^r (1 + rest)
}
// Fast: exp_low <= x.hi <= exp_high.
template <Path P, class T> FM_INLINE T precise_exp(HiLo<T> x) {
  if constexpr (P == Path::exact) x = clamp_exponent(x);
  return exp_of<P>(precise_exp_parts(x));
}
// e^x - 1. Fast: exp_low <= x.hi <= exp_high - 1.
template <Path P, class T> FM_INLINE HiLo<T> precise_expm1(HiLo<T> x) {
  HiLo<T> inside = x;
  if constexpr (P == Path::exact) inside = clamp_exponent(x);
  const HiLo<T> v = expm1_of<P>(precise_exp_parts(inside));
  if constexpr (P == Path::exact)  // beyond the fast range 2^n overflows before the result does
    return select(x.hi > Constants<T>::exp_high - 1, HiLo<T>{precise_exp<P>(x), 0}, v);
  return v;
}

}  // namespace fastmap::FM_ISA::math
