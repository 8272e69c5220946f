#pragma once

#include "maps/map.hpp"
#include "math/normal.hpp"

namespace fastmap::FM_ISA {

namespace host {

// Constants of Probit in double-double.
constexpr HiLo<double> kLogSqrt2Pi{0x1.d67f1c864beb5p-1, -0x1.65b5a1b7ff5dfp-55},
    kSqrt2Pi{0x1.40d931ff62706p+1, -0x1.a6a0d6f814637p-53};

inline HiLo<double> scaled(HiLo<double> x, double c) { return multiply(x, {c, 0}); }
// 1 / density(x), |x| < 37.
inline HiLo<double> inverse_density(HiLo<double> x) {
  const HiLo<double> y = scaled(multiply(x, x), 0.5);
  return multiply(kSqrt2Pi, multiply(exp(y.hi), {1, y.lo}));
}
// Mills' ratio ndtr(-x) / density(x), 0 <= x < 37: by the series of ndtr(x) - 1/2, further out by Laplace's
// continued fraction 1/(x + 1/(x + 2/(x + ...))).
inline HiLo<double> mills(HiLo<double> x) {
  if (x.hi > 3) {
    HiLo<double> r = x;
    for (int k = 150; k > 0; --k) r = add(x, divide(HiLo<double>{double(k), 0}, r));
    return divide(HiLo<double>{1, 0}, r);
  }
  const HiLo<double> square = multiply(x, x);
  HiLo<double> term = x, sum = x;
  for (int k = 3; k < 160; k += 2) {
    term = divide(multiply(term, square), HiLo<double>{double(k), 0});
    sum = add(sum, term);
  }
  return add(scaled(inverse_density(x), 0.5), negate(sum));
}

}  // namespace host

struct Probit {
  // clang-format off
  static constexpr MapInfo info{
      "probit",
      "Probit on (low, high): z = ndtri((theta - low) / (high - low)), the normal quantile.",
      2, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"probit(t - low, high - t)",
       "sqrt(2*pi)*exp(probit(t - low, high - t)*probit(t - low, high - t)/2)/(high - low)",
       "probit(t - low, high - t)*probit(t - low, high - t)/2 + log(sqrt(2*pi)/(high - low))",
       "probit(t - low, high - t)*sqrt(2*pi)*exp(probit(t - low, high - t)*probit(t - low, high - t)/2)"
       "/(high - low)",
       "where(z < 0, low + (high - low)*ndtr(z), high - (high - low)*ndtr(-z))",
       "(high - low)*exp(-z*z/2)/sqrt(2*pi)", "log((high - low)/sqrt(2*pi)) - z*z/2", "-z"},
      {2, 4}, "exhaustive", 5, {{0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}}};
  // clang-format on
  static constexpr int cases = 3;  // 0: (0, 1), 2: low < 0 < high, so that theta has a root inside

