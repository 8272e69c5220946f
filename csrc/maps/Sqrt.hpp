#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Sqrt {
  // clang-format off
  static constexpr MapInfo info{
      "sqrt",
      "Square root of a positive value: z = sqrt(theta); the scale of counts and variances.",
      0, {},
      "0", "inf", "0", "inf",
      {"sqrt(t)", "1/(2*sqrt(t))", "-log(4*t)/2", "-1/(2*t)", "z*z", "2*z", "log(2*z)", "1/z"},
      {2, 4}, "sampled", 1, {{}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high, z_low, z_high;
  };
  template <class T> static Args<T> prepare(const double*) { return {0, Float<T>::inf, 0, Float<T>::inf}; }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) {
    return (t >= Float<T>::min_normal) & (t <= Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return usual_theta(z, a); }

  // log(c x) for a power of two c, an exact product that keeps the root at 1 / c. Where it overflows the sum
  // of logarithms is as good.
  template <Path P, class T> FM_INLINE static T log_multiple(T c, T log_c, T x) {
    const T r = math::log<P>(c * x);
    if constexpr (P == Path::exact) return select(x > Float<T>::large, math::log<P>(x) + log_c, r);
    return r;
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>&) { return sqrt(t); }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>&) { return z * z; }
  // abs: -0 is the end of the domain too.
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>&) {
    return T(0.5) / sqrt(abs(t));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>&) { return 2 * z; }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>&) {
    return T(-0.5) * log_multiple<P>(T(4), 2 * math::Constants<T>::ln2, t);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>&) {
    return log_multiple<P>(T(2), math::Constants<T>::ln2, z);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>&) {
    return T(-0.5) / abs(t);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return 1 / abs(z);
  }
};

}  // namespace fastmap::FM_ISA
