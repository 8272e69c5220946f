// What Power and SignedPower share: x^e for x > 0. The inverse is the same with 1/e.
#pragma once

#include "maps/wide.hpp"
#include "math/power.hpp"

namespace fastmap::FM_ISA {
namespace host {

// The nearest number that is finite in T.
template <class T> inline HiLo<T> round_to_finite(HiLo<double> x) {
  const double most = double(Float<T>::max);
  if (!(x.hi > -most && x.hi < most)) return {x.hi > 0 ? Float<T>::max : -Float<T>::max, 0};
  return round_to<T>(x);
}

// e^(-x), as math::precise_log takes it: a square, since e^(-x) may overflow.
template <class T> inline math::LogBase<T> exp_minus(Wide x) {
  const double k = round_even(-x.x[0] * math::Constants<double>::log2e), half = round_even(0.5 * k);
  const Wide root = wide_exp(scale(x, -0.5));
  const Wide m = multiply(scale(root, pow2(-half)), scale(root, pow2(half - k)));
  // Of a base that is one number, such as 1/4 for the square root, nothing is left but rounding errors.
  const double lo = m.x[1] + m.x[2];
  return {round_to<T>(HiLo<double>{m.x[0], abs(lo) < 0x1p-140 ? 0 : lo}), T(k)};
}

// e^x as an end of the ordinary numbers of T.
template <class T> inline T exp_inside(double x) {
  const double v = math::exp<Path::exact>(x), most = double(Float<T>::max);
  return max(T(v < most ? v : most), Float<T>::min_normal);
}

}  // namespace host

namespace powers {

// Which exponent: those that need no logarithm have loops of their own.
enum { kAny, kHalf, kTwo, kMinusOne, kCases };
FM_INLINE constexpr int opposite(int which) { return which == kHalf ? kTwo : which == kTwo ? kHalf : which; }

// One direction.
template <class T> struct Exponent {
  HiLo<T> e, e_minus_1;
  // Where the derivative e x^(e - 1) is +-1: its logarithm is (e - 1) log(x / unit), which unlike
  // log|e| + (e - 1) log x has all its digits there.
  math::LogBase<T> unit;
  HiLo<T> log_e;  // 0, or log|e| where the exponent is so large that unit and 1 are neighbours, and unit is 1
  T usual_low, usual_high;
  T slope_at_0, log_slope_at_0;
};
template <class T> struct Args {
  T low, high, z_low, z_high;
  int which;
  Exponent<T> forward, inverse;
};

template <class T> inline Exponent<T> prepare(host::Wide wide, bool simple) {
  const host::Wide wide_minus_1 = host::add(wide, {{-1, 0, 0}});
  const host::Wide wide_log = host::wide_log(host::scale(wide, wide.x[0] > 0 ? 1 : -1));
  const HiLo<double> e = host::head(wide), e_minus_1 = host::head(wide_minus_1), log_e = host::head(wide_log);
  host::Wide minus_log_unit{{1, 0, 0}};  // the limit for e -> 1
  HiLo<double> sum_log{0, 0};
  if (e_minus_1.hi != 0) minus_log_unit = host::divide(wide_log, wide_minus_1);
  if (abs(e_minus_1.hi) > 0x1p20) {
    minus_log_unit = {{0, 0, 0}};
    sum_log = log_e;
  }
  const double largest = max(abs(e.hi), abs(e_minus_1.hi));
  const double reach = (-double(math::Constants<T>::exp_low) - 3 - abs(log_e.hi)) / largest;
  Exponent<T> r{host::round_to_finite<T>(e),
                host::round_to_finite<T>(e_minus_1),
                host::exp_minus<T>(minus_log_unit),
                host::round_to<T>(sum_log),
                Float<T>::min_normal,
                Float<T>::max,
                1,
                0};
  if (!simple) {
    r.usual_low = host::exp_inside<T>(-reach);
    r.usual_high = host::exp_inside<T>(reach);
  }
  if (e_minus_1.hi != 0) {
    r.slope_at_0 = e_minus_1.hi > 0 ? 0 : Float<T>::inf;
    r.log_slope_at_0 = e_minus_1.hi > 0 ? -Float<T>::inf : Float<T>::inf;
  }
  return r;
}

template <class T> inline Args<T> prepare(double e, T low) {
  const int which = e == 0.5 ? kHalf : e == 2 ? kTwo : e == -1 ? kMinusOne : kAny;
  const double most = Float<double>::max, inverse = 1 / e;
  const host::Wide wide{{e, 0, 0}}, one{{1, 0, 0}}, limit{{inverse > 0 ? most : -most, 0, 0}};
  return {low,
          Float<T>::inf,
          low,
          Float<T>::inf,
          which,
          prepare<T>(wide, which != kAny),
          prepare<T>(is_finite(inverse) ? host::divide(one, e) : limit, which != kAny)};
}

template <class T> FM_INLINE bool usual(T x, const Exponent<T>& e) {
  return (x >= e.usual_low) & (x <= e.usual_high);
}
// abs: -0 is the end of the domain too.
template <Path P, class T> FM_INLINE T value(T x, int which, const Exponent<T>& e) {
  if (which == kHalf) return sqrt(abs(x));
  if (which == kTwo) return x * x;
  if (which == kMinusOne) return 1 / abs(x);
  return math::precise_exp<P>(math::multiply<P>(e.e, math::precise_log<P>(x)));
}
// log|e x^(e - 1)|
template <Path P, class T> FM_INLINE HiLo<T> log_slope_parts(T x, const Exponent<T>& e) {
  return math::add<P>(e.log_e, math::multiply<P>(e.e_minus_1, math::precise_log<P>(x, e.unit)));
}
template <Path P, class T> FM_INLINE T log_slope(T x, const Exponent<T>& e) {
  const HiLo<T> r = log_slope_parts<P>(x, e);
  return r.hi + r.lo;
}
// e x^(e - 1), whose factors may overflow where it does not.
template <Path P, class T> FM_INLINE T slope(T x, int which, const Exponent<T>& e) {
  if (which == kHalf) return T(0.5) / sqrt(abs(x));
  if (which == kTwo) return 2 * abs(x);
  if (which == kMinusOne) return (-1 / x) / x;
  return copysign(math::precise_exp<P>(log_slope_parts<P>(x, e)), e.e.hi);
}

}  // namespace powers
}  // namespace fastmap::FM_ISA
