#pragma once

#include "maps/wide.hpp"

namespace fastmap::FM_ISA {

struct SymLog {
  // clang-format off
  static constexpr MapInfo info{
      "symlog",
      "z = sign(theta) log1p(|theta| / scale): linear near zero, logarithmic beyond; for signed "
      "values.",
      1, {{"scale", 1, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"sign(t)*log1p(abs(t)/scale)", "1/(scale + abs(t))", "-log(scale) - log1p(abs(t)/scale)",
       "-sign(t)/(scale + abs(t))", "sign(z)*scale*expm1(abs(z))", "scale*exp(abs(z))",
       "log(scale) + abs(z)", "sign(z)"},
      {2, 4}, "exhaustive", 3, {{1}, {0.02}, {3}}};
  // clang-format on
  static constexpr int cases = 2;  // 0: scale == 1

  template <class T> struct Args {
    T low, high;
    int which;
    T scale;
    HiLo<T> log_scale;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T scale = T(p[0]);
    return {-Float<T>::inf, Float<T>::inf, scale == 1 ? 0 : 1, scale,
            host::round_to<T>(host::wide_log({{double(scale), 0, 0}}))};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    if (a.which == 0) return abs(t) <= Float<T>::large;
    return (abs(t) <= Float<T>::large) & (a.scale >= Float<T>::small) & (a.scale <= Float<T>::large) &
           (abs(t) / a.scale <= Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) {
    return abs(z) <= math::Constants<T>::large_exponent;
  }
  template <class T> FM_INLINE static HiLo<T> sum(T t, const Args<T>& a) { return two_sum(a.scale, abs(t)); }

  // log1p of the quotient |t| / scale to twice the precision. Not the logarithm of (scale + |t|) / scale: next to 1
  // its two parts cancel.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    HiLo<T> one_plus = two_sum(T(1), abs(t));
    if (a.which != 0) {
      const HiLo<T> q = divide(HiLo<T>{abs(t), 0}, HiLo<T>{a.scale, 0});
      one_plus = two_sum(T(1), q.hi);
      one_plus.lo = one_plus.lo + q.lo;
    }
    T r = math::log<P>(one_plus);
    if constexpr (P == Path::exact) {
      // scale + |t| overflows only where scale no longer matters.
      const T huge = math::log_ratio<P>(HiLo<T>{abs(t), 0}, HiLo<T>{a.scale, 0});
      r = select(abs(t) > Float<T>::large * a.scale, huge, r);
      r = select(is_finite(t), r, abs(t));
    }
    return copysign(r, t);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const T b = abs(z);
    T r = a.scale * math::expm1<P>(b);
    if constexpr (P == Path::exact)
      r = select(b > math::Constants<T>::large_exponent, math::scaled_exp<P>(a.scale, HiLo<T>{b, 0}), r);
    return copysign(r, z);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return 1 / (a.scale + abs(t));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::scaled_exp<P>(a.scale, HiLo<T>{abs(z), 0});
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return 0 - math::log<P>(sum(t, a));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> s = two_sum(a.log_scale.hi, abs(z));
    const T r = s.hi + (s.lo + a.log_scale.lo);
    if constexpr (P == Path::exact) return select(is_finite(z), r, abs(z));
    return r;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return -sign_of(t) / (a.scale + abs(t));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return sign_of(z);
  }
};

}  // namespace fastmap::FM_ISA
