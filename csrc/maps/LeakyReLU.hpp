#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct LeakyReLU {
  // clang-format off
  static constexpr MapInfo info{
      "leaky_relu",
      "Leaky rectifier: z = theta for theta >= 0, slope * theta below.",
      1, {{"slope", 0.01, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"where(t < 0, slope*t, t)", "where(t < 0, slope, 1)", "where(t < 0, log(slope), 0)", "0",
       "where(z < 0, z/slope, z)", "where(z < 0, 1/slope, 1)", "where(z < 0, -log(slope), 0)", "0"},
      {2, 4}, "sampled", 4, {{0.01}, {0.2}, {0.1}, {3}}};
  // clang-format on
  static constexpr int cases = 1;
  static constexpr int vectors = 1;

  template <class T> struct Args {
    T low, high;
    T slope, inverse_slope, log_slope;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T slope = T(p[0]);
    return {-Float<T>::inf, Float<T>::inf, slope, 1 / slope, T(host::log({double(slope), 0}).hi)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) { return is_finite(t); }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) { return is_finite(z); }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return select(t < 0, a.slope * t, t);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return select(z < 0, z / a.slope, z);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return select(t < 0, a.slope, T(1));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return select(z < 0, a.inverse_slope, T(1));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return select(t < 0, a.log_slope, T(0));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return select(z < 0, -a.log_slope, T(0));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T, const Args<T>&) { return 0; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>&) { return 0; }
};

}  // namespace fastmap::FM_ISA
