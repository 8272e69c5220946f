#pragma once

#include "maps/powers.hpp"

namespace fastmap::FM_ISA {

struct Power {
  // clang-format off
  static constexpr MapInfo info{
      "power",
      "z = theta^exponent for theta > 0: square root (the default), square, cube, reciprocal. Decreases for "
      "exponent < 0.",
      1, {{"exponent", 0.5, Constraint::nonzero}},
      "0", "inf", "0", "inf",
      {"exp(exponent*log(t))", "exponent*exp((exponent - 1)*log(t))",
       "log(abs(exponent)) + (exponent - 1)*log(t)", "(exponent - 1)/t", "exp(log(z)/exponent)",
       "exp((1/exponent - 1)*log(z))/exponent", "(1/exponent - 1)*log(z) - log(abs(exponent))",
       "(1/exponent - 1)/z"},
      {2, 4}, "sampled", 6, {{0.5}, {2}, {3}, {-1}, {0.3}, {-2.5}}};
  // clang-format on
  static constexpr int cases = powers::kCases;

  template <class T> using Args = powers::Args<T>;
  template <class T> static Args<T> prepare(const double* p) { return powers::prepare<T>(p[0], T(0)); }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return powers::usual(t, a.forward);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return powers::usual(z, a.inverse);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return powers::value<P>(t, a.which, a.forward);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return powers::value<P>(z, powers::opposite(a.which), a.inverse);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return powers::slope<P>(t, a.which, a.forward);
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return powers::slope<P>(z, powers::opposite(a.which), a.inverse);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return powers::log_slope<P>(t, a.forward);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return powers::log_slope<P>(z, a.inverse);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return a.forward.e_minus_1.hi / t;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return a.inverse.e_minus_1.hi / z;
  }
};

}  // namespace fastmap::FM_ISA
