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

  template <class T> struct Args {
    T low, high;
    T softness;
    HiLo<T> span, decay;  // s, e^-s
    HiLo<T> rate, size;   // s / w, w / s
    HiLo<T> middle;       // z of the middle
    HiLo<T> log_stretch;  // log of s c / w
    HiLo<T> log_slope;    // log of (1 - e^-s) w / (s c)
    HiLo<T> log_first;    // y - log(theta - low) next to low
    T slope, inverse_slope;
    HiLo<T> root, alpha_beta, beta;  // see forward
    T reach;                         // of the form next to the root; -1: there is no need
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
            T(c),
            host::round_to<T>(s),
            host::round_to<T>(decay),
            host::round_to<T>(rate),
            host::round_to<T>(divide(w, s)),
            host::round_to<T>(middle),
            host::round_to<T>(log_stretch),
            host::round_to<T>(host::add(log_full, negate(log_stretch))),
            host::round_to<T>(host::add(host::log(rate), negate(log_full))),
            T(host::multiply(stretch, full).hi),
            T(divide(full, stretch).hi),
            host::round_to<T>(root),
            host::round_to<T>(alpha_beta),
            host::round_to<T>(beta),
            T(reach)};
  }

  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) {
    const T p = t - a.low, q = a.high - t, n = min(p, q), x = n * a.rate.hi;
    return (n > Float<T>::small) & (x > Float<T>::small) & (x <= most<T>)&(max(p, q) < Float<T>::large);
  }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) {
    const T y = (z - a.low) / a.softness, mirrored = a.span.hi - y;
    return (abs(z) < Float<T>::large) & (abs(min(y, mirrored)) <= most<T>);
  }
  template <class T> static constexpr T most = T(sizeof(T) == 4 ? 40 : 340);  // e^-most > small

  // e^-x, where x > 0 is so large that the result may be subnormal too.
  template <Path P, class T> FM_INLINE static HiLo<T> decay(HiLo<T> x, HiLo<T> known) {
    if constexpr (P == Path::exact)
      return select(x.hi > -math::Constants<T>::exp_low - 1, HiLo<T>{math::exp<P>(negate(x)), 0}, known);
    return known;
  }

  // From the bound that is nearer: n, its distance to theta; x = n s/w <= s/2; e^-x and e^-(s - x).
  template <class T> struct Near {
    bool upper, tiny;
    HiLo<T> n, x, decay, minus_expm1, far_decay, far_expm1;
  };
  template <Path P, class T> FM_INLINE static Near<T> near(T t, const Args<T>& a) {
    const HiLo<T> p = two_sum(t, -a.low), q = two_sum(a.high, -t);
    const bool upper = p.hi > q.hi;
    const HiLo<T> n = select(upper, q, p), x = multiply(a.rate, n);
    const auto e = math::precise_exp(negate(x));
    const HiLo<T> far = decay<P>(math::add(a.span, negate(x)), divide(a.decay, e.exp));
    const bool tiny = x.hi <= Float<T>::small;
    const HiLo<T> far_expm1 = math::add(HiLo<T>{1, 0}, negate(far));
    return {upper, tiny, n, x, decay<P>(x, e.exp), negate(e.expm1), far, far_expm1};
  }
  // (1 - e^-x) (1 - e^-(s - x))
  template <class T> FM_INLINE static HiLo<T> both(const Near<T>& e) {
    return multiply(e.minus_expm1, e.far_expm1);
  }

  // y = x + log((1 - e^-x) / (1 - e^-(s - x))), and where z is a small difference of low and c y,
  //   z = c log(1 + E (alpha + beta) / (1 - beta E)), E = expm1(x - x0), x0 at the root,
  //   alpha = 1 / (1 - e^-x0), beta = 1 / (e^(s - x0) - 1).
  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    const Near<T> e = near<P>(t, a);
    HiLo<T> l = math::precise_log(divide(e.minus_expm1, e.far_expm1));
    if constexpr (P == Path::exact) {
      const HiLo<T> log_n = math::log_parts<P>(e.n);
      l = select(e.tiny, math::add(HiLo<T>{max(log_n.hi, -Float<T>::max), log_n.lo}, a.log_first), l);
    }
    const HiLo<T> y = math::add(e.x, l);
    const HiLo<T> from_low = select(e.upper, math::add(a.span, negate(y)), y);
    HiLo<T> z = math::add(HiLo<T>{a.low, 0}, multiply(from_low, a.softness));
    const HiLo<T> off = two_sum(t, -a.root.hi);
    const HiLo<T> d = multiply(a.rate, fast_two_sum(off.hi, off.lo - a.root.lo));
    const bool near_root = abs(d.hi) <= a.reach;
    const HiLo<T> m = math::precise_exp(select(near_root, d, HiLo<T>{0, 0})).expm1;
    const HiLo<T> den = math::add(HiLo<T>{1, 0}, negate(multiply(m, a.beta)));
    const HiLo<T> from_root = multiply(math::precise_log1p(divide(multiply(m, a.alpha_beta), den)),
                                       a.softness);
    z = select(near_root, from_root, z);
    if constexpr (P == Path::exact)
      return select(e.n.hi <= 0, select(e.upper, Float<T>::inf, -Float<T>::inf), math::value(z));
    return math::value(z);
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    const Near<T> e = near<P>(t, a);
    const T r = a.slope / math::value(both(e));
    if constexpr (P == Path::exact) return select(e.tiny, a.softness / e.n.hi, r);
    return r;
  }
  // log(s c / w) + log(1 + (e^-x + e^-(s - x) - 2 e^-s) / ((1 - e^-x) (1 - e^-(s - x)))), neither negative
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    const Near<T> e = near<P>(t, a);
    const HiLo<T> sum = math::add(e.decay, e.far_decay);
    const HiLo<T> num = math::add(sum, HiLo<T>{-2 * a.decay.hi, -2 * a.decay.lo});
    const HiLo<T> f = divide(num, both(e));
    const T r = math::add(a.log_stretch, math::precise_log1p(f)).hi;
    if constexpr (P == Path::exact) {
      const T tiny = math::log_ratio<P>(HiLo<T>{a.softness, 0}, e.n);
      return select(e.tiny, tiny, select(f.hi < Float<T>::small, a.log_stretch.hi + f.hi, r));
    }
    return r;
  }
  // s/w (e^-(s - x) - e^-x) / ((1 - e^-x) (1 - e^-(s - x))); the difference is e^-x expm1(-(s - 2 x)).
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    const Near<T> e = near<P>(t, a);
    const HiLo<T> d = math::add(two_sum(a.high, -t), negate(two_sum(t, -a.low)));
    const HiLo<T> gap = math::abs(multiply(a.rate, d));
    const HiLo<T> m = divide(math::precise_exp(negate(gap)).expm1, both(e));
    const HiLo<T> v = multiply(multiply(a.rate, e.decay), m);
    T r = math::value(v);
    if constexpr (P == Path::exact) {
      r = select(is_finite(v.hi), r, v.hi);
      const bool deep = e.x.hi > -math::Constants<T>::exp_low - 1;
      r = select(deep, math::scaled_exp<P>(a.rate.hi, negate(e.x)) * m.hi, r);
      r = select(e.tiny, -1 / e.n.hi, r);
    }
    return copysign(r, -d.hi);
  }

  // From the bound that is nearer: y <= s/2, e^-|y| and e^(y - s).
  template <class T> struct NearZ {
    bool upper;
    HiLo<T> y, decay, far_decay;
  };
  template <Path P, class T> FM_INLINE static NearZ<T> near_z(T z, const Args<T>& a) {
    HiLo<T> y = divide(two_sum(z, -a.low), HiLo<T>{a.softness, 0});
    if constexpr (P == Path::exact)
      y = {max(min(y.hi, Float<T>::max), -Float<T>::max), select(is_finite(y.lo), y.lo, T(0))};
    const HiLo<T> mirrored = math::add(a.span, negate(y));
    const bool upper = (mirrored.hi - y.hi) + (mirrored.lo - y.lo) < 0;  // next to the middle hi is the same
    const HiLo<T> x = select(upper, mirrored, y), size = math::abs(x);
    const HiLo<T> e = math::precise_exp(negate(size)).exp;
    const HiLo<T> far = select(x.hi < 0, multiply(e, a.decay), divide(a.decay, e));
    return {upper, x, decay<P>(size, e), decay<P>(math::add(a.span, negate(x)), far)};
  }
  // (1 + e^-|y|) (1 + e^(y - s)) - 1
  template <class T> FM_INLINE static HiLo<T> both(const NearZ<T>& e) {
    return math::add(math::add(e.decay, e.far_decay), multiply(e.decay, e.far_decay));
  }

  // softplus(y) - softplus(y - s) = max(y, 0) + log(1 + (e^-|y| - e^(y - s)) / (1 + e^(y - s)))
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const HiLo<T> num = math::add(e.decay, negate(e.far_decay)), den = math::add(HiLo<T>{1, 0}, e.far_decay);
    const HiLo<T> r = math::precise_log1p(divide(num, den));
    const bool outer = e.y.hi < 0;
    HiLo<T> d = multiply(a.size, math::add(r, select(outer, HiLo<T>{0, 0}, e.y)));
    if constexpr (P == Path::exact) {
      const bool tail = e.y.hi < math::Constants<T>::exp_low + 1;
      d = select(tail, HiLo<T>{math::far_exp(math::add(e.y, negate(a.log_first))), 0}, d);
    }
    return math::add(HiLo<T>{select(e.upper, a.high, a.low), 0}, select(e.upper, negate(d), d)).hi;
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const HiLo<T> one{1, 0}, den = math::add(one, both(e));
    const T r = a.inverse_slope * math::value(divide(select(e.y.hi < 0, e.decay, one), den));
    if constexpr (P == Path::exact) {
      const bool tail = e.y.hi < math::Constants<T>::exp_low + 1;
      return select(tail, math::far_exp(math::add(e.y, a.log_slope)), r);
    }
    return r;
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const HiLo<T> x = both(e), l = math::precise_log1p(x);
    const HiLo<T> first = math::add(a.log_slope, select(e.y.hi < 0, e.y, HiLo<T>{0, 0}));
    const T r = math::add(first, negate(l)).hi;
    if constexpr (P == Path::exact)
      return select(is_finite(z), select(x.hi < Float<T>::small, first.hi - x.hi, r), -Float<T>::inf);
    return r;
  }
  // 1/c (sigmoid(-y) - sigmoid(y - s)); for y > 0 the difference is -e^-y expm1(-(s - 2 y)).
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    const NearZ<T> e = near_z<P>(z, a);
    const HiLo<T> from_middle = two_sum(z, -a.middle.hi);
    HiLo<T> d = divide(fast_two_sum(from_middle.hi, from_middle.lo - a.middle.lo), HiLo<T>{a.softness, 0});
    // For infinite z it is a NaN, whose sign differs by machine.
    if constexpr (P == Path::exact) d = {select(is_finite(z), d.hi, z), select(is_finite(d.lo), d.lo, T(0))};
    const HiLo<T> minus = math::precise_exp(negate(math::abs(HiLo<T>{2 * d.hi, 2 * d.lo}))).expm1;
    const HiLo<T> inner = multiply(e.decay, negate(minus));
    const HiLo<T> outer = math::add(HiLo<T>{1, 0}, negate(multiply(e.decay, e.far_decay)));
    const HiLo<T> den = math::add(HiLo<T>{1, 0}, both(e));
    T r = math::value(divide(select(e.y.hi < 0, outer, inner), den)) / a.softness;
    if constexpr (P == Path::exact) {
      const bool deep = e.y.hi > -math::Constants<T>::exp_low - 1;
      r = select(deep, math::scaled_exp<P>(1 / a.softness, negate(e.y)) * -minus.hi, r);
    }
    return copysign(r, -d.hi);
  }
};

#undef FM_SPAN
#undef FM_ABOVE
#undef FM_BELOW
#undef FM_FROM_MIDDLE
#undef FM_LOG_STRETCH

}  // namespace fastmap::FM_ISA
