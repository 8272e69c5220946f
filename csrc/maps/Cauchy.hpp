#pragma once

#include "maps/centred.hpp"

namespace fastmap::FM_ISA {

struct Cauchy {
  // clang-format off
  static constexpr MapInfo info{
      "cauchy",
      "Quantile function of the Cauchy distribution, scaled to (low, high); also called tan map: "
      "z = tan(pi (theta - middle) / (high - low)). Approaches its bounds as 1/z only.",
      2, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"sin(pi/2*(2*t - (low + high))/(high - low))"
       "/sin(pi*where(t - low < high - t, t - low, high - t)/(high - low))",
       "pi/(high - low)/sin(pi*where(t - low < high - t, t - low, high - t)/(high - low))"
       "/sin(pi*where(t - low < high - t, t - low, high - t)/(high - low))",
       "log(pi/(high - low)) - 2*log(sin(pi*where(t - low < high - t, t - low, high - t)/(high - low)))",
       "2*pi/(high - low)*sin(pi/2*(2*t - (low + high))/(high - low))"
       "/sin(pi*where(t - low < high - t, t - low, high - t)/(high - low))",
       "low + 2*(high - low)/pi*atan(exp(asinh(z)))", "(high - low)/pi/(1 + z*z)",
       "log((high - low)/pi) - log1p(z*z)", "-(2*z/(1 + z*z))"},
      {2, 4}, "sampled", 6, {{0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}, {-1, 1}}};
  // clang-format on
  static constexpr int cases = 2;  // 1: low < 0 < high, so that theta has a root inside

