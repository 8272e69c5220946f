// What maps of an interval share that are algebraic around its middle m with half width h:
// theta - m, the distance of theta from the nearer bound, and the way back from either. Nothing here
// overflows for an interval as wide as the format, and everything keeps about twice the working precision.
#pragma once

#include "maps/map.hpp"
#include "math/algebra.hpp"

namespace fastmap::FM_ISA::interval_algebra {

template <class T> struct Args {
  T low, high;
  HiLo<T> middle, half;
};
template <class T> inline Args<T> prepare(const double* p) {
  const T low = T(p[0]), high = T(p[1]);
  const HiLo<T> half = two_sum(T(0.5) * high, T(-0.5) * low);
  return {low, high, two_sum(T(0.5) * high, T(0.5) * low), half};
}
template <class T> inline HiLo<double> widen(HiLo<T> x) { return {double(x.hi), double(x.lo)}; }
// x^(1/n)
inline HiLo<double> root(HiLo<double> x, double n) {
  const HiLo<double> y = divide(host::log(x), {n, 0});
  return host::multiply(host::exp(y.hi), {1, y.lo});
}

// theta - m, normalised: hi == 0 means m itself.
template <class T, class A> FM_INLINE HiLo<T> offset(T t, const A& a) {
  const HiLo<T> d = two_sum(t, -a.middle.hi);
  return fast_two_sum(d.hi, d.lo - a.middle.lo);
}
// min(theta - low, high - theta), d the offset.
template <class T> FM_INLINE HiLo<T> nearer(T t, HiLo<T> d, const Args<T>& a) {
  const bool lower = d.hi < 0;
  const HiLo<T> r = two_sum(select(lower, t, a.high), select(lower, -a.low, -t));
  return {abs(r.hi), r.lo};  // a bound and theta may be zeros of different signs
}
// max(theta - low, high - theta) / 2.
template <class T> FM_INLINE HiLo<T> half_farther(T t, HiLo<T> d, const Args<T>& a) {
  const bool lower = d.hi < 0;
  return two_sum(T(0.5) * select(lower, a.high, t), T(-0.5) * select(lower, t, a.low));
}
// The three where low == -high: the middle is 0 and nothing is lost.
template <class T> struct Symmetric {
  HiLo<T> offset, nearer, half_farther;
};
template <class T> FM_INLINE Symmetric<T> symmetric(T t, T high) {
  return {{t, 0}, two_sum(high, -abs(t)), two_sum(T(0.5) * high, T(0.5) * abs(t))};
}
template <class T> FM_INLINE bool usual_theta(T t, const Args<T>& a) {
  const T p = t - a.low, q = a.high - t;
  return (p > Float<T>::small) & (q > Float<T>::small) & (p < Float<T>::large) & (q < Float<T>::large);
}

template <class T> FM_INLINE HiLo<T> scaled_half(const Args<T>& a, T z) {
  const HiLo<T> p = two_product(a.half.hi, z);
  return {p.hi, fma(a.half.lo, z, p.lo)};
}
// From the middle for |z| < 1, so that z keeps its digits where m is 0, else from the nearer bound, so that
// theta keeps its own. `part` is the distance, with the sign of the step.
template <class T> FM_INLINE T place(T z, HiLo<T> part, const Args<T>& a) {
  const bool central = abs(z) < 1;
  const T from = select(central, a.middle.hi, select(z < 0, a.low, a.high));
  const HiLo<T> s = two_sum(from, part.hi);
  return s.hi + (s.lo + (part.lo + select(central, a.middle.lo, T(0))));
}

}  // namespace fastmap::FM_ISA::interval_algebra
