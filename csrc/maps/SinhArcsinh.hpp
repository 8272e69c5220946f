#pragma once

#include "maps/wide.hpp"
#include "math/precise.hpp"

namespace fastmap::FM_ISA {

struct SinhArcsinh {
  // clang-format off
  static constexpr MapInfo info{
      "sinh_arcsinh",
      "z = sinh(tailweight asinh(theta) - skewness): skews and stretches the tails of signed values. "
      "Next to a root that the parameters move, log-derivatives have an absolute error of up to 2^-20 ULP of 1.",
      2, {{"skewness", 0, Constraint::finite}, {"tailweight", 1, Constraint::positive}},
      "-inf", "inf", "-inf", "inf",
      {"sinh(tailweight*asinh(t) - skewness)",
       "tailweight*cosh(tailweight*asinh(t) - skewness)/sqrt(1 + t*t)",
       "log(tailweight*cosh(tailweight*asinh(t) - skewness)/cosh(asinh(t)))",
       "((tailweight - 1)*tanh(tailweight*asinh(t) - skewness) + sinh((tailweight - 1)*asinh(t) - skewness)"
       "/(cosh(tailweight*asinh(t) - skewness)*cosh(asinh(t))))/sqrt(1 + t*t)",
       "sinh((asinh(z) + skewness)/tailweight)",
       "cosh((asinh(z) + skewness)/tailweight)/(tailweight*sqrt(1 + z*z))",
       "log(cosh((asinh(z) + skewness)/tailweight)/(tailweight*cosh(asinh(z))))",
       "((1 - tailweight)*tanh((asinh(z) + skewness)/tailweight)/tailweight"
       " + sinh(((1 - tailweight)*asinh(z) + skewness)/tailweight)"
       "/(cosh((asinh(z) + skewness)/tailweight)*cosh(asinh(z))))/sqrt(1 + z*z)"},
      {2, 4}, "sampled", 5, {{0, 1}, {0, 0.5}, {-2, 2}, {1.5, 1}, {0.3, 1.3}}};
  // clang-format on
  static constexpr int cases = 1;

  // Both directions are y = sinh x with x = factor (a - start), a = asinh t; t = root where y = 0.
  template <class T> struct Way {
    HiLo<T> factor, factor_minus_1, root, root_cosh;
    T near;                    // how far |tanh((a - start)/2)| is called near; -1: no finite root
    T usual_high, usual_near;  // bounds of |t| and of |t - root|
  };
  template <class T> struct Args {
    T low, high;
    Way<T> way, way_back;
    T skewness;
    HiLo<T> quotient, log_tailweight;  // skewness / tailweight
  };
  template <class T> static Way<T> prepare_way(HiLo<double> factor, host::Wide start, double offset) {
    const double size = abs(start.x[0]);
    const bool has_root = size < double(math::Constants<T>::exp_high);
    host::SinhCosh root{{{0, 0, 0}}, {{0, 0, 0}}};
    if (size != 0 && has_root) root = host::sinh_cosh(start);
    // |a| <= reach keeps x and |x| - |a| where exponentials are normal.
    const double reach = (double(math::Constants<T>::exp_high) - 3 - abs(offset)) / factor.hi;
    const double most = sizeof(T) == 4 ? 40 : 340;
    return {host::round_to<T>(factor),
            host::round_to<T>(host::add(factor, {-1, 0})),
            host::round_to<T>(root.sinh),
            host::round_to<T>(host::add(root.coshm1, {{1, 0, 0}})),
            T(has_root ? 0.17 : -1),
            T(reach > 0 ? host::exp(min(reach, most)).hi * 0.499 - 1 : -1),
            T(4 * double(Float<T>::small) * max(1.0, 1 / factor.hi))};
  }
  template <class T> static Args<T> prepare(const double* p) {
    const double s = p[0], d = p[1];
    const host::Wide q = host::divide(host::Wide{{s, 0, 0}}, d);
    return {-Float<T>::inf,
            Float<T>::inf,
            prepare_way<T>({d, 0}, q, s),
            prepare_way<T>(divide<double>({1, 0}, {d, 0}), {{-s, 0, 0}}, -q.x[0]),
            T(s),
            host::round_to<T>(q),
            host::round_to<T>(host::log({d, 0}))};
  }
  template <class T> struct FullWay : Way<T> {
    HiLo<T> start, offset, log_factor;  // offset = factor start
  };
  template <class T> FM_INLINE static FullWay<T> ahead(const Args<T>& a) {
    return {a.way, a.quotient, {a.skewness, 0}, a.log_tailweight};
  }
  template <class T> FM_INLINE static FullWay<T> back(const Args<T>& a) {
    return {a.way_back, {-a.skewness, 0}, negate(a.quotient), negate(a.log_tailweight)};
  }
  template <class T> FM_INLINE static bool usual(T t, const Way<T>& w) {
    return (abs(t) <= w.usual_high) & (abs(t - w.root.hi) >= w.usual_near);
  }
  template <class T> FM_INLINE static bool usual_theta(T t, const Args<T>& a) { return usual(t, a.way); }
  template <class T> FM_INLINE static bool usual_z(T z, const Args<T>& a) { return usual(z, a.way_back); }

