#pragma once

#include "maps/wide.hpp"

namespace fastmap::FM_ISA {

// log(1 - theta^concentration1), and log(1 - (1 - z)^(1/concentration0))
#define FM_LOG_REST                                                         \
  "where(concentration1*log(t) < -0.7, log1p(-exp(concentration1*log(t)))," \
  " log(-expm1(concentration1*log(t))))"
#define FM_LOG_POWER                                                              \
  "where(log1p(-z)/concentration0 < -0.7, log1p(-exp(log1p(-z)/concentration0))," \
  " log(-expm1(log1p(-z)/concentration0)))"

// With w = theta^concentration1, v = 1 - w: 1 - z = v^concentration0. Every op is made of log theta, log v,
// w and v.
struct Kumaraswamy {
  // clang-format off
  static constexpr MapInfo info{
      "kumaraswamy",
      "Kumaraswamy's distribution, a warp of [0, 1]: z = 1 - (1 - theta^concentration1)^concentration0. "
      "Next to a root that the parameters move, log-derivatives have an absolute error of up to 2^-20 ULP of 1.",
      2, {{"concentration1", 1, Constraint::positive}, {"concentration0", 1, Constraint::positive}},
      "0", "1", "0", "1",
      {"-expm1(concentration0*" FM_LOG_REST ")",
       "concentration1*concentration0*exp((concentration1 - 1)*log(t)"
       " + (concentration0 - 1)*" FM_LOG_REST ")",
       "log(concentration1*concentration0) + (concentration1 - 1)*log(t) + (concentration0 - 1)*" FM_LOG_REST,
       "((1 - concentration1)*expm1(concentration1*log(t))"
       " + (1 - concentration0)*concentration1*exp(concentration1*log(t)))"
       "/(t*-expm1(concentration1*log(t)))",
       "exp(" FM_LOG_POWER "/concentration1)",
       "exp((1 - concentration1)/concentration1*" FM_LOG_POWER
       " + (1 - concentration0)/concentration0*log1p(-z))"
       "/(concentration1*concentration0)",
       "(1 - concentration1)/concentration1*" FM_LOG_POWER " + (1 - concentration0)/concentration0*log1p(-z)"
       " - log(concentration1*concentration0)",
       "((1 - concentration1)*exp(log1p(-z)/concentration0)"
       " + (1 - concentration0)*concentration1*expm1(log1p(-z)/concentration0))"
       "/(concentration1*concentration0*(1 - z)*-expm1(log1p(-z)/concentration0))"},
      {2, 4}, "sampled", 5, {{1, 1}, {0.5, 2}, {2, 5}, {5, 0.3}, {0.2, 0.4}},
      nullptr, true};
  // clang-format on
  static constexpr int cases = 1;
  template <class T> using Twice = math::Twice<T>;
  template <class T> static constexpr bool in_double = !math::has_edges<T>;

  template <class T> struct Args {
    T low, high, z_low, z_high;
    T usual_low, usual_high, usual_z_low, usual_z_high;
    double c1, c0;
    Twice<T> c1_inv, c0_inv, c1_minus_1, c0_minus_1, c0_minus_1_c1;
    Twice<T> log_c0, log_product;
    double product, product_inv;
  };
  static double power(double x) { return 1 / host::exp(min(-x, 690.0)).hi; }  // e^x for x < 0
  template <class T> static Args<T> prepare(const double* p) {
    const double c1 = p[0], c0 = p[1], small = 4 * Float<double>::small;
    const HiLo<double> one{1, 0}, c0_m1 = two_sum(c0, -1.0), log_c0 = host::log({c0, 0});
    const HiLo<double> product = two_product(c1, c0);
    // Where w, theta and slopes stay normal in double: exponents of at most +-half and +-2 half.
    const double half = 340, d1 = max(abs(c1 - 1), 0x1p-40), d0 = max(abs(c0 - 1), 0x1p-40);
    const double low = power(-half / max(c1, d1)),
                 high = power(host::log({1 - power(-half / d0), 0}).hi / c1);
    const double z_low = 1.01 * max(c0, 1.0) * power(-c1 * min(2 * half, half / d1)),
                 z_high = 1 - power(-c0 * half / d0);
    return {0,
            1,
            0,
            1,
            T(max(low, small)),
            T(high),
            T(max(z_low, small)),
            T(z_high),
            c1,
            c0,
            host::twice<T>(divide(one, {c1, 0})),
            host::twice<T>(divide(one, {c0, 0})),
            host::twice<T>(two_sum(c1, -1.0)),
            host::twice<T>(c0_m1),
            host::twice<T>(host::multiply(c0_m1, {c1, 0})),
            host::twice<T>(log_c0),
            host::twice<T>(host::add(host::log({c1, 0}), log_c0)),
            product.hi,
            divide(one, product).hi};
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    if constexpr (!math::has_edges<T>) return (t > 0) & (t < 1);
    return (t >= a.usual_low) & (t < a.usual_high) & (a.c1 > Float<T>::small) & (a.c0 > Float<T>::small);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    if constexpr (!math::has_edges<T>) return (z > 0) & (z < 1);
    return (z >= a.usual_z_low) & (z < a.usual_z_high) & (a.c1 > Float<T>::small) & (a.c0 > Float<T>::small);
  }

