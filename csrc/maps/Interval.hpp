#pragma once

#include "maps/bounded.hpp"

namespace fastmap::FM_ISA {

struct Interval {
  // clang-format off
  static constexpr MapInfo info{
      "interval",
      "Logit on (low, high): z = log((theta - low) / (high - theta)).",
      2, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"log((t - low)/(high - t))", "(high - low)/((t - low)*(high - t))",
       "log((high - low)/((t - low)*(high - t)))", "(2*t - (low + high))/((high - t)*(t - low))",
       "low + (high - low)/(1 + exp(-z))", "(high - low)/((1 + exp(-z))*(1 + exp(z)))",
       "log((high - low)/4) - log1p(sinh(z/2)*sinh(z/2))", "-tanh(z/2)"},
      {2, 4}, "exhaustive", 6, {{0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}, {-1, 2}}, "log"};
  // clang-format on
  static constexpr int cases = 4;  // see bounded::Args; 3: (0, 1)

  template <class T> using Args = bounded::Args<T>;
  template <class T> static Args<T> prepare(const double* p) {
    Args<T> a = bounded::prepare<T>(p, 0.25);
    if (a.low == 0 && a.high == 1) a.which = 3;
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return bounded::usual_theta(t, a);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return bounded::usual_y(z, a); }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return math::log_ratio<P>(bounded::above(t, a), bounded::below(t, a));
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return a.which == 3 ? math::sigmoid<P>(z) : bounded::inverse<P>(z, a);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return bounded::slope<P>(t, a, T(1));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return bounded::inverse_slope<P>(z, a, T(1));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return bounded::log_slope<P>(t, a, T(1));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return bounded::log_inverse_slope<P>(T(0.5) * z, a);  // w e/(1+e)^2 = w/4 sech^2(z/2)
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return bounded::log_slope_grad<P>(t, a);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return copysign(math::tanh_parts<P>(T(0.5) * z).tanh, -z);
  }
};

}  // namespace fastmap::FM_ISA
