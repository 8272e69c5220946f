#pragma once

#include "maps/map.hpp"
#include "math/precise.hpp"

namespace fastmap::FM_ISA {

// With w = high - low, p = theta - low, q = high - theta and x = log(w / q) = log(1 + p / q):
//   z = log x,   dz/dtheta = 1 / (q x),   theta = low - w expm1(-x) = high - w e^-x,   dtheta/dz = w x e^-x.
// z has a root at x = 1 and the log-derivatives have one on either side of it if w > e.
struct Cloglog {
  // clang-format off
  static constexpr MapInfo info{
      "cloglog",
      "Complementary log-log on (low, high): z = log(-log(1 - p)), p = (theta - low)/(high - low).",
      2, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"log(-log1p(-(t - low)/(high - low)))", "-1/((high - t)*log1p(-(t - low)/(high - low)))",
       "-log(high - t) - log(-log1p(-(t - low)/(high - low)))",
       "(1 + log1p(-(t - low)/(high - low)))/((high - t)*log1p(-(t - low)/(high - low)))",
       "low - (high - low)*expm1(-exp(z))", "(high - low)*exp(z - exp(z))",
       "log(high - low) + z - exp(z)", "-expm1(z)"},
      {2, 4}, "sampled", 5, {{0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}}};
  // clang-format on
  static constexpr int cases = 3;  // 0: w <= 1, no roots but z's own; 1: w > 1; 2: theta has a root

  // A point next to a root of the log-derivative log w + z - x: there it is
  //   value + (z - z_i) - x_i expm1(z - z_i) = value + log(x / x_i) + log(q / q_i), which keeps the digits.
  template <class T> struct Reference {
    T x;
    HiLo<T> z, q, value;  // log x, w e^-x, log w + z - x
  };
  template <class T> struct Args {
    T low, high;
    int which;
    HiLo<T> width, log_width;
    HiLo<T> theta_at_1;             // where x == 1
    HiLo<T> root_x, root;           // x and z where theta == 0
    HiLo<T> q_at_1;                 // w / e, q where x == 1,
    T q_at_1_rest;                  // and more of it
    Reference<T> below_1, above_1;  // x < 1, x > 1
  };

