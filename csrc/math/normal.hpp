// The distribution function of the standard normal distribution, ndtr, and its inverse ndtri.
//
// Near neighbours in theta may differ by a hundredth of an ULP of z, and z^2 / 2 turns the rounding error
// of z into |z|^2 / 2 ULP: both therefore come as a HiLo of at least four more bits. Polynomials: fitted
// on Chebyshev nodes, relative error, coefficients rounded one after another from the constant on and the
// rest fitted again.
#pragma once

#include "math/elementary.hpp"

namespace fastmap::FM_ISA::math {

// c0 + x (c1 + x rest), the last two steps of Horner's rule in HiLo. |c0| > |x (c1 + x rest)|.
template <class T> struct Series {
  HiLo<T> c0;
  T c1, x, rest;
};
template <class T> FM_INLINE Series<T> choose(bool condition, Series<T> yes, Series<T> no) {
  return {select(condition, yes.c0, no.c0), select(condition, yes.c1, no.c1), select(condition, yes.x, no.x),
          select(condition, yes.rest, no.rest)};
}
template <class T> FM_INLINE HiLo<T> sum(Series<T> a) {
  const HiLo<T> q = two_sum(a.c1, a.x * a.rest), p = two_product(a.x, q.hi), s = fast_two_sum(a.c0.hi, p.hi);
  return {s.hi, s.lo + (p.lo + fma(a.x, q.lo, a.c0.lo))};
}

// (ndtr(a) - 1/2) / a, x = a^2, a <= 1; error 2^-30.4 and 2^-61.9.
FM_INLINE Series<float> ndtr_centre(float x) {
  return {{0x1.988454p-2f, -0x1.8f6ec2p-27f},
          -0x1.105832p-4f,
          x,
          polynomial(x, 0x1.46ce48p-7f, -0x1.36fcd8p-10f, 0x1.dbf7a8p-14f, -0x1.00bd48p-17f)};
}
FM_INLINE Series<double> ndtr_centre(double x) {
  return {{0x1.9884533d43651p-2, -0x1.cd6491a79015ap-56},
          -0x1.1058377e2cedfp-4,
          x,
          polynomial(x, 0x1.46d042976901dp-7, -0x1.37403f6b934c6p-10, 0x1.e42b0d4b22733p-14,
                     -0x1.3ce8f9bb8f38cp-17, 0x1.6589f17fe3439p-21, -0x1.621cc3eacfb96p-25,
                     0x1.380aecdee9c8fp-29, -0x1.e699e2572f8e8p-34, 0x1.1ea6e9c6a91d2p-38)};
}
// (a + 4) ndtr(-a) e^(a^2 / 2), x = (a - 3) / (a + 4), for 1 <= a <= 21 and 55; error 2^-30.4 and
// 2^-58.4. The transformed argument is that of Shepherd and Laframboise, "Chebyshev approximation of
// (1+2x)exp(x^2)erfc x", Mathematics of Computation 36 (1981).
FM_INLINE Series<float> ndtr_tail(float x) {
  return {{0x1.b38188p-1f, 0x1.39056cp-26f},
          -0x1.ab883ap-1f,
          x,
          polynomial(x, 0x1.3d6d2p-1f, -0x1.53dd7p-2f, 0x1.c3167ap-4f, -0x1.f1b19cp-8f, -0x1.6ae32p-7f,
                     0x1.b991cap-9f, 0x1.1fc236p-10f, -0x1.4df6fp-11f)};
}
FM_INLINE Series<double> ndtr_tail(double x) {
  return {{0x1.b381889ebac81p-1, -0x1.98ea9a961effbp-55},
          -0x1.ab8839b8e5fa9p-1,
          x,
          polynomial(
              x, 0x1.3d6d1e88416cbp-1, -0x1.53dd8ab9d9d35p-2, 0x1.c31811e53f6fcp-4, -0x1.f1585a120af1ap-8,
              -0x1.6b8557259f16p-7, 0x1.b6966d1d0a90fp-9, 0x1.3a9d4b45fd108p-10, -0x1.4d1e19cc19354p-11,
              -0x1.9bcb926ab71dp-13, 0x1.d3850ecc7cedbp-14, 0x1.88e77bcd58b06p-15, -0x1.200e13956eaecp-16,
              -0x1.a7d8579ac0bffp-17, 0x1.5962fd5f54f3dp-20, 0x1.96a0517423224p-19, 0x1.be72b2715a318p-21,
              -0x1.46c50ee4857c5p-21, -0x1.dcb1377d54a7ap-21, 0x1.6c28f85b3deacp-21, -0x1.22931f353f8bdp-23)};
}

// z / c, x = c^2, for z = ndtri(1/2 + c), |c| <= 1/4; error 2^-30.2 and 2^-57.8.
FM_INLINE Series<float> ndtri_centre(float x) {
  return {{0x1.40d932p1f, 0x1.ae1a3p-30f},
          0x1.4ffdc6p1f,
          x,
          polynomial(x, 0x1.717d38p2f, 0x1.f32f0cp3f, 0x1.90003p5f, 0x1.5669c6p6f, 0x1.1b821cp10f)};
}
FM_INLINE Series<double> ndtri_centre(double x) {
  return {{0x1.40d931ff62706p1, -0x1.baf58b678d5bfp-53},
          0x1.4ffddeaa22e44p1,
          x,
          polynomial(x, 0x1.71713082ca13ep2, 0x1.f55d0d8549406p3, 0x1.78494869659dp5, 0x1.2ba92af713cfap7,
                     0x1.f0395e198df09p8, 0x1.a725428e9cc17p10, 0x1.68ad37edf996fp12, 0x1.6eda4b96d27b1p14,
                     0x1.7aabee08e0cabp14, 0x1.ad5e06cf4856bp19, -0x1.be39851cb146p21, 0x1.49720f84be037p24)};
}
// s + ndtri(e^(-s^2 / 2)) for 1.66 <= s <= 4 (0), 4 <= s <= 9 (1), 9 <= s <= 22 (2), 22 <= s <= 55 (3), x the
// distance from the middle; error 2^-28.8, 2^-29.1, 2^-29.4 and 2^-59.0, 2^-56.2, 2^-60.2, 2^-59.9.
template <int piece> FM_INLINE Series<float> ndtri_tail(float s) {
  if constexpr (piece == 0) {
    const float x = s - 2.8125f;
    return {
        {0x1.7b6782p-1f, 0x1.f99cep-27f},
        -0x1.3be124p-3f,
        x,
        polynomial(x, 0x1.37e1dcp-5f, -0x1.4abec6p-7f, 0x1.6e5092p-9f, -0x1.a341aep-11f, 0x1.ef4576p-13f,
                   -0x1.272a76p-14f, 0x1.499afep-16f, -0x1.b4d8a6p-18f, 0x1.b9014ap-19f, -0x1.f81f8ep-21f)};
  } else if constexpr (piece == 1) {
    const float x = s - 6.5f;
    return {
        {0x1.bfc42ep-2f, -0x1.d6f20cp-28f},
        -0x1.712856p-5f,
        x,
        polynomial(x, 0x1.5df9a6p-8f, -0x1.5eb78p-11f, 0x1.6a5e9ep-14f, -0x1.7e09f6p-17f, 0x1.9a26dep-20f,
                   -0x1.b9a4aep-23f, 0x1.c095d4p-26f, -0x1.fd4bd8p-29f, 0x1.afca34p-31f, -0x1.c5509ap-34f)};
  } else {
    const float x = s - 15.5f;
    return {{0x1.e5cdc8p-3f, 0x1.54f25ep-28f},
            -0x1.70385ap-7f,
            x,
            polynomial(x, 0x1.39522p-11f, -0x1.16e4acp-15f, 0x1.fcf17ap-20f, -0x1.d78c9cp-24f, 0x1.ba37cp-28f,
                       -0x1.a8198ap-32f, 0x1.9226ccp-36f, -0x1.43c886p-40f, 0x1.3e6618p-44f, -0x1.2cf7cp-47f,
                       0x1.1ba7b2p-51f)};
  }
}
template <int piece> FM_INLINE Series<double> ndtri_tail(double s) {
  if constexpr (piece == 0) {
    const double x = s - 2.8125;
    return {{0x1.7b678286f137fp-1, 0x1.690e0307feb01p-55},
            -0x1.3be123089994bp-3,
            x,
            polynomial(
                x, 0x1.37e1bfd9e9afp-5, -0x1.4abf653931cfep-7, 0x1.6e5fac0a0c327p-9, -0x1.a32645751382bp-11,
                0x1.ec565106f0f22p-13, -0x1.27ae7bf093ceep-14, 0x1.69f851a97a5fdp-16, -0x1.c24e26e4a0386p-18,
                0x1.1be9766f89ca1p-19, -0x1.6a17038e1c14cp-21, 0x1.d2327be986e3p-23, -0x1.2e7944d504bfbp-24,
                0x1.8b71f7a7e72d5p-26, -0x1.04eabdba1dbf9p-27, 0x1.57612372a517dp-29, -0x1.b6cbb02bcb1a3p-31,
                0x1.2d68e7381f51p-32, -0x1.f5b545b62e4cap-34, 0x1.2bfe3c8999492p-35, -0x1.2fa57f32649a6p-40,
                0x1.bb76000a26819p-40, -0x1.d3ca2f7c05d18p-39, 0x1.119e68a973837p-40)};
  } else if constexpr (piece == 1) {
    const double x = s - 6.5;
    return {{0x1.bfc42d91d73d9p-2, 0x1.80fc2dbd1ab3ep-56},
            -0x1.7128553c5209ep-5,
            x,
            polynomial(x, 0x1.5df98f388042ap-8, -0x1.5eb7dc9c550f9p-11, 0x1.6a691340927abp-14,
                       -0x1.7dff949891237p-17, 0x1.98694e2c79377p-20, -0x1.b97ca24deedbfp-23,
                       0x1.e1984d03a6607p-26, -0x1.08bf13ad3b103p-28, 0x1.25226313f58eap-31,
                       -0x1.46a7b42c70634p-34, 0x1.6e36e1e5ed266p-37, -0x1.9d39b5acc4ba8p-40,
                       0x1.d43f73d53f69cp-43, -0x1.076c1f85aec98p-45, 0x1.2d9d10e6499dfp-48,
                       -0x1.7efe0853c4358p-51, 0x1.b7698fa76717cp-54, -0x1.eb3bfebd32e18p-58,
                       0x1.2665700c3306ap-60, -0x1.62d3226fa91fbp-61, 0x1.99c6c0300f6f1p-64)};
  } else if constexpr (piece == 2) {
    const double x = s - 15.5;
    return {{0x1.e5cdc8ab81144p-3, -0x1.977e674923699p-57},
            -0x1.70385b2e577fep-7,
            x,
            polynomial(
                x, 0x1.39521ebfdd387p-11, -0x1.16e3e5ac91f4p-15, 0x1.fcf14af9db0eap-20,
                -0x1.d7d6d6af5b682p-24, 0x1.ba5e3a31a21d4p-28, -0x1.a23651065c6c1p-32, 0x1.8df1696f3d4b4p-36,
                -0x1.7c9f90b1a4314p-40, 0x1.6d9bdcaca66a1p-44, -0x1.6070bf2ca5fc1p-48, 0x1.54c88d23e1cc8p-52,
                -0x1.4a65da72f4b5ap-56, 0x1.410f227d73a8cp-60, -0x1.386b36eecbae1p-64, 0x1.30e3272ecc806p-68,
                -0x1.2ca40f765010cp-72, 0x1.25a7fa94e4456p-76, -0x1.0a660d5818aabp-80, 0x1.094963bba4696p-84,
                -0x1.7a804d2035c95p-88, 0x1.670fdeb4c24bep-92, 0x1.ed2d5597947b5p-99, -0x1.ff2f639560ecep-104,
                -0x1.9c465af635b2ep-103, 0x1.8a5524254143ep-107)};
  } else {
    const double x = s - 38.5;
    return {{0x1.e6a6dc454fc9dp-4, -0x1.ed5ddf235af58p-60},
            -0x1.3cabee364ff41p-9,
            x,
            polynomial(x, 0x1.c6227a12f18f6p-15, -0x1.51dcf2823f96cp-20, 0x1.006fbe3e9f794p-25,
                       -0x1.8a44674b9166cp-31, 0x1.31d06b61fdb42p-36, -0x1.dd962a3f127e1p-42,
                       0x1.76dce8fc61024p-47, -0x1.2777035fd568ep-52, 0x1.d35f359cc6cc1p-58,
                       -0x1.72b7b7af0b9d3p-63, 0x1.26c638f175f89p-68, -0x1.d5c611ef41af5p-74,
                       0x1.77184c98a120cp-79, -0x1.2bfc22aa878ebp-84, 0x1.df4f3b1d211p-90,
                       -0x1.7fbe374d13edap-95, 0x1.3b84856d27183p-100, -0x1.0035d251bdef5p-105,
                       0x1.582f36e9a7c9ep-111, -0x1.04b6782a27ab3p-116, 0x1.a705b4b97b997p-121,
                       -0x1.7650b8fb12816p-126, -0x1.0b9c2a8cc6be6p-132, 0x1.274a3810e3b34p-137,
                       0x1.95dd6ecce2641p-141, -0x1.5d31fe8d7409fp-146)};
  }
}
template <class T> struct Normal;
template <> struct Normal<float> {
  static constexpr float far = 20;  // 2^128 ndtr(-far) is zero
};
template <> struct Normal<double> {
  static constexpr double far = 54;
};

// value 2^n: the factor stays apart, since the power alone may underflow where a multiple of it does not.
template <class T> struct ScaledValue {
  HiLo<T> value;
  T n;
};

// ndtr(-a), 0 <= a <= far, relatively accurate: e^(-a^2/2) times a polynomial. Below 1 neighbours would
// go the wrong way in that product: there 1/2 less an odd polynomial.
template <class T> FM_INLINE ScaledValue<T> ndtr_minus_parts(T a) {
  const ExpParts<T> e = exp_parts(two_product(a, T(-0.5) * a));
  const HiLo<T> power = mantissa_parts(e);
  const HiLo<T> d = two_sum(a, T(4));
  const T t = 1 / d.hi, t_lo = t * (fma(-t, d.hi, T(1)) - t * d.lo);
  const T below = a - 3, x = below * t, x_lo = fma(below, t, -x) + below * t_lo;
  Series<T> q = ndtr_tail(x);
  q.c0.lo = fma(x_lo, fma(2 * x, q.rest, q.c1), q.c0.lo);  // nearly the derivative
  const HiLo<T> tail = multiply(multiply(sum(q), HiLo<T>{t, t_lo}), power);
  const HiLo<T> c = multiply(sum(ndtr_centre(a * a)), HiLo<T>{a, 0}), half = two_sum(T(0.5), -c.hi);
  const bool centre = a < 1;
  return {select(centre, HiLo<T>{half.hi, half.lo - c.lo}, tail), select(centre, T(0), e.n)};
}

// |ndtri(u)| from |u - 1/2| and -log(min(u, 1 - u)). In the tail, s = sqrt(-2 log u), it is s less a slowly
// varying function E of s, so that the digits are those of s; dE/ds = (1/s - E)/s nearly.
// Fast: s <= 9.
template <Path P, class T> FM_INLINE HiLo<T> ndtri_abs_parts(HiLo<T> centre, HiLo<T> minus_log) {
  const HiLo<T> inner = multiply(sum(ndtri_centre(centre.hi * centre.hi)), centre);
  const HiLo<T> log_u = fast_two_sum(minus_log.hi, minus_log.lo);
  const T square = 2 * log_u.hi, s = sqrt(square), r = 1 / s;
  const T s_lo = (fma(-s, s, square) + 2 * log_u.lo) * (T(0.5) * r);
  Series<T> pieces = choose(s < 4, ndtri_tail<0>(s), ndtri_tail<1>(s));
  if constexpr (P == Path::exact) {
    Series<T> outer = ndtri_tail<2>(s);
    if constexpr (sizeof(T) == 8) outer = choose(s < 22, outer, ndtri_tail<3>(s));
    pieces = choose(s < 9, pieces, outer);
  }
  const HiLo<T> e = sum(pieces), z = fast_two_sum(s, -e.hi);
  const T slope = (r - e.hi) * r;
  return select(centre.hi <= T(0.25), inner, HiLo<T>{z.hi, z.lo + (s_lo - (e.lo + slope * s_lo))});
}

// Sum over k >= n, up to `last`, of a_k d^(k-n) / (k + 1), a_k = (-1)^k He_k(z) / k!, from a_n and
// a_(n-1): with phi the density, ndtr(z + d) - ndtr(z) = phi(z) d (1 + d times the sum from k = 1 on).
// The coefficients do not depend on the element, they are computed once per loop.
template <int n, int last, class T> FM_INLINE T ndtr_taylor(T d, T z, T before, T a) {
  constexpr T weight = T(1) / T(n + 1);
  if constexpr (n == last)
    return a * weight;
  else
    return fma(d, ndtr_taylor<n + 1, last>(d, z, a, -fma(z, a, before) * weight), a * weight);
}

}  // namespace fastmap::FM_ISA::math
