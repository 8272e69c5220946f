#pragma once

#include "maps/map.hpp"
#include "math/algebra.hpp"

namespace fastmap::FM_ISA {

// With p = theta - low: z = sqrt(p (p + 2)), that is theta = low - 1 + sqrt(z^2 + 1).
struct MinuitSqrt {
  // clang-format off
  static constexpr MapInfo info{
      "minuit_sqrt",
      "The map of Minuit and lmfit for a lower bound: theta = low - 1 + sqrt(z^2 + 1), theta >= low. There z "
      "is any number and the map is folded: z and -z give the same theta, so it is not one-to-one. Here z "
      "is at least 0.",
      1, {{"low", 0, Constraint::lower_bound}},
      "low", "inf", "0", "inf",
      {"sqrt((t - low)*(t - low + 2))", "(t - low + 1)/sqrt((t - low)*(t - low + 2))",
       "log1p(1/((t - low)*(t - low + 2)))/2", "-1/((t - low)*(t - low + 1)*(t - low + 2))",
       "low + z*z/(1 + sqrt(1 + z*z))", "z/sqrt(1 + z*z)", "-log1p(1/(z*z))/2", "1/(z*(1 + z*z))"},
      {2, 4}, "sampled", 5, {{0}, {1}, {-1}, {-0.001}, {1000}}, nullptr, true};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high, z_low, z_high;
  };
  template <class T> static Args<T> prepare(const double* p) {
    return {T(p[0]), Float<T>::inf, 0, Float<T>::inf};
  }
  // p; abs: it may be -0 at low == 0
  template <class T> FM_INLINE static T above(T t, const Args<T>& a) { return abs(t - a.low); }
  template <class T> struct Parts {
    T p, plus_1, square;  // p, p + 1, p (p + 2), each rounded once
  };
  template <class T> FM_INLINE static Parts<T> parts(T t, const Args<T>& a) {
    const HiLo<T> p = two_sum(t, -a.low);
    const HiLo<T> plus_1 = two_sum(p.hi, T(1)), plus_2 = two_sum(p.hi, T(2));
    const HiLo<T> square = multiply(p, HiLo<T>{plus_2.hi, plus_2.lo + p.lo});
    return {abs(p.hi), plus_1.hi + (plus_1.lo + p.lo), abs(square.hi + square.lo)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t - a.low >= Float<T>::small) & (t <= Float<T>::large) & (t - a.low <= Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) {
    return (z >= Float<T>::small) & (z <= Float<T>::large);
  }

  // p (p + 2) = z^2, rounded once, so that z grows with p.
  template <class T> FM_INLINE static T square(T p) { return fma(p, p, 2 * p); }
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const T p = above(t, a), z = sqrt(square(p));
    if constexpr (P == Path::exact) return select(p > Float<T>::large, p, z);
    return z;
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const HiLo<T> root = math::sqrt_parts(math::square_plus(z, T(1))), sum = fast_two_sum(root.hi, T(1));
    HiLo<T> p = divide_by_reciprocal(two_product(z, z), HiLo<T>{sum.hi, sum.lo + root.lo});
    if constexpr (P == Path::exact) {
      const bool big = z > Float<T>::large;
      p = {select(big, z, p.hi), select(big, T(0), p.lo)};
    }
    const HiLo<T> s = two_sum(a.low, p.hi);
    const T theta = s.hi + (s.lo + p.lo);
    if constexpr (P == Path::exact) return select(is_finite(s.hi), theta, s.hi);
    return theta;
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const T p = above(t, a), v = (p + 1) / sqrt(square(p));
    if constexpr (P == Path::exact) return select(p > Float<T>::large, T(1), v);
    return v;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>&) {
    const T v = z / sqrt(fma(z, z, T(1)));
    if constexpr (P == Path::exact) return select(z > Float<T>::large, T(1), v);
    return v;
  }
  // log(1 + 1/x^2) / 2 for x = z, given x^2 and, for its ends, that x^2 for small and x for large ones.
  template <Path P, class T> FM_INLINE static T log_slope(T square, T x) {
    const HiLo<T> u = two_sum(T(1), 1 / square);
    if constexpr (P == Path::fast) return T(0.5) * math::log<P>(u);
    const bool tiny = square < Float<T>::small * Float<T>::small;
    const T l = math::log<P>(HiLo<T>{select(tiny, x, u.hi), select(tiny, T(0), u.lo)});
    return select(x > Float<T>::large, T(0.5) / x / x, select(tiny, T(-1), T(0.5)) * l);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const Parts<T> v = parts(t, a);
    return log_slope<P>(v.square, select(v.p < 1, sqrt(v.square), v.p));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>&) {
    return 0 - log_slope<P>(z * z, abs(z));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const Parts<T> v = parts(t, a);
    const T r = -1 / v.square / v.plus_1;
    if constexpr (P == Path::exact) return select(v.p > Float<T>::large, -1 / v.p / v.p / v.p, r);
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return 1 / abs(z) / fma(z, z, T(1));
  }
};

}  // namespace fastmap::FM_ISA
