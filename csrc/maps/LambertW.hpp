#pragma once

#include "maps/map.hpp"
#include "math/algebra.hpp"

namespace fastmap::FM_ISA {

// With d the tailweight, w = d z^2 and u = d theta^2: theta = z e^(w/2), so that w e^w = u, w = W(u).
struct LambertW {
  // clang-format off
  static constexpr MapInfo info{
      "lambert_w",
      "Lambert W for heavy tails: theta = z exp(tailweight z^2 / 2), which takes a normal z to a theta whose moments "
      "of order 1 / tailweight and more are infinite. The identity near 0.",
      1, {{"tailweight", 0.5, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"sign(t)*sqrt(lambertw(tailweight*t*t)/tailweight)",
       "exp(-lambertw(tailweight*t*t)/2)/(1 + lambertw(tailweight*t*t))",
       "-lambertw(tailweight*t*t)/2 - log1p(lambertw(tailweight*t*t))",
       "-tailweight*t*exp(-lambertw(tailweight*t*t))*(3 + lambertw(tailweight*t*t))"
       "/((1 + lambertw(tailweight*t*t))*(1 + lambertw(tailweight*t*t)))",
       "z*exp(tailweight*z*z/2)",
       "(1 + tailweight*z*z)*exp(tailweight*z*z/2)",
       "tailweight*z*z/2 + log1p(tailweight*z*z)",
       "tailweight*z*(1 + 2/(1 + tailweight*z*z))"},
      {2, 4}, "sampled", 4, {{0.5}, {1}, {0.01}, {20}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high;
    T d, half_d;
    HiLo<T> log_d, root_d;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T d = T(p[0]);
    const HiLo<double> wide{double(d), 0};
    return {-Float<T>::inf,
            Float<T>::inf,
            d,
            T(0.5) * d,
            host::round_to<T>(host::log(wide)),
            host::round_to<T>(host::sqrt(wide))};
  }
  template <class T> FM_INLINE static T small_weight(T t, const Args<T>& a) {
    return (a.d * abs(t)) * abs(t);
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    const T u = small_weight(t, a);
    return (u > Float<T>::small) & (u < Float<T>::large) & (abs(t) > Float<T>::small) &
           (abs(t) < Float<T>::large);
  }
  // Both factors of theta, and of its derivative, stay finite and normal.
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return ((a.half_d * abs(z)) * abs(z) <= T(0.5) * math::Constants<T>::exp_high) &
           (abs(z) > Float<T>::small) & (abs(z) < Float<T>::large);
  }

  // One step for w + log w = l of fourth order (Fritsch, Shafer and Crowley, "Solution of the transcendental equation
  // we^w = x", CACM 16, 1973). The residual is a HiLo, so that the sum is more precise than w.
  template <Path P, class T> FM_INLINE static HiLo<T> refined(T w, HiLo<T> l) {
    const HiLo<T> log_w = math::log_parts<P>(w), s = two_sum(l.hi, -log_w.hi), e = two_sum(s.hi, -w);
    const T r = e.hi + (e.lo + (s.lo + (l.lo - log_w.lo)));
    const T one_w = 1 + w, q = 2 * one_w * fma(T(2) / T(3), r, one_w);
    return fast_two_sum(w, w * ((r / one_w) * ((q - r) / (q - 2 * r))));
  }
  // w, from a first guess within 2% (Winitzki, "Uniform approximations for transcendental functions", 2003), whose
  // error one step brings to 2^-28. u may overflow, its logarithm may not.
  template <Path P, class T> FM_INLINE static HiLo<T> weight(T t, const Args<T>& a) {
    T x = abs(t);
    if constexpr (P == Path::exact) x = min(x, Float<T>::max);
    const HiLo<T> log_x = math::log_parts<P>(x), sum = two_sum(2 * log_x.hi, a.log_d.hi);
    const HiLo<T> l{sum.hi, sum.lo + (2 * log_x.lo + a.log_d.lo)};
    T u = small_weight(x, a);
    if constexpr (P == Path::exact) u = max(min(u, Float<T>::large), Float<T>::small);
    T s = math::log<P>(two_sum(T(1), u));
    if constexpr (P == Path::exact) s = select(u < Float<T>::large, s, l.hi);
    T w = s * (1 - math::log<P>(two_sum(T(1), s)) / (2 + s));
    HiLo<T> target = l;
    if constexpr (P == Path::exact) target = select(is_finite(l.hi), l, HiLo<T>{0, 0});  // theta == 0
    if constexpr (sizeof(T) == 8) w = refined<P>(w, target).hi;
    const HiLo<T> r = refined<P>(w, target);
    if constexpr (P == Path::exact)
      return select(small_weight(x, a) <= Float<T>::small, HiLo<T>{small_weight(x, a), 0}, r);
    return r;
  }
  template <class T> FM_INLINE static HiLo<T> minus_half(HiLo<T> w) {
    return {T(-0.5) * w.hi, T(-0.5) * w.lo};
  }

  // sqrt(w / d) is as good as w where w is large; where it is small, theta e^(-w/2) is better. The product is rounded
  // once: neighbours in theta are half an ULP of z apart.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> w = weight<P>(t, a), root = math::sqrt_parts(w), q = divide(root, a.root_d);
    const math::ExpParts<T> e = math::exp_parts(minus_half(select(w.hi < 1, w, HiLo<T>{1, 0})));
    const HiLo<T> power = fast_two_sum(T(1), e.r), p = two_product(t, power.hi);
    const T near = (p.hi + fma(t, power.lo + e.s, p.lo)) * pow2(e.n);
    const T v = select(w.hi < 1, near, copysign(q.hi + q.lo, t));
    if constexpr (P == Path::exact) return select(is_finite(t) & (t != 0), v, t);
    return v;
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const HiLo<T> w = weight<P>(t, a);
    const T v = math::scaled_exp<P>(1 / (1 + w.hi), minus_half(w));
    if constexpr (P == Path::exact) return select(is_finite(t), v, T(0));
    return v;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> w = weight<P>(t, a);
    const T v = T(-0.5) * w.hi - math::log<P>(two_sum(T(1), w.hi));
    if constexpr (P == Path::exact)
      return select(is_finite(t), select(w.hi <= Float<T>::small, T(-1.5) * w.hi, v), -Float<T>::inf);
    return v;
  }
  // -(3 + w) w / (theta (1 + w)^2) = -q (1 + 2 / (1 + w)) / theta, q = w / (1 + w).
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const HiLo<T> w = weight<P>(t, a), sum = two_sum(T(1), w.hi), one_w{sum.hi, sum.lo + w.lo};
    const HiLo<T> parts = divide(w, one_w);
    const T q = parts.hi + parts.lo, v = -fma(q, 2 / one_w.hi, q) / t;
    if constexpr (P == Path::exact)
      return select(is_finite(t), select(w.hi <= Float<T>::small, T(-3) * (a.d * t), v), copysign(T(0), -t));
    return v;
  }

  // w / 2, a HiLo since e^(w/2) turns its rounding error into w/2 ULP.
  template <class T> FM_INLINE static HiLo<T> half_weight(T z, const Args<T>& a) {
    const HiLo<T> p = two_product(a.half_d, z), v = two_product(p.hi, z);
    return {v.hi, fma(p.lo, z, v.lo)};
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return math::scaled_exp<P>(z, half_weight(z, a));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const HiLo<T> v = half_weight(z, a);
    return math::scaled_exp<P>(1 + 2 * v.hi, v);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const T v = half_weight(z, a).hi;
    return v + math::log1p<P>(min(2 * v, Float<T>::max));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return a.d * z * (1 + 2 / (1 + 2 * half_weight(z, a).hi));
  }
};

}  // namespace fastmap::FM_ISA
