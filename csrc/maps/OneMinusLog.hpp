#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct OneMinusLog {
  // clang-format off
  static constexpr MapInfo info{
      "one_minus_log",
      "For decays and betas near 1: z = -log(1 - theta), theta < 1. 0.9, 0.99, 0.999 are equally "
      "spaced.",
      0, {},
      "-inf", "1", "-inf", "inf",
      {"-log1p(-t)", "1/(1 - t)", "-log1p(-t)", "1/(1 - t)", "-expm1(-z)", "exp(-z)", "-z", "-1"},
      {2, 4}, "exhaustive", 1, {{}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high;
  };
  template <class T> static Args<T> prepare(const double*) { return {-Float<T>::inf, 1}; }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) {
    return (t < 1) & (t >= -Float<T>::large) & (t != 0);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) {
    return (abs(z) <= -math::Constants<T>::exp_low) & (z != 0);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>&) {
    const T r = -math::log<P>(two_sum(T(1), -t));  // exact difference
    if constexpr (P == Path::exact) return select(t == 0, t, r);
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>&) { return -math::expm1<P>(-z); }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>&) { return 1 / (1 - t); }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>&) {
    return math::exp<P>(-z);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return forward<P>(t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>&) { return -z; }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>&) { return 1 / (1 - t); }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>&) { return -1; }
};

}  // namespace fastmap::FM_ISA