  // phi: the density of the standard normal distribution; w = high - low.
  template <class T> struct Args {
    T low, high;
    int which;
    HiLo<T> width, log_width, log_slope;  // w, log w, log(w phi(0))
    HiLo<T> unit;                         // w / 2^exponent in [1, 2)
    T exponent;
    T usual_above, usual_z;    // theta at least this far from the bounds, |z|
    HiLo<T> zero, zero_slope;  // z where theta == 0, and w phi there
    T zero_reach;              // where the Taylor series around it is used
    HiLo<T> root, root_tail;  // |z| and the distance from a bound where log|dz/dtheta| == 0: w phi(root) == 1
    T root_reach;
  };
  template <class T> static Args<T> prepare(const double* p) {
    using F = Float<T>;
    const double low = double(T(p[0])), high = double(T(p[1]));
    // Halved, so that the width of an interval as wide as the format does not overflow.
    const HiLo<double> half = two_sum(high * 0.5, -low * 0.5);
    const double exponent = double(int((bits(half.hi) >> 52) & 2047) - 1022), down = pow2(1 - exponent);
    const HiLo<double> unit{half.hi * down, half.lo * down}, width{2 * half.hi, 2 * half.lo};
    const HiLo<double> log_width = host::add(host::log(unit), host::scaled(math::ln2<double>(), exponent));
    const HiLo<double> log_slope = host::add(log_width, negate(host::kLogSqrt2Pi));
    const HiLo<double> none{0, 0};
    HiLo<double> zero = none, zero_slope = none;
    Args<T> a{};
    a.low = T(low), a.high = T(high);
    a.which = low == 0 && high == 1 ? 0 : low < 0 && high > 0 ? 2 : 1;
    a.width = host::round_to<T>(width);
    a.log_width = host::round_to<T>(log_width);
    a.log_slope = host::round_to<T>(log_slope);
    a.unit = host::round_to<T>(unit);
    a.exponent = T(exponent);
    a.zero_reach = a.root_reach = -1;
    constexpr double range = double(F::bias) - 15, limit = sizeof(T) == 4 ? 60 : 500;
    a.usual_above = abs(exponent) < limit ? T(half.hi * 0x1p-54) : F::inf;
    a.usual_z = abs(exponent) < limit ? T(FM_ISA::sqrt(1.386 * (range + min(exponent, 0.0)))) : T(-1);
    if (log_slope.hi > 0) {
      const HiLo<double> root = host::sqrt(host::scaled(log_slope, 2));
      a.root = host::round_to<T>(root);
      a.root_tail = host::round_to<T>(host::mills(root));
      a.root_reach = T(0.125) / (1 + a.root.hi);
    }
    if (a.which == 2) {
      const bool below = -low < high;  // the root is nearer the lower bound
      const double size = below ? -low : high;
      const HiLo<double> u = divide<double>({0.5 * size, 0}, half), c = host::add({0.5, 0}, negate(u));
      zero = math::ndtri_abs_parts<Path::exact>(c, negate(host::log(u)));
      if (zero.hi < 37) {
        // One Newton step in double-double.
        const HiLo<double> above = host::multiply(u, host::inverse_density(zero));
        zero = host::add(zero, host::add(host::mills(zero), negate(above)));
        zero_slope = divide(width, host::inverse_density(zero));
        a.zero_reach = T(1 / (3 + 2 * zero.hi));
      }
      a.zero = host::round_to<T>(below ? negate(zero) : zero);
      a.zero_slope = host::round_to<T>(zero_slope);
    }
    return a;
  }

  // The nearer bound, the distance from it, and the distance of (theta - low) / w from 1/2.
  template <class T> struct Place {
    bool lower;
    HiLo<T> distance, centre;
  };
  template <class T> FM_INLINE static Place<T> place(T t, const Args<T>& a) {
    if (a.which == 0) {
      const bool lower = t < T(0.5);
      const HiLo<T> c = two_sum(t, T(-0.5));
      return {lower, {select(lower, t, 1 - t), 0}, select(lower, negate(c), c)};  // 1 - t is exact
    }
    const HiLo<T> p = two_sum(t, -a.low), q = two_sum(a.high, -t), s = two_sum(p.hi, -q.hi);
    const HiLo<T> d{s.hi, s.lo + (p.lo - q.lo)};
    const bool lower = d.hi + d.lo < 0;
    return {
        lower, select(lower, p, q),
        divide(HiLo<T>{T(0.5) * select(lower, -d.hi, d.hi), T(0.5) * select(lower, -d.lo, d.lo)}, a.width)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t - a.low >= a.usual_above) & (a.high - t >= a.usual_above);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return abs(z) <= a.usual_z; }

