#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct Softplus {
  // clang-format off
  static constexpr MapInfo info{
      "softplus",
      "Inverse softplus: theta = low + log1p(exp(beta z)) / beta; near-linear far above the bound.",
      2, {{"beta", 1, Constraint::positive}, {"low", 0, Constraint::lower_bound}},
      "low", "inf", "-inf", "inf",
      {"log(expm1(beta*(t - low)))/beta", "-1/expm1(-(beta*(t - low)))",
       "-where(beta*(t - low) < 1, log(-expm1(-(beta*(t - low)))), log1p(-exp(-(beta*(t - low)))))", "-beta/expm1(beta*(t - low))",
       "low + log1p(exp(beta*z))/beta", "1/(1 + exp(-(beta*z)))", "-log1p(exp(-(beta*z)))",
       "beta/(1 + exp(beta*z))"},
      {2, 4}, "exhaustive", 4, {{1, 0}, {2.5, 0}, {0.3, 1}, {1, -1}}};
  // clang-format on
  static constexpr int cases = 3;  // 0: beta == 1, low == 0; 2: low < 0, so that theta has a root

  template <class T> struct Args {
    T low, high;
    int which;
    T beta;
    HiLo<T> log_beta;
    HiLo<T> root;    // beta z where theta == 0
    T root_sigmoid;  // sigmoid(root)
    T root_tail;     // log1p(e^-root)
  };
  template <class T> static Args<T> prepare(const double* p) {
    const T beta = T(p[0]), low = T(p[1]);
    const int which = low < 0 ? 2 : beta == 1 && low == 0 ? 0 : 1;
    Args<T> a{low, Float<T>::inf, which, beta, host::round_to<T>(host::log({double(beta), 0})), {0, 0}, 0, 0};
    if (low < 0) {
      const HiLo<double> y = two_product(-double(low), double(beta));
      // log(e^y - 1), and y itself where e^y overflows or is all there is.
      HiLo<double> root = y;
      if (y.hi < 60) {
        const HiLo<double> e = host::multiply(host::exp(y.hi), {1, y.lo});
        root = host::log(host::add(e, {-1, 0}));
      }
      a.root = host::round_to<T>(root);
      a.root_sigmoid = T(-math::expm1<Path::exact>(-y.hi));
      a.root_tail = T(math::softplus<Path::exact>(-root.hi));
    }
    return a;
  }
  // beta (theta - low)
  template <class T> FM_INLINE static HiLo<T> scaled(T t, const Args<T>& a) {
    if (a.which == 0) return {t, 0};
    const HiLo<T> p = two_sum(t, -a.low), y = two_product(a.beta, p.hi);
    return {y.hi, y.lo + a.beta * p.lo};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    const T p = t - a.low, y = a.beta * p;
    return (p > Float<T>::small) & (y > Float<T>::small) & (y <= -math::Constants<T>::exp_low - 1);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (abs(a.beta * z) <= -math::Constants<T>::exp_low - 2) & (abs(z) <= Float<T>::large);
  }

  // log(beta p) for p so small that beta p may be subnormal.
  template <class T> FM_INLINE static HiLo<T> log_scaled(T t, const Args<T>& a) {
    const HiLo<T> l = math::log_parts<Path::exact>(two_sum(t, -a.low)), s = two_sum(l.hi, a.log_beta.hi);
    const bool finite = is_finite(l.hi);
    return {select(finite, s.hi, l.hi), select(finite, s.lo + (l.lo + a.log_beta.lo), T(0))};
  }
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> y = scaled(t, a), r = math::log_expm1_parts<P>(y);
    T v = r.hi + r.lo;
    if (a.which != 0) v = v / a.beta;
    if constexpr (P == Path::exact) {
      const HiLo<T> tiny = log_scaled(t, a);
      v = select(y.hi <= Float<T>::small, (tiny.hi + tiny.lo) / a.beta, v);
      // Beyond the fast range z is theta - low itself.
      v = select(y.hi > -math::Constants<T>::exp_low - 1, t - a.low, v);
    }
    return v;
  }
  // beta z is kept as a HiLo: e^y turns its rounding error into |y| / 2 ULP.
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    if (a.which == 0) return math::softplus<P>(z);
    const HiLo<T> y = two_product(a.beta, z);
    if (a.which == 1) {
      const HiLo<T> e = math::exp_parts_of<P>(y), one_e = two_sum(T(1), e.hi);
      const HiLo<T> s = math::log_parts<P>(HiLo<T>{one_e.hi, one_e.lo + e.lo});
      const HiLo<T> q = divide(s, HiLo<T>{a.beta, 0}), shifted = two_sum(a.low, q.hi);
      const T v = shifted.hi + (shifted.lo + q.lo);
      if constexpr (P == Path::exact)
        return select((abs(y.hi) > -math::Constants<T>::exp_low - 2) & (z > 0), a.low + z, v);
      return v;
    }
    // With the root y0: softplus y - softplus y0 = (y - y0) + log1p(e^-y) - log1p(e^-y0), where both are above 0;
    // else theta is not small against low.
    const HiLo<T> difference = two_sum(y.hi, -a.root.hi);
    const HiLo<T> d = two_sum(difference.hi, difference.lo + (y.lo - a.root.lo));
    const bool above = y.hi > 0;
    const T tail = math::softplus<P>(HiLo<T>{-abs(y.hi), select(above, -y.lo, y.lo)});
    const HiLo<T> sum = two_sum(select(above, y.hi, T(0)), tail);
    const HiLo<T> q = divide(HiLo<T>{sum.hi, sum.lo + select(above, y.lo, T(0))}, HiLo<T>{a.beta, 0});
    const HiLo<T> shifted = two_sum(a.low, q.hi);
    const T far = shifted.hi + (shifted.lo + q.lo);
    T v = select(above & (a.root.hi > 0), (d.hi + (d.lo + (tail - a.root_tail))) / a.beta, far);
    if constexpr (P == Path::exact) v = select((abs(y.hi) > Float<T>::large) & (z > 0), a.low + z, v);
    // Next to it: log1p(sigmoid(y0) expm1(y - y0)).
    const bool near = abs(d.hi) < 1;
    const HiLo<T> e = math::expm1_parts<P>(HiLo<T>{select(near, d.hi, T(0)), select(near, d.lo, T(0))});
    const HiLo<T> p = two_product(a.root_sigmoid, e.hi), u = two_sum(T(1), p.hi);
    const T w = math::log<P>(HiLo<T>{u.hi, u.lo + (p.lo + a.root_sigmoid * e.lo)}) / a.beta;
    return select(near, w, v);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const HiLo<T> y = scaled(t, a);
    const T v = -1 / math::expm1<P>(negate(y));
    if constexpr (P == Path::exact)  // beta (theta - low) may be subnormal
      return select(y.hi <= Float<T>::small, (1 / a.beta) / (t - a.low), v);
    return v;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::sigmoid<P>(two_product(a.beta, z));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> y = scaled(t, a);
    const T v = 0 - math::log<P>(negate(math::expm1_parts<P>(negate(y))));
    if constexpr (P == Path::exact) {
      const HiLo<T> tiny = log_scaled(t, a);
      return select(y.hi <= Float<T>::small, 0 - (tiny.hi + tiny.lo), v);
    }
    return v;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return -(a.which == 0 ? math::softplus<P>(-z) : math::softplus<P>(negate(two_product(a.beta, z))));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const HiLo<T> y = scaled(t, a);
    const T v = -a.beta / math::expm1<P>(y);
    if constexpr (P == Path::exact) {
      // e^y overflows before the quotient vanishes; beta (theta - low) may be subnormal.
      const bool far = y.hi > -math::Constants<T>::exp_low - 1, tiny = y.hi <= Float<T>::small;
      return select(far, -math::scaled_exp<P>(a.beta, negate(y)), select(tiny, -1 / (t - a.low), v));
    }
    return v;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return a.beta * math::sigmoid<P>(negate(two_product(a.beta, z)));
  }
};

}  // namespace fastmap::FM_ISA
