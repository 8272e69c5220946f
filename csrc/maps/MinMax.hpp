#pragma once

#include "maps/interval_algebra.hpp"

namespace fastmap::FM_ISA {

struct MinMax {
  // clang-format off
  static constexpr MapInfo info{
      "min_max",
      "Linear scaling of [low, high] onto [0, 1]: z = (theta - low) / (high - low); the bounds belong to it.",
      2, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "0", "1",
      {"(t - low)/(high - low)", "1/(high - low)", "-log(high - low)", "0", "low + (high - low)*z",
       "high - low", "log(high - low)", "0"},
      {2, 4}, "sampled", 5, {{0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}}, nullptr, true};
  // clang-format on
  static constexpr int cases = 2;  // 1: high - low overflows
  static constexpr int vectors = 1;

  template <class T> struct Args {
    T low, high, z_low, z_high;
    int which;
    HiLo<T> width, middle, half;
    T slope, log_width;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const interval_algebra::Args<T> c = interval_algebra::prepare<T>(p);
    const HiLo<T> width = two_sum(c.high, -c.low);
    const bool wide = !is_finite(width.hi);
    // Of the half where the width overflows: half a slope, and log 2 less.
    const HiLo<double> w = interval_algebra::widen(wide ? c.half : width);
    const double slope = divide<double>({1, 0}, w).hi, log_width = host::log(w).hi;
    return {c.low,
            c.high,
            0,
            1,
            wide,
            width,
            c.middle,
            c.half,
            T(wide ? 0.5 * slope : slope),
            T(wide ? log_width + math::Constants<double>::ln2 : log_width)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t >= a.low) & (t <= a.high);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) { return (z >= 0) & (z <= 1); }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> z = a.which == 0 ? divide(two_sum(t, -a.low), a.width)
                                   : divide(two_sum(T(0.5) * t, T(-0.5) * a.low), a.half);
    return z.hi + z.lo;
  }
  // In HiLo, rounded once: exact at both ends, never outside, monotone, and right next to a root.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    if (a.which == 0) {
      const HiLo<T> p = two_product(a.width.hi, z), s = two_sum(a.low, p.hi);
      return s.hi + (s.lo + fma(a.width.lo, z, p.lo));
    }
    const HiLo<T> y = two_sum(2 * z, T(-1)), p = two_product(a.half.hi, y.hi), s = two_sum(a.middle.hi, p.hi);
    return s.hi + (s.lo + (a.middle.lo + fma(a.half.hi, y.lo, fma(a.half.lo, y.hi, p.lo))));
  }
  template <Path P, class T> FM_INLINE static T jacobian(T, const Args<T>& a) { return a.slope; }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T, const Args<T>& a) { return a.width.hi; }
  template <Path P, class T> FM_INLINE static T log_abs_det(T, const Args<T>& a) { return 0 - a.log_width; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T, const Args<T>& a) {
    return a.log_width;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T, const Args<T>&) { return 0; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>&) { return 0; }
};

}  // namespace fastmap::FM_ISA
