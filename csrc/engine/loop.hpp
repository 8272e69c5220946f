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

template <class T, class A> FM_INLINE bool is_valid(bool on_theta, T x, const A& a) {
  return on_theta ? (x > a.low) & (x < a.high) : x == x;
}

template <class Map, class T, bool on_theta>
Scan scan(const void* x_, std::size_t n, const ArgsBuffer& buffer) {
  const auto a = args_of<Map, T>(buffer);
  const T* x = static_cast<const T*>(x_);
  BitsOf<T> invalid = 0, unusual = 0;
  for (std::size_t i = 0; i < n; ++i) {
    invalid |= is_valid(on_theta, x[i], a) ? 0 : 1;
    unusual |= (on_theta ? Map::usual_theta(x[i], a) : Map::usual_z(x[i], a)) ? 0 : 1;
  }
  return {invalid != 0, unusual != 0};
}

template <class Map, class T, bool on_theta>
bool valid(const void* x, std::size_t i, const ArgsBuffer& buffer) {
  return is_valid(on_theta, static_cast<const T*>(x)[i], args_of<Map, T>(buffer));
}

template <class T> FM_INLINE T next_up(T x) {
  return x == 0 ? from_bits(BitsOf<T>(1)) : from_bits(bits(x) + (x > 0 ? 1 : BitsOf<T>(-1)));
}

// The nearest theta inside the open domain.
template <class Map, class T>
void clip(const void* x_, void* out_, std::size_t n, const ArgsBuffer& buffer) {
  const auto a = args_of<Map, T>(buffer);
  const T low = is_finite(a.low) ? next_up(a.low) : -Float<T>::max;
  const T high = is_finite(a.high) ? -next_up(-a.high) : Float<T>::max;
  const T* x = static_cast<const T*>(x_);
  T* out = static_cast<T*>(out_);
  for (std::size_t i = 0; i < n; ++i) out[i] = max(min(x[i], high), low);
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

template <class Map, Op op, Path P, class T, class A>
FM_INLINE void elementwise(const T* x, T* out, std::size_t n, const A a) {
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) {
    T r = apply<Map, op, P>(x[i], a);
    if constexpr (P == Path::exact) {
      bool defined = x[i] == x[i];
      if constexpr (op < kThetaOps) defined = (x[i] >= a.low) & (x[i] <= a.high);
      r = select(defined & (r == r), r, nan<T>());  // every NaN is the one quiet NaN
    }
    out[i] = r;
  }
}

template <class Map, Op op, Path P, class T>
void block(const void* x_, void* out_, std::size_t n, const ArgsBuffer& buffer) {
  auto a = args_of<Map, T>(buffer);
  const T* x = static_cast<const T*>(x_);
  T* out = static_cast<T*>(out_);
  if constexpr (Map::has_cases) {
    // A copy with a constant flag, so that each loop holds one case only.
    if (a.special_case) {
      a.special_case = true;
      return elementwise<Map, op, P>(x, out, n, a);
    }
    a.special_case = false;
  }
  elementwise<Map, op, P>(x, out, n, a);
}

template <class Map, class T> constexpr MapKernels map_kernels() {
#define FM_OP(op) {block<Map, op, Path::fast, T>, block<Map, op, Path::exact, T>}
  return {prepare<Map, T>,
          {scan<Map, T, true>, scan<Map, T, false>},
          {valid<Map, T, true>, valid<Map, T, false>},
          clip<Map, T>,
          {FM_OP(kForward), FM_OP(kJacobian), FM_OP(kLogAbsDet), FM_OP(kLogAbsDetGrad),
           FM_OP(kInverse), FM_OP(kInverseJacobian), FM_OP(kInverseLogAbsDet),
           FM_OP(kInverseLogAbsDetGrad)}};
#undef FM_OP
}

}  // namespace fastmap::FM_ISA
