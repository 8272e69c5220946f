#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Reciprocal {
  // clang-format off
  static constexpr MapInfo info{
      "reciprocal",
      "Reciprocal of a positive value: z = 1 / theta, decreasing; rates for times, precisions for "
      "variances.",
      0, {},
      "0", "inf", "0", "inf",
      {"1/t", "-1/(t*t)", "-2*log(t)", "-2/t", "1/z", "-1/(z*z)", "-2*log(z)", "-2/z"},
      {2, 4}, "sampled", 1, {{}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high, z_low, z_high;
  };
  template <class T> static Args<T> prepare(const double*) { return {0, Float<T>::inf, 0, Float<T>::inf}; }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) {
    return (t >= Float<T>::min_normal) & (t <= Float<T>::max);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return usual_theta(z, a); }

  // abs: -0 is the end of the domain too.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>&) { return 1 / abs(t); }
  // Two divisions: t * t leaves the range before its reciprocal does.
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>&) { return -1 / abs(t) / abs(t); }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>&) {
    return -2 * math::log<P>(t);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>&) { return -2 / abs(t); }

  // Its own inverse.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) { return forward<P>(z, a); }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return jacobian<P>(z, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return log_abs_det<P>(z, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return log_abs_det_grad<P>(z, a);
  }
};

}  // namespace fastmap::FM_ISA
