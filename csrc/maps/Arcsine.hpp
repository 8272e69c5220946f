#pragma once

#include "maps/centred.hpp"

namespace fastmap::FM_ISA {

struct Arcsine {
  // clang-format off
  static constexpr MapInfo info{
      "arcsine",
      "z = asin((theta - middle) / half width) on the closed interval [low, high]. MINUIT's limits are "
      "folded: any z is allowed, theta periodic in it; here z stays in [-pi/2, pi/2], where it is 1-to-1.",
      2, {{"low", -1, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-pi/2", "pi/2",
      {"atan((2*t - (low + high))/(2*sqrt((t - low)*(high - t))))", "1/sqrt((t - low)*(high - t))",
       "-log((t - low)*(high - t))/2", "(2*t - (low + high))/(2*(t - low)*(high - t))",
       "(low + high)/2 + (high - low)/2*sin(z)", "(high - low)/2*cos(z)",
       "log((high - low)/2*cos(z))", "-tan(z)"},
      {2, 4}, "exhaustive", 6, {{-1, 1}, {0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}},
      nullptr, true};
  // clang-format on
  static constexpr int cases = 3;  // 2: low == -high; 1: another interval with a root of theta inside

  // scale = (high - low) / 2
  template <class T> struct Args : centred::Args<T> {
    T z_low, z_high, usual_z;
    int which;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const HiLo<T> half_pi = math::half_pi<T>();
    const T z = half_pi.lo < 0 ? from_bits(bits(half_pi.hi) - 1) : half_pi.hi;
    const centred::Args<T> a = centred::prepare<T>(p, HiLo<double>{1, 0});
    const int which = a.low == -a.high ? 2 : a.low < 0 && a.high > 0;
    return {a, -z, z, a.least < Float<T>::inf ? z : T(-1), which};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return centred::usual_theta(t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return abs(z) <= a.usual_z; }

  // asin v in the inner half, else pi/2 - 2 asin(sqrt(q / width)): asin has arguments up to 1/2 only.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const centred::Place<T> at = a.which == 2 ? centred::symmetric_place(t, a) : centred::place(t, a);
    const bool outer = centred::is_outer(at, a);
    const T factor = select(outer, T(0.5), T(1));
    const HiLo<T> part{factor * at.distance.hi, factor * at.distance.lo};
    HiLo<T> v = divide_by_reciprocal(part, a.scale);
    if constexpr (P == Path::exact) v = select(is_finite(a.least), v, divide(part, a.scale));
    HiLo<T> root = math::sqrt_parts(v);
    if constexpr (P == Path::exact) root.lo = select(root.hi > 0, root.lo, T(0));
    const HiLo<T> s = math::asin_parts(select(outer, root, v), select(outer, v.hi, v.hi * v.hi));
    const HiLo<T> half_pi = math::half_pi<T>(), rest = fast_two_sum(half_pi.hi, -2 * s.hi);
    const T r = select(outer, rest.hi + (rest.lo + (half_pi.lo - 2 * s.lo)), s.hi + s.lo);
    return copysign(min(r, a.z_high), at.offset);  // pi/2 may round upwards
  }
  // pi/2 - |z|
  template <class T> FM_INLINE static HiLo<T> complement(T b) {
    const HiLo<T> half_pi = math::half_pi<T>();
    return two_sum(half_pi.hi - b, half_pi.lo);  // the difference is exact from pi/4 on
  }
  template <class T> FM_INLINE static bool is_outer(T b) { return b > T(0.785); }  // about pi/4
  template <class T> FM_INLINE static HiLo<T> halve(HiLo<T> x) { return {T(0.5) * x.hi, T(0.5) * x.lo}; }

  // From the middle, or from the nearer bound: (width) sin^2((pi/2 - |z|) / 2) away.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const T b = abs(z);
    const bool outer = is_outer(b), negative = z < 0;
    const HiLo<T> angle = select(outer, halve(complement(b)), HiLo<T>{b, 0});
    const HiLo<T> sine = a.which == 1 ? math::accurate_sin_parts(angle) : math::sin_parts(angle);
    const HiLo<T> square = multiply(sine, sine);
    HiLo<T> part = multiply(a.scale, select(outer, HiLo<T>{2 * square.hi, 2 * square.lo}, sine));
    part = select(negative != outer, negate(part), part);
    const HiLo<T> base = select(outer, HiLo<T>{select(negative, a.low, a.high), 0}, a.middle);
    const HiLo<T> s = two_sum(base.hi, part.hi);
    return s.hi + (s.lo + (base.lo + part.lo));
  }
  template <class T> FM_INLINE static bool is_plain(T p, T q) {
    return (p > Float<T>::small) & (q > Float<T>::small) & (p < Float<T>::large) & (q < Float<T>::large);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const T p = t - a.low, q = a.high - t, r = 1 / sqrt(p * q);
    if constexpr (P == Path::exact) return select(is_plain(p, q), r, (1 / sqrt(p)) / sqrt(q));
    return r;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> p = two_sum(t, -a.low), q = two_sum(a.high, -t), pq = multiply(p, q);
    const T r = T(-0.5) * math::log<P>(fast_two_sum(pq.hi, fma(p.lo, q.lo, pq.lo)));
    if constexpr (P == Path::exact) {
      const HiLo<T> l = math::log_parts<P>(p), m = math::log_parts<P>(q);
      return select(is_plain(p.hi, q.hi), r, T(-0.5) * ((l.hi + m.hi) + (l.lo + m.lo)));
    }
    return r;
  }
  // (1/q - 1/p) / 2 = (theta - middle) / (p q), by the larger one first: p q may underflow.
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const T p = t - a.low, q = a.high - t, d = interval_algebra::offset(t, a).hi;
    return (d / max(p, q)) / min(p, q);
  }
  // cos z = sin(pi/2 - |z|), or 1 - 2 sin^2(z/2) in the inner half.
  template <class T> FM_INLINE static HiLo<T> cos_angle(T b) {
    return select(is_outer(b), complement(b), HiLo<T>{T(0.5) * b, 0});
  }
  template <class T> FM_INLINE static HiLo<T> cosine(HiLo<T> sine, bool outer) {
    const HiLo<T> square = multiply(sine, sine), u = two_sum(T(1), -2 * square.hi);
    return select(outer, sine, HiLo<T>{u.hi, u.lo - 2 * square.lo});
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return a.scale.hi * cosine(math::sin_parts(cos_angle(abs(z))), is_outer(abs(z))).hi;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> sine = math::accurate_sin_parts(cos_angle(abs(z)));
    return centred::log_scaled<P>(cosine(sine, is_outer(abs(z))), a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    const T b = abs(z);
    return copysign(math::tan(select(is_outer(b), complement(b), HiLo<T>{b, 0}), is_outer(b)), -z);
  }
};

}  // namespace fastmap::FM_ISA
