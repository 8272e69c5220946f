// What Interval and Tanh share: with w = high - low, p = theta - low, q = high - theta,
//   y = log(p / q),   theta = low + w / (1 + e^-y);   z = y for Interval, y / 2 for Tanh.
#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA::bounded {

template <class T> struct Args {
  T low, high;
  int which;  // 2: low < 0 < high, so that theta has a root inside; 1: only the log-derivative has one
  HiLo<T> width;
  math::LogSech2<T> log_sech2;  // of the derivative c sech^2, c = w/4 at y/2 or w/2 at z
  HiLo<T> root;                 // y where theta == 0
  HiLo<T> ratio, ratio_inv;     // -low / high and its reciprocal
};

// a / b, or the nearest number with a finite reciprocal.
template <class T> inline HiLo<T> finite_ratio(double a, double b) {
  const double most = double(Float<T>::max), q = a / b;
  if (!(q < most && q > 1 / most)) return {T(max(min(q, most), 1 / most)), 0};
  return host::round_to<T>(divide<double>({a, 0}, {b, 0}));
}

// sech2_factor: c / w.
template <class T> inline Args<T> prepare(const double* p, double sech2_factor) {
  const double low = double(T(p[0])), high = double(T(p[1]));
  // Halved, so that the width of an interval as wide as the format does not overflow.
  const HiLo<double> half = two_sum(high * 0.5, -low * 0.5);
  Args<T> a{T(low),
            T(high),
            0,
            host::round_to<T>({2 * half.hi, 2 * half.lo}),
            host::log_sech2<T>(host::sqrt({2 * sech2_factor * half.hi, 2 * sech2_factor * half.lo})),
            {0, 0},
            {1, 0},
            {1, 0}};
  a.which = low < 0 && high > 0 ? 2 : a.log_sech2.has_root ? 1 : 0;
  if (a.which == 2) {
    a.root = host::round_to<T>(host::add(host::log({-low, 0}), negate(host::log({high, 0}))));
    a.ratio = finite_ratio<T>(-low, high);
    a.ratio_inv = finite_ratio<T>(high, -low);
  }
  return a;
}

template <class T> FM_INLINE HiLo<T> above(T t, const Args<T>& a) { return two_sum(t, -a.low); }
template <class T> FM_INLINE HiLo<T> below(T t, const Args<T>& a) { return two_sum(a.high, -t); }

template <class T> FM_INLINE bool usual_theta(T t, const Args<T>& a) {
  const T p = t - a.low, q = a.high - t;
  return (p > Float<T>::small) & (q > Float<T>::small) & (p < Float<T>::large) & (q < Float<T>::large);
}
template <class T> FM_INLINE bool usual_y(T y, const Args<T>& a) {
  return abs(y) <= -math::Constants<T>::exp_low - 2 - abs(a.root.hi);
}

// Never leaves [low, high]: from the nearer bound. Where the bounds have opposite signs that cancels
// near the root y0 = log(-low/high); there, with d = y - y0 and E = 1 - e^-|d|,
//   theta = low E / (1 - (low/high) e^-|d|) for d < 0,  high E / (1 - (high/low) e^-|d|) for d >= 0.
template <Path P, class T> FM_INLINE T inverse(T y, const Args<T>& a) {
  if (a.which < 2) {
    const HiLo<T> part = two_product(a.width.hi, math::small_sigmoid<P>(y));
    const HiLo<T> r = two_sum(select(y < 0, a.low, a.high), select(y < 0, part.hi, -part.hi));
    return r.hi + (r.lo + select(y < 0, part.lo, -part.lo));
  }
  const HiLo<T> difference = two_sum(y, -a.root.hi), d = two_sum(difference.hi, difference.lo - a.root.lo);
  const bool negative = d.hi < 0;
  const HiLo<T> minus_abs = select(negative, d, FM_ISA::negate(d));
  const HiLo<T> e = math::expm1_parts<P>(minus_abs);
  const HiLo<T> one_e = two_sum(T(1), e.hi), decay = two_sum(one_e.hi, one_e.lo + e.lo);
  const T side = select(negative, a.low, a.high);
  const HiLo<T> c = select(negative, a.ratio, a.ratio_inv);
  // In HiLo throughout: roundings in a row would not stay within 2 ULP.
  HiLo<T> numerator = two_product(side, -e.hi);
  numerator.lo = fma(side, -e.lo, numerator.lo);
  HiLo<T> product = two_product(c.hi, decay.hi);
  product.lo = product.lo + fma(c.hi, decay.lo, c.lo * decay.hi);
  const HiLo<T> sum = two_sum(T(1), product.hi);
  const HiLo<T> q = divide_by_reciprocal(numerator, HiLo<T>{sum.hi, sum.lo + product.lo});
  const T r = q.hi + q.lo;
  if constexpr (P == Path::exact)
    return select(abs(y) > math::Constants<T>::exp_range + abs(a.root.hi), select(y < 0, a.low, a.high), r);
  return r;
}