  // The solution of x - log x = log w >= 1 by Newton's method from outside, where it cannot overshoot.
  static double solve(double x, double log_w) {
    for (int i = 0; i < 60; ++i) {
      const double slope = 1 - 1 / x, next = x - (x - math::log<Path::exact>(x) - log_w) / slope;
      if (slope == 0 || !(next > 0) || next == x) break;
      x = next;
    }
    return x;
  }
  template <class T> static Reference<T> reference(double near_x, HiLo<double> log_w) {
    const double x = double(host::round_to<T>({near_x, 0}).hi);
    const HiLo<double> z = host::log({x, 0}), value = host::add(host::add(log_w, z), {-x, 0});
    const HiLo<double> q = divide(host::multiply(host::exp(value.hi), {1, value.lo}), {x, 0});
    return {T(x), host::round_to<T>(z), host::round_to<T>(q), host::round_to<T>(value)};
  }
  template <class T> static Args<T> prepare(const double* p) {
    const double low = double(T(p[0])), high = double(T(p[1]));
    const HiLo<double> w = two_sum(high, -low), log_w = host::log(w);
    Args<T> a{};
    a.low = T(low);
    a.high = T(high);
    a.which = low < 0 && high > 0 ? 2 : w.hi > 1 ? 1 : 0;
    a.width = host::round_to<T>(w);
    a.log_width = host::round_to<T>(log_w);
    // w / e in three parts: next to x == 1 two do not say all digits of x - 1, a factor of a derivative.
    constexpr double e_inv[] = {0x1.78b56362cef38p-2, -0x1.ca8a4270fadf5p-57, -0x1.837912b3fd2aap-111};
    const HiLo<double> head = two_product(w.hi, e_inv[0]), second = two_product(w.hi, e_inv[1]),
                       third = two_product(w.lo, e_inv[0]), sum = two_sum(head.lo, second.hi),
                       all = two_sum(sum.hi, third.hi);
    a.q_at_1 = host::round_to<T>({head.hi, all.hi});
    a.q_at_1_rest = T((head.hi - double(a.q_at_1.hi) - double(a.q_at_1.lo)) + all.hi +
                      (all.lo + sum.lo + second.lo + third.lo + w.hi * e_inv[2] + w.lo * e_inv[1]));
    a.theta_at_1 = host::round_to<T>(host::add({high, 0}, {-head.hi, -all.hi}));
    if (a.which == 2) {
      const HiLo<double> x = host::log(divide(w, {high, 0}));
      a.root_x = host::round_to<T>(x);
      a.root = host::round_to<T>(host::log(x));
    }
    if (a.which != 0) {
      const bool wide = log_w.hi > 1;
      a.below_1 = reference<T>(wide ? solve(math::exp<Path::exact>(-log_w.hi), log_w.hi) : 1, log_w);
      a.above_1 = reference<T>(wide ? solve(2 * log_w.hi, log_w.hi) : 1, log_w);
    }
    return a;
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    const T p = t - a.low, q = a.high - t;
    return (p > Float<T>::small) & (q > Float<T>::small) & (p < Float<T>::large) & (q < Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>&) {
    return (z >= math::Constants<T>::exp_low) & (z <= T(sizeof(T) == 4 ? 4 : 6));
  }

  template <class T> FM_INLINE static HiLo<T> minus_1(HiLo<T> x) {
    const HiLo<T> s = two_sum(x.hi, T(-1));
    return {s.hi, s.lo + x.lo};
  }
  // x, or x - 1 where that is small: log(q_1 / q) = log(1 + (q_1 - q) / q) with q_1 = w / e there. On the
  // exact path p / q may overflow or be so small that few digits are left of it, but log(p / q) is a number:
  // `tiny` says that x = p / q, and z is its logarithm.
  template <class T> struct ThetaParts {
    HiLo<T> p, q, x, x_minus_1;
    bool near_1, tiny, below_1;
    T z_if_tiny;
  };
  template <Path P, class T> FM_INLINE static ThetaParts<T> theta_parts(T t, const Args<T>& a) {
    const HiLo<T> p = two_sum(t, -a.low), q = two_sum(a.high, -t);
    const HiLo<T> d = two_sum(a.q_at_1.hi, -q.hi), d_lo = two_sum(a.q_at_1.lo, -q.lo);
    const HiLo<T> q_change = two_sum(d.hi, d.lo + (d_lo.hi + (d_lo.lo + a.q_at_1_rest)));
    const bool near_1 = (q.hi > T(0.55) * a.q_at_1.hi) & (q.hi < T(1.8) * a.q_at_1.hi);
    HiLo<T> numerator = select(near_1, q_change, p), denominator = q;
    if constexpr (P == Path::exact) {  // both may be subnormal
      const T scale = select((p.hi < 1) & (q.hi < 1), Float<T>::large, T(1));
      numerator = {numerator.hi * scale, numerator.lo * scale};
      denominator = {q.hi * scale, q.lo * scale};
    }
    const HiLo<T> r = divide(numerator, denominator), v = two_sum(T(1), r.hi);
    HiLo<T> l = math::log_parts<P>(HiLo<T>{v.hi, v.lo + r.lo});
    bool tiny = false;
    T z_if_tiny = 0;
    if constexpr (P == Path::exact) {
      constexpr T least = T(0.5) * Float<T>::small * Float<T>::small;
      const HiLo<T> log_r = math::log_ratio_parts<P>(p, q);
      tiny = !near_1 & (r.hi < least);
      z_if_tiny = log_r.hi + log_r.lo;
      l = select(!near_1 & (r.hi > 1 / least), log_r, l);
    }
    l = fast_two_sum(l.hi, l.lo);
    const HiLo<T> one_l = two_sum(T(1), l.hi), x = select(near_1, HiLo<T>{one_l.hi, one_l.lo + l.lo}, l);
    return {p, q, x, l, near_1, tiny, q_change.hi < 0, z_if_tiny};
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const ThetaParts<T> e = theta_parts<P>(t, a);
    const T z = math::log<P>(e.x);
    return select(e.tiny, e.z_if_tiny, z);
  }
  // numerator / (q x), where q x may be subnormal: numerator / x / q.
  template <Path P, class T>
  FM_INLINE static T over_q_x(T t, T numerator, const ThetaParts<T>& e, const Args<T>& a) {
    const HiLo<T> product = multiply(e.q, e.x);
    const T v = numerator / (product.hi + product.lo);
    if constexpr (P == Path::exact)
      return select(usual_theta(t, a), v, (numerator / (e.x.hi + e.x.lo)) / e.q.hi);
    return v;
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const ThetaParts<T> e = theta_parts<P>(t, a);
    const T v = over_q_x<P>(t, T(1), e, a);
    if constexpr (P == Path::exact) return select(e.q.hi > 0, select(e.tiny, 1 / e.p.hi, v), Float<T>::inf);
    return v;
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const ThetaParts<T> e = theta_parts<P>(t, a);
    HiLo<T> product = multiply(e.q, e.x);
    HiLo<T> delta{0, 0};
    bool near = false;
    if (a.which != 0) {
      const Reference<T> at = select_reference(e.below_1, a);
      const HiLo<T> l = math::log_parts<P>(divide(at.q, e.q));
      delta = fast_two_sum(l.hi, l.lo);  // x - x_i
      near = abs(delta.hi) < min(T(0.25), T(0.25) * at.x);
      const HiLo<T> d = select(near, delta, HiLo<T>{0, 0});
      const HiLo<T> change = divide(d, HiLo<T>{at.x, 0}), ratio = two_sum(T(1), change.hi);
      product = select(near, HiLo<T>{ratio.hi, ratio.lo + change.lo}, product);
      delta = add(d, negate(at.value));
    }
    const HiLo<T> l = math::log_parts<P>(product);
    const HiLo<T> difference = two_sum(delta.hi, -l.hi);
    T v = select(near, difference.hi + (difference.lo + (delta.lo - l.lo)), 0 - (l.hi + l.lo));
    if constexpr (P == Path::exact) {
      // q x may be subnormal.
      const T staged = math::log_ratio<P>(select(e.tiny, HiLo<T>{1, 0}, divide(HiLo<T>{1, 0}, e.x)),
                                          select(e.tiny, e.p, e.q));
      v = select(usual_theta(t, a), v, staged);
      v = select((e.p.hi > 0) & (e.q.hi > 0), v, Float<T>::inf);
    }
    return v;
  }
  template <class T> FM_INLINE static Reference<T> select_reference(bool below_1, const Args<T>& a) {
    const Reference<T>&b = a.below_1, &c = a.above_1;
    return {select(below_1, b.x, c.x), select(below_1, b.z, c.z), select(below_1, b.q, c.q),
            select(below_1, b.value, c.value)};
  }
  // 1 / q - 1 / (q x)
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const ThetaParts<T> e = theta_parts<P>(t, a);
    const HiLo<T> n = select(e.near_1, e.x_minus_1, minus_1(e.x));
    const T v = over_q_x<P>(t, n.hi + n.lo, e, a);
    if constexpr (P == Path::exact) return select(e.q.hi > 0, select(e.tiny, -1 / e.p.hi, v), Float<T>::inf);
    return v;
  }

