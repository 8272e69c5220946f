// What BoxCox and YeoJohnson share: y = (e^(mu l) - 1) / mu, where l is log theta or log(1 + |theta|), and
// its inverse l = log(1 + mu y) / mu; mu -> 0 makes both the identity. dy/dl = e^(mu l) = 1 + mu y.
#pragma once

#include "maps/powers.hpp"

namespace fastmap::FM_ISA {
namespace host {

// The nearest number of T that is not beyond x as seen from 0.
template <class T> inline T towards_zero(HiLo<double> x) {
  if (!(abs(x.hi) <= double(Float<T>::max))) return copysign(Float<T>::inf, T(x.hi));
  const T r = T(x.hi);
  const double beyond = (double(r) - x.hi) - x.lo;
  return beyond != 0 && (beyond > 0) == (x.hi > 0) ? from_bits(bits(r) - 1) : r;
}

}  // namespace host

namespace powertransform {

// |mu l| or |mu y| from which on mu matters: l (1 + mu l / 2) == l to more than HiLo precision before e^l.
template <class T> constexpr T kSmall = T(sizeof(T) == 4 ? 0x1p-45 : 0x1p-80);

template <class T> struct Side {
  HiLo<T> mu, inverse_mu;
  HiLo<T> ratio;   // (1 - mu) / mu
  HiLo<T> log_mu;  // log|mu|
  HiLo<T> mu_minus_1;
};
template <class T> FM_INLINE Side<T> choose(bool condition, const Side<T>& yes, const Side<T>& no) {
  return {select(condition, yes.mu, no.mu), select(condition, yes.inverse_mu, no.inverse_mu),
          select(condition, yes.ratio, no.ratio), select(condition, yes.log_mu, no.log_mu),
          select(condition, yes.mu_minus_1, no.mu_minus_1)};
}

// A side, where its l and y are ordinary, and the end of y on the side where it has one (-1 / mu).
template <class T> struct Prepared {
  Side<T> side;
  double l_reach, y_low, y_high;
  T end;
};
template <class T> inline Prepared<T> prepare(HiLo<double> mu) {
  using C = math::Constants<T>;
  const HiLo<double> mu_minus_1 = host::add(mu, {-1, 0});
  const double size = abs(mu.hi), larger = max(size, abs(mu_minus_1.hi)), reach = -double(C::exp_low) - 3;
  Prepared<T> r{{host::round_to<T>(mu), {0, 0}, {0, 0}, {0, 0}, host::round_to<T>(mu_minus_1)},
                reach / larger,
                -reach,
                reach,
                -Float<T>::inf};
  if (size == 0) return r;
  const HiLo<double> inverse = divide<double>({1, 0}, mu);
  r.side.inverse_mu = host::round_to_finite<T>(inverse);
  r.side.ratio = host::round_to_finite<T>(divide(negate(mu_minus_1), mu));
  r.side.log_mu = host::round_to<T>(host::log(mu.hi > 0 ? mu : negate(mu)));
  // |log(1 + mu y)|. log(large) is a bound too, and next to -1 / mu, which is not ordinary, y must stay apart
  // from it after rounding.
  const double w = reach * size / max(1.0, abs(mu_minus_1.hi)), most = sizeof(T) == 4 ? 41 : 346;
  const double up = math::expm1<Path::exact>(min(w, most)) / mu.hi;
  const double down = math::expm1<Path::exact>(-min(w, sizeof(T) == 4 ? 13.0 : 27.0)) / mu.hi;
  r.y_low = mu.hi > 0 ? down : up;
  r.y_high = mu.hi > 0 ? up : down;
  r.end = host::towards_zero<T>(negate(inverse));
  return r;
}

// (e^(mu l) - 1) / mu
template <Path P, class T> FM_INLINE T from_log(HiLo<T> l, const Side<T>& a) {
  const HiLo<T> x = math::multiply<P>(a.mu, l),
                r = math::multiply<P>(math::precise_expm1<P>(x), a.inverse_mu);
  T v = r.hi + r.lo;
  if constexpr (P == Path::exact) {  // e^x overflows before e^x / mu does
    const T far = math::precise_exp<P>(math::add<P>(x, negate(a.log_mu)));
    v = select(x.hi > math::Constants<T>::exp_high - 2, copysign(far, a.mu.hi), v);
  }
  return select(abs(x.hi) >= kSmall<T>, v, l.hi + l.lo);
}

// log(1 + mu y) / mu and the same times 1 - mu.
template <class T> struct Logs {
  HiLo<T> l, log_slope;
};
template <Path P, class T> FM_INLINE Logs<T> to_log(T y, const Side<T>& a) {
  const HiLo<T> x = math::multiply<P>(a.mu, HiLo<T>{y, 0});
  HiLo<T> log = math::precise_log1p<P>(x).log;
  if constexpr (P == Path::exact)  // mu y overflows before its logarithm does
    log = select(x.hi > Float<T>::large, math::add<P>(math::precise_log<P>(abs(y)), a.log_mu), log);
  const bool curved = abs(x.hi) >= kSmall<T>;
  return {select(curved, math::multiply<P>(a.inverse_mu, log), HiLo<T>{y, 0}),
          select(curved, math::multiply<P>(a.ratio, log),
                 math::multiply<P>(negate(a.mu_minus_1), HiLo<T>{y, 0}))};
}
// d/dy of log_slope: (1 - mu) / (1 + mu y)
template <Path P, class T> FM_INLINE T log_slope_grad(T y, const Side<T>& a) {
  const HiLo<T> x = math::multiply<P>(a.mu, HiLo<T>{y, 0});
  const T v = -a.mu_minus_1.hi / math::precise_log1p<P>(x).one_plus.hi;
  if constexpr (P == Path::exact) return select(x.hi > Float<T>::large, a.ratio.hi / y, v);
  return v;
}

}  // namespace powertransform
}  // namespace fastmap::FM_ISA
