#pragma once

#include "maps/powers.hpp"

namespace fastmap::FM_ISA {

struct SignedPower {
  // clang-format off
  static constexpr MapInfo info{
      "signed_power",
      "z = sign(theta) |theta|^exponent for values of either sign: signed square root (the default), signed "
      "square.",
      1, {{"exponent", 0.5, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"sign(t)*exp(exponent*log(abs(t)))", "exponent*exp((exponent - 1)*log(abs(t)))",
       "log(exponent) + (exponent - 1)*log(abs(t))", "(exponent - 1)*sign(t)/where(t == 0, 1, abs(t))",
       "sign(z)*exp(log(abs(z))/exponent)", "exp((1/exponent - 1)*log(abs(z)))/exponent",
       "(1/exponent - 1)*log(abs(z)) - log(exponent)",
       "(1/exponent - 1)*sign(z)/where(z == 0, 1, abs(z))"},
      {2, 4}, "sampled", 5, {{0.5}, {2}, {3}, {0.3}, {1.5}}};
  // clang-format on
  static constexpr int cases = powers::kMinusOne;  // positive exponents only

  template <class T> using Args = powers::Args<T>;
  template <class T> static Args<T> prepare(const double* p) {
    return powers::prepare<T>(p[0], -Float<T>::inf);
  }
  template <class T> FM_INLINE static bool usual(T x, const powers::Exponent<T>& e) {
    return powers::usual(abs(x), e) | (x == 0);
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) { return usual(t, a.forward); }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return usual(z, a.inverse); }

  // Zeros are too common to be left to the exact path: log 0 is selected away.
  template <class T> FM_INLINE static T with_zero(T r, T x) { return copysign(select(x == 0, T(0), r), x); }
  template <Path P, class T> FM_INLINE static T log_slope(T x, const powers::Exponent<T>& e) {
    return select(x == 0, e.log_slope_at_0, powers::log_slope<P>(abs(x), e));
  }
  template <Path P, class T> FM_INLINE static T slope(T x, int which, const powers::Exponent<T>& e) {
    return select(x == 0, e.slope_at_0, powers::slope<P>(abs(x), which, e));
  }
  // There is no limit at 0: 0 as the derivative of an even function.
  template <class T> FM_INLINE static T grad(T x, const powers::Exponent<T>& e) {
    return select(x == 0, T(0), e.e_minus_1.hi / x);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return with_zero(powers::value<P>(abs(t), a.which, a.forward), t);
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return with_zero(powers::value<P>(abs(z), powers::opposite(a.which), a.inverse), z);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return slope<P>(t, a.which, a.forward);
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return slope<P>(z, powers::opposite(a.which), a.inverse);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return log_slope<P>(t, a.forward);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return log_slope<P>(z, a.inverse);
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return grad(t, a.forward);
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return grad(z, a.inverse);
  }
};

}  // namespace fastmap::FM_ISA
