// What Power and SignedPower share: x^e for x > 0. The inverse is the same with 1/e.
#pragma once

#include "maps/map.hpp"
#include "math/power.hpp"

namespace fastmap::FM_ISA {
namespace host {

// The nearest number that is finite in T.
template <class T> inline HiLo<T> round_to_finite(HiLo<double> x) {
  const double most = double(Float<T>::max);
  if (!(x.hi > -most && x.hi < most)) return {x.hi > 0 ? Float<T>::max : -Float<T>::max, 0};
  return round_to<T>(x);
}

// e^(-x), as math::precise_log takes it.
template <class T> inline math::LogBase<T> exp_minus(HiLo<double> x) {
  const double k = round_even(-x.hi * math::Constants<double>::log2e);
  const HiLo<double> r = add(negate(x), multiply({-k, 0}, math::ln2<double>()));
  HiLo<double> m = multiply(exp(r.hi), {1, r.lo});
  // Of a base that is one number, such as 1/4 for the square root, nothing is left but rounding errors.
  if (abs(m.lo) < 0x1p-93) m.lo = 0;
  return {round_to<T>(m), T(k)};
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

template <class T> inline Exponent<T> exponent(HiLo<double> e, bool simple) {
  const HiLo<double> e_minus_1 = host::add(e, {-1, 0});
  const HiLo<double> log_e = host::log(e.hi > 0 ? e : negate(e));
  HiLo<double> minus_log_unit{1, 0}, sum_log{0, 0};  // 1: the limit for e -> 1
  if (e_minus_1.hi != 0) minus_log_unit = divide(log_e, e_minus_1);
  if (abs(e_minus_1.hi) > 0x1p20) {
    minus_log_unit = {0, 0};
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
  return {low,
          Float<T>::inf,
          low,
          Float<T>::inf,
          which,
          exponent<T>({e, 0}, which != kAny),
          exponent<T>(divide<double>({1, 0}, {e, 0}), which != kAny)};
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
