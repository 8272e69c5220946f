// What a map must have. A map is one struct in one header: its metadata beside its formulas.
//
//   static constexpr MapInfo info             name, parameters, domain, formulas as text, ULP bounds
//   static constexpr int cases                if > 1, Args has an `int which` < cases to split loops by
//   static constexpr int vectors              if the formulas are no long chain: 1 (see loop.hpp)
//   template <class T> static constexpr bool in_double   whether those of float are in Twice<float>, a double
//   template <class T> struct Args            constants of one call: low and high, the open domain
//                                             (+-inf: unbounded), and what the formulas need
//                                             (z_low, z_high: the closed codomain, if not everything)
//   prepare<T>(const double* p) -> Args<T>    from the effective parameters, once per call
//   usual_theta(t, a), usual_z(z, a) -> bool  where Path::fast is right for every op on t or on z
//   forward, jacobian, log_abs_det, log_abs_det_grad                  <Path P>(t, a), t in the domain
//   inverse, inverse_jacobian, inverse_log_abs_det, inverse_log_abs_det_grad   <Path P>(z, a)
//
// forward is theta -> z. The engine gives NaN outside the domain and the codomain; formulas only answer on their
// closures.
#pragma once

#include "engine/abi.hpp"
#include "math/elementary.hpp"

namespace fastmap::FM_ISA {

// Constants of a call, computed once on the host in double-double arithmetic: near a root that
// depends on parameters the result is a difference from such a constant, and libm differs by platform.
namespace host {

inline HiLo<double> add(HiLo<double> a, HiLo<double> b) {
  const HiLo<double> s = two_sum(a.hi, b.hi);
  return fast_two_sum(s.hi, s.lo + (a.lo + b.lo));
}
inline HiLo<double> multiply(HiLo<double> a, HiLo<double> b) {
  const HiLo<double> p = two_product(a.hi, b.hi);
  return fast_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}
// e^x for |x| < 700: Taylor series of x / 2^10, squared ten times as e^x - 1, which must not cancel.
inline HiLo<double> exp(double x) {
  if (x < 0) return divide({1, 0}, exp(-x));
  const HiLo<double> r{x * 0x1p-10, 0};
  HiLo<double> sum{0, 0}, term{1, 0};
  for (int k = 1; k < 30; ++k) {
    term = divide(multiply(term, r), {double(k), 0});
    term = fast_two_sum(term.hi, term.lo);
    sum = add(sum, term);
  }
  for (int i = 0; i < 10; ++i) sum = add({2 * sum.hi, 2 * sum.lo}, multiply(sum, sum));
  return add({1, 0}, sum);
}
// log x by one Newton step on the working-precision logarithm.
inline HiLo<double> log(HiLo<double> x) {
  const double y = math::log<Path::exact>(x.hi);
  if (!is_finite(y)) return {y, 0};
  if (abs(y) > 300) {  // the lo of e^-y might be subnormal
    const double k = y > 0 ? 400 : -400, factor = y > 0 ? 0x1p-400 : 0x1p400;
    return add(multiply({k, 0}, math::ln2<double>()), log({x.hi * factor, x.lo * factor}));
  }
  const HiLo<double> ratio = multiply(x, exp(-y));  // 1 + d, d tiny
  const HiLo<double> d = add(ratio, {-1, 0});
  return add({y, 0}, {d.hi - 0.5 * d.hi * d.hi, d.lo});
}

inline HiLo<double> sqrt(HiLo<double> x) {
  if (x.hi <= 0) return {0, 0};
  const double s = FM_ISA::sqrt(x.hi);
  const HiLo<double> square = two_product(s, s);
  return fast_two_sum(s, ((x.hi - square.hi) - square.lo + x.lo) / (2 * s));
}

// Not inlined: where GCC 12 packs neighbouring conversions (-ftree-slp-vectorize) it takes x.hi for double(T(x.hi)).
template <class T> __attribute__((noinline)) inline HiLo<T> round_to(HiLo<double> x) {
  const T hi = T(x.hi);
  return {hi, T((x.hi - double(hi)) + x.lo)};
}
template <> inline HiLo<double> round_to<double>(HiLo<double> x) { return x; }

// Constants of log(c sech^2 x) for sqrt(c): root = acosh(sqrt(c)), out of reach where there is none.
template <class T> inline math::LogSech2<T> log_sech2(HiLo<double> sqrt_c) {
  const HiLo<double> log_sqrt_c = log(sqrt_c), minus_1 = add(sqrt_c, {-1, 0}), plus_1 = add(sqrt_c, {1, 0});
  const bool has_root = minus_1.hi > 0;
  const HiLo<double> root = log(add(sqrt_c, multiply(sqrt(minus_1), sqrt(plus_1))));
  const double unit = 1 / from_bits(bits(sqrt_c.hi) & bits(Float<double>::inf));  // of its exponent
  return {round_to<T>({2 * log_sqrt_c.hi, 2 * log_sqrt_c.lo}), has_root,
          has_root ? round_to<T>(root) : HiLo<T>{Float<T>::max, 0},
          round_to<T>(divide({0.5, 0}, HiLo<double>{sqrt_c.hi * unit, sqrt_c.lo * unit})), T(unit)};
}

}  // namespace host

template <class T> FM_INLINE T sign_of(T x) { return select(x == 0, x, copysign(T(1), x)); }
template <class T> FM_INLINE HiLo<T> with_sign_of(HiLo<T> r, T x) {  // r >= 0
  return {copysign(r.hi, x), select(x < 0, -r.lo, r.lo)};
}

}  // namespace fastmap::FM_ISA
