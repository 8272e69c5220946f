#pragma once

#include "maps/powertransform.hpp"

namespace fastmap::FM_ISA {

struct BoxCox {
  // clang-format off
  static constexpr MapInfo info{
      "box_cox",
      "Box-Cox: z = (theta^lmbda - 1) / lmbda for theta > 0, log(theta) at lmbda = 0.",
      1, {{"lmbda", 0.5, Constraint::finite}},
      "0", "inf", "where(lmbda > 0, -1/lmbda, -inf)", "where(lmbda < 0, -1/lmbda, inf)",
      {"where(lmbda == 0, log(t), expm1(lmbda*log(t))/where(lmbda == 0, 1, lmbda))",
       "exp((lmbda - 1)*log(t))", "(lmbda - 1)*log(t)", "(lmbda - 1)/t",
       "exp(where(lmbda == 0, z, log1p(lmbda*z)/where(lmbda == 0, 1, lmbda)))",
       "exp(where(lmbda == 0, z, (1/where(lmbda == 0, 1, lmbda) - 1)*log1p(lmbda*z)))",
       "where(lmbda == 0, z, (1/where(lmbda == 0, 1, lmbda) - 1)*log1p(lmbda*z))",
       "(1 - lmbda)/(1 + lmbda*z)"},
      {2, 4}, "sampled", 6, {{0.5}, {0}, {1}, {2}, {-0.5}, {1e-8}}};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high, z_low, z_high;
    T usual_low, usual_high, usual_z_low, usual_z_high;
    powertransform::Side<T> side;
  };
  template <class T> static Args<T> prepare(const double* p) {
    constexpr T inf = Float<T>::inf;
    const auto r = powertransform::prepare<T>({p[0], 0});
    return {0,
            inf,
            p[0] > 0 ? r.end : -inf,
            p[0] < 0 ? r.end : inf,
            host::exp_inside<T>(-r.l_reach),
            host::exp_inside<T>(r.l_reach),
            host::round_to_finite<T>({r.y_low, 0}).hi,
            host::round_to_finite<T>({r.y_high, 0}).hi,
            r.side};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t >= a.usual_low) & (t <= a.usual_high);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (z >= a.usual_z_low) & (z <= a.usual_z_high);
  }

  // Rounding may go beyond the end of the codomain.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return min(max(powertransform::from_log<P>(math::precise_log<P>(t), a.side), a.z_low), a.z_high);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return math::precise_exp<P>(powertransform::to_log<P>(z, a.side).l);
  }
  template <Path P, class T> FM_INLINE static HiLo<T> log_slope(T t, const Args<T>& a) {
    return math::multiply<P>(a.side.mu_minus_1, math::precise_log<P>(t));
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return math::precise_exp<P>(log_slope<P>(t, a));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return math::precise_exp<P>(powertransform::to_log<P>(z, a.side).log_slope);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const HiLo<T> r = log_slope<P>(t, a);
    return r.hi + r.lo;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> r = powertransform::to_log<P>(z, a.side).log_slope;
    return r.hi + r.lo;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return a.side.mu_minus_1.hi / t;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return powertransform::log_slope_grad<P>(z, a.side);
  }
};

}  // namespace fastmap::FM_ISA
