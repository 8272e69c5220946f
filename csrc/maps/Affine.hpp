#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Affine {
  // clang-format off
  static constexpr MapInfo info{
      "affine",
      "Shift and scale: z = (theta - shift) / scale. A negative scale reverses the order.",
      2, {{"shift", 0, Constraint::finite}, {"scale", 1, Constraint::nonzero}},
      "-inf", "inf", "-inf", "inf",
      {"(t - shift)/scale", "1/scale", "-log(abs(scale))", "0", "shift + scale*z", "scale",
       "log(abs(scale))", "0"},
      {2, 4}, "sampled", 3, {{0, 1}, {0.7, 3}, {-2, -0.1}}};
  // clang-format on
  static constexpr int cases = 2;  // 0: dividing by the scale is exact
  static constexpr int vectors = 1;

  template <class T> struct Args {
    T low, high;
    int which;
    T shift, scale, slope, log_scale;
    T correction;  // 1 / scale where that is finite
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T scale = T(p[1]);
    const HiLo<double> log_scale = host::log({abs(double(scale)), 0});
    const T slope = 1 / scale;
    const bool power_of_2 = (bits(scale) & ((BitsOf<T>(1) << Float<T>::mantissa_bits) - 1)) == 0;
    const int which = power_of_2 && abs(scale) <= Float<T>::large && abs(slope) <= Float<T>::large ? 0 : 1;
    return {-Float<T>::inf, Float<T>::inf, which,           T(p[0]),
            scale,          slope,         T(log_scale.hi), is_finite(slope) ? slope : T(0)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>&) {
    return abs(t) <= Float<T>::large;
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) { return is_finite(z); }

  // theta - shift is kept as a HiLo: rounding it first would cost another ULP.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    if (a.which == 0) return (t - a.shift) * a.slope;
    const HiLo<T> p = two_sum(t, -a.shift);
    const T q = p.hi / a.scale;
    if constexpr (P == Path::exact) {
      // The residual may overflow or be NaN where the quotient itself is fine.
      const T rest = (fma(-q, a.scale, p.hi) + p.lo) * a.correction;
      return select(is_finite(rest) & is_finite(q), q + rest, q);
    }
    return q + (fma(-q, a.scale, p.hi) + p.lo) * a.correction;
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return fma(a.scale, z, a.shift);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T, const Args<T>& a) { return a.slope; }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T, const Args<T>& a) { return a.scale; }
  template <Path P, class T> FM_INLINE static T log_abs_det(T, const Args<T>& a) { return 0 - a.log_scale; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T, const Args<T>& a) {
    return a.log_scale;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T, const Args<T>&) { return 0; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>&) { return 0; }
};

}  // namespace fastmap::FM_ISA
