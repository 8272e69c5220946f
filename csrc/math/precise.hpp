// Logarithm and exponential as HiLo to almost twice the working precision: relative error below 2^-44 in
// float and 2^-73 in double, next to their roots too. For compositions whose later steps magnify an error, as
// a power magnifies that of a logarithm, or that cancel.
//
// The series are those of Taylor. Their leading terms are HiLo, the rest, small against them, is a polynomial
// in working precision. Reduction to s = (m - 1)/(m + 1) as in fdlibm's e_log.c.
#pragma once

#include "math/elementary.hpp"

namespace fastmap::FM_ISA {
// As those of a HiLo, for formulas in math::Twice<T>.
FM_INLINE double multiply(double a, double b) { return a * b; }
FM_INLINE double divide(double a, double b) { return a / b; }
FM_INLINE double negate(double a) { return -a; }
}  // namespace fastmap::FM_ISA

namespace fastmap::FM_ISA::math {

template <class T> FM_INLINE HiLo<T> add(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> s = two_sum(a.hi, b.hi);
  return fast_two_sum(s.hi, s.lo + (a.lo + b.lo));
}
template <class T> FM_INLINE HiLo<T> abs(HiLo<T> a) {
  return {FM_ISA::abs(a.hi), FM_ISA::select(is_negative(a.hi), -a.lo, a.lo)};
}
template <class T> FM_INLINE T value(HiLo<T> a) { return a.hi + a.lo; }

// A number to about twice the precision of T, for formulas whose steps cancel or magnify errors. For float it is a
// double: two vectors of them are less work than the error terms of float, and nothing under- or overflows on the
// way, so that such a formula needs no second form for tiny or huge arguments. Formulas in Twice<T> are written
// with the functions here and read the same for both.
template <class T> struct TwiceOf {
  using type = HiLo<T>;
};
template <> struct TwiceOf<float> {
  using type = double;
};
template <class T> using Twice = typename TwiceOf<T>::type;
// Whether a formula in Twice<T> has to mind the range of T.
template <class T> constexpr bool has_edges = sizeof(T) == sizeof(double);
template <Path P, class T> constexpr bool at_edges = P == Path::exact && has_edges<T>;

template <class T> FM_INLINE Twice<T> twice(double x) {
  if constexpr (has_edges<T>)
    return {x, 0};
  else
    return x;
}
FM_INLINE double exact_sum(float a, float b) { return double(a) + double(b); }  // but for far exponents
FM_INLINE HiLo<double> exact_sum(double a, double b) { return two_sum(a, b); }
FM_INLINE double head(double x) { return x; }
FM_INLINE double head(HiLo<double> x) { return x.hi; }
FM_INLINE double value(double x) { return x; }
FM_INLINE bool less(double a, double b) { return a < b; }
FM_INLINE bool less(HiLo<double> a, HiLo<double> b) { return (a.hi - b.hi) + (a.lo - b.lo) < 0; }
FM_INLINE double add(double a, double b) { return a + b; }
FM_INLINE double abs(double a) { return FM_ISA::abs(a); }

// 1/n + x y with |x y| < 1/n
template <class T> FM_INLINE HiLo<T> horner_step(T n, HiLo<T> x, HiLo<T> y) {
  const HiLo<T> c = divide(HiLo<T>{1, 0}, HiLo<T>{n, 0}), p = multiply(x, y), s = fast_two_sum(c.hi, p.hi);
  return {s.hi, s.lo + (c.lo + p.lo)};
}

// 1/9 + w/11 + w^2/13 ... for w <= 0.0295, to 2^-27 and 2^-57.
FM_INLINE float atanh_tail(float w) { return polynomial(w, 1 / 9.f, 1 / 11.f, 1 / 13.f, 1 / 15.f, 1 / 17.f); }
FM_INLINE double atanh_tail(double w) {
  return polynomial(w, 1 / 9., 1 / 11., 1 / 13., 1 / 15., 1 / 17., 1 / 19., 1 / 21., 1 / 23., 1 / 25.,
                    1 / 27., 1 / 29., 1 / 31.);
}
// 2 atanh s = log((1 + s)/(1 - s)) for |s| <= 0.1716 = (sqrt(2) - 1)/(sqrt(2) + 1).
template <class T> FM_INLINE HiLo<T> twice_atanh_parts(HiLo<T> s) {
  const HiLo<T> w = multiply(s, s);
  HiLo<T> v = horner_step(T(7), w, HiLo<T>{atanh_tail(w.hi), 0});
  v = horner_step(T(3), w, horner_step(T(5), w, v));
  const HiLo<T> t = multiply(s, multiply(w, v)), r = fast_two_sum(2 * s.hi, 2 * t.hi);
  return fast_two_sum(r.hi, r.lo + 2 * (s.lo + t.lo));
}

template <class T> struct Ln2Rest;  // what ln2_hi + ln2_lo leave of ln 2
template <> struct Ln2Rest<float> {
  static constexpr float value = 0x1.ef357ap-45f;
};
template <> struct Ln2Rest<double> {
  static constexpr double value = 0x1.f97b57a079a19p-103;
};

// A logarithm reduced: log u = k ln 2 + 2 atanh(num / den), |num / den| <= 0.1716.
template <class T> struct LogParts {
  T k;
  HiLo<T> num, den;
};
// u.hi positive, |log2 u.hi| < 126 or 1022; f = u - 1, which may be known better than u tells.
template <class T> FM_INLINE LogParts<T> reduce_log(HiLo<T> u, HiLo<T> f) {
  const Scaled<T> y = scaled<Path::fast>(u.hi, Constants<T>::sqrt_half);
  const HiLo<T> reduced = two_sum(y.m - 1, u.lo * pow2(-y.k));
  const HiLo<T> num = select(y.k == 0, f, reduced), den = fast_two_sum(T(2), num.hi);
  return {y.k, num, {den.hi, den.lo + num.lo}};
}
// k ln 2 + x for a whole k, |x| < ln 2 or k == 0.
template <class T> FM_INLINE HiLo<T> add_ln2(T k, HiLo<T> x) {
  using C = Constants<T>;
  const HiLo<T> p = two_product(k, C::ln2_lo);
  const HiLo<T> q = two_sum(p.hi, x.hi), s = fast_two_sum(k * C::ln2_hi, q.hi);  // k ln2_hi is exact
  return fast_two_sum(s.hi, s.lo + (q.lo + (x.lo + fma(k, Ln2Rest<T>::value, p.lo))));
}
template <class T> FM_INLINE HiLo<T> finish_log(const LogParts<T>& p) {
  return add_ln2(p.k, twice_atanh_parts(divide(p.num, p.den)));
}
template <class T> FM_INLINE HiLo<T> precise_log(HiLo<T> u) {
  return finish_log(reduce_log(u, two_sum(u.hi - 1, u.lo)));
}
// log(1 + f), also where 1 + f cannot tell f.
template <class T> FM_INLINE HiLo<T> precise_log1p(HiLo<T> f) {
  const HiLo<T> s = two_sum(T(1), f.hi);
  return finish_log(reduce_log(fast_two_sum(s.hi, s.lo + f.lo), f));
}

// (e^r - 1 - ... - r^6/720) / r^7 for |r| <= 0.347, to 2^-24 and 2^-54.
FM_INLINE float exp_rest(float r) {
  return polynomial(r, 1 / 5040.f, 1 / 40320.f, 1 / 362880.f, 1 / 3628800.f, 1 / 39916800.f, 1 / 479001600.f);
}
FM_INLINE double exp_rest(double r) {
  return polynomial(r, 1 / 5040., 1 / 40320., 1 / 362880., 1 / 3628800., 1 / 39916800., 1 / 479001600.,
                    1 / 6227020800., 1 / 87178291200., 1 / 1307674368000., 1 / 20922789888000.,
                    1 / 355687428096000., 1 / 6402373705728000.);
}
template <class Number> struct ExpAndExpm1 {
  Number exp, expm1;
};
// e^x and e^x - 1, on every path with x clamped to exp_low <= x.hi <= exp_high - 1.
template <class T> FM_INLINE ExpAndExpm1<HiLo<T>> precise_exp(HiLo<T> x) {
  using C = Constants<T>;
  const bool inside = (x.hi >= C::exp_low) & (x.hi <= C::exp_high - 1);
  const T y = max(min(x.hi, C::exp_high - 1), C::exp_low), y_lo = FM_ISA::select(inside, x.lo, T(0));
  const T n = round_even(y * C::log2e);
  const HiLo<T> p = two_product(n, C::ln2_lo), d = two_sum(fma(-n, C::ln2_hi, y), -p.hi);
  const HiLo<T> r = fast_two_sum(d.hi, d.lo + (y_lo - fma(n, Ln2Rest<T>::value, p.lo)));
  // r + r^2 (1/2 + r (1/6 + r (1/24 + ...)))
  HiLo<T> v = horner_step(T(720), r, HiLo<T>{exp_rest(r.hi), 0});
  v = horner_step(T(24), r, horner_step(T(120), r, v));
  v = horner_step(T(2), r, horner_step(T(6), r, v));
  const HiLo<T> t = multiply(multiply(r, r), v), s = fast_two_sum(r.hi, t.hi);
  const T power = pow2(n);
  const HiLo<T> e = fast_two_sum(s.hi, s.lo + (r.lo + t.lo)), one_e = fast_two_sum(T(1), e.hi);
  const HiLo<T> scaled{power * e.hi, power * e.lo};
  const HiLo<T> a = two_sum(power, T(-1)), b = two_sum(a.hi, scaled.hi);
  return {{power * one_e.hi, power * (one_e.lo + e.lo)}, fast_two_sum(b.hi, b.lo + (a.lo + scaled.lo))};
}

// The same for float's Twice, to 2^-48. The fpminimax polynomials have the error of 2^-50.4 for the logarithm and
// 2^-48.4 for e^x - 1.
FM_INLINE double finish_log(double k, double num, double den) {
  using C = Constants<double>;
  const double s = num / den, w = s * s;
  const double tail = polynomial(w, 0x1.55555555553b6p-1, 0x1.9999999b88e64p-2, 0x1.24924628276e8p-2,
                                 0x1.c71fcf193cd18p-3, 0x1.73827ec2fbb94p-3, 0x1.546f725938504p-3);
  return fma(k, C::ln2, fma(s * w, tail, 2 * s));
}
// log u, where f = u - 1 may be known better than u tells.
FM_INLINE double precise_log(double u, double f) {
  const Scaled<double> y = scaled<Path::fast>(u, Constants<double>::sqrt_half);
  const double num = select(y.k == 0, f, y.m - 1);
  return finish_log(y.k, num, 2 + num);
}
FM_INLINE HiLo<double> precise_log(HiLo<double> u, HiLo<double> f) { return finish_log(reduce_log(u, f)); }
FM_INLINE double precise_log(double u) { return precise_log(u, u - 1); }
FM_INLINE double precise_log1p(double f) { return precise_log(1 + f, f); }

FM_INLINE ExpAndExpm1<double> precise_exp(double x) {
  using C = Constants<double>;
  const double y = max(min(x, C::exp_high - 1), C::exp_low), n = round_even(y * C::log2e);
  const double r = fma(-n, C::ln2_lo, fma(-n, C::ln2_hi, y));
  const double tail = polynomial(r, 0x1.ffffffffffff5p-2, 0x1.5555555553b9dp-3, 0x1.555555555a872p-5,
                                 0x1.1111111c3d8ddp-7, 0x1.6c16c155b2ed5p-10, 0x1.a019adce426c2p-13,
                                 0x1.a01a2d2ac1b9p-16, 0x1.72c6f83287a6ap-19, 0x1.2818a1a4ccefp-22);
  const double e = fma(r * r, tail, r), power = pow2(n), m = fma(power, e, power - 1);
  return {fma(power, e, power), m};
}

// e^x to half an ULP where it may be subnormal or overflow: 2^-+64 e^(x +- 64 log 2).
template <class T> FM_INLINE T far_exp(HiLo<T> x) {
  const T shift = FM_ISA::select(x.hi < 0, T(64), T(-64));
  const HiLo<T> y = math::add(x, HiLo<T>{shift * Constants<T>::ln2, shift * Constants<T>::ln2_rest});
  return precise_exp(y).exp.hi * FM_ISA::select(x.hi < 0, T(0x1p-64), T(0x1p64));
}

}  // namespace fastmap::FM_ISA::math
