// Logarithm and exponential as HiLo to almost twice the working precision: relative error below 2^-44 in
// float and 2^-73 in double, next to their roots too. For compositions whose later steps magnify an error, as
// a power magnifies that of a logarithm, or that cancel.
//
// The series are those of Taylor. Their leading terms are HiLo, the rest, small against them, is a polynomial
// in working precision. Reduction to s = (m - 1)/(m + 1) as in fdlibm's e_log.c.
#pragma once

#include "math/elementary.hpp"

namespace fastmap::FM_ISA::math {

template <class T> FM_INLINE HiLo<T> add(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> s = two_sum(a.hi, b.hi);
  return fast_two_sum(s.hi, s.lo + (a.lo + b.lo));
}
template <class T> FM_INLINE HiLo<T> abs(HiLo<T> a) {
  return {FM_ISA::abs(a.hi), FM_ISA::select(is_negative(a.hi), -a.lo, a.lo)};
}
template <class T> FM_INLINE T value(HiLo<T> a) { return a.hi + a.lo; }

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
template <class T> struct ExpAndExpm1 {
  HiLo<T> exp, expm1;
};
// e^x and e^x - 1, on every path with x clamped to exp_low <= x.hi <= exp_high - 1.
template <class T> FM_INLINE ExpAndExpm1<T> precise_exp(HiLo<T> x) {
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

// e^x to half an ULP where it may be subnormal or overflow: 2^-+64 e^(x +- 64 log 2).
template <class T> FM_INLINE T far_exp(HiLo<T> x) {
  const T shift = FM_ISA::select(x.hi < 0, T(64), T(-64));
  const HiLo<T> y = math::add(x, HiLo<T>{shift * Constants<T>::ln2, shift * Constants<T>::ln2_rest});
  return precise_exp(y).exp.hi * FM_ISA::select(x.hi < 0, T(0x1p-64), T(0x1p64));
}

}  // namespace fastmap::FM_ISA::math
