#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct LogLinear {
  // clang-format off
  static constexpr MapInfo info{
      "log_linear",
      "Logarithmic below 1, linear above: z = log(theta) for theta < 1, else theta - 1; theta is ELU(z) + 1, "
      "which cannot overflow.",
      0, {},
      "0", "inf", "-inf", "inf",
      {"where(t < 1, log(t), t - 1)", "where(t < 1, 1/t, 1)", "where(t < 1, -log(t), 0)",
       "where(t < 1, -1/t, 0)", "where(z < 0, exp(z), z + 1)", "where(z < 0, exp(z), 1)",
       "where(z < 0, z, 0)", "where(z < 0, -sign(z), 0)"},
      {2, 4}, "sampled", 1, {{}}};
  // clang-format on
  static constexpr int cases = 1;
  static constexpr int vectors = 1;

  template <class T> struct Args {
    T low, high;
  };
  template <class T> static Args<T> prepare(const double*) { return {0, Float<T>::inf}; }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) {
    return (t >= Float<T>::min_normal) & (t <= Float<T>::max);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) {
    return (z >= math::Constants<T>::exp_low) & (z <= Float<T>::max);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>&) {
    return select(t < 1, math::log<P>(t), t - 1);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return select(z < 0, inverse_jacobian<P>(z, a), z + 1);
  }
  // abs: -0 is the end of the domain too.
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>&) {
    return 1 / min(abs(t), T(1));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>&) {
    return math::exp<P>(min(z, T(0)));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>&) {
    return 0 - math::log<P>(min(t, T(1)));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>&) {
    return min(z, T(0));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>&) {
    return select(t < 1, -1 / abs(t), T(0));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return select(z < 0, T(1), T(0));
  }
};

}  // namespace fastmap::FM_ISA
