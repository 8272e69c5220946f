// An operation on one element.
#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

// The closed codomain: everything, unless a map says so (`z_low`, `z_high`).
template <class T, class A> FM_INLINE auto z_low(const A& a, int) -> decltype(a.z_low) { return a.z_low; }
template <class T, class A> FM_INLINE T z_low(const A&, long) { return -Float<T>::inf; }
template <class T, class A> FM_INLINE auto z_high(const A& a, int) -> decltype(a.z_high) { return a.z_high; }
template <class T, class A> FM_INLINE T z_high(const A&, long) { return Float<T>::inf; }

template <class Map, Op op, Path P, class T, class A> FM_INLINE T apply(T x, const A& a) {
  if constexpr (op == kForward) return Map::template forward<P>(x, a);
  if constexpr (op == kJacobian) return Map::template jacobian<P>(x, a);
  if constexpr (op == kLogAbsDet) return Map::template log_abs_det<P>(x, a);
  if constexpr (op == kLogAbsDetGrad) return Map::template log_abs_det_grad<P>(x, a);
  if constexpr (op == kInverse) return Map::template inverse<P>(x, a);
  if constexpr (op == kInverseJacobian) return Map::template inverse_jacobian<P>(x, a);
  if constexpr (op == kInverseLogAbsDet) return Map::template inverse_log_abs_det<P>(x, a);
  if constexpr (op == kInverseLogAbsDetGrad) return Map::template inverse_log_abs_det_grad<P>(x, a);
}

// Whether Path::fast is right.
template <class Map, Op op, class T, class A> FM_INLINE bool is_usual(T x, const A& a) {
  return op < kThetaOps ? Map::usual_theta(x, a) : Map::usual_z(x, a);
}

// Right for every x: NaN outside the domain and the codomain, and every NaN is the one quiet NaN.
template <class Map, Op op, class T, class A> FM_INLINE T exact_lane(T x, const A& a) {
  const T r = apply<Map, op, Path::exact>(x, a);
  bool undefined = is_nan(x) | is_nan(r);
  if constexpr (op < kThetaOps)
    undefined |= (x < a.low) | (x > a.high);
  else
    undefined |= (x < z_low<T>(a, 0)) | (x > z_high<T>(a, 0));
  return select(undefined, nan<T>(), r);
}

}  // namespace fastmap::FM_ISA
