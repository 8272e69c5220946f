#pragma once

#include "maps/map.hpp"

namespace fastmap::FM_ISA {

struct LogUnit {
  // clang-format off
  static constexpr MapInfo info{
      "log_unit",
      "Log-uniform scale: from [low, high], low > 0, onto [0, 1] by z = log(theta/low) / log(high/low).",
      2, {{"low", 1e-6, Constraint::positive_lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "0", "1",
      {"log(t/low)/log(high/low)", "1/(t*log(high/low))", "-log(t*log(high/low))", "-1/t",
       "where(z < 0.5, low*exp(z*log(high/low)), high*exp((z - 1)*log(high/low)))",
       "log(high/low)*where(z < 0.5, low*exp(z*log(high/low)), high*exp((z - 1)*log(high/low)))",
       "log(low*log(high/low)) + z*log(high/low)", "log(high/low)"},
      {2, 4}, "sampled", 4, {{1e-6, 1}, {1e-8, 1e3}, {1, 1024}, {1000, 1001}}, nullptr, true};
  // clang-format on
  static constexpr int cases = 1;

  template <class T> struct Args {
    T low, high;
    T z_low, z_high;
    T usual_low, usual_high;
    T low_mantissa, low_exponent, high_mantissa, high_exponent;
    HiLo<T> log_ratio, log_ratio_inv;  // log(high / low)
    HiLo<T> root;                      // z where dtheta/dz == 1: -log(low log_ratio) / log_ratio
  };
  // x = m 2^k, 1 <= m < 2
  static HiLo<double> split(double x) {
    const double lift = x < Float<double>::min_normal ? 54 : 0;
    const auto b = bits(x * pow2(lift));
    return {from_bits((b & 0xfffffffffffff) | bits(1.0)), double(b >> 52) - 1023 - lift};
  }
  template <class T> static Args<T> prepare(const double* p) {
    const T low = T(p[0]), high = T(p[1]);
    const HiLo<double> l = split(low), h = split(high);
    const auto times_ln2 = [](double k) { return host::multiply({k, 0}, math::ln2<double>()); };
    const HiLo<double> log_ratio = host::add(host::log(divide<double>({h.hi, 0}, {l.hi, 0})),
                                             times_ln2(h.lo - l.lo));
    const HiLo<double> log_low = host::add(host::log({l.hi, 0}), times_ln2(l.lo));
    const HiLo<double> root = divide(negate(host::add(log_low, host::log(log_ratio))), log_ratio);
    const bool ordinary = low > Float<T>::small && high < Float<T>::large;
    return {low,
            high,
            0,
            1,
            ordinary ? low : Float<T>::inf,
            high,
            T(l.hi),
            T(l.lo),
            T(h.hi),
            T(h.lo),
            host::round_to<T>(log_ratio),
            host::round_to<T>(divide({1, 0}, log_ratio)),
            host::round_to<T>(root)};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    return (t >= a.usual_low) & (t <= a.usual_high);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    return (z >= 0) & (z <= 1) & (a.usual_low <= a.usual_high);
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const HiLo<T> l = math::log_ratio_parts<P>(HiLo<T>{t, 0}, HiLo<T>{a.low, 0});
    const HiLo<T> z = multiply(l, a.log_ratio_inv);
    return min(z.hi + z.lo, T(1));
  }
  // theta = factor 2^exponent, from the nearer end: low e^(z L) or high e^((z - 1) L), both with more digits
  // than T has, so that neighbours of z = 1/2 do not go the wrong way. The ends are exact.
  template <class T> struct Parts {
    HiLo<T> factor;
    T exponent;
  };
  template <class T> FM_INLINE static Parts<T> parts(T z, const Args<T>& a) {
    const bool from_low = z < T(0.5);
    const T mantissa = select(from_low, a.low_mantissa, a.high_mantissa);
    const HiLo<T> y = multiply(HiLo<T>{select(from_low, z, z - 1), 0}, a.log_ratio);
    const math::ExpParts<T> e = math::exp_parts(y);
    return {multiply(math::mantissa_parts(e), mantissa),
            e.n + select(from_low, a.low_exponent, a.high_exponent)};
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const Parts<T> e = parts(z, a);
    const T r = scale_by_pow2<P>(e.factor.hi + e.factor.lo, e.exponent);
    return max(min(r, a.high), a.low);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return a.log_ratio_inv.hi / t;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const Parts<T> e = parts(z, a);
    return scale_by_pow2<P>((e.factor.hi + e.factor.lo) * a.log_ratio.hi, e.exponent);
  }
  // -log(theta L), whose root is theta = 1 / L.
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return math::log_ratio<P>(a.log_ratio_inv, HiLo<T>{t, 0});
  }
  // log(low L) + z L with its root factored out.
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const HiLo<T> d = two_sum(z, -a.root.hi);
    const HiLo<T> r = multiply(HiLo<T>{d.hi, d.lo - a.root.lo}, a.log_ratio);
    return r.hi + r.lo;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>&) { return -1 / t; }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T, const Args<T>& a) {
    return a.log_ratio.hi;
  }
};

}  // namespace fastmap::FM_ISA