  template <class T> struct Parts {
    HiLo<T> a, x, x_minus_a;
  };
  // Near the root x is no difference of logarithms: tanh((a - start)/2) = (t - root)/(cosh a + cosh start).
  template <Path P, class T> FM_INLINE static Parts<T> parts(T t, const FullWay<T>& w) {
    T down = 1, lifted = 0;
    if constexpr (P == Path::exact) {
      const bool big = abs(t) > Float<T>::large;  // then all is scaled by a power of two
      down = select(big, T(sizeof(T) == 4 ? 0x1p-70 : 0x1p-520), T(1));
      lifted = select(big, T(sizeof(T) == 4 ? 70 : 520), T(0));
    }
    const T u = t * down, b = abs(u);
    const HiLo<T> square = two_product(u, u), sum = two_sum(square.hi, down * down);
    const HiLo<T> cosh = math::normalise(math::sqrt_parts(HiLo<T>{sum.hi, sum.lo + square.lo}));
    const HiLo<T> difference = two_sum(u, -w.root.hi * down);
    const HiLo<T> cosh_sum = two_sum(cosh.hi, w.root_cosh.hi * down);
    const HiLo<T> num = fast_two_sum(difference.hi, difference.lo - w.root.lo * down);
    const HiLo<T> den{cosh_sum.hi, cosh_sum.lo + (cosh.lo + w.root_cosh.lo * down)};
    const bool near = abs(num.hi) <= w.near * den.hi;
    // a = log(t + sqrt(t^2 + 1))
    const HiLo<T> e = fast_two_sum(cosh.hi, b), e_rest = fast_two_sum(e.hi, e.lo + cosh.lo);
    const auto l = math::reduce_log(e_rest, two_sum(e_rest.hi - 1, e_rest.lo));
    HiLo<T> r = math::twice_atanh_parts(divide(select(near, num, l.num), select(near, den, l.den)));
    if constexpr (P == Path::exact) {
      const bool tiny = max(abs(t), abs(w.root.hi)) < Float<T>::small;  // quotients would be subnormal
      r = select(tiny, num, r);
    }
    const HiLo<T> far = math::add_ln2(l.k + lifted, r), signed_far = with_sign_of(far, t);
    const HiLo<T> from_start = math::add(w.start, r), a = select(near, from_start, signed_far);
    const HiLo<T> x = multiply(w.factor, select(near, r, a));
    const HiLo<T> minus_offset = negate(w.offset);
    return {a, select(near, x, math::add(x, minus_offset)),
            math::add(multiply(w.factor_minus_1, a), minus_offset)};
  }

