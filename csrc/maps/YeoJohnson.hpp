#pragma once

#include "maps/powertransform.hpp"

namespace fastmap::FM_ISA {

struct YeoJohnson {
  // clang-format off
  static constexpr MapInfo info{
      "yeo_johnson",
      "Yeo-Johnson: the Box-Cox map of 1 + theta for theta >= 0, and of 1 - theta with 2 - lmbda and the "
      "other sign for theta < 0.",
      1, {{"lmbda", 0.5, Constraint::finite}},
      "-inf", "inf", "where(lmbda > 2, 1/(2 - lmbda), -inf)", "where(lmbda < 0, -1/lmbda, inf)",
      {"where(t < 0, where(lmbda == 2, -log1p(abs(t)), "
       "-expm1((2 - lmbda)*log1p(abs(t)))/where(lmbda == 2, 1, 2 - lmbda)), "
       "where(lmbda == 0, log1p(abs(t)), expm1(lmbda*log1p(abs(t)))/where(lmbda == 0, 1, lmbda)))",
       "exp(where(t < 0, 1 - lmbda, lmbda - 1)*log1p(abs(t)))",
       "where(t < 0, 1 - lmbda, lmbda - 1)*log1p(abs(t))", "(lmbda - 1)/(1 + abs(t))",
       "where(z < 0, -expm1(where(lmbda == 2, -z, log1p((lmbda - 2)*z)/where(lmbda == 2, 1, 2 - lmbda))), "
       "expm1(where(lmbda == 0, z, log1p(lmbda*z)/where(lmbda == 0, 1, lmbda))))",
       "exp(where(z < 0, where(lmbda == 2, -z, (1/where(lmbda == 2, 1, 2 - lmbda) - 1)*"
       "log1p((lmbda - 2)*z)), "
       "where(lmbda == 0, z, (1/where(lmbda == 0, 1, lmbda) - 1)*log1p(lmbda*z))))",
       "where(z < 0, where(lmbda == 2, -z, (1/where(lmbda == 2, 1, 2 - lmbda) - 1)*log1p((lmbda - 2)*z)), "
       "where(lmbda == 0, z, (1/where(lmbda == 0, 1, lmbda) - 1)*log1p(lmbda*z)))",
       "(1 - lmbda)/(1 + where(z < 0, lmbda - 2, lmbda)*z)"},
      {2, 4}, "sampled", 6, {{0.5}, {0}, {2}, {-0.5}, {3}, {1.3}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high, z_low, z_high;
    T usual_theta, usual_z;  // largest magnitudes
    powertransform::Side<T> positive, negative;
  };
  template <class T> static Args<T> prepare(const double* p) {
    constexpr T inf = Float<T>::inf;
    const auto positive = powertransform::prepare<T>({p[0], 0});
    const auto negative = powertransform::prepare<T>(two_sum(2.0, -p[0]));
    return {-inf,
            inf,
            p[0] > 2 ? -negative.end : -inf,
            p[0] < 0 ? positive.end : inf,
            min(host::exp_inside<T>(min(positive.l_reach, negative.l_reach)) - 1, Float<T>::large),
            host::round_to_finite<T>({min(positive.y_high, negative.y_high), 0}).hi,
            positive.side,
            negative.side};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return abs(t) <= a.usual_theta;
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return abs(z) <= a.usual_z; }

  template <class T> FM_INLINE static powertransform::Side<T> side(T x, const Args<T>& a) {
    return powertransform::choose(x < 0, a.negative, a.positive);
  }
  template <Path P, class T> FM_INLINE static HiLo<T> log1p_abs(T t) {
    return math::precise_log1p<P>(HiLo<T>{abs(t), 0}).log;
  }

  // Rounding may go beyond the end of the codomain.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const T v = copysign(powertransform::from_log<P>(log1p_abs<P>(t), side(t, a)), t);
    return min(max(v, a.z_low), a.z_high);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return copysign(math::precise_expm1<P>(powertransform::to_log<P>(abs(z), side(z, a)).l).hi, z);
  }
  template <Path P, class T> FM_INLINE static HiLo<T> log_slope(T t, const Args<T>& a) {
    return math::multiply<P>(side(t, a).mu_minus_1, log1p_abs<P>(t));
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return math::precise_exp<P>(log_slope<P>(t, a));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::precise_exp<P>(powertransform::to_log<P>(abs(z), side(z, a)).log_slope);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> r = log_slope<P>(t, a);
    return r.hi + r.lo;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> r = powertransform::to_log<P>(abs(z), side(z, a)).log_slope;
    return r.hi + r.lo;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return a.positive.mu_minus_1.hi / (1 + abs(t));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    const T v = powertransform::log_slope_grad<P>(abs(z), side(z, a));
    return select(z < 0, -v, v);
  }
};

}  // namespace fastmap::FM_ISA
