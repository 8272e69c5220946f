#pragma once

#include "maps/interval_algebra.hpp"

namespace fastmap::FM_ISA {

// With m the middle and h the half width of (low, high), d = theta - m, p = theta - low, q = high - theta:
//   z = d / sqrt(p q),   theta = m + h z / sqrt(1 + z^2).
// Always p q, never h^2 - d^2, which cancels near the bounds.
struct Algebraic {
  // clang-format off
  static constexpr MapInfo info{
      "algebraic",
      "Algebraic sigmoid onto (low, high): theta = middle + half width * z / sqrt(1 + z^2). No "
      "transcendental function.",
      2, {{"low", -1, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"(2*t - (low + high))/(2*sqrt(t - low)*sqrt(high - t))",
       "(high - low)*(high - low)/(4*(t - low)*(high - t)*sqrt(t - low)*sqrt(high - t))",
       "2*log((high - low)/2) - 3*log(t - low)/2 - 3*log(high - t)/2",
       "3*(2*t - (low + high))/(2*(t - low)*(high - t))",
       "where(abs(z) < 1, (low + high)/2 + (high - low)/2*z/sqrt(1 + z*z), where(z < 0, low, high) "
       "- sign(z)*(high - low)/(2*sqrt(1 + z*z)*(sqrt(1 + z*z) + abs(z))))",
       "(high - low)/(2*(1 + z*z)*sqrt(1 + z*z))", "log((high - low)/2) - 3*log1p(z*z)/2", "-3*z/(1 + z*z)"},
      {2, 4}, "sampled", 6, {{-1, 1}, {0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}}};
  // clang-format on
  static constexpr int cases = 2;  // 1: low == -high

  template <class T> struct Args : interval_algebra::Args<T> {
    HiLo<T> half_13, half_23;  // h^(1/3), h^(2/3)
    T half_inv, half_rest;     // 1 / h, what rounding h does to h^2
    int which;
  };
  template <class T> static Args<T> prepare(const double* p) {
    const interval_algebra::Args<T> a = interval_algebra::prepare<T>(p);
    const HiLo<double> root = interval_algebra::root(interval_algebra::widen(a.half), 3);
    return {a,
            host::round_to<T>(root),
            host::round_to<T>(host::multiply(root, root)),
            1 / a.half.hi,
            2 * a.half.lo / a.half.hi,
            a.low == -a.high};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return interval_algebra::usual_theta<T>(t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (abs(z) <= far<T>)&(a.half_13.hi > Float<T>::small) & (a.half_13.hi < Float<T>::large);
  }

  // d, sqrt(p q), h and, squared, p q, in units of a power of two: 1 on the fast path; the exact one brings
  // both factors into the range of their product.
  template <class T> struct Parts {
    HiLo<T> d, product, root;
    T half, residual, unit;  // residual: product - root.hi^2
  };
  template <Path P, class T> FM_INLINE static HiLo<T> bring_near(HiLo<T> x, T& unit) {
    if constexpr (P == Path::fast) return x;
    using F = Float<T>;
    const bool big = x.hi > F::large, tiny = x.hi < F::small;
    const T once = select(big, F::small, select(tiny, F::large, T(1)));
    unit = unit * select(big, F::large, select(tiny, F::small, T(1)));
    return {x.hi * once * once, x.lo * once * once};
  }
  template <Path P, class T> FM_INLINE static Parts<T> parts(T t, const Args<T>& a) {
    const auto s = interval_algebra::symmetric(t, a.high);
    const HiLo<T> d = a.which == 1 ? s.offset : interval_algebra::offset<T>(t, a);
    T unit = 1;
    const HiLo<T> near = bring_near<P>(a.which == 1 ? s.nearer : interval_algebra::nearer<T>(t, d, a), unit);
    const HiLo<T> far = bring_near<P>(
        a.which == 1 ? s.half_farther : interval_algebra::half_farther<T>(t, d, a), unit);
    const HiLo<T> product = math::normalise(multiply(near, HiLo<T>{2 * far.hi, 2 * far.lo}));
    const HiLo<T> root = math::sqrt_parts(product);
    const T residual = fma(-root.hi, root.hi, product.hi) + product.lo;
    return {{d.hi / unit, d.lo / unit}, product, root, a.half.hi / unit, residual, unit};
  }
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const Parts<T> v = parts<P>(t, a);
    const HiLo<T> z = divide_by_reciprocal(v.d, v.root);
    if constexpr (P == Path::exact) return select(is_finite(z.hi), z.hi + z.lo, z.hi);
    return z.hi + z.lo;
  }
  // h^2 / (p q)^(3/2) = (h / pq) (h / sqrt(pq)), corrected for what rounding h, p q and the root lost.
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const Parts<T> v = parts<P>(t, a);
    const T x = v.half / v.product.hi, y = v.half / v.root.hi, r = x / v.unit * y;
    const T correction = fma(T(-0.5) * (v.residual + v.product.lo), a.half_inv * v.unit * x, a.half_rest);
    if constexpr (P == Path::exact) return select(is_finite(r), fma(r, correction, r), r);
    return fma(r, correction, r);
  }
  // As -3 log(sqrt(p q) / h^(2/3)), a HiLo quotient, which keeps its digits at its root.
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const Parts<T> v = parts<P>(t, a);
    return -3 * math::log_ratio<P>(HiLo<T>{v.root.hi * v.unit, v.root.lo * v.unit}, a.half_23);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const Parts<T> v = parts<P>(t, a);
    return 3 * v.d.hi / v.product.hi / v.unit;
  }

  // s = sqrt(1 + z^2); beyond far it is |z|.
  template <class T> static constexpr T far = sizeof(T) == 4 ? T(0x1p40) : T(0x1p300);
  template <class T> FM_INLINE static HiLo<T> hypotenuse(T z) {
    return math::sqrt_parts(math::square_plus(z, T(1)));
  }
  // h z / s from the middle, h (1 - |z| / s) = h / (s (s + |z|)) from a bound.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const bool central = abs(z) < 1;
    const HiLo<T> step = interval_algebra::scaled_half<T>(a, select(central, z, select(z < 0, T(1), T(-1))));
    const HiLo<T> s = hypotenuse(z), x = fast_two_sum(s.hi, abs(z)), sum{x.hi, x.lo + s.lo};
    HiLo<T> part = divide_by_reciprocal(step, select(central, s, multiply(s, sum)));
    if constexpr (P == Path::exact)
      part = select(abs(z) > far<T>, HiLo<T>{T(0.5) * step.hi / abs(z) / abs(z), 0}, part);
    return interval_algebra::place<T>(z, part, a);
  }
  // h / s^3
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const HiLo<T> square = math::square_plus(z, T(1));
    const T y = abs(z), root = sqrt(square.hi), residual = fma(-root, root, square.hi) + square.lo;
    const HiLo<T> cube = two_product(square.hi, root);
    const T v = a.half.hi / (cube.hi + (cube.lo + root * (T(0.5) * (residual + square.lo))));
    if constexpr (P == Path::exact) return select(y > far<T>, a.half.hi / y / y / y, v);
    return v;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    HiLo<T> s = hypotenuse(z);
    if constexpr (P == Path::exact) s = select(abs(z) > far<T>, HiLo<T>{abs(z), 0}, s);
    return -3 * math::log_ratio<P>(s, a.half_13);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    const T v = -3 * z / fma(z, z, T(1));
    if constexpr (P == Path::exact) return select(abs(z) > far<T>, -3 / z, v);
    return v;
  }
};

}  // namespace fastmap::FM_ISA
