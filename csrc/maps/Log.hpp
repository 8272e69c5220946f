#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Log {
  // clang-format off
  static constexpr MapInfo info{
      "log",
      "Logarithm of the distance from a lower bound: z = log(theta - low).",
      1, {{"low", 0, Constraint::lower_bound}},
      "low", "inf", "-inf", "inf",
      {"log(t - low)", "1/(t - low)", "-log(t - low)", "-1/(t - low)", "low + exp(z)", "exp(z)", "z",
       "1"},
      {2, 4}, "exhaustive", 4, {{0}, {1}, {-1}, {-0.001}}};
  // clang-format on
  static constexpr int cases = 3;  // low == 0, low > 0, low < 0 (then theta has a root)
  static constexpr int vectors = 1;

  template <class T> struct Args {
    T low, high;
    int which;
    HiLo<T> root;  // z where theta == 0
    T usual_high;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T low = T(p[0]);
    Args<T> a{low, Float<T>::inf, low == 0 ? 0 : low > 0 ? 1 : 2, {0, 0}, math::Constants<T>::exp_high - 2};
    if (low < 0) {
      a.root = host::round_to<T>(host::log({-double(low), 0}));
      a.usual_high = math::Constants<T>::large_exponent - 1 - abs(a.root.hi);
    }
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t - a.low >= Float<T>::min_normal) & (t <= Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (z >= math::Constants<T>::exp_low + abs(a.root.hi)) & (z <= a.usual_high);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return a.which == 0 ? math::log<P>(t) : math::log<P>(two_sum(t, -a.low));
  }
  // With low < 0 the sum low + e^z cancels near the root z0 = log(-low); there and everywhere else
  // it is -low expm1(z - z0).
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    if (a.which == 0) return math::exp<P>(z);
    if (a.which == 1) return a.low + math::exp<P>(z);
    const HiLo<T> difference = two_sum(z, -a.root.hi), d = two_sum(difference.hi, difference.lo - a.root.lo);
    const HiLo<T> e = math::expm1_parts<P>(d);
    T r = fma(-a.low, e.hi, -a.low * e.lo);
    if constexpr (P == Path::exact) {
      r = select(difference.hi > math::Constants<T>::large_exponent, a.low + math::exp<P>(z), r);
      r = select(z == -Float<T>::inf, a.low, r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) { return 1 / (t - a.low); }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>&) {
    return math::exp<P>(z);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return 0 - forward<P>(t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>&) { return z; }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return -1 / (t - a.low);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>&) { return 1; }
};

}  // namespace fastmap::FM_ISA
