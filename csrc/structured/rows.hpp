// What structured maps are written in: numbers that may carry a derivative, and rows of them side by side.
//
// A map is one struct in one header, with
//   static constexpr StructuredInfo info
//   forward(r)             theta -> z, log_det = log|dz/dtheta|
//   inverse(r)             z -> theta, log_det = log|dtheta/dz|
//   forward_pullback(r)    theta, grad_z, grad_log_det -> grad_theta
//   inverse_pullback(r)    z, grad_theta, grad_log_det -> grad_z; may use theta and log_det as scratch
//   check(r, refused)      refused[l] = 1 where theta is not on the domain
// for Rows<S> r, S a floating-point type or Dual of one: Dual in place of numbers turns a formula into its derivative
// along a direction. That of a pullback is all that second derivatives need.
#pragma once

#include "math/elementary.hpp"
#include "structured/abi.hpp"

namespace fastmap::FM_ISA {

// v + d epsilon, epsilon^2 = 0.
template <class T> struct Dual {
  T v, d;
  Dual() = default;
  FM_INLINE Dual(T value, T derivative = 0) : v(value), d(derivative) {}
  FM_INLINE friend Dual operator-(Dual a) { return {-a.v, -a.d}; }
  FM_INLINE friend Dual operator+(Dual a, Dual b) { return {a.v + b.v, a.d + b.d}; }
  FM_INLINE friend Dual operator-(Dual a, Dual b) { return {a.v - b.v, a.d - b.d}; }
  FM_INLINE friend Dual operator*(Dual a, Dual b) { return {a.v * b.v, fma(a.v, b.d, a.d * b.v)}; }
  FM_INLINE friend Dual operator/(Dual a, Dual b) {
    const T q = a.v / b.v;
    return {q, fma(-q, b.d, a.d) / b.v};
  }
};
template <class T> FM_INLINE Dual<T> fma(Dual<T> a, Dual<T> b, Dual<T> c) {
  return {fma(a.v, b.v, c.v), fma(a.v, b.d, fma(a.d, b.v, c.d))};
}

FM_INLINE float real(float x) { return x; }
FM_INLINE double real(double x) { return x; }
template <class T> FM_INLINE T real(Dual<T> x) { return x.v; }

// Sums with |lo| <= ulp(hi) / 2, and no lo where hi is infinite.
template <class S> FM_INLINE HiLo<S> normalised(HiLo<S> x) {
  return select(is_finite(real(x.hi)), fast_two_sum(x.hi, x.lo), HiLo<S>{x.hi, S(0)});
}
template <class S> FM_INLINE HiLo<S> operator+(HiLo<S> a, HiLo<S> b) { return normalised(add(a, b)); }
template <class S> FM_INLINE HiLo<S> operator+(HiLo<S> a, S b) { return a + HiLo<S>{b, S(0)}; }
template <class S> FM_INLINE HiLo<S> operator-(HiLo<S> a, HiLo<S> b) { return a + negate(b); }

namespace rows {

template <class S> struct RealOf {
  using Type = S;
};
template <class T> struct RealOf<Dual<T>> {
  using Type = T;
};
template <class S> using Real = typename RealOf<S>::Type;

// hi + lo, also where an infinite hi has left no lo.
template <class S> FM_INLINE S value(HiLo<S> x) { return select(is_finite(real(x.hi)), x.hi + x.lo, x.hi); }

template <class T> FM_INLINE HiLo<T> log(HiLo<T> x) { return normalised(math::log_parts<Path::exact>(x)); }
template <class T> FM_INLINE HiLo<Dual<T>> log(HiLo<Dual<T>> x) {
  const HiLo<T> r = log(HiLo<T>{x.hi.v, x.lo.v});
  return {{r.hi, (x.hi.d + x.lo.d) / x.hi.v}, {r.lo, 0}};
}
template <class S> FM_INLINE HiLo<S> log(S x) { return log(HiLo<S>{x, S(0)}); }
template <class T> FM_INLINE T exp(HiLo<T> x) { return math::exp<Path::exact>(x); }
template <class T> FM_INLINE Dual<T> exp(HiLo<Dual<T>> x) {
  const T e = exp(HiLo<T>{x.hi.v, x.lo.v});
  return {e, e * (x.hi.d + x.lo.d)};
}
template <class S> FM_INLINE S exp(S x) { return exp(HiLo<S>{x, S(0)}); }
template <class T> FM_INLINE HiLo<T> sqrt(HiLo<T> x) {
  const T root = FM_ISA::sqrt(x.hi);
  return {root, select(root > 0, (fma(-root, root, x.hi) + x.lo) / (2 * root), T(0))};
}
template <class T> FM_INLINE HiLo<Dual<T>> sqrt(HiLo<Dual<T>> x) {
  const HiLo<T> r = sqrt(HiLo<T>{x.hi.v, x.lo.v});
  return {{r.hi, (x.hi.d + x.lo.d) / (2 * r.hi)}, {r.lo, 0}};
}
template <class S> FM_INLINE S sqrt(S x) { return value(sqrt(HiLo<S>{x, S(0)})); }
template <class T> FM_INLINE T asinh(HiLo<T> x) { return value(math::asinh_parts<Path::exact>(x)); }
template <class T> FM_INLINE Dual<T> asinh(HiLo<Dual<T>> x) {
  const T v = x.hi.v;
  return {asinh(HiLo<T>{v, x.lo.v}), (x.hi.d + x.lo.d) / FM_ISA::sqrt(fma(v, v, T(1)))};
}
FM_INLINE float tanh(float x) { return math::tanh<Path::exact>(x); }
FM_INLINE double tanh(double x) { return math::tanh<Path::exact>(x); }
template <class T> FM_INLINE Dual<T> tanh(Dual<T> x) {
  const T e = exp(-FM_ISA::abs(x.v)), sech = 2 * e / fma(e, e, T(1));
  return {tanh(x.v), sech * sech * x.d};
}
FM_INLINE float abs(float x) { return FM_ISA::abs(x); }
FM_INLINE double abs(double x) { return FM_ISA::abs(x); }
template <class T> FM_INLINE Dual<T> abs(Dual<T> x) { return select(is_negative(x.v), -x, x); }

// A whole number, and i (i + 1), exactly.
template <class S> FM_INLINE S whole(std::size_t i) { return S(Real<S>(i)); }
template <class S> FM_INLINE HiLo<S> oblong(std::size_t i) {
  return two_product(whole<S>(i), whole<S>(i + 1));
}

// Pairs of elements of a row.
template <class S> struct Pairs {
  S *hi, *lo;
  FM_INLINE HiLo<S> operator[](std::size_t i) const { return {hi[i], lo[i]}; }
  FM_INLINE void set(std::size_t i, HiLo<S> x) const {
    hi[i] = x.hi;
    lo[i] = x.lo;
  }
};

template <class S> struct Rows {
  std::size_t n, lanes;
  S *theta, *z, *log_det, *grad_theta, *grad_z, *grad_log_det, *scratch;

  explicit Rows(const Tile& t)
      : n(t.n),
        lanes(t.lanes),
        theta(static_cast<S*>(t.theta)),
        z(static_cast<S*>(t.z)),
        log_det(static_cast<S*>(t.log_det)),
        grad_theta(static_cast<S*>(t.grad_theta)),
        grad_z(static_cast<S*>(t.grad_z)),
        grad_log_det(static_cast<S*>(t.grad_log_det)),
        scratch(static_cast<S*>(t.scratch)) {}

  // Where element i of the first lane is.
  FM_INLINE std::size_t at(std::size_t i) const { return i * lanes; }
  // Scratch from element i of a row on.
  FM_INLINE S* room(std::size_t i) const { return scratch + i * lanes; }
  FM_INLINE Pairs<S> pairs(std::size_t i, std::size_t j) const { return {room(i), room(j)}; }
};

// work(l) for every lane.
template <class Work> FM_INLINE void each(std::size_t lanes, const Work& work) {
#pragma GCC ivdep
  for (std::size_t l = 0; l < lanes; ++l) work(l);
}

template <class S> FM_INLINE void fill(S* to, std::size_t lanes, S x) {
  each(lanes, [=](std::size_t l) { to[l] = x; });
}

}  // namespace rows
}  // namespace fastmap::FM_ISA
