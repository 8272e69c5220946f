#pragma once

#include "maps/bounded.hpp"

namespace fastmap::FM_ISA {

struct Tanh {
  // clang-format off
  static constexpr MapInfo info{
      "tanh",
      "atanh on (low, high): theta = (low + high)/2 + (high - low)/2 tanh(z); half the logit.",
      2, {{"low", -1, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"log((t - low)/(high - t))/2", "(high - low)/(2*(t - low)*(high - t))",
       "log((high - low)/(2*(t - low)*(high - t)))", "(2*t - (low + high))/((high - t)*(t - low))",
       "low + (high - low)/(1 + exp(-(2*z)))", "2*(high - low)/((1 + exp(-(2*z)))*(1 + exp(2*z)))",
       "log((high - low)/2) - log1p(sinh(z)*sinh(z))", "-(2*tanh(z))"},
      {2, 4}, "exhaustive", 5, {{-1, 1}, {0, 1}, {-1, 3}, {1000, 1001}, {-0.5, 0.25}}};
  // clang-format on
  static constexpr int cases = 4;  // see bounded::Args; 3: (-1, 1)

  template <class T> using Args = bounded::Args<T>;
  template <class T> static Args<T> prepare(const double* p) {
    Args<T> a = bounded::prepare<T>(p, 0.5);
    if (a.low == -1 && a.high == 1) a.which = 3;
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return bounded::usual_theta(t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return bounded::usual_y(2 * z, a);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return T(0.5) * math::log_ratio<P>(bounded::above(t, a), bounded::below(t, a));
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return a.which == 3 ? math::tanh<P>(z) : bounded::inverse<P>(2 * z, a);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return bounded::slope<P>(t, a, T(0.5));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return bounded::inverse_slope<P>(2 * z, a, T(2));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return bounded::log_slope<P>(t, a, T(0.5));
  }
  // log(w/2) + log(sech^2 z)
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return bounded::log_inverse_slope<P>(z, a);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return bounded::log_slope_grad<P>(t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return copysign(2 * math::tanh_parts<P>(z).tanh, -z);
  }
};

}  // namespace fastmap::FM_ISA
