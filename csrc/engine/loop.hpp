// The only loops. Everything above is a formula for one lane, everything below works on blocks.
#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

template <class Map, class T> const typename Map::template Args<T>& args_of(const ArgsBuffer& b) {
  static_assert(sizeof(typename Map::template Args<T>) <= sizeof(ArgsBuffer));
  return *reinterpret_cast<const typename Map::template Args<T>*>(b.bytes);
}

template <class Map, class T> void prepare(const double* params, ArgsBuffer& buffer) {
  *reinterpret_cast<typename Map::template Args<T>*>(buffer.bytes) = Map::template prepare<T>(params);
}

template <Check check, class T, class A> FM_INLINE bool is_valid(T x, const A& a) {
  if constexpr (check == kThetaInside) return (x > a.low) & (x < a.high);
  if constexpr (check == kZFinite) return is_finite(x);
  if constexpr (check == kThetaOnClosure) return (x >= a.low) & (x <= a.high);
  if constexpr (check == kZNumber) return x == x;
}

template <class Map, class T, Check check>
bool all_valid(const void* x_, std::size_t n, const ArgsBuffer& buffer) {
  const auto a = args_of<Map, T>(buffer);
  const T* x = static_cast<const T*>(x_);
  BitsOf<T> invalid = 0;
  for (std::size_t i = 0; i < n; ++i) invalid |= is_valid<check>(x[i], a) ? 0 : 1;
  return invalid == 0;
}

// Where z is finite: inside the open domain, and for a map that says so (`finite_low`,
// `finite_high`), where z does not overflow.
template <class A> FM_INLINE auto finite_low(const A& a, int) -> decltype(a.finite_low) {
  return a.finite_low;
}
template <class A> FM_INLINE auto finite_low(const A& a, long) {
  using T = decltype(a.low);
  return is_finite(a.low) ? next_up(a.low) : -Float<T>::max;
}
template <class A> FM_INLINE auto finite_high(const A& a, int) -> decltype(a.finite_high) {
  return a.finite_high;
}
template <class A> FM_INLINE auto finite_high(const A& a, long) {
  using T = decltype(a.high);
  return is_finite(a.high) ? -next_up(-a.high) : Float<T>::max;
}

template <class Map, class T> void finite_theta(const ArgsBuffer& buffer, double* low, double* high) {
  const auto a = args_of<Map, T>(buffer);
  *low = double(finite_low(a, 0));
  *high = double(finite_high(a, 0));
}

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

template <class Map, Op op, class T, class A>
FM_INLINE bool fast_loop(const T* x, T* out, std::size_t n, const A a) {
  BitsOf<T> unusual = 0;
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    unusual |= (op < kThetaOps ? Map::usual_theta(x[i], a) : Map::usual_z(x[i], a)) ? 0 : 1;
    out[i] = apply<Map, op, Path::fast>(x[i], a);
  }
  return unusual != 0;
}

template <class Map, Op op, class T, class A>
FM_INLINE bool exact_loop(const T* x, T* out, std::size_t n, const A a) {
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    const T r = apply<Map, op, Path::exact>(x[i], a);
    bool undefined = is_nan(x[i]) | is_nan(r);
    if constexpr (op < kThetaOps) undefined |= (x[i] < a.low) | (x[i] > a.high);
    out[i] = select(undefined, nan<T>(), r);  // every NaN is the one quiet NaN
  }
  return false;
}

// A map's cases become loops of their own: in each, `which` is a constant.
template <class Map, Op op, Path P, int which, class T, class A>
FM_INLINE bool run_case(const T* x, T* out, std::size_t n, A a) {
  if constexpr (which > 0) {
    if (a.which != which) return run_case<Map, op, P, which - 1>(x, out, n, a);
  }
  if constexpr (Map::cases > 1) a.which = which;
  return P == Path::fast ? fast_loop<Map, op>(x, out, n, a) : exact_loop<Map, op>(x, out, n, a);
}

template <class Map, Op op, class T>
bool fast(const void* x, void* out, std::size_t n, const ArgsBuffer& buffer) {
  return run_case<Map, op, Path::fast, Map::cases - 1>(static_cast<const T*>(x), static_cast<T*>(out), n,
                                                       args_of<Map, T>(buffer));
}
template <class Map, Op op, class T>
void exact(const void* x, void* out, std::size_t n, const ArgsBuffer& buffer) {
  run_case<Map, op, Path::exact, Map::cases - 1>(static_cast<const T*>(x), static_cast<T*>(out), n,
                                                 args_of<Map, T>(buffer));
}

template <class Map, class T> constexpr MapKernels map_kernels() {
#define FM_OPS(kernel)                                                                              \
  {                                                                                                 \
    kernel<Map, kForward, T>, kernel<Map, kJacobian, T>, kernel<Map, kLogAbsDet, T>,                \
        kernel<Map, kLogAbsDetGrad, T>, kernel<Map, kInverse, T>, kernel<Map, kInverseJacobian, T>, \
        kernel<Map, kInverseLogAbsDet, T>, kernel<Map, kInverseLogAbsDetGrad, T>                    \
  }
  return {prepare<Map, T>,
          {all_valid<Map, T, kThetaInside>, all_valid<Map, T, kZFinite>, all_valid<Map, T, kThetaOnClosure>,
           all_valid<Map, T, kZNumber>},
          finite_theta<Map, T>,
          FM_OPS(fast),
          FM_OPS(exact)};
#undef FM_OPS
}

}  // namespace fastmap::FM_ISA
