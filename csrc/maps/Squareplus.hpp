#pragma once

#include "maps/map.hpp"
#include "math/algebra.hpp"

namespace fastmap::FM_ISA {

// With p = theta - low and s = sqrt(z^2 + b): p = (z + s) / 2, z = p - b / (4 p). Algebra only. Everything
// is computed times `unit`, a power of two that brings b into [1, 4), so that squares stay in range whatever
// b is. More than a factor `large` away from sqrt(b) only the leading term is left.
struct Squareplus {
  // clang-format off
  static constexpr MapInfo info{
      "squareplus",
      "A softplus without transcendental functions (Barron 2021): theta = low + (z + sqrt(z^2 + b)) / 2.",
      2, {{"b", 4, Constraint::positive}, {"low", 0, Constraint::lower_bound}},
      "low", "inf", "-inf", "inf",
      {"((t - low)*(t - low) - b/4)/(t - low)", "1 + b/(4*(t - low)*(t - low))",
       "log1p(b/(4*(t - low)*(t - low)))", "-2*b/((t - low)*(4*(t - low)*(t - low) + b))",
       "low + where(z > 0, z + sqrt(z*z + b), b/(sqrt(z*z + b) + abs(z)))/2",
       "where(z > 0, z + sqrt(z*z + b), b/(sqrt(z*z + b) + abs(z)))/(2*sqrt(z*z + b))",
       "where(z > 0, log1p(-b/(2*sqrt(z*z + b)*(sqrt(z*z + b) + abs(z)))), "
       "log(b/(2*sqrt(z*z + b)*(sqrt(z*z + b) + abs(z)))))",
       "where(z > 0, b/(sqrt(z*z + b) + abs(z)), sqrt(z*z + b) + abs(z))/(z*z + b)"},
      {2, 4}, "sampled", 6, {{4, 0}, {1, 0}, {0.3, 1}, {4, -1}, {1e-4, 0}, {2, -0.001}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high;
    T unit, unit_inv, b, quarter_b;  // b times unit^2, b / 4 as it is
    HiLo<T> half_root;               // sqrt(b) / 2
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T b = T(p[0]);
    const HiLo<double> root = host::sqrt({double(b), 0});
    const T unit_inv = from_bits(bits(sqrt(b)) & bits(Float<T>::inf)), unit = 1 / unit_inv;  // its exponent
    return {T(p[1]),
            Float<T>::inf,
            unit,
            unit_inv,
            b * unit * unit,
            T(0.25) * b,
            host::round_to<T>({0.5 * root.hi, 0.5 * root.lo})};
  }
  template <class T> FM_INLINE static bool is_usual(T scaled) {
    return (scaled >= Float<T>::small) & (scaled <= Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return is_usual((t - a.low) * a.unit) & (t <= Float<T>::max);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return abs(z * a.unit) <= Float<T>::large;
  }

  // p; abs: it may be -0 at low == 0
  template <class T> FM_INLINE static HiLo<T> above(T t, const Args<T>& a) {
    const HiLo<T> p = two_sum(t, -a.low);
    return {abs(p.hi), p.lo};
  }
  template <class T> FM_INLINE static HiLo<T> times(HiLo<T> x, T power_of_2) {
    return {x.hi * power_of_2, x.lo * power_of_2};
  }
  // In HiLo, which keeps the digits at the root p = sqrt(b) / 2: there the difference of the high parts is
  // exact.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> p = above(t, a), y = times(p, a.unit),
                  q = divide_by_reciprocal(HiLo<T>{T(0.25) * a.b, 0}, y);
    const HiLo<T> s = two_sum(y.hi, -q.hi);
    const T z = (s.hi + (s.lo + (y.lo - q.lo))) * a.unit_inv;
    if constexpr (P == Path::exact)
      return select(is_usual(y.hi), z, select(y.hi < 1, -a.quarter_b / p.hi, p.hi));
    return z;
  }
  // b / (4 p^2)
  template <Path P, class T> FM_INLINE static T bend(HiLo<T> p, const Args<T>& a) {
    return math::over_square<P>(T(0.25) * a.b, times(p, a.unit));
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return 1 + bend<P>(above(t, a), a);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> p = above(t, a);
    const T x = bend<P>(p, a), v = math::log<P>(two_sum(T(1), x));
    if constexpr (P == Path::exact)
      return select(p.hi * a.unit < Float<T>::small, -2 * math::log_ratio<P>(p, a.half_root), v);
    return v;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const HiLo<T> p = above(t, a), y = times(p, a.unit);
    const T c = T(0.25) * a.b, d = fma(y.hi, y.hi, fma(2 * y.hi, y.lo, c));
    const T v = -2 * (c / y.hi * a.unit) / d;  // no product after a quotient that may be subnormal
    if constexpr (P == Path::exact) {
      const T share = select(y.hi < 1, T(1), a.quarter_b / p.hi / p.hi);
      return select(is_usual(y.hi), v, -2 / p.hi * share);
    }
    return v;
  }

  template <class T> struct Parts {
    HiLo<T> square, root, sum;  // s^2, s, s + |z|, times unit
  };
  template <class T> FM_INLINE static Parts<T> parts(T z, const Args<T>& a) {
    const T y = abs(z * a.unit);
    const HiLo<T> square = math::square_plus(y, a.b), root = math::sqrt_parts(square);
    const HiLo<T> sum = fast_two_sum(root.hi, y);
    return {square, root, {sum.hi, sum.lo + root.lo}};
  }
  // p = (b/2) / (s + |z|) for z <= 0, where (z + s) / 2 would cancel.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const Parts<T> v = parts(z, a);
    const bool positive = z > 0;
    HiLo<T> p = divide_by_reciprocal(select(positive, v.sum, HiLo<T>{T(0.5) * a.b, 0}),
                                     select(positive, HiLo<T>{2, 0}, v.sum));
    p = times(p, a.unit_inv);
    if constexpr (P == Path::exact)
      p = select(usual_z(z, a), p, HiLo<T>{select(positive, z, -a.quarter_b / z), 0});
    const HiLo<T> s = two_sum(a.low, p.hi);
    const T theta = s.hi + (s.lo + p.lo);
    if constexpr (P == Path::exact) return select(is_finite(s.hi), theta, s.hi);
    return theta;
  }
  // w = p / s at -|z|
  template <class T> FM_INLINE static HiLo<T> small_slope(T z, const Args<T>& a) {
    const Parts<T> v = parts(z, a);
    return divide(HiLo<T>{T(0.5) * a.b, 0}, math::normalise(multiply(v.sum, v.root)));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    T w = small_slope(z, a).hi;
    if constexpr (P == Path::exact) w = select(usual_z(z, a), w, a.quarter_b / z / z);
    return select(z > 0, 1 - w, w);
  }
  // log w or log(1 - w)
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> w = small_slope(z, a), rest = two_sum(T(1), -w.hi);
    const T v = math::log<P>(select(z > 0, HiLo<T>{rest.hi, rest.lo - w.lo}, w));
    if constexpr (P == Path::exact) {
      const T far = -2 * math::log_ratio<P>(HiLo<T>{abs(z), 0}, a.half_root);
      return select(usual_z(z, a), v, select(z > 0, -a.quarter_b / z / z, far));
    }
    return v;
  }
  // 1/s - z/s^2
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    const Parts<T> v = parts(z, a);
    const T sum = v.sum.hi + v.sum.lo;
    const T r = select(z > 0, a.b / sum, sum) * a.unit / (v.square.hi + v.square.lo);
    if constexpr (P == Path::exact)
      return select(usual_z(z, a), r, 2 / abs(z) * select(z > 0, a.quarter_b / z / z, T(1)));
    return r;
  }
};

}  // namespace fastmap::FM_ISA
