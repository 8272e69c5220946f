#pragma once

#include "maps/interval_algebra.hpp"

namespace fastmap::FM_ISA {

// With m the middle and h the half width of (low, high), d = theta - m, r the distance from the nearer bound:
//   z = d / r,   theta = m + h z / (1 + |z|).
struct Softsign {
  // clang-format off
  static constexpr MapInfo info{
      "softsign",
      "Softsign onto (low, high): with v from -1 to 1, z = v / (1 - |v|); bounds are approached as slowly "
      "as 1 / |z|.",
      2, {{"low", -1, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"(2*t - (low + high))/(2*where(2*t < low + high, t - low, high - t))",
       "where(2*t < low + high, (high - low)/(2*(t - low)*(t - low)), "
       "(high - low)/(2*(high - t)*(high - t)))",
       "log((high - low)/2) - 2*log(where(2*t < low + high, t - low, high - t))",
       "2*sign(2*t - (low + high))/where(2*t < low + high, t - low, high - t)",
       "where(abs(z) < 1, (low + high)/2 + (high - low)/2*z/(1 + abs(z)), "
       "where(z < 0, low, high) - sign(z)*(high - low)/2/(1 + abs(z)))",
       "(high - low)/(2*(1 + abs(z))*(1 + abs(z)))", "log((high - low)/2) - 2*log1p(abs(z))",
       "-2*sign(z)/(1 + abs(z))"},
      {2, 4}, "sampled", 6, {{-1, 1}, {0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args : interval_algebra::Args<T> {
    HiLo<T> sqrt_half;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const interval_algebra::Args<T> a = interval_algebra::prepare<T>(p);
    return {a, host::round_to<T>(host::sqrt(interval_algebra::widen(a.half)))};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return interval_algebra::usual_theta<T>(t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (abs(z) <= Float<T>::large) & (a.sqrt_half.hi > Float<T>::small) &
           (a.sqrt_half.hi < Float<T>::large);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> d = interval_algebra::offset<T>(t, a), near = interval_algebra::nearer<T>(t, d, a);
    const HiLo<T> z = divide_by_reciprocal(d, near);
    if constexpr (P == Path::exact) return select(usual_theta(t, a), z.hi + z.lo, d.hi / near.hi);
    return z.hi + z.lo;
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const bool central = abs(z) < 1;
    const HiLo<T> step = interval_algebra::scaled_half<T>(a, select(central, z, select(z < 0, T(1), T(-1))));
    const T theta = interval_algebra::place<T>(z, divide_by_reciprocal(step, two_sum(T(1), abs(z))), a);
    if constexpr (P == Path::exact) return select(is_finite(z), theta, select(z < 0, a.low, a.high));
    return theta;
  }
  // h / r^2 and h / (1 + |z|)^2
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return math::over_square<P>(a.half.hi,
                                interval_algebra::nearer<T>(t, interval_algebra::offset<T>(t, a), a));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::over_square<P>(a.half.hi, two_sum(T(1), abs(z)));
  }
  // As -2 log(r / sqrt h), a HiLo quotient, which keeps its digits at the root r = sqrt h.
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> r = interval_algebra::nearer<T>(t, interval_algebra::offset<T>(t, a), a);
    return -2 * math::log_ratio<P>(r, a.sqrt_half);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return -2 * math::log_ratio<P>(two_sum(T(1), abs(z)), a.sqrt_half);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const HiLo<T> d = interval_algebra::offset<T>(t, a);
    return 2 * sign_of(d.hi) / interval_algebra::nearer<T>(t, d, a).hi;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return -2 * sign_of(z) / (1 + abs(z));
  }
};

}  // namespace fastmap::FM_ISA