  // scale = (high - low) / pi
  template <class T> struct Args : centred::Args<T> {
    int which;
    HiLo<T> root, sin_root, cos_root;  // z where theta == 0; sin and cos of atan(root)
    T usual_z;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const HiLo<double> half_pi = math::half_pi<double>();
    Args<T> a{centred::prepare<T>(p, half_pi), 0, {0, 0}, {0, 0}, {0, 0}, 0};
    a.usual_z = a.least < Float<T>::inf ? centred::large_root<T> : T(-1);
    const double low = double(a.low), high = double(a.high);
    if (low < 0 && high > 0) {
      a.which = 1;
      const HiLo<double> scale = divide(two_sum(high * 0.5, -low * 0.5), half_pi);
      const HiLo<double> sine = host::sin(divide(two_sum(-high * 0.5, -low * 0.5), scale));
      const HiLo<double> cosine = host::sin(divide(HiLo<double>{min(-low, high), 0}, scale));
      a.root = host::round_to<T>(divide(sine, cosine));
      a.sin_root = host::round_to<T>(sine);
      a.cos_root = host::round_to<T>(cosine);
    }
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return centred::usual_theta(t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return abs(z) <= a.usual_z; }

  // pi |theta - middle| / width, the arctangent of |z|, or in the outer quarters that of 1 / |z|. Where its
  // square may underflow, it is its own tangent and sine.
  template <class T> FM_INLINE static HiLo<T> angle(const centred::Place<T>& at, const Args<T>& a) {
    return divide(at.distance, a.scale);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const centred::Place<T> at = centred::place(t, a);
    T r = math::tan(angle(at, a), centred::is_outer(at, a));
    if constexpr (P == Path::exact) r = select(centred::may_underflow(at, a), a.scale.hi / at.distance.hi, r);
    return copysign(r, at.offset);
  }
  // From the nearer bound with atan(1/|z|), or from the middle. Where the bounds have opposite signs that
  // cancels near the root z0; there theta = scale (atan z - atan z0) = scale atan((z - z0) / (1 + z z0)), the
  // quotient times cos(atan z0), since z z0 may overflow.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const T b = abs(z);
    const bool outer = b > 1;
    HiLo<T> numerator{select(outer, T(1), b), 0}, denominator{select(outer, b, T(1)), 0};
    bool near = false;
    if (a.which == 1) {
      const HiLo<T> d = two_sum(z, -a.root.hi), e = two_sum(d.hi, d.lo - a.root.lo);
      const HiLo<T> n = multiply(e, a.cos_root), m = multiply(HiLo<T>{z, 0}, a.sin_root);
      const HiLo<T> s = two_sum(m.hi, a.cos_root.hi);
      near = abs(n.hi) < s.hi;
      numerator = select(near, n, numerator);
      denominator = select(near, HiLo<T>{s.hi, s.lo + (m.lo + a.cos_root.lo)}, denominator);
    }
    if constexpr (P == Path::exact) {  // their sum must not overflow
      const T unit = select(b > centred::large_root<T>, 1 / centred::large_root<T>, T(1));
      numerator = {numerator.hi * unit, numerator.lo * unit};
      denominator = {denominator.hi * unit, denominator.lo * unit};
    }
    HiLo<T> part = multiply(a.scale, math::atan_parts(numerator, denominator));
    if constexpr (P == Path::exact) {  // 1/|z| may be subnormal, where theta is not
      const T q = a.scale.hi / b, q_lo = (fma(-q, b, a.scale.hi) + a.scale.lo) / b;
      const bool far = b > centred::large_root<T>;
      part = select(far & !near, HiLo<T>{q, select(b <= Float<T>::max, q_lo, T(0))}, part);
    }
    const bool negative = z < 0;
    const HiLo<T> bound{select(negative, a.low, a.high), 0};
    const HiLo<T> base = select(outer, bound, a.middle);
    part = select((negative != outer) & !near, negate(part), part);
    const HiLo<T> s = two_sum(base.hi, part.hi);
    const T r = s.hi + (s.lo + (base.lo + part.lo));
    if (a.which == 0) return r;
    return select(near, max(min(part.hi + part.lo, a.high), a.low), r);
  }
  // 1 / (1 + z^2)
  template <class T> FM_INLINE static HiLo<T> cos2(HiLo<T> sine, bool outer) {
    const HiLo<T> square = multiply(sine, sine), u = two_sum(T(1), -square.hi);
    return select(outer, square, HiLo<T>{u.hi, u.lo - square.lo});
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const centred::Place<T> at = centred::place(t, a);
    const HiLo<T> c = cos2(math::sin_parts(angle(at, a)), centred::is_outer(at, a));
    const HiLo<T> d = multiply(a.scale, c);
    const T r = 1 / (d.hi + d.lo);
    if constexpr (P == Path::exact) {  // where products are subnormal
      const T distance = at.distance.hi, v = select(d.hi < Float<T>::min_normal, 1 / c.hi / a.scale.hi, r);
      return select(centred::may_underflow(at, a), (a.scale.hi / distance) / distance, v);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const T r = a.scale.hi / fma(z, z, T(1));
    if constexpr (P == Path::exact)
      return select(abs(z) > centred::large_root<T>, (a.scale.hi / abs(z)) / abs(z), r);
    return r;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const centred::Place<T> at = centred::place(t, a);
    T r = 0 -
          centred::log_scaled<P>(cos2(math::accurate_sin_parts(angle(at, a)), centred::is_outer(at, a)), a);
    if constexpr (P == Path::exact) {
      const HiLo<T> l = math::log_parts<P>(at.distance);
      r = select(centred::may_underflow(at, a), (a.log_scale.hi - 2 * l.hi) + (a.log_scale.lo - 2 * l.lo), r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> square = two_product(z, z), sum = two_sum(T(1), square.hi);
    T r = centred::log_scaled<P>(divide(HiLo<T>{1, 0}, HiLo<T>{sum.hi, sum.lo + square.lo}), a);
    if constexpr (P == Path::exact) {
      const HiLo<T> l = math::log_parts<P>(abs(z));
      const bool far = abs(z) > centred::large_root<T>;
      r = select(far, (a.log_scale.hi - 2 * l.hi) + (a.log_scale.lo - 2 * l.lo), r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const T r = 2 * forward<P>(t, a) / a.scale.hi;
    if constexpr (P == Path::exact) {
      const centred::Place<T> at = centred::place(t, a);
      return select(centred::may_underflow(at, a), copysign(2 / at.distance.hi, at.offset), r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    const T r = -2 * z / fma(z, z, T(1));
    if constexpr (P == Path::exact) return select(abs(z) > centred::large_root<T>, -2 / z, r);
    return r;
  }
};

}  // namespace fastmap::FM_ISA