// log w - log p - log q + shift, as one ratio and one logarithm: log((w / q) / p).
template <Path P, class T> FM_INLINE T log_slope(T t, const Args<T>& a, T factor) {
  const HiLo<T> p = above(t, a), q = below(t, a);
  const HiLo<T> pq = two_product(p.hi, q.hi);
  const T pq_lo = pq.lo + ((p.hi * q.lo + p.lo * q.hi) + p.lo * q.lo);
  const HiLo<T> w{factor * a.width.hi, factor * a.width.lo};
  if constexpr (P == Path::fast) return math::log<P>(divide(w, fast_two_sum(pq.hi, pq_lo)));
  const bool plain = usual_theta(t, a);
  const T direct = math::log<P>(divide(w, fast_two_sum(pq.hi, pq_lo)));
  const bool upper = p.hi > q.hi;  // by the farther bound first: w / q may overflow
  const T staged = math::log_ratio<P>(divide(w, select(upper, p, q)), select(upper, q, p));
  const bool inside = (p.hi > 0) & (q.hi > 0);
  return select(inside, select(plain, direct, staged), Float<T>::inf);
}

// x / (p q), exact: by the farther bound first, since x / p may overflow where p is small.
template <Path P, class T> FM_INLINE T over_both(T x, T p, T q, bool plain) {
  if constexpr (P == Path::exact) return x / select(plain, p, max(p, q)) / select(plain, q, min(p, q));
  return x / p / q;
}
// factor w / (p q); the factor comes first, since w / (p q) may overflow.
template <Path P, class T> FM_INLINE T slope(T t, const Args<T>& a, T factor) {
  return over_both<P>(factor * a.width.hi, a.high - t, t - a.low, usual_theta(t, a));
}

// factor w sigmoid(-|y|) (1 - sigmoid(-|y|)).
template <Path P, class T> FM_INLINE T inverse_slope(T y, const Args<T>& a, T factor) {
  const T s = math::small_sigmoid<P>(y), w = factor * a.width.hi, v = w * (s * (1 - s));
  if constexpr (P == Path::exact) {  // where e^-|y| is subnormal, w e^-|y| need not be
    const bool tail = abs(y) > -math::Constants<T>::exp_low - 2;
    return select(tail, math::scaled_exp<P>(w, HiLo<T>{-abs(y), 0}), v);
  }
  return v;
}

template <Path P, class T> FM_INLINE T log_inverse_slope(T x, const Args<T>& a) {
  return a.which == 0 || a.which == 3 ? math::log_c_sech2<P, false>(x, a.log_sech2)
                                      : math::log_c_sech2<P, true>(x, a.log_sech2);
}

// d/dtheta log(1 / (p q)) = 1/q - 1/p
template <Path P, class T> FM_INLINE T log_slope_grad(T t, const Args<T>& a) {
  const HiLo<T> p = above(t, a), q = below(t, a);
  const HiLo<T> d = two_sum(p.hi, -q.hi);
  return over_both<P>(d.hi + (d.lo + (p.lo - q.lo)), p.hi, q.hi, usual_theta(t, a));
}

}  // namespace fastmap::FM_ISA::bounded