  template <Path P> FM_INLINE static double log_of(float x) { return math::precise_log(double(x)); }
  template <Path P> FM_INLINE static HiLo<double> log_of(double x) {
    double lift = 1, lifted = 0;
    if constexpr (P == Path::exact) {
      const bool tiny = x < Float<double>::small;
      lift = select(tiny, Float<double>::large, 1.0);
      lifted = select(tiny, 500.0, 0.0);
    }
    const double u = x * lift;
    const auto l = math::reduce_log(HiLo<double>{u, 0}, HiLo<double>{u - 1, 0});
    return math::add_ln2(l.k - lifted, math::twice_atanh_parts(divide(l.num, l.den)));
  }
  // At 0 and 1, where logarithms are infinite, ops answer by themselves.
  template <Path P, class T> FM_INLINE static T inner(T x) {
    if constexpr (P == Path::exact) return select((x > 0) & (x < 1), x, T(0.5));
    return x;
  }
  template <Path P, class T> FM_INLINE static T with_ends(T x, T at_0, T r, T at_1) {
    if constexpr (P == Path::exact) return select(x == 0, at_0, select(x == 1, at_1, r));
    return r;
  }
  // lim x^-sign, but `otherwise` for sign == 0
  template <class T> FM_INLINE static T limit(double sign, T below, T otherwise, T above) {
    return select(sign < 0, below, select(sign > 0, above, otherwise));
  }

