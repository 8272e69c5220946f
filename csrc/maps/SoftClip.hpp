#pragma once

#include "maps/wide.hpp"
#include "math/precise.hpp"

namespace fastmap::FM_ISA {

#define FM_SPAN "log1p(exp((high - low)/hinge_softness))"
#define FM_ABOVE "(t - low)*" FM_SPAN "/(high - low)"
#define FM_BELOW "(high - t)*" FM_SPAN "/(high - low)"
#define FM_FROM_MIDDLE "((z - low)/hinge_softness - " FM_SPAN "/2)"
#define FM_LOG_STRETCH "log1p(log1p(exp(-((high - low)/hinge_softness)))*hinge_softness/(high - low))"

// With w = high - low, s = softplus(w / c), y = (z - low) / c, the definition
//   theta = high - (w/s) softplus((w - c softplus(y)) / c)
// is theta = low + (w/s) (softplus(y) - softplus(y - s)), the same from both ends: y -> s - y mirrors theta.
struct SoftClip {
  // clang-format off
  static constexpr MapInfo info{
      "soft_clip",
      "theta is z well inside (low, high) and bends towards the bounds within hinge_softness of them.",
      3, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound},
          {"hinge_softness", 1, Constraint::positive}},
      "low", "high", "-inf", "inf",
      {"low + hinge_softness*(" FM_ABOVE " + log(expm1(-(" FM_ABOVE "))/expm1(-(" FM_BELOW "))))",
       "hinge_softness*" FM_SPAN "/(high - low)*-expm1(-" FM_SPAN ")"
       "/(expm1(-(" FM_ABOVE "))*expm1(-(" FM_BELOW ")))",
       FM_LOG_STRETCH " + log1p((exp(-(" FM_ABOVE ")) + exp(-(" FM_BELOW ")) - 2*exp(-" FM_SPAN "))"
       "/(expm1(-(" FM_ABOVE "))*expm1(-(" FM_BELOW "))))",
       "2*" FM_SPAN "/(high - low)*exp(-" FM_SPAN "/2)"
       "*sinh((2*t - (low + high))*" FM_SPAN "/(2*(high - low)))"
       "/(expm1(-(" FM_ABOVE "))*expm1(-(" FM_BELOW ")))",
       "low + (high - low)/" FM_SPAN
       "*log1p(-expm1(-" FM_SPAN ")/(exp((low - z)/hinge_softness) + exp(-" FM_SPAN ")))",
       "(high - low)/(hinge_softness*" FM_SPAN ")*sinh(" FM_SPAN "/2)"
       "/(cosh(" FM_SPAN "/2) + cosh" FM_FROM_MIDDLE ")",
       "-" FM_LOG_STRETCH " - where(abs" FM_FROM_MIDDLE " < 5000,"
       " log1p((exp(-" FM_SPAN "/2) + cosh" FM_FROM_MIDDLE ")/sinh(" FM_SPAN "/2)),"
       " abs" FM_FROM_MIDDLE " - log(2*sinh(" FM_SPAN "/2)))",
       "-tanh" FM_FROM_MIDDLE "/(hinge_softness*(1 + cosh(" FM_SPAN "/2)/cosh" FM_FROM_MIDDLE "))"},
      {2, 4}, "sampled", 5, {{0, 1, 1}, {-1, 3, 0.25}, {1000, 1001, 0.1}, {-0.001, 10, 2}, {0, 1, 0.005}}};
  // clang-format on
  static constexpr int cases = 1;
  template <class T> using Twice = math::Twice<T>;
  template <class T> static constexpr bool in_double = !math::has_edges<T>;

  // In Twice<T> throughout: next to the middle and next to roots y - s and low + c y cancel.
  template <class T> struct Args {
    T low, high;
    double softness;
    Twice<T> per_softness;
    Twice<T> span, decay;  // s, e^-s
    Twice<T> rate, size;   // s / w, w / s
    Twice<T> middle;       // z of the middle
    Twice<T> log_stretch;  // log of s c / w
    Twice<T> log_slope;    // log of (1 - e^-s) w / (s c)
    Twice<T> log_first;    // y - log(theta - low) next to low
    double slope, inverse_slope;
    Twice<T> root, alpha_beta, beta;  // see forward
    T reach;                          // of the form next to the root; -1: there is no need
  };
  static HiLo<double> log1p(HiLo<double> x) {  // |x| small: where log(1 + x) would lose digits
    if (abs(x.hi) > 0x1p-30) return host::log(host::add({1, 0}, x));
    const HiLo<double> square = host::multiply(x, x);
    return host::add(x, {square.hi * (x.hi / 3 - 0.5), 0});
  }
  template <class T> static Args<T> prepare(const double* p) {
    const double low = p[0], high = p[1], c = p[2];
    const HiLo<double> w = two_sum(high, -low), one{1, 0};
    const host::Wide ratio = host::divide(host::Wide{{w.hi, w.lo, 0}}, c);
    const HiLo<double> r{ratio.x[0], ratio.x[1]};
    // s - w/c = log(1 + e^(-w/c)), s by one Newton step on e^s = 1 + e^(w/c)
    HiLo<double> rest{0, 0}, decay{0, 0};
    host::Wide span = ratio, root{{0, 0, 0}};
    HiLo<double> alpha_beta{0, 0}, beta{0, 0};
    double reach = -1;
    if (r.hi < 60) {
      const host::Wide power = host::wide_exp(ratio), sum = host::add(power, {{1, 0, 0}});
      span = host::wide_log(sum);
      const host::Wide excess = host::add(span, host::scale(ratio, -1));
      rest = {excess.x[0], excess.x[1]};
      decay = divide(one, {sum.x[0], sum.x[1]});
      if (abs(low) <= 4 * c && r.hi <= 4) {
        // With y = -low/c at z = 0: e^(x0) = (1 + e^y) / (1 + e^y e^-s)
        const host::Wide at_0 = host::wide_exp(host::divide({{-low, 0, 0}}, c)),
                         above = host::add(at_0, {{1, 0, 0}}), all = host::add(sum, at_0);
        const host::Wide x = host::add(host::add(host::wide_log(above), span),
                                       host::scale(host::wide_log(all), -1));
        root = host::add(host::divide(host::multiply(x, {{w.hi, w.lo, 0}}), span), {{low, 0, 0}});
        const host::Wide b = host::divide(above, power);
        beta = {b.x[0], b.x[1]};
        alpha_beta = host::add(beta,
                               divide(host::multiply(beta, {sum.x[0], sum.x[1]}), {at_0.x[0], at_0.x[1]}));
        reach = 0.4 / alpha_beta.hi;
      }
    } else if (r.hi < 700) {
      rest = decay = divide(one, host::multiply(host::exp(r.hi), {1, r.lo}));
      span = host::add(ratio, {{rest.hi, 0, 0}});
    }
    const HiLo<double> s{span.x[0], span.x[1]}, full = host::add(one, negate(decay));
    const HiLo<double> rate = divide(s, w), stretch = divide(s, r);
    const HiLo<double> log_stretch = log1p(divide(rest, r)), log_full = log1p(negate(decay));
    const host::Wide middle = host::add(host::multiply(span, {{c / 2, 0, 0}}), {{low, 0, 0}});
    return {T(low),
            T(high),
            c,
            host::twice<T>(divide(one, {c, 0})),
            host::twice<T>(s),
            host::twice<T>(decay),
            host::twice<T>(rate),
            host::twice<T>(divide(w, s)),
            host::twice<T>(host::head(middle)),
            host::twice<T>(log_stretch),
            host::twice<T>(host::add(log_full, negate(log_stretch))),
            host::twice<T>(host::add(host::log(rate), negate(log_full))),
            host::multiply(stretch, full).hi,
            divide(full, stretch).hi,
            host::twice<T>(host::head(root)),
            host::twice<T>(alpha_beta),
            host::twice<T>(beta),
            T(reach)};
  }

  // In float all that is finite and inside is usual.
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    const T p = t - a.low, q = a.high - t;
    if constexpr (!math::has_edges<T>) return (p > 0) & (q > 0);
    const T n = min(p, q), x = n * math::head(a.rate);
    return (n > Float<T>::small) & (x > Float<T>::small) & (x <= most) & (max(p, q) < Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    if constexpr (!math::has_edges<T>) return abs(z) <= Float<T>::max;
    const T y = (z - a.low) * math::head(a.per_softness), mirrored = math::head(a.span) - y;
    return (abs(z) < Float<T>::large) & (abs(min(y, mirrored)) <= most);
  }
  static constexpr double most = 340;  // e^-most > small

  // e^-x, where x > 0 is so large that the result may be subnormal too.
  template <Path P, class T> FM_INLINE static Twice<T> decay(Twice<T> x, Twice<T> known) {
    if constexpr (math::at_edges<P, T>)
      return select(math::head(x) > -math::Constants<T>::exp_low - 1, HiLo<T>{math::exp<P>(negate(x)), 0},
                    known);
    return known;
  }

  // From the bound that is nearer: n, its distance to theta; x = n s/w <= s/2; E = e^-x, 1 - E.
  template <class T> struct Near {
    bool upper;
    Twice<T> n, x;
  };
  template <class T> FM_INLINE static Near<T> near(T t, const Args<T>& a) {
    const Twice<T> p = math::exact_sum(t, -a.low), q = math::exact_sum(a.high, -t);
    const bool upper = math::head(p) > math::head(q);
    const Twice<T> n = select(upper, q, p);
    return {upper, n, multiply(a.rate, n)};
  }
  template <class T> FM_INLINE static Twice<T> one_plus(Twice<T> x) {
    return math::add(math::twice<T>(1), x);
  }

  // y = x + log((1 - e^-x) / (1 - e^-(s - x))), and where z is a small difference of low and c y,
  //   z = c log(1 + M (alpha + beta) / (1 - beta M)), M = expm1(x - x0), x0 at the root,
  //   alpha = 1 / (1 - e^-x0), beta = 1 / (e^(s - x0) - 1).
  // One exponential, one quotient and one logarithm serve both.
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const auto [upper, n, x] = near(t, a);
    const Twice<T> d = multiply(a.rate, math::add(math::twice<T>(t), negate(a.root)));
    const bool near_root = abs(math::head(d)) <= a.reach;
    const auto e = math::precise_exp(select(near_root, d, negate(x)));
    const Twice<T> num = select(near_root, multiply(e.expm1, a.alpha_beta), multiply(e.exp, negate(e.expm1)));
    const Twice<T> den = select(near_root, one_plus<T>(negate(multiply(e.expm1, a.beta))),
                                math::add(e.exp, negate(a.decay)));
    const Twice<T> f = divide(num, den);
    Twice<T> l = math::precise_log(select(near_root, one_plus<T>(f), f),
                                   select(near_root, f, math::add(f, math::twice<T>(-1))));
    if constexpr (math::at_edges<P, T>) {
      const HiLo<T> log_n = math::log_parts<P>(n);
      l = select(x.hi <= Float<T>::small,
                 math::add(HiLo<T>{max(log_n.hi, -Float<T>::max), log_n.lo}, a.log_first), l);
    }
    const Twice<T> y = math::add(x, l), from_low = select(upper, math::add(a.span, negate(y)), y);
    const Twice<T> z = select(near_root, multiply(l, a.softness),
                              math::add(math::twice<T>(a.low), multiply(from_low, a.softness)));
    if constexpr (P == Path::exact)
      return select(math::head(n) <= 0, select(upper, Float<T>::inf, -Float<T>::inf), T(math::value(z)));
    return T(math::value(z));
  }
  // 1 / ((1 - E) (1 - e^-(s - x))); no digits are lost in E - e^-s, since E^2 >= e^-s <= 1/2.
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const auto [upper, n, x] = near(t, a);
    const auto e = math::precise_exp(negate(x));
    const Twice<T> both = multiply(negate(e.expm1), math::add(e.exp, negate(a.decay)));
    const T r = T(math::value(divide(multiply(e.exp, a.slope), both)));
    if constexpr (math::at_edges<P, T>) return select(x.hi <= Float<T>::small, a.softness / n.hi, r);
    return r;
  }
  // E, e^-(s - x) and the product above.
  template <class T> struct Decays {
    Twice<T> near, far, both;
  };
  template <Path P, class T> FM_INLINE static Decays<T> decays(Twice<T> x, const Args<T>& a) {
    const auto e = math::precise_exp(negate(x));
    const Twice<T> far = decay<P, T>(math::add(a.span, negate(x)), divide(a.decay, e.exp));
    return {decay<P, T>(x, e.exp), far, multiply(negate(e.expm1), one_plus<T>(negate(far)))};
  }
  // log(s c / w) + log(1 + (E + e^-(s - x) - 2 e^-s) / ((1 - E) (1 - e^-(s - x)))), neither negative
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const auto [upper, n, x] = near(t, a);
    const Decays<T> e = decays<P, T>(x, a);
    const Twice<T> num = math::add(math::add(e.near, e.far), negate(math::add(a.decay, a.decay)));
    const Twice<T> f = divide(num, e.both);
    T r = T(math::value(math::add(a.log_stretch, math::precise_log1p(f))));
    if constexpr (math::at_edges<P, T>) {
      const T tiny = math::log_ratio<P>(HiLo<T>{a.softness, 0}, n);
      r = select(x.hi <= Float<T>::small, tiny, select(f.hi < Float<T>::small, a.log_stretch.hi + f.hi, r));
    }
    if constexpr (P == Path::exact) return select(math::head(n) > 0, r, Float<T>::inf);
    return r;
  }
  // s/w (e^-(s - x) - E) / ((1 - E) (1 - e^-(s - x))); the difference is E expm1(-(s - 2 x)).
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const auto [upper, n, x] = near(t, a);
    const Decays<T> e = decays<P, T>(x, a);
    const Twice<T> d = math::add(math::exact_sum(a.low, a.high), math::twice<T>(-2 * double(t)));
    const Twice<T> gap = math::abs(multiply(a.rate, d));
    const Twice<T> m = divide(math::precise_exp(negate(gap)).expm1, e.both);
    T r = T(math::value(multiply(multiply(a.rate, e.near), m)));
    if constexpr (math::at_edges<P, T>) {
      r = select(is_finite(r), r, multiply(multiply(a.rate, e.near), m).hi);
      const bool deep = x.hi > -math::Constants<T>::exp_low - 1;
      r = select(deep, math::scaled_exp<P>(a.rate.hi, negate(x)) * m.hi, r);
      r = select(x.hi <= Float<T>::small, -1 / n.hi, r);
    }
    return copysign(r, T(-math::head(d)));
  }

  // From the bound that is nearer: y <= s/2, E = e^-|y|, and (1 + e^(y - s)) E^[y >= 0], which needs no quotient.
  template <class T> struct NearZ {
    bool upper, outer;
    Twice<T> y, exp, far;
  };
  template <Path P, class T> FM_INLINE static NearZ<T> near_z(T z, const Args<T>& a) {
    Twice<T> y = multiply(math::exact_sum(z, -a.low), a.per_softness);
    if constexpr (math::at_edges<P, T>)
      y = {max(min(y.hi, Float<T>::max), -Float<T>::max), select(is_finite(y.lo), y.lo, T(0))};
    const Twice<T> mirrored = math::add(a.span, negate(y));
    const bool upper = math::less(mirrored, y);
    const Twice<T> x = select(upper, mirrored, y), e = math::precise_exp(negate(math::abs(x))).exp;
    const bool outer = math::head(x) < 0;
    return {upper, outer, x, e,
            math::add(select(outer, math::twice<T>(1), e), select(outer, multiply(e, a.decay), a.decay))};
  }

  // softplus(y) - softplus(y - s) = max(y, 0) + log(1 + (E - e^(y - s)) / (1 + e^(y - s)))
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const Twice<T> num = select(e.outer, multiply(e.exp, one_plus<T>(negate(a.decay))),
                                math::add(multiply(e.exp, e.exp), negate(a.decay)));
    const Twice<T> r = math::precise_log1p(divide(num, e.far));
    Twice<T> d = multiply(a.size, math::add(r, select(e.outer, math::twice<T>(0), e.y)));
    if constexpr (math::at_edges<P, T>) {
      const bool tail = e.y.hi < math::Constants<T>::exp_low + 1;
      d = select(tail, HiLo<T>{math::far_exp(math::add(e.y, negate(a.log_first))), 0}, d);
    }
    const Twice<T> bound = math::twice<T>(select(e.upper, double(a.high), double(a.low)));
    return T(math::head(math::add(bound, select(e.upper, negate(d), d))));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const Twice<T> r = divide(e.exp, multiply(one_plus<T>(e.exp), e.far));
    const T v = T(math::value(multiply(r, a.inverse_slope)));
    if constexpr (math::at_edges<P, T>) {
      const bool tail = e.y.hi < math::Constants<T>::exp_low + 1;
      return select(tail, math::far_exp(math::add(e.y, a.log_slope)), v);
    }
    return v;
  }
  // log_slope + min(y, 0) - log(1 + x), x = (1 + E) (1 + e^(y - s)) - 1
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const Twice<T> known = select(e.outer, multiply(e.exp, a.decay), divide(a.decay, e.exp));
    const Twice<T> far = decay<P, T>(math::add(a.span, negate(e.y)), known);
    const Twice<T> near = decay<P, T>(math::abs(e.y), e.exp);
    const Twice<T> x = math::add(math::add(near, far), multiply(near, far));
    const Twice<T> first = math::add(a.log_slope, select(e.outer, e.y, math::twice<T>(0)));
    T r = T(math::head(math::add(first, negate(math::precise_log1p(x)))));
    if constexpr (math::at_edges<P, T>) r = select(x.hi < Float<T>::small, first.hi - x.hi, r);
    if constexpr (P == Path::exact) return select(is_finite(z), r, -Float<T>::inf);
    return r;
  }
  // 1/c (sigmoid(-y) - sigmoid(y - s)); for y > 0 the difference is -E expm1(-(s - 2 y)).
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    Twice<T> d = multiply(math::add(math::twice<T>(z), negate(a.middle)), a.per_softness);
    // For infinite z it is a NaN, whose sign differs by machine.
    if constexpr (math::at_edges<P, T>)
      d = {select(is_finite(z), d.hi, z), select(is_finite(d.lo), d.lo, T(0))};
    const Twice<T> minus = math::precise_exp(negate(math::abs(math::add(d, d)))).expm1;
    const Twice<T> outer = one_plus<T>(negate(multiply(multiply(e.exp, e.exp), a.decay)));
    const Twice<T> num = select(e.outer, outer, multiply(e.exp, negate(minus)));
    const Twice<T> r = multiply(divide(num, multiply(one_plus<T>(e.exp), e.far)),
                                select(e.outer, math::twice<T>(1), e.exp));
    T v = T(math::value(multiply(r, a.per_softness)));
    if constexpr (math::at_edges<P, T>) {
      const bool deep = e.y.hi > -math::Constants<T>::exp_low - 1;
      v = select(deep, math::scaled_exp<P>(a.per_softness.hi, negate(e.y)) * -math::head(minus), v);
    }
    return copysign(v, T(-math::head(d)));
  }
};

#undef FM_SPAN
#undef FM_ABOVE
#undef FM_BELOW
#undef FM_FROM_MIDDLE
#undef FM_LOG_STRETCH

}  // namespace fastmap::FM_ISA