  // |z|. At the bounds something infinite.
  template <Path P, class T> FM_INLINE static HiLo<T> abs_z(const Place<T>& at, const Args<T>& a) {
    if (a.which == 0) {
      const HiLo<T> l = math::log_parts<P>(at.distance.hi);
      return math::ndtri_abs_parts<P>(at.centre, negate(l));
    }
    const HiLo<T> l = math::log_parts<P>(at.distance), m = two_sum(a.log_width.hi, -l.hi);
    return math::ndtri_abs_parts<P>(at.centre, HiLo<T>{m.hi, m.lo + (a.log_width.lo - l.lo)});
  }
  // log|dz/dtheta| = z^2 / 2 - log(w phi(0)), away from its roots.
  template <class T> FM_INLINE static HiLo<T> log_slope(HiLo<T> z, const Args<T>& a) {
    const HiLo<T> square = two_product(T(0.5) * z.hi, z.hi), s = two_sum(square.hi, -a.log_slope.hi);
    return {s.hi, s.lo + (fma(z.hi, z.lo, square.lo) - a.log_slope.lo)};
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const Place<T> at = place(t, a);
    const HiLo<T> z = abs_z<P>(at, a);
    T r = z.hi + z.lo;
    if constexpr (P == Path::exact) r = select(at.distance.hi > 0, r, Float<T>::inf);
    return select(at.lower, -r, r);
  }
  // Never leaves [low, high]: from the nearer bound. Where the bounds have opposite signs that cancels
  // near the root z0; there w (ndtr(z) - ndtr(z0)) as a Taylor series in d = z - z0.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    T b = abs(z);
    if constexpr (P == Path::exact) b = min(b, math::Normal<T>::far);
    const bool lower = z < 0;
    math::ScaledValue<T> tail = math::ndtr_minus_parts(b);
    if (a.which != 0) {
      tail.value = multiply(tail.value, a.unit);
      tail.n = tail.n + a.exponent;
    }
    if constexpr (P == Path::exact) tail.n = max(tail.n, T(4) - 2 * T(Float<T>::bias));  // for pow2
    const HiLo<T> part = fast_two_sum(tail.value.hi, tail.value.lo);
    const T hi = scale_by_pow2<P>(part.hi, tail.n), lo = scale_by_pow2<P>(part.lo, tail.n);
    const HiLo<T> s = two_sum(select(lower, a.low, a.high), select(lower, hi, -hi));
    const T r = s.hi + (s.lo + select(lower, lo, -lo));
    if (a.which != 2) return r;
    const HiLo<T> d = two_sum(z, -a.zero.hi);
    const T d_lo = d.lo - a.zero.lo;
    constexpr int last = sizeof(T) == 4 ? 9 : 17;
    const T bend = d.hi * math::ndtr_taylor<1, last>(d.hi, a.zero.hi, T(1), -a.zero.hi);
    const HiLo<T> near = multiply(a.zero_slope, HiLo<T>{d.hi, fma(d.hi, bend, fma(2 * d_lo, bend, d_lo))});
    return select(abs(d.hi) < a.zero_reach, near.hi + near.lo, r);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const Place<T> at = place(t, a);
    const T r = math::exp<P>(log_slope(abs_z<P>(at, a), a));
    if constexpr (P == Path::exact) return select(at.distance.hi > 0, r, Float<T>::inf);
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    T b = z;
    if constexpr (P == Path::exact) b = max(min(b, math::Normal<T>::far), -math::Normal<T>::far);
    return math::exp<P>(negate(log_slope(HiLo<T>{b, 0}, a)));
  }
  // Near the root, |z| = root + d: the Taylor series of ndtr gives the distance that belongs to a d, and one
  // Newton step from the difference of the rounded z makes d as accurate as theta.
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const Place<T> at = place(t, a);
    const HiLo<T> z = abs_z<P>(at, a), l = log_slope(z, a);
    T r = l.hi + l.lo;
    if (a.which != 0) {
      const T d = (z.hi - a.root.hi) + (z.lo - a.root.lo);
      const HiLo<T> y = two_sum(a.root_tail.hi, -at.distance.hi);
      constexpr int last = sizeof(T) == 4 ? 6 : 11;
      const T bend = d * math::ndtr_taylor<1, last>(d, a.root.hi, T(1), -a.root.hi);
      const T rest = (y.hi - d) + ((y.lo + (a.root_tail.lo - at.distance.lo)) - d * bend);
      const T e = fma(rest, fma(a.root.hi, d, T(1)), d);
      r = select(abs(d) < a.root_reach, e * fma(T(0.5), e, a.root.hi), r);
    }
    if constexpr (P == Path::exact) r = select(at.distance.hi > 0, r, Float<T>::inf);
    return r;
  }
  // With a root as -(|z| - root) (|z| + root) / 2.
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const T b = abs(z);
    const HiLo<T> l = log_slope(HiLo<T>{b, 0}, a), d = two_sum(b, -a.root.hi);
    const T product = (d.hi + (d.lo - a.root.lo)) * (T(0.5) * (b + a.root.hi));
    const T r = -select(a.root.hi > 0, product, l.hi + l.lo);
    if constexpr (P == Path::exact) return select(b > Float<T>::large, T(-0.5) * b * b, r);
    return r;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const Place<T> at = place(t, a);
    const HiLo<T> z = abs_z<P>(at, a);
    T r = math::scaled_exp<P>(z.hi + z.lo, log_slope(z, a));
    if constexpr (P == Path::exact) r = select(at.distance.hi > 0, r, Float<T>::inf);
    return select(at.lower, -r, r);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) { return -z; }
};

}  // namespace fastmap::FM_ISA