  template <class T> struct Parts {
    Twice<T> log_t, log_v, w, v, log_w;
  };
  template <Path P, class T> FM_INLINE static Parts<T> parts(T t, const Args<T>& a) {
    const Twice<T> log_t = log_of<P>(inner<P>(t)), log_w = multiply(log_t, a.c1);
    const auto e = math::precise_exp(log_w);
    const Twice<T> v = negate(e.expm1);
    return {log_t, math::precise_log(v, negate(e.exp)), e.exp, v, log_w};
  }
  template <Path P, class T> FM_INLINE static Parts<T> parts_of_z(T z_, const Args<T>& a) {
    const T z = inner<P>(z_);
    const Twice<T> log_v = multiply(math::precise_log1p(math::twice<T>(-z)), a.c0_inv);
    const auto e = math::precise_exp(log_v);
    const Twice<T> w = negate(e.expm1);
    Twice<T> log_w = math::precise_log(w, negate(e.exp));
    if constexpr (math::at_edges<P, T>) {  // w = z / concentration0
      const HiLo<T> tiny = math::add(log_of<P>(z), negate(a.log_c0));
      log_w = select(z < Float<T>::small, tiny, log_w);
    }
    return {multiply(log_w, a.c1_inv), log_v, w, e.exp, log_w};
  }
  // log(dz / dtheta) without the constant
  template <class T> FM_INLINE static Twice<T> log_slope(const Parts<T>& p, const Args<T>& a) {
    return math::add(multiply(a.c1_minus_1, p.log_t), multiply(a.c0_minus_1, p.log_v));
  }
  // theta v d/dtheta log(dz / dtheta)
  template <class T> FM_INLINE static Twice<T> bend(const Parts<T>& p, const Args<T>& a) {
    return math::add(multiply(a.c1_minus_1, p.v), negate(multiply(a.c0_minus_1_c1, p.w)));
  }
  template <Path P> FM_INLINE static float scaled_exp(double c, double x) {
    return float(c * math::precise_exp(x).exp);
  }
  template <Path P> FM_INLINE static double scaled_exp(double c, HiLo<double> x) {
    return math::scaled_exp<P>(c, x);
  }
  static constexpr double deep_log = -690;
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const Parts<T> p = parts<P>(t, a);
    T r = T(-math::head(math::precise_exp(multiply(p.log_v, a.c0)).expm1));
    if constexpr (math::at_edges<P, T>)
      r = select(p.log_w.hi < deep_log, math::far_exp(math::add(p.log_w, a.log_c0)), r);
    return with_ends<P>(t, T(0), r, T(1));
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const Parts<T> p = parts_of_z<P>(z, a);
    T r = T(math::head(math::precise_exp(p.log_t).exp));
    if constexpr (math::at_edges<P, T>) r = select(p.log_t.hi < deep_log, math::far_exp(p.log_t), r);
    return with_ends<P>(z, T(0), min(r, T(1)), T(1));
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const T r = scaled_exp<P>(a.product, log_slope(parts<P>(t, a), a));
    return with_ends<P>(t, limit(math::head(a.c1_minus_1), Float<T>::inf, T(a.product), T(0)), r,
                        limit(math::head(a.c0_minus_1), Float<T>::inf, T(a.product), T(0)));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const T r = scaled_exp<P>(a.product_inv, negate(log_slope(parts_of_z<P>(z, a), a)));
    return with_ends<P>(z, limit(math::head(a.c1_minus_1), T(0), T(a.product_inv), Float<T>::inf), r,
                        limit(math::head(a.c0_minus_1), T(0), T(a.product_inv), Float<T>::inf));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const T constant = T(math::head(a.log_product));
    const T r = T(math::head(math::add(log_slope(parts<P>(t, a), a), a.log_product)));
    return with_ends<P>(t, limit(math::head(a.c1_minus_1), Float<T>::inf, constant, -Float<T>::inf), r,
                        limit(math::head(a.c0_minus_1), Float<T>::inf, constant, -Float<T>::inf));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const T constant = 0 - T(math::head(a.log_product));
    const T r = 0 - T(math::head(math::add(log_slope(parts_of_z<P>(z, a), a), a.log_product)));
    return with_ends<P>(z, limit(math::head(a.c1_minus_1), -Float<T>::inf, constant, Float<T>::inf), r,
                        limit(math::head(a.c0_minus_1), -Float<T>::inf, constant, Float<T>::inf));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const Parts<T> p = parts<P>(t, a);
    const double m1 = math::head(a.c1_minus_1), m0 = math::head(a.c0_minus_1_c1);
    double r = math::value(divide(bend(p, a), p.v)) / t;
    if constexpr (math::at_edges<P, T>) r = select(p.log_w.hi < deep_log, select(m1 == 0, 0 - m0, m1 / t), r);
    return with_ends<P>(t, limit(m1, -Float<T>::inf, T(0 - m0), Float<T>::inf), T(r),
                        limit(m0, Float<T>::inf, T(m1), -Float<T>::inf));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    const Parts<T> p = parts_of_z<P>(z, a);
    const double m1 = math::head(a.c1_minus_1), m0 = math::head(a.c0_minus_1);
    const Twice<T> den = multiply(p.w, math::exact_sum(T(1), -z));
    // Not by `divide`, which wants a moderate denominator.
    double r = 0 - math::value(bend(p, a)) / math::value(den) * a.product_inv;
    if constexpr (math::at_edges<P, T>)
      r = select(z < Float<T>::small, select(m1 == 0, m0 / a.c0, (0 - m1 / a.c1) / z), r);
    return with_ends<P>(z, limit(m1, Float<T>::inf, T(m0 / a.c0), -Float<T>::inf), T(r),
                        limit(m0, -Float<T>::inf, T(0 - m1 / a.c1), Float<T>::inf));
  }
};

#undef FM_LOG_REST
#undef FM_LOG_POWER

}  // namespace fastmap::FM_ISA
