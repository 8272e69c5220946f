// What Cauchy and Arcsine share: both are odd about the middle of [low, high], and take theta from there or,
// in the outer quarters, from the nearer bound, where that distance is exact and carries all digits.
#pragma once

#include "maps/interval_algebra.hpp"
#include "math/trigonometric.hpp"

namespace fastmap::FM_ISA::centred {

template <class T> struct Args {
  T low, high;
  HiLo<T> middle, scale;  // scale: the width times what a map wants
  T quarter;              // of the width
  T tiny;                 // a distance to the bounds below which products may underflow
  T least;                // the same, or inf where scale is not inside (1 / large_root, large_root)
  HiLo<T> log_scale;
  HiLo<T> factor, rest;  // log(scale x) = log(factor x) + rest, the latter 0 where scale is moderate
};

// The square root of Float<T>::large.
template <class T> constexpr T large_root = sizeof(T) == 4 ? T(0x1p30) : T(0x1p250);

// scale = (high - low) / divisor / 2
template <class T> inline Args<T> prepare(const double* p, HiLo<double> divisor) {
  const double low = double(T(p[0])), high = double(T(p[1]));
  // Halved, so that the width of an interval as wide as the format does not overflow.
  const HiLo<double> half = two_sum(high * 0.5, -low * 0.5), scale = divide(half, divisor);
  const HiLo<T> s = host::round_to<T>(scale), log_s = host::round_to<T>(host::log(scale));
  const bool moderate = (s.hi > 1 / large_root<T>)&(s.hi < large_root<T>);
  const T tiny = max(moderate ? Float<T>::small : Float<T>::min_normal, Float<T>::small * s.hi);
  return {T(low),
          T(high),
          host::round_to<T>(two_sum(high * 0.5, low * 0.5)),
          s,
          T(half.hi * 0.5),
          tiny,
          moderate ? tiny : Float<T>::inf,
          log_s,
          moderate ? s : HiLo<T>{1, 0},
          moderate ? HiLo<T>{0, 0} : log_s};
}

template <class T> struct Place {
  HiLo<T> distance;  // |theta - middle|, or in the outer quarters the distance to the nearer bound
  T offset;          // theta - middle
};
// No member of Place: GCC keeps a struct with a bool in memory, and then does not vectorise.
template <class T> FM_INLINE bool is_outer(const Place<T>& at, const Args<T>& a) {
  return abs(at.offset) > a.quarter;
}
// Of squares of the distance.
template <class T> FM_INLINE bool may_underflow(const Place<T>& at, const Args<T>& a) {
  return is_outer(at, a) & (at.distance.hi < a.tiny);
}
template <class T> FM_INLINE Place<T> place(T t, const Args<T>& a) {
  const HiLo<T> d = interval_algebra::offset(t, a), p = two_sum(t, -a.low), q = two_sum(a.high, -t);
  const bool negative = d.hi < 0;
  const bool outer = abs(d.hi) > a.quarter;
  return {select(outer, select(negative, p, q), select(negative, negate(d), d)), d.hi};
}
template <class T> FM_INLINE Place<T> symmetric_place(T t, const Args<T>& a) {
  const auto s = interval_algebra::symmetric(t, a.high);
  return {select(abs(t) > a.quarter, s.nearer, HiLo<T>{abs(t), 0}), t};
}
template <class T> FM_INLINE bool usual_theta(T t, const Args<T>& a) {
  return (t - a.low >= a.least) & (a.high - t >= a.least);
}

// log(scale x) for a moderate x.
template <Path P, class T> FM_INLINE T log_scaled(HiLo<T> x, const Args<T>& a) {
  const HiLo<T> y = multiply(a.factor, x), r = math::log_parts<P>(fast_two_sum(y.hi, y.lo));
  if constexpr (P == Path::fast) return r.hi + r.lo;
  const HiLo<T> s = two_sum(r.hi, a.rest.hi);
  return select(is_finite(r.hi), s.hi + (s.lo + (r.lo + a.rest.lo)), r.hi);
}

}  // namespace fastmap::FM_ISA::centred