  // e^-e^z is 0 from z = 8 on.
  template <Path P, class T> FM_INLINE static T clamp(T z) {
    if constexpr (P == Path::fast) return z;
    return max(min(z, T(8)), -math::Constants<T>::exp_range);
  }
  // theta = base - factor f:
  //   z < -1/4     low - w expm1(-x)
  //   |z| <= 1/4   theta_1 - w/e expm1(1 - x), since steps in z become smaller than the error of e^-x
  //   z > 1/4      high - w e^-x
  //   near a root  -high expm1(x0 - x), x - x0 = x0 expm1(z - z0)
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const T y = clamp<P>(z);
    const bool above = y > 0;
    bool middle = abs(y) < T(0.25), at_root = false;
    HiLo<T> exponent{y, 0};
    if (a.which == 2) {
      const HiLo<T> d = add(exponent, negate(a.root));
      at_root = abs(d.hi) < T(0.4);
      middle = middle & !at_root;
      exponent = select(at_root, d, exponent);
    }
    const auto e = math::precise_exp(exponent);  // its error is the relative error of e^-e^z
    HiLo<T> x = select(middle, e.expm1, e.exp);
    if (a.which == 2) x = select(at_root, multiply(e.expm1, a.root_x), x);
    const HiLo<T> f = math::expm1_parts<P>(negate(x)), one_f = two_sum(T(1), f.hi);
    const HiLo<T> decay{one_f.hi, one_f.lo + f.lo};
    HiLo<T> base = select(middle, a.theta_at_1, HiLo<T>{select(above, a.high, a.low), 0});
    HiLo<T> factor = select(middle, a.q_at_1, a.width);
    if (a.which == 2) {
      base = select(at_root, HiLo<T>{0, 0}, base);
      factor = select(at_root, HiLo<T>{a.high, 0}, factor);
    }
    const HiLo<T> part = multiply(select(above & !middle & !at_root, decay, f), factor);
    const HiLo<T> s = two_sum(base.hi, -part.hi);
    const T r = s.hi + (s.lo + (base.lo - part.lo));
    if constexpr (P == Path::exact)  // e^z is subnormal or 0, w e^z need not be
      return select(z < math::Constants<T>::exp_low, a.low + math::scaled_exp<P>(a.width.hi, HiLo<T>{z, 0}),
                    r);
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const HiLo<T> x = math::precise_exp(HiLo<T>{clamp<P>(z), 0}).exp, y = two_sum(min(z, T(8)), -x.hi);
    return math::scaled_exp<P>(a.width.hi, HiLo<T>{y.hi, y.lo - x.lo});
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    using C = math::Constants<T>;
    T y = z;
    if constexpr (P == Path::exact) y = max(min(z, C::large_exponent), -C::exp_range);
    HiLo<T> exponent{y, 0};
    bool near = false;
    Reference<T> at{};
    if (a.which != 0) {
      at = select_reference(z < 0, a);
      const HiLo<T> d = add(HiLo<T>{z, 0}, negate(at.z));
      near = abs(d.hi) < T(0.25);
      exponent = select(near, d, exponent);
    }
    const auto e = math::precise_exp(exponent);
    HiLo<T> x = e.exp, rest = add(a.log_width, HiLo<T>{z, 0});
    if (a.which != 0) {
      x = select(near, multiply(e.expm1, HiLo<T>{at.x, 0}), x);
      rest = select(near, add(exponent, at.value), rest);
    }
    const HiLo<T> s = two_sum(rest.hi, -x.hi);
    T r = s.hi + (s.lo + (rest.lo - x.lo));
    if constexpr (P == Path::exact) {
      r = select(z > C::large_exponent, -math::exp<P>(z), r);
      r = select(z < -Float<T>::large, z, r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>&) {
    return 0 - math::expm1<P>(z);  // one zero on both paths
  }
};

}  // namespace fastmap::FM_ISA
