#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Asinh {
  // clang-format off
  static constexpr MapInfo info{
      "asinh",
      "z = asinh(theta / scale): linear within scale of zero, logarithmic beyond; for signed values.",
      1, {{"scale", 1, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"asinh(t/scale)", "1/sqrt(t*t + scale*scale)", "-log(scale) - log1p((t/scale)*(t/scale))/2",
       "-t/(t*t + scale*scale)", "scale*sinh(z)", "scale*cosh(z)", "log(scale) + log1p(sinh(z)*sinh(z))/2",
       "tanh(z)"},
      {2, 4}, "exhaustive", 3, {{1}, {0.02}, {3}}};
  // clang-format on
  static constexpr int cases = 3;  // 0: scale == 1; 2: scale < 1, so that log|dtheta/dz| has a root

  template <class T> struct Args {
    T low, high;
    int which;
    T scale;
    HiLo<T> log_scale;
    math::LogSech2<T> log_sech2;  // c = 1 / scale^2
    T unit, log_unit;             // a power of two that brings scale near 1, as far as it is itself normal
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T scale = T(p[0]);
    const HiLo<double> s{double(scale), 0};
    const math::LogSech2<T> log_sech2 = host::log_sech2<T>(divide({1, 0}, s));
    const int which = scale == 1 ? 0 : log_sech2.has_root ? 2 : 1;
    constexpr T most = T(Float<T>::bias - 1);
    const T k = max(min(-math::scaled<Path::exact>(scale, T(1)).k, most), -most);
    return {-Float<T>::inf,
            Float<T>::inf,
            which,
            scale,
            host::round_to<T>(host::log(s)),
            log_sech2,
            pow2(k),
            k * math::Constants<T>::ln2};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    if (a.which == 0) return abs(t) <= Float<T>::large;
    return (abs(t) <= Float<T>::large) & (abs(t / a.scale) <= Float<T>::large) &
           (a.scale >= Float<T>::small) & (a.scale <= Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) {
    return abs(z) <= math::Constants<T>::large_exponent;
  }
  // t^2 + scale^2, exact to about twice the precision.
  template <class T> FM_INLINE static HiLo<T> norm2(T t, T scale) {
    const HiLo<T> u = two_product(t, t), v = two_product(scale, scale), s = two_sum(u.hi, v.hi);
    return fast_two_sum(s.hi, s.lo + (u.lo + v.lo));
  }
  // theta in units near scale, on the exact path: there the squares neither over- nor underflow, but where theta
  // alone counts.
  template <Path P, class T> FM_INLINE static bool alone(T t, const Args<T>& a) {
    return abs(t * a.unit) > 2 * Float<T>::large;  // where theta is not usual
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    HiLo<T> x{t, 0};
    if (a.which != 0) x = divide(x, HiLo<T>{a.scale, 0});
    if constexpr (P == Path::exact) {
      const bool ordinary = is_finite(x.hi) & is_finite(x.lo);
      x.lo = select(ordinary, x.lo, T(0));
      const HiLo<T> r = math::asinh_parts<P>(x);
      // theta / scale overflows: log(2 theta / scale).
      const HiLo<T> l = math::log_parts<P>(abs(t));
      const HiLo<T> m = two_sum(l.hi, -a.log_scale.hi), n = two_sum(m.hi, math::Constants<T>::ln2);
      const T far = n.hi + (n.lo + (m.lo + (l.lo - a.log_scale.lo) + math::Constants<T>::ln2_rest));
      const T v = select(is_finite(x.hi) | !is_finite(t), r.hi + r.lo, copysign(far, t));
      return select(t == 0, t, select(is_finite(t), v, t));
    }
    const HiLo<T> r = math::asinh_parts<P>(x);
    return r.hi + r.lo;
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return math::scaled_sinh<P>(a.scale, z);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    if constexpr (P == Path::fast) return 1 / sqrt(fma(t, t, a.scale * a.scale));
    const T u = t * a.unit, s = a.scale * a.unit;
    return select(alone<P>(t, a), 1 / abs(t), a.unit / sqrt(fma(u, u, s * s)));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::scaled_cosh<P>(a.scale, z);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> n = norm2(t, a.scale);
    const T r = T(-0.5) * math::log<P>(n);
    if constexpr (P == Path::fast) return r;
    // Away from the root, where the squares may be out of range.
    const bool plain = usual_theta(t, a) | ((n.hi > Float<T>::small) & (n.hi < Float<T>::large));
    const T scaled = a.log_unit - T(0.5) * math::log<P>(norm2(t * a.unit, a.scale * a.unit));
    return select(alone<P>(t, a), 0 - math::log<P>(abs(t)), select(plain, r, scaled));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const T r = a.which < 2 ? math::log_c_sech2<P, false>(z, a.log_sech2)
                            : math::log_c_sech2<P, true>(z, a.log_sech2);
    if constexpr (P == Path::exact)  // where log(scale) no longer counts, and twice |z| may overflow
      return select(abs(z) <= Float<T>::large, T(-0.5) * r, abs(z));
    return T(-0.5) * r;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const T r = -t / fma(t, t, a.scale * a.scale);
    if constexpr (P == Path::fast) return r;
    const T u = t * a.unit, s = a.scale * a.unit;
    const T n = fma(u, u, s * s), v = select(a.unit < 1, -t / n * a.unit, -u / n) * a.unit;
    return select(alone<P>(t, a), -1 / t, select(usual_theta(t, a), r, v));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return copysign(math::tanh_parts<P>(z).tanh, z);
  }
};

}  // namespace fastmap::FM_ISA
