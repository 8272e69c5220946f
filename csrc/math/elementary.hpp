// Elementary functions, branch-free, in float and double from one text, built on ops.hpp alone.
//
// Conventions: a value that a composition needs to more than working precision is a HiLo. On
// Path::fast the argument must be ordinary (stated at each function); Path::exact takes anything.
// Polynomials: Sollya `fpminimax`, relative error, coefficients in the working format; the stated
// errors are of the polynomial alone. Range reduction: Cody and Waite, "Software Manual for the
// Elementary Functions" (1980); log in double: the argument s = f/(2+f) as in fdlibm's e_log.c.
#pragma once

#include "math/algebra.hpp"

namespace fastmap::FM_ISA::math {

template <class T> struct Constants;
template <> struct Constants<float> {
  // n * ln2_hi is exact for |n| < 2^8.
  static constexpr float ln2_hi = 0x1.62e4p-1f, ln2_lo = 0x1.7f7d1cp-20f, log2e = 0x1.715476p0f;
  static constexpr float ln2 = 0x1.62e43p-1f, ln2_rest = -0x1.05c61p-29f;  // ln 2 as a HiLo
  static constexpr float sqrt_half = 0x1.6a09e6p-1f;
  // e^x is finite, normal and needs one scaling inside [exp_low, exp_high]; beyond +-exp_range it
  // is infinite or rounds to zero.
  static constexpr float exp_low = -87, exp_high = 88, exp_range = 110;
  static constexpr float large_exponent = 30;  // e^x + 1 == e^x from here on, and e^(-2x) == 0
};
template <> struct Constants<double> {
  static constexpr double ln2_hi = 0x1.62e42fefa38p-1, ln2_lo = 0x1.ef35793c7673p-45,
                          log2e = 0x1.71547652b82fep0;  // n * ln2_hi is exact for |n| < 2^11
  static constexpr double ln2 = 0x1.62e42fefa39efp-1, ln2_rest = 0x1.abc9e3b39803fp-56;
  static constexpr double sqrt_half = 0x1.6a09e667f3bcdp-1;
  static constexpr double exp_low = -708, exp_high = 709, exp_range = 760;
  static constexpr double large_exponent = 60;
};

template <class T> FM_INLINE HiLo<T> ln2() { return {Constants<T>::ln2, Constants<T>::ln2_rest}; }

// (e^r - 1 - r) / r^2 on |r| <= 0.347; relative error of e^r 2^-31.8 and 2^-65.9.
FM_INLINE float exp_tail(float r) {
  return polynomial(r, 0x1p-1f, 0x1.555556p-3f, 0x1.5555p-5f, 0x1.110feep-7f, 0x1.6d3092p-10f,
                    0x1.a270ccp-13f);
}
FM_INLINE double exp_tail(double r) {
  return polynomial(r, 0x1p-1, 0x1.5555555555555p-3, 0x1.5555555555556p-5, 0x1.111111111137ap-7,
                    0x1.6c16c16c15ff2p-10, 0x1.a01a019ead3bap-13, 0x1.a01a01a81eb5ap-16,
                    0x1.71de403de1d76p-19, 0x1.27e4d801ee937p-22, 0x1.ae4e01fd94b36p-26,
                    0x1.1f7912b86a036p-29, 0x1.80d56e51d7b24p-33);
}

// log(1 + f) - f on [sqrt(1/2) - 1, sqrt(2) - 1].
FM_INLINE float log_tail(float f) {  // error 2^-28.1 of the logarithm
  const float q = polynomial(f, 0x1.555554p-2f, -0x1.fffff8p-3f, 0x1.999d46p-3f, -0x1.555c92p-3f,
                             0x1.23d504p-3f, -0x1.fcbdfep-4f, 0x1.de36f2p-4f, -0x1.d78ad8p-4f,
                             0x1.205246p-4f);
  const float square = f * f;
  return fma(f * square, q, -0.5f * square);
}
FM_INLINE double log_tail(double f) {  // error 2^-64.1 of the part in s
  const double s = f / (2 + f), w = s * s, half_square = 0.5 * f * f;
  const double r = w * polynomial(w, 0x1.5555555555555p-1, 0x1.9999999999d59p-2, 0x1.249249242ee1bp-2,
                                  0x1.c71c725c5ee56p-3, 0x1.745cdb7521fa2p-3, 0x1.3b215933c2fbfp-3,
                                  0x1.0f4a1544c36d8p-3, 0x1.1023b86d5b2fdp-3);
  return s * (half_square + r) - half_square;
}

// x = 2^k m for positive x, m in [c, 2 c): k is read as a number through the bits of 2^mantissa_bits.
// Fast: x normal and finite.
template <class T> struct Scaled {
  T k, m;
};
template <Path P, class T> FM_INLINE Scaled<T> scaled(T x, T c) {
  using F = Float<T>;
  constexpr int lift = F::mantissa_bits + 2;  // brings every subnormal into the normal range
  T normal = x, lifted = 0;
  if constexpr (P == Path::exact) {
    const bool tiny = x < F::min_normal;
    normal = select(tiny, x * T(BitsOf<T>(1) << lift), x);
    lifted = select(tiny, T(lift), T(0));
  }
  const BitsOf<T> u = bits(normal) - bits(c) + (F::bias << F::mantissa_bits);
  const T two_m = T(BitsOf<T>(1) << F::mantissa_bits);
  const T k = (from_bits(bits(two_m) | (u >> F::mantissa_bits)) - (two_m + T(F::bias))) - lifted;
  return {k, from_bits((u & ((BitsOf<T>(1) << F::mantissa_bits) - 1)) + bits(c))};
}

// The logarithm's value where x is not positive and finite.
template <Path P, class T> FM_INLINE HiLo<T> log_or_limit(HiLo<T> r, T x) {
  if constexpr (P == Path::fast) return r;
  const bool ordinary = (x > 0) & (x <= Float<T>::max);
  const T special = select(x == 0, -Float<T>::inf, select(x > 0, x, nan<T>()));
  return {select(ordinary, r.hi, special), select(ordinary, r.lo, T(0))};
}

// log x to about 1.3 times the working precision. Fast: x positive, normal, finite.
template <Path P, class T> FM_INLINE HiLo<T> log_parts(T x) {
  using C = Constants<T>;
  const Scaled<T> y = scaled<P>(x, C::sqrt_half);
  const T f = y.m - 1;
  const HiLo<T> head = fast_two_sum(y.k * C::ln2_hi, f);  // k ln2_hi is exact and 0 or > |f|
  return log_or_limit<P>(HiLo<T>{head.hi, head.lo + fma(y.k, C::ln2_lo, log_tail(f))}, x);
}

// log(x.hi + x.lo) = log x.hi + x.lo / x.hi: |x.lo| <= ulp(x.hi) makes the next term negligible, and
// next to x.hi == 1 the small x.lo is the result itself, so that a root of a map keeps its digits.
template <Path P, class T> FM_INLINE HiLo<T> log_parts(HiLo<T> x) {
  HiLo<T> r = log_parts<P>(x.hi);
  T rest = quotient(x.lo, x.hi);
  // Outside it is far below a rounding of the logarithm, and may not be finite.
  if constexpr (P == Path::exact)
    rest = select((x.hi >= Float<T>::min_normal) & (x.hi <= 1 / Float<T>::min_normal), rest, T(0));
  return {r.hi, r.lo + rest};
}

template <Path P, class T> FM_INLINE T log(T x) {
  const HiLo<T> r = log_parts<P>(x);
  return r.hi + r.lo;
}
template <Path P, class T> FM_INLINE T log(HiLo<T> x) {
  const HiLo<T> r = log_parts<P>(x);
  return r.hi + r.lo;
}

// log(a / b). Fast: a.hi and b.hi inside (small, large). Exact: each is brought near 1 by a power of
// two first, since the quotient may over- or underflow although its logarithm does not.
template <Path P, class T> FM_INLINE HiLo<T> log_ratio_parts(HiLo<T> a, HiLo<T> b) {
  if constexpr (P == Path::fast) return log_parts<P>(divide(a, b));
  using F = Float<T>;
  constexpr T up = F::large, down = F::small;  // up * down == 1
  const bool a_big = a.hi > up, a_small = a.hi < down;
  const bool b_big = b.hi > up, b_small = b.hi < down;
  const T fa = select(a_big, down, select(a_small, up, T(1)));
  const T fb = select(b_big, down, select(b_small, up, T(1)));
  // Twice: the smallest subnormal needs it.
  const T ga = select(a.hi * fa < down, up, select(a.hi * fa > up, down, T(1)));
  const T gb = select(b.hi * fb < down, up, select(b.hi * fb > up, down, T(1)));
  const HiLo<T> q = divide(HiLo<T>{a.hi * fa * ga, a.lo * fa * ga}, HiLo<T>{b.hi * fb * gb, b.lo * fb * gb});
  const HiLo<T> r = log_parts<P>(q);
  constexpr T e = T(sizeof(T) == 4 ? 60 : 500);  // log2(large)
  const T steps = select(fa == up, T(-1), select(fa == down, T(1), T(0))) +
                  select(ga == up, T(-1), select(ga == down, T(1), T(0))) -
                  select(fb == up, T(-1), select(fb == down, T(1), T(0))) -
                  select(gb == up, T(-1), select(gb == down, T(1), T(0)));
  const T k = steps * e;
  const HiLo<T> head = two_sum(k * Constants<T>::ln2_hi, r.hi);
  const bool ordinary = is_finite(r.hi) & (k != 0);
  return {select(ordinary, head.hi, r.hi),
          select(ordinary, head.lo + fma(k, Constants<T>::ln2_lo, r.lo), r.lo)};
}
template <Path P, class T> FM_INLINE T log_ratio(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> r = log_ratio_parts<P>(a, b);
  return r.hi + r.lo;
}

// e^(x.hi + x.lo) = 2^n (1 + r + s), |s| <= r^2.
template <class T> struct ExpParts {
  T n, r, s;
};
// |x.hi| <= exp_range.
template <class T> FM_INLINE ExpParts<T> exp_parts(HiLo<T> x) {
  using C = Constants<T>;
  const T n = fma(x.hi, C::log2e, magic<T>()) - magic<T>();
  const T head = fma(-n, C::ln2_hi, x.hi);  // exact
  const T r = fma(-n, C::ln2_lo, head);
  const T rest = fma(-n, C::ln2_lo, head - r) + x.lo;  // what rounding r lost
  const T tail = r * r * exp_tail(r);
  return {n, r, tail + fma(rest, r + tail, rest)};  // e^(r + rest) = e^r (1 + rest)
}

template <class T> FM_INLINE HiLo<T> clamp_exponent(HiLo<T> x, T limit = Constants<T>::exp_range) {
  const bool inside = abs(x.hi) <= limit;
  return {max(min(x.hi, limit), -limit), select(inside, x.lo, T(0))};
}

// 1 + r + s, not normalised.
template <class T> FM_INLINE HiLo<T> mantissa_parts(const ExpParts<T>& e) {
  const HiLo<T> one_r = fast_two_sum(T(1), e.r);
  return {one_r.hi, one_r.lo + e.s};
}
template <class T> FM_INLINE T mantissa(const ExpParts<T>& e) {
  const HiLo<T> m = mantissa_parts(e);
  return m.hi + m.lo;
}
template <Path P, class T> FM_INLINE T exp_of(const ExpParts<T>& e) {
  return scale_by_pow2<P>(mantissa(e), e.n);
}
// e^x - 1, normalised; where it is -1 to working precision lo holds e^x itself. Fast: 2^n is normal.
template <Path P, class T> FM_INLINE HiLo<T> expm1_of(const ExpParts<T>& e) {
  T power;
  if constexpr (P == Path::exact)
    power = scale_by_pow2<P>(T(1), e.n);
  else
    power = pow2(e.n);
  const HiLo<T> a = two_sum(power, T(-1));
  const HiLo<T> b = fast_two_sum(a.hi, power * e.r);  // a.hi is 0 or at least as large
  return fast_two_sum(b.hi, (a.lo + b.lo) + power * e.s);
}

// Fast: exp_low <= x.hi <= exp_high.
template <Path P, class T> FM_INLINE T exp(HiLo<T> x) {
  if constexpr (P == Path::exact) x = clamp_exponent(x);
  return exp_of<P>(exp_parts(x));
}
// The same to about 1.1 times the working precision, normalised.
template <Path P, class T> FM_INLINE HiLo<T> exp_parts_of(HiLo<T> x) {
  if constexpr (P == Path::exact) x = clamp_exponent(x);
  const ExpParts<T> e = exp_parts(x);
  const HiLo<T> v = normalise(mantissa_parts(e));
  return {scale_by_pow2<P>(v.hi, e.n), scale_by_pow2<P>(v.lo, e.n)};
}
// One rounding of r and one of the sum are left in: within 1 ULP, at half the cost of the HiLo form.
template <Path P, class T> FM_INLINE T exp(T x) {
  using C = Constants<T>;
  T y = x;
  if constexpr (P == Path::exact) y = max(min(x, C::exp_range), -C::exp_range);
  const T shifted = fma(y, C::log2e, magic<T>()), n = shifted - magic<T>();
  const T r = fma(-n, C::ln2_lo, fma(-n, C::ln2_hi, y));
  const T v = 1 + fma(r * r, exp_tail(r), r);
  // v is in [0.7, 1.42]: a normal result is reached by adding n to its exponent.
  if constexpr (P == Path::fast) return from_bits(bits(v) + (bits(shifted) << Float<T>::mantissa_bits));
  return scale_by_pow2<P>(v, n);
}

// c e^x, finite and not 0 wherever the product is, although e^x may be neither.
template <Path P, class T> FM_INLINE T scaled_exp(T c, HiLo<T> x) {
  if constexpr (P == Path::fast) return c * exp<P>(x);
  const ExpParts<T> e = exp_parts(clamp_exponent<T>(x, 2 * Constants<T>::exp_range));
  const T v = mantissa(e), size = abs(c);
  // The same order as on the fast path wherever that one is right; else with c = m 2^k one product and one power
  // of two, of an exponent that scale_by_pow2 takes.
  const bool plain = (x.hi >= Constants<T>::exp_low) & (x.hi <= Constants<T>::exp_high);
  constexpr T most = T(2 * (Float<T>::bias - 1));
  const Scaled<T> d = scaled<P>(size, T(1));
  const T direct = c * scale_by_pow2<P>(v, max(min(e.n, most), -most));
  const T staged = scale_by_pow2<P>(d.m * v, max(min(e.n + d.k, most), -most));
  return select(plain | !((size > 0) & (size <= Float<T>::max)), direct, copysign(staged, c));
}

// e^x - 1 to about 1.1 times the working precision, as expm1_of. Fast: exp_low <= x.hi <= exp_high - 1.
template <Path P, class T> FM_INLINE HiLo<T> expm1_parts(HiLo<T> x) {
  if constexpr (P == Path::exact) x = clamp_exponent(x);
  HiLo<T> v = expm1_of<P>(exp_parts(x));
  if constexpr (P == Path::exact) {
    // Beyond the fast range `power` or its products overflow before the result does.
    const bool large = x.hi > Constants<T>::exp_high - 1;
    v = select(large, HiLo<T>{exp<P>(x), 0}, v);
    const bool zero = (x.hi == 0) & (x.lo == 0);  // keeps the sign of zero
    v = {select(zero, x.hi, v.hi), select(zero, T(0), v.lo)};
  }
  return v;
}
template <Path P, class T> FM_INLINE T expm1(HiLo<T> x) {
  const HiLo<T> r = expm1_parts<P>(x);
  return r.hi;
}
template <Path P, class T> FM_INLINE T expm1(T x) { return expm1<P>(HiLo<T>{x, 0}); }

// log(1 + x), x.hi > -1.
template <Path P, class T> FM_INLINE T log1p(T x) {
  if constexpr (P == Path::fast) return log<P>(two_sum(T(1), x));
  const T r = log<P>(two_sum(T(1), x));
  return select(x == 0, x, select(x == Float<T>::inf, x, r));
}

// log(1 + e^x). Not max(x, 0) + log1p(e^-|x|): there two roundings work against each other, and neighbours
// may go the wrong way. Here e^x grows with x, 1 + e^x is exact, and the logarithm tells its neighbours apart.
// Fast: |x| <= -exp_low - 2.
template <Path P, class T> FM_INLINE T softplus(HiLo<T> x) {
  const T r = log<P>(two_sum(T(1), exp<P>(x)));
  if constexpr (P == Path::exact)
    return select(x.hi <= -Constants<T>::exp_low - 2, r, x.hi);  // e^x overflows
  return r;
}
template <Path P, class T> FM_INLINE T softplus(T x) {
  const T r = log<P>(two_sum(T(1), exp<P>(x)));
  if constexpr (P == Path::exact) return select(x <= -Constants<T>::exp_low - 2, r, x);
  return r;
}

// log(e^x - 1), the inverse of softplus, x > 0. Three forms that share one exponential and one
// logarithm, since each of the usual ones loses all digits somewhere:
//   x <= 1/4:        log(expm1 x)
//   1/4 < x <= 5/4:  log1p(2 expm1(x - ln 2)), which keeps the root at ln 2
//   else:            x + log(1 - e^-x).
// Fast: small < x.hi <= -exp_low.
template <Path P, class T> FM_INLINE HiLo<T> log_expm1_parts(HiLo<T> x) {
  const bool low = x.hi <= T(0.25), high = x.hi > T(1.25);
  const HiLo<T> shifted = two_sum(x.hi, -Constants<T>::ln2);
  const HiLo<T> middle_argument{shifted.hi, shifted.lo + (x.lo - Constants<T>::ln2_rest)};
  const HiLo<T> e = expm1_parts<P>(select(low, x, select(high, negate(x), middle_argument)));
  const HiLo<T> one_plus = two_sum(T(1), 2 * e.hi);
  const HiLo<T> middle{one_plus.hi, one_plus.lo + 2 * e.lo};
  const HiLo<T> r = log_parts<P>(select(low, e, select(high, negate(e), middle)));
  const HiLo<T> sum = fast_two_sum(x.hi, r.hi);
  HiLo<T> v = select(high, HiLo<T>{sum.hi, sum.lo + (x.lo + r.lo)}, r);
  if constexpr (P == Path::exact) v = select(x.hi == Float<T>::inf, x, v);
  return v;
}

// log(a + sqrt(a^2 + 1)) for a = x.hi + x.lo, odd. The sum is kept as a HiLo around 1, so that small
// arguments need no branch; asinh(x + d) = asinh x + d / sqrt(x^2 + 1) brings in x.lo.
// Fast: |x.hi| <= large.
template <Path P, class T> FM_INLINE HiLo<T> asinh_parts(HiLo<T> x) {
  const T a = abs(x.hi), a_lo = select(is_negative(x.hi), -x.lo, x.lo);
  T b = a;
  bool big = false;
  if constexpr (P == Path::exact) {
    big = a > Float<T>::large;
    b = select(big, T(1), a);
  }
  const HiLo<T> square = two_product(b, b);
  const HiLo<T> sum = two_sum(square.hi, T(1));
  const HiLo<T> root = sqrt_parts(HiLo<T>{sum.hi, sum.lo + square.lo}), u = two_sum(root.hi, b);
  HiLo<T> r = log_parts<P>(HiLo<T>{u.hi, u.lo + root.lo});
  r.lo = fma(a_lo, reciprocal(root.hi), r.lo);
  if constexpr (P == Path::exact) {  // asinh a = log a + ln 2 for large a
    const HiLo<T> l = log_parts<P>(HiLo<T>{a, a_lo});
    const HiLo<T> s = fast_two_sum(l.hi, Constants<T>::ln2);
    r = select(big, HiLo<T>{s.hi, s.lo + (l.lo + Constants<T>::ln2_rest)}, r);
    r = select(a <= Float<T>::max, r, HiLo<T>{a, 0});
  }
  return {copysign(r.hi, x.hi), select(is_negative(x.hi), -r.lo, r.lo)};
}

// 2 sinh x = E + E / (1 + E), E = expm1(x), for a HiLo x of at most moderate size.
template <Path P, class T> FM_INLINE HiLo<T> twice_sinh_parts(HiLo<T> x) {
  const HiLo<T> e = expm1_parts<P>(x), one_e = two_sum(T(1), e.hi);
  const HiLo<T> q = divide_by_reciprocal(e, HiLo<T>{one_e.hi, one_e.lo + e.lo}), s = two_sum(e.hi, q.hi);
  return {s.hi, s.lo + (e.lo + q.lo)};
}
// (sinh x - x) / x^3 as a polynomial in x^2, |x| <= 1; relative error of sinh x 2^-30.2 and 2^-60.9.
FM_INLINE float sinh_tail(float square) {
  return polynomial(square, 0x1.555556p-3f, 0x1.1110c6p-7f, 0x1.a03554p-13f, 0x1.725236p-19f);
}
FM_INLINE double sinh_tail(double square) {
  return polynomial(square, 0x1.5555555555555p-3, 0x1.1111111111211p-7, 0x1.a01a019fe207p-13,
                    0x1.71de3aad62876p-19, 0x1.ae63c3e6cf6b3p-26, 0x1.61aef9a6a3dbp-33, 0x1.193e71690d674p-41,
                    0x1.5b797d93f409bp-43, -0x1.40ff50b461a8ep-45);
}

// c sinh x, odd: where e^x and e^-x would cancel a polynomial, else their difference.
// Fast: |x| <= large_exponent.
template <Path P, class T> FM_INLINE T scaled_sinh(T c, T x) {
  const T a = abs(x), half_c = T(0.5) * c;
  T b = a;
  if constexpr (P == Path::exact) b = min(a, Constants<T>::large_exponent);
  const bool near = b < 1;
  const T s = select(near, b, T(1)), square = s * s, cs = c * s;
  const T polynomial = fma(cs * square, sinh_tail(square), cs);
  const T e = exp<P>(HiLo<T>{b, 0});
  const HiLo<T> d = fast_two_sum(e, -1 / e);
  T r = select(near, polynomial, fma(half_c, d.hi, half_c * d.lo));
  if constexpr (P == Path::exact)
    r = select(a > Constants<T>::large_exponent, scaled_exp<P>(half_c, HiLo<T>{a, 0}), r);
  return copysign(r, x);
}

// c cosh x = c/2 (e^x + e^-x). Fast: |x| <= large_exponent.
template <Path P, class T> FM_INLINE T scaled_cosh(T c, T x) {
  const T a = abs(x);
  T b = a;
  if constexpr (P == Path::exact) b = min(a, Constants<T>::large_exponent);
  const T e = exp<P>(b);
  T r = c * (T(0.5) * (e + 1 / e));
  if constexpr (P == Path::exact)
    r = select(a > Constants<T>::large_exponent, scaled_exp<P>(T(0.5) * c, HiLo<T>{a, 0}), r);
  return r;
}

// tanh |x| and e^(-2|x|), from one exponential. Fast: |x| <= -exp_low / 2.
template <class T> struct TanhParts {
  T tanh, decay;
};
template <Path P, class T> FM_INLINE T tanh(T x) {
  const HiLo<T> e = expm1_parts<P>(HiLo<T>{-2 * abs(x), 0}), d = fast_two_sum(T(2), e.hi);
  const HiLo<T> q = divide_by_reciprocal(negate(e), HiLo<T>{d.hi, d.lo + e.lo});
  return copysign(q.hi + q.lo, x);
}
template <Path P, class T> FM_INLINE TanhParts<T> tanh_parts(T x) {
  const T a = -2 * abs(x);
  const HiLo<T> e = expm1_parts<P>(HiLo<T>{a, 0});
  return {(-e.hi - e.lo) / (2 + e.hi), (1 + e.hi) + e.lo};
}

// log(sech^2 x) = -2 log cosh x. Below |x| = 1/2, where it is small, -log(1 + sinh^2 x) with
// sinh^2 x = e^2 / (4 (1 + e)), e = expm1(-2|x|); else 2 (ln 2 - |x|) - 2 log1p(e^(-2|x|)).
// Fast: |x| <= -exp_low / 2; exact: |x| <= large.
template <Path P, class T> FM_INLINE HiLo<T> log_sech2_parts(T x) {
  const T a = abs(x);
  const bool near = a < T(0.5);
  const HiLo<T> e = expm1_parts<P>(HiLo<T>{-2 * a, 0});
  const HiLo<T> one_e = two_sum(T(1), e.hi), decay{one_e.hi, one_e.lo + e.lo};
  HiLo<T> square = two_product(e.hi, e.hi);
  square.lo = fma(2 * e.hi, e.lo, square.lo);
  const HiLo<T> sinh2 = divide(square, HiLo<T>{4 * decay.hi, 4 * decay.lo});
  const HiLo<T> one_sinh2 = two_sum(T(1), sinh2.hi), one_decay = two_sum(T(1), decay.hi);
  const HiLo<T> r = log_parts<P>(select(near, HiLo<T>{one_sinh2.hi, one_sinh2.lo + sinh2.lo},
                                        HiLo<T>{one_decay.hi, one_decay.lo + decay.lo}));
  const HiLo<T> d = two_sum(Constants<T>::ln2, -a);
  const HiLo<T> s = two_sum(d.hi, -r.hi);
  const HiLo<T> far{2 * s.hi, 2 * (s.lo + (d.lo + (Constants<T>::ln2_rest - r.lo)))};
  return select(near, negate(r), far);
}

// Constants of log(c sech^2 x), which for c > 1 has the roots +-root, cosh(root) = sqrt(c).
template <class T> struct LogSech2 {
  HiLo<T> log_c;
  bool has_root;  // c > 1
  HiLo<T> root;
  HiLo<T> weight;  // 1 / (2 cosh root), times a power of two that brings it near 1: its lo would be subnormal
  T unit;          // and one over that power
};

// log(c sech^2 x). Next to a root it is -2 log(cosh x / cosh root) with
// cosh x - cosh root = 2 sinh((|x| + root)/2) sinh((|x| - root)/2), which keeps the digits.
template <Path P, bool has_root, class T> FM_INLINE T log_c_sech2(T x, const LogSech2<T>& a) {
  const HiLo<T> r = log_sech2_parts<P>(x), s = two_sum(a.log_c.hi, r.hi);
  T v = s.hi + (s.lo + (a.log_c.lo + r.lo));
  if constexpr (has_root) {
    const HiLo<T> difference = two_sum(abs(x), -a.root.hi), e = two_sum(abs(x), a.root.hi);
    const HiLo<T> d = fast_two_sum(difference.hi, difference.lo - a.root.lo);  // hi may be 0
    const bool near = abs(d.hi) < T(0.25);
    const HiLo<T> half_d{T(0.5) * select(near, d.hi, T(0)), T(0.5) * select(near, d.lo, T(0))};
    const HiLo<T> half_e{T(0.5) * select(near, e.hi, T(0)), T(0.5) * select(near, e.lo + a.root.lo, T(0))};
    const HiLo<T> p = twice_sinh_parts<P>(half_d), unscaled = twice_sinh_parts<P>(half_e);
    const HiLo<T> q{unscaled.hi * a.unit, unscaled.lo * a.unit};
    HiLo<T> pq = two_product(p.hi, q.hi);
    pq.lo = pq.lo + fma(p.hi, q.lo, p.lo * q.hi);
    HiLo<T> u = two_product(pq.hi, a.weight.hi);
    u.lo = u.lo + fma(pq.hi, a.weight.lo, pq.lo * a.weight.hi);
    const HiLo<T> one_u = two_sum(T(1), u.hi);
    const HiLo<T> l = log_parts<P>(HiLo<T>{one_u.hi, one_u.lo + u.lo});
    v = select(near, -2 * (l.hi + l.lo), v);
  }
  if constexpr (P == Path::exact) return select(abs(x) <= Float<T>::large, v, -2 * abs(x));
  return v;
}

// sigmoid(-|x|) = e / (1 + e), e = exp(-|x|), with one step of correction for the rounding of 1 + e.
template <Path P, class T> FM_INLINE T small_sigmoid(T x) {
  const T e = exp<P>(HiLo<T>{-abs(x), 0});
  const HiLo<T> d = fast_two_sum(T(1), e);
  const T reciprocal = 1 / d.hi, q = e * reciprocal;
  return fma(fma(-q, d.lo, fma(-q, d.hi, e)), reciprocal, q);
}
// sigmoid(x) = 1 / (1 + e^-x), with one step of correction for the rounding of 1 + e^-x.
// Fast: |x| <= -exp_low - 2.
template <Path P, class T> FM_INLINE T sigmoid(T x) {
  const T e = exp<P>(-x);
  const HiLo<T> d = two_sum(T(1), e);
  const T reciprocal = 1 / d.hi;
  const T v = fma(fma(-d.lo, reciprocal, fma(-d.hi, reciprocal, T(1))), reciprocal, reciprocal);
  if constexpr (P == Path::exact) return select(x < Constants<T>::exp_low + 2, exp<P>(x), v);
  return v;
}
template <Path P, class T> FM_INLINE T sigmoid(HiLo<T> x) {
  const bool positive = x.hi > 0;
  const T e = exp<P>(HiLo<T>{select(positive, -x.hi, x.hi), select(positive, -x.lo, x.lo)});
  return select(positive, T(1), e) / (1 + e);
}

}  // namespace fastmap::FM_ISA::math