  template <Path P, class T> FM_INLINE static T value(T t, const FullWay<T>& w) {
    const Parts<T> p = parts<P>(t, w);
    HiLo<T> x = math::abs(p.x);
    T size = T(0.5);
    if constexpr (P == Path::exact) {  // e^x may overflow before sinh x does: sinh x = 16 sinh(x - 4 log 2)
      const bool far = x.hi > math::Constants<T>::exp_high - 2;
      const HiLo<T> ln2 = math::ln2<T>(), less = math::add(x, HiLo<T>{-4 * ln2.hi, -4 * ln2.lo});
      x = select(far, less, x);
      size = select(far, T(8), size);
    }
    const auto e = math::precise_exp(x);
    const HiLo<T> s = math::add(e.expm1, divide(e.expm1, e.exp));  // e^x - e^-x
    T r = size * s.hi;
    if constexpr (P == Path::exact) {
      r = select(x.hi < Float<T>::small, math::value(x), r);
      r = select(is_finite(t), r, Float<T>::inf);
      return copysign(r, select(is_finite(t), p.x.hi, t));
    }
    return copysign(r, p.x.hi);
  }
  // factor cosh x / cosh a = factor e^(|x| - |a|) (1 + e^-2|x|) / (1 + e^-2|a|)
  template <class T> struct Slope {
    HiLo<T> exponent, decay_x, decay_a;
  };
  template <Path P, class T>
  FM_INLINE static Slope<T> slope_parts(const Parts<T>& p, T t, const FullWay<T>& w) {
    const HiLo<T> x = math::abs(p.x), a = math::abs(p.a);
    const bool same = is_negative(p.x.hi) == is_negative(p.a.hi);
    HiLo<T> y = select(same, select(is_negative(p.x.hi), negate(p.x_minus_a), p.x_minus_a),
                       math::add(x, negate(a)));
    const HiLo<T> ex = math::precise_exp(HiLo<T>{-2 * x.hi, -2 * x.lo}).exp;
    const HiLo<T> ea = math::precise_exp(HiLo<T>{-2 * a.hi, -2 * a.lo}).exp;
    if constexpr (P == Path::exact) {  // limits
      const T minus_1 = w.factor_minus_1.hi,
              limit = select(minus_1 == 0, -copysign(w.offset.hi, w.offset.hi * t),
                             copysign(Float<T>::inf, minus_1));
      y = select(is_finite(t), y, HiLo<T>{limit, 0});
    }
    return {y, ex, ea};
  }
  template <Path P, class T> FM_INLINE static T slope(T t, const FullWay<T>& w) {
    const Slope<T> s = slope_parts<P>(parts<P>(t, w), t, w);
    const HiLo<T> one{1, 0}, ratio = divide(math::add(one, s.decay_x), math::add(one, s.decay_a));
    return math::scaled_exp<P>(math::value(multiply(w.factor, ratio)), s.exponent);
  }
  template <Path P, class T> FM_INLINE static T log_slope(T t, const FullWay<T>& w) {
    const Slope<T> s = slope_parts<P>(parts<P>(t, w), t, w);
    const HiLo<T> num = math::add(s.decay_x, negate(s.decay_a)), den = math::add(HiLo<T>{1, 0}, s.decay_a);
    const HiLo<T> r = math::precise_log1p(divide(num, den));
    const HiLo<T> sum = math::add(math::add(w.log_factor, s.exponent), r);
    if constexpr (P == Path::exact) return select(is_finite(s.exponent.hi), sum.hi, s.exponent.hi);
    return sum.hi;
  }
  // (factor tanh x - tanh a) / cosh a with (factor - 1) tanh x + sinh(x - a) / (cosh x cosh a), whose terms
  // cancel at a root only: they are 0 for factor = 1 and have one sign for offset = 0.
  template <Path P, class T> FM_INLINE static T log_slope_grad(T t, const FullWay<T>& w) {
    const Parts<T> p = parts<P>(t, w);
    const HiLo<T> x = math::abs(p.x), a = math::abs(p.a), y = math::abs(p.x_minus_a);
    const auto ex = math::precise_exp(HiLo<T>{-2 * x.hi, -2 * x.lo});
    const auto ea = math::precise_exp(HiLo<T>{-2 * a.hi, -2 * a.lo});
    const auto ey = math::precise_exp(HiLo<T>{-2 * y.hi, -2 * y.lo});
    const HiLo<T> rest = math::precise_exp(math::add(y, negate(math::add(x, a)))).exp;
    const HiLo<T> one{1, 0}, one_ex = math::add(one, ex.exp), one_ea = math::add(one, ea.exp);
    const HiLo<T> tanh = with_sign_of(divide(negate(ex.expm1), one_ex), p.x.hi);
    const HiLo<T> product = multiply(rest, HiLo<T>{-2 * ey.expm1.hi, -2 * ey.expm1.lo});
    const HiLo<T> bend = with_sign_of(divide(product, multiply(one_ex, one_ea)), p.x_minus_a.hi);
    const HiLo<T> sum = math::add(multiply(w.factor_minus_1, tanh), bend);
    const T r = sum.hi / sqrt(fma(t, t, T(1)));
    if constexpr (P == Path::exact) return select(abs(t) > Float<T>::large, sum.hi / abs(t), r);
    return r;
  }

  template <Path P, class T> FM_INLINE static T forward(T t, const Args<T>& a) {
    return value<P>(t, ahead(a));
  }
  template <Path P, class T> FM_INLINE static T jacobian(T t, const Args<T>& a) {
    return slope<P>(t, ahead(a));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det(T t, const Args<T>& a) {
    return log_slope<P>(t, ahead(a));
  }
  template <Path P, class T> FM_INLINE static T log_abs_det_grad(T t, const Args<T>& a) {
    return log_slope_grad<P>(t, ahead(a));
  }
  template <Path P, class T> FM_INLINE static T inverse(T z, const Args<T>& a) {
    return value<P>(z, back(a));
  }
  template <Path P, class T> FM_INLINE static T inverse_jacobian(T z, const Args<T>& a) {
    return slope<P>(z, back(a));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det(T z, const Args<T>& a) {
    return log_slope<P>(z, back(a));
  }
  template <Path P, class T> FM_INLINE static T inverse_log_abs_det_grad(T z, const Args<T>& a) {
    return log_slope_grad<P>(z, back(a));
  }
};

}  // namespace fastmap::FM_ISA
