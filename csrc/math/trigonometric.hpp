// sin and tan on [0, pi/4], asin on [0, 1/2] and atan on [-1, 1] of a HiLo: the maps bring their arguments
// there from exact distances, so that no reduction by pi is needed. Conventions as in elementary.hpp.
#pragma once

#include "math/elementary.hpp"

namespace fastmap::FM_ISA::math {

template <class T> FM_INLINE HiLo<T> half_pi();
template <> FM_INLINE HiLo<float> half_pi() { return {0x1.921fb6p0f, -0x1.777a5cp-25f}; }
template <> FM_INLINE HiLo<double> half_pi() { return {0x1.921fb54442d18p0, 0x1.1a62633145c07p-54}; }

// |a| >= |b|
template <class T> FM_INLINE HiLo<T> fast_add(HiLo<T> a, HiLo<T> b) {
  const HiLo<T> s = fast_two_sum(a.hi, b.hi);
  return {s.hi, s.lo + (a.lo + b.lo)};
}

// (tan x - x) / x^3 as a polynomial in x^2, |x| <= 0.3935; relative error of tan x 2^-34.7 and 2^-64.4.
FM_INLINE float tan_tail(float square) {
  return polynomial(square, 0x1.555556p-2f, 0x1.11109ap-3f, 0x1.ba51e8p-5f, 0x1.60ef1cp-6f, 0x1.5f313p-7f);
}
FM_INLINE double tan_tail(double square) {
  return polynomial(square, 0x1.5555555555555p-2, 0x1.1111111111224p-3, 0x1.ba1ba1b9fac0cp-5,
                    0x1.664f489182ab1p-6, 0x1.226e31a9a16b3p-7, 0x1.d6d4f2f6b753p-9, 0x1.7d8762dadd8f2p-10,
                    0x1.370e349c11d91p-11, 0x1.d4dcc2e4ed876p-13, 0x1.1ffe25c25ed9bp-13);
}
// (sin x - x) / x^3, |x| <= 0.786; relative error of sin x 2^-32.2 and 2^-63.2.
FM_INLINE float sin_tail(float square) {
  return polynomial(square, -0x1.555556p-3f, 0x1.111164p-7f, -0x1.a0485ep-13f, 0x1.77de1p-19f);
}
FM_INLINE double sin_tail(double square) {
  return polynomial(square, -0x1.5555555555555p-3, 0x1.1111111111067p-7, -0x1.a01a019ffad09p-13,
                    0x1.71de3a27ec7d6p-19, -0x1.ae640d5db55f7p-26, 0x1.60e27998ca367p-33,
                    -0x1.700ce990b9873p-41, -0x1.6a40eb27bc4c5p-45);
}
// What follows x - x^3/6 + x^5/120 - x^7/5040, over x^9; relative error of sin x 2^-53.2 and 2^-77.4.
FM_INLINE float sin_rest(float square) {
  return polynomial(square, 0x1.71de3ap-19f, -0x1.ae62b8p-26f, 0x1.5f0454p-33f);
}
FM_INLINE double sin_rest(double square) {
  return polynomial(square, 0x1.71de3a556c61fp-19, -0x1.ae64567ee84edp-26, 0x1.61246036f7b05p-33,
                    -0x1.ae7ce27d31877p-41, 0x1.92807c9cfafc3p-49);
}
// 1/6, 1/120, 1/5040
template <class T> struct SinCoefficients;
template <> struct SinCoefficients<float> {
  static constexpr HiLo<float> c3{0x1.555556p-3f, -0x1.555556p-28f}, c5{0x1.111112p-7f, -0x1.dddddep-32f},
      c7{0x1.a01a02p-13f, -0x1.7f97fap-39f};
};
template <> struct SinCoefficients<double> {
  static constexpr HiLo<double> c3{0x1.5555555555555p-3, 0x1.5555555555555p-57},
      c5{0x1.1111111111111p-7, 0x1.1111111111111p-63}, c7{0x1.a01a01a01a01ap-13, 0x1.a01a01a01a01ap-73};
};
// (asin x - x) / x^3, |x| <= 1/2; relative error of asin x 2^-31.7 and 2^-63.8.
FM_INLINE float asin_tail(float square) {
  return polynomial(square, 0x1.55554cp-3f, 0x1.3338ap-4f, 0x1.6caa42p-5f, 0x1.04b3c8p-5f, 0x1.d74498p-7f,
                    0x1.33f1bep-5f);
}
FM_INLINE double asin_tail(double square) {
  return polynomial(square, 0x1.5555555555553p-3, 0x1.33333333339e9p-4, 0x1.6db6db6d4c35ep-5,
                    0x1.f1c71ca6f3dcep-6, 0x1.6e8b9b1611699p-6, 0x1.1c4f82d0e79b4p-6, 0x1.c981251a048cp-7,
                    0x1.7ba1cd802059dp-7, 0x1.36d24f209c0bbp-7, 0x1.47c49c0fd770ep-7, 0x1.71045b9ffa217p-11,
                    0x1.960b97c1171a4p-6, -0x1.ab990ea2fc753p-6, 0x1.13641bac2d453p-5);
}
// (atan x - x) / x^3, |x| <= 0.4145; relative error of atan x 2^-33.6 and 2^-63.7.
FM_INLINE float atan_tail(float square) {
  return polynomial(square, -0x1.555554p-2f, 0x1.9998b2p-3f, -0x1.247588p-3f, 0x1.c39ec6p-4f, -0x1.5764b6p-4f,
                    0x1.767d52p-5f);
}
FM_INLINE double atan_tail(double square) {
  return polynomial(square, -0x1.5555555555554p-2, 0x1.99999999995bcp-3, -0x1.2492492471f6dp-3,
                    0x1.c71c71b5e2c8dp-4, -0x1.745d148e0898ap-4, 0x1.3b136ac514f11p-4, -0x1.110c45894c48cp-4,
                    0x1.e16ed7a6630aep-5, -0x1.ab6ac381c344p-5, 0x1.70a66bbccedfp-5, -0x1.119d316a94682p-5,
                    0x1.ef98debebb6a8p-7);
}

// sin and asin to about 1.1 times the working precision: the part beyond x is not rounded into the sum, and
// x.lo is multiplied by (about) the derivative.
template <class T> FM_INLINE HiLo<T> sin_parts(HiLo<T> x) {
  const T square = x.hi * x.hi, tail = x.hi * square * sin_tail(square);
  return fast_two_sum(x.hi, fma(x.lo, fma(T(-0.5), square, T(1)), tail));
}
// The square is taken apart, since it is at hand where x is a square root.
template <class T> FM_INLINE HiLo<T> asin_parts(HiLo<T> x, T square) {
  const T tail = x.hi * square * asin_tail(square);
  return fast_two_sum(x.hi, fma(x.lo, fma(T(0.6), square, T(1)), tail));
}
// tan x, or its reciprocal, as 2 t / (1 - t^2) with t = tan(x/2): near pi/4 what a polynomial for tan x adds
// to x is so large that its rounding errors count.
template <class T> FM_INLINE T tan(HiLo<T> x, bool reciprocal) {
  const T h = T(0.5) * x.hi, square = h * h, tail = x.hi * square * tan_tail(square);
  const HiLo<T> twice = fast_two_sum(x.hi, fma(x.lo, 1 + square, tail)), four_t2 = multiply(twice, twice);
  const HiLo<T> u = fast_two_sum(T(1), T(-0.25) * four_t2.hi), rest{u.hi, fma(T(-0.25), four_t2.lo, u.lo)};
  const HiLo<T> q = divide(select(reciprocal, rest, twice), select(reciprocal, twice, rest));
  return q.hi + q.lo;
}
// atan(n / d), |n| <= d, as pi/4 + atan((|n| - d) / (|n| + d)) beyond tan(pi/8), for the same reason.
template <class T> FM_INLINE HiLo<T> atan_parts(HiLo<T> n, HiLo<T> d) {
  const bool negative = n.hi < 0;
  const HiLo<T> a = select(negative, negate(n), n), sum = two_sum(a.hi, d.hi),
                difference = two_sum(a.hi, -d.hi);
  const bool high = a.hi > T(0.4142) * d.hi;
  const HiLo<T> x = divide(select(high, HiLo<T>{difference.hi, difference.lo + (a.lo - d.lo)}, a),
                           select(high, HiLo<T>{sum.hi, sum.lo + (a.lo + d.lo)}, d));
  const T square = x.hi * x.hi, tail = x.hi * square * atan_tail(square);
  const HiLo<T> r{x.hi, fma(x.lo, 1 - square, tail)};
  const HiLo<T> s = fast_two_sum(T(0.5) * half_pi<T>().hi, r.hi);
  const HiLo<T> v = select(high, HiLo<T>{s.hi, s.lo + (T(0.5) * half_pi<T>().lo + r.lo)}, r);
  return select(negative, negate(v), v);
}
// sin x to 2^-44 and 2^-73: the first coefficients as HiLo.
template <class T> FM_INLINE HiLo<T> accurate_sin_parts(HiLo<T> x) {
  using C = SinCoefficients<T>;
  const HiLo<T> square = multiply(x, x);
  const HiLo<T> a = fast_add(negate(C::c7), HiLo<T>{square.hi * sin_rest(square.hi), 0});
  const HiLo<T> b = fast_add(C::c5, multiply(square, a)), c = fast_add(negate(C::c3), multiply(square, b));
  return fast_add(x, multiply(x, multiply(square, c)));
}

}  // namespace fastmap::FM_ISA::math

namespace fastmap::FM_ISA::host {

// sin x for |x| <= pi/2: Taylor series.
inline HiLo<double> sin(HiLo<double> x) {
  const HiLo<double> square = multiply(x, x);
  HiLo<double> sum = x, term = x;
  for (int k = 2; k < 40; k += 2) {
    term = divide(multiply(term, square), HiLo<double>{-double(k * (k + 1)), 0});
    sum = math::fast_add(sum, term);
    sum = fast_two_sum(sum.hi, sum.lo);
  }
  return sum;
}

}  // namespace fastmap::FM_ISA::host
