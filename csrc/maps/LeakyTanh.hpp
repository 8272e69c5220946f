#pragma once

#include "maps/map.hpp"
#include "math/precise.hpp"

namespace fastmap::FM_ISA {

struct LeakyTanh {
  // clang-format off
  static constexpr MapInfo info{
      "leaky_tanh",
      "theta = tanh(z) for |z| < max_val, beyond it the tangent there: a tanh with an inverse everywhere.",
      1, {{"max_val", 3, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"where(abs(t) - 1 < -(2/(1 + exp(2*max_val))),"
       " sign(t)*log1p(2*abs(t)/where(abs(t) < 1, 1 - abs(t), 1))/2,"
       " sign(t)*(max_val + (abs(t) - 1 + 2/(1 + exp(2*max_val)))*cosh(max_val)*cosh(max_val)))",
       "where(abs(t) - 1 < -(2/(1 + exp(2*max_val))), 1/where(abs(t) < 1, (1 - t)*(1 + t), 1),"
       " cosh(max_val)*cosh(max_val))",
       "where(abs(t) - 1 < -(2/(1 + exp(2*max_val))), -log1p(-where(abs(t) < 1, t*t, 0)),"
       " log1p(sinh(max_val)*sinh(max_val)))",
       "where(abs(t) - 1 < -(2/(1 + exp(2*max_val))), 2*t/where(abs(t) < 1, (1 - t)*(1 + t), 1), 0)",
       "where(abs(z) < max_val, tanh(z),"
       " sign(z)*(tanh(max_val) + (abs(z) - max_val)/(cosh(max_val)*cosh(max_val))))",
       "where(abs(z) < max_val, 1/(cosh(z)*cosh(z)), 1/(cosh(max_val)*cosh(max_val)))",
       "where(abs(z) < max_val, -log1p(sinh(z)*sinh(z)), -log1p(sinh(max_val)*sinh(max_val)))",
       "where(abs(z) < max_val, -(2*tanh(z)), 0)"},
      {2, 4}, "sampled", 4, {{3}, {0.5}, {10}, {50}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high;
    T max_val, usual_high, usual_z_high;
    T edge, slope, inverse_slope, log_slope;  // at max_val: tanh, sech^2, cosh^2, log sech^2
    HiLo<T> tanh;
    // The slope may be subnormal: it is kept times a power of two, and what is divided by it as well.
    T scale, unscale;
    HiLo<T> scaled_slope, scaled_rest;  // rest: 1 - tanh
  };
  template <class T> static Args<T> prepare(const double* p) {
    constexpr bool is_float = sizeof(T) == 4;
    const double m = p[0];
    // Further out everything beyond max_val over- or underflows as it does at `most`.
    const double most = is_float ? 60 : 380, scale = m < (is_float ? 40 : 300) ? 1
                                                     : is_float                ? 0x1p60
                                                                               : 0x1p500;
    const HiLo<double> half = divide({1, 0}, host::exp(min(m, most)));  // e^(-2m) = half^2
    const HiLo<double> scaled = host::multiply({half.hi * scale, half.lo * scale}, half);
    const HiLo<double> one_e = host::add({1, 0}, {scaled.hi / scale, scaled.lo / scale});
    const HiLo<double> rest = divide({2 * scaled.hi, 2 * scaled.lo}, one_e);
    const HiLo<double> slope = divide({2 * rest.hi, 2 * rest.lo}, one_e);
    const HiLo<double> tanh = host::add({1, 0}, {-rest.hi / scale, -rest.lo / scale});
    // log sech^2 m = 2 log 2 - 2 m - 2 log(1 + e^-2m)
    const HiLo<double> log_half_cosh = host::add(host::log(one_e), negate(math::ln2<double>()));
    const HiLo<double> log_cosh = host::add({m, 0}, log_half_cosh);
    const T limit = -math::Constants<T>::exp_low / 2;
    return {-Float<T>::inf,
            Float<T>::inf,
            T(m),
            max(T(1), T(min(slope.hi / scale, 1.0) * double(Float<T>::large))),
            m <= double(limit) ? Float<T>::large : limit,
            T(tanh.hi),
            T(slope.hi / scale),
            T(divide({1, 0}, slope).hi * scale),
            T(-2 * log_cosh.hi),
            host::round_to<T>(tanh),
            T(scale),
            T(1 / scale),
            host::round_to<T>(slope),
            host::round_to<T>(rest)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return abs(t) <= a.usual_high;
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return abs(z) <= a.usual_z_high; }

  // |theta| - tanh(max_val), scaled, not negative in the linear parts: 1 - |theta| is exact.
  template <class T> FM_INLINE static HiLo<T> excess(T b, const Args<T>& a) {
    const HiLo<T> d = two_sum(b, T(-1));
    return math::add(HiLo<T>{d.hi * a.scale, d.lo * a.scale}, a.scaled_rest);
  }
  template <class T> FM_INLINE static bool is_linear(T t, const Args<T>& a) {
    return excess(min(abs(t), T(2)), a).hi >= 0;
  }

  // Both parts are held to their side of max_val, so that rounding makes no step back where they meet.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const T b = abs(t);
    bool big = false;
    if constexpr (P == Path::exact) big = b > Float<T>::large;
    HiLo<T> e = excess(select(big, T(1), b), a);
    if constexpr (P == Path::exact) e = select(big, HiLo<T>{b * Float<T>::small, 0}, e);
    const HiLo<T> q = divide(e, a.scaled_slope), s = two_sum(a.max_val, q.hi);
    T linear = s.hi + (s.lo + q.lo);
    if constexpr (P == Path::exact) {
      linear = select(big, (q.hi + q.lo) * Float<T>::large * a.scale, linear);
      linear = select(is_finite(b) & is_finite(q.hi), linear, Float<T>::inf);
    }
    const bool outside = e.hi >= 0;
    const T inner = select(outside, T(0), b);
    const HiLo<T> r = math::log_ratio_parts<Path::fast>(two_sum(T(1), inner), two_sum(T(1), -inner));
    return copysign(select(outside, linear, min(T(0.5) * (r.hi + r.lo), a.max_val)), t);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const T b = abs(z);
    const HiLo<T> d = two_sum(b, -a.max_val);
    const HiLo<T> p = multiply(a.scaled_slope, HiLo<T>{d.hi * a.unscale, d.lo * a.unscale});
    const HiLo<T> s = two_sum(a.tanh.hi, p.hi);
    T linear = max(s.hi + (s.lo + (a.tanh.lo + p.lo)), a.edge);
    if constexpr (P == Path::exact) linear = select(is_finite(z), linear, b);
    return copysign(select(b < a.max_val, min(math::tanh<P>(b), a.edge), linear), z);
  }
  // (1 - |theta|)(1 + |theta|)
  template <class T> FM_INLINE static T one_minus_square(T t) { return (1 - abs(t)) * (1 + abs(t)); }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return select(is_linear(t, a), a.inverse_slope, 1 / one_minus_square(t));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const T s = math::small_sigmoid<P>(2 * z);
    T v = 4 * (s * (1 - s));
    if constexpr (P == Path::exact) {
      const bool tail = abs(z) > -math::Constants<T>::exp_low / 2;
      v = select(tail, math::scaled_exp<P>(T(4), HiLo<T>{-2 * abs(z), 0}), v);
    }
    return select(abs(z) < a.max_val, v, a.slope);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const bool outside = is_linear(t, a);
    const T inner = select(outside, T(0), t);
    const HiLo<T> square = two_product(inner, inner), d = two_sum(T(1), -square.hi);
    return select(outside, -a.log_slope, 0 - math::log<Path::fast>(fast_two_sum(d.hi, d.lo - square.lo)));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const bool inside = abs(z) < a.max_val;
    const HiLo<T> r = math::log_sech2_parts<P>(select(inside, z, T(0)));
    return select(inside, r.hi + r.lo, a.log_slope);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return select(is_linear(t, a), T(0), 2 * t / one_minus_square(t));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return select(abs(z) < a.max_val, -2 * math::tanh<P>(z), T(0));
  }
};

}  // namespace fastmap::FM_ISA
