#pragma once

#include "structured/rows.hpp"

namespace fastmap::FM_ISA {

// Stereographic projection from (-1, 0, ..., 0): one to one, where a vector of n numbers that is divided by its norm
// is not. Of unit quaternions (w, x, y, z) they are the modified Rodrigues parameters, 0 for the identity.
struct UnitVector {
  static constexpr StructuredInfo info{
      "unit_vector",
      "Rows of norm one, a unit quaternion (w, x, y, z) for instance, by stereographic projection: n - 1 "
      "numbers, "
      "0 for (1, 0, ..., 0). One to one but for (-1, 0, ..., 0), which no z reaches. A quaternion and its "
      "negative are one rotation and have two z.",
      "of norm 1 and not (-1, 0, ..., 0)",
      "z = t[1:] / (1 + t[0])",
      "t = (1 - q, 2 z) / (1 + q), q = |z|^2",
      "the surface of the sphere",
      1,
      Size::one_less,
      2};

  // q = |z|^2, and the sum of what is below that.
  template <class S>
  FM_INLINE static void squares(const rows::Rows<S>& r, const S* x, std::size_t n, rows::Pairs<S> q) {
    rows::each(r.lanes, [=](std::size_t l) { q.set(l, {S(0), S(0)}); });
    for (std::size_t i = 0; i < n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const HiLo<S> p = two_product(x[r.at(i) + l], x[r.at(i) + l]);
        const HiLo<S> sum = q[l] + p;
        q.set(l, select(is_finite(real(sum.hi)), sum, HiLo<S>{sum.hi, S(0)}));
      });
  }
  // 1 + t[0] = 2 / (1 + q) loses its digits near the pole, 1 - t[0] does not: from there z = t (1 - t[0]) / |t[1:]|^2.
  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> q = r.pairs(0, 1), factor = r.pairs(2, 3);
    squares(r, r.theta + r.at(1), r.n - 1, q);
    const S n = rows::whole<S>(r.n - 1);
    rows::each(r.lanes, [=](std::size_t l) {
      const S t = r.theta[l];
      const bool far = real(t) < 0;
      const HiLo<S> one{S(1), S(0)};
      const HiLo<S> f = select(far, divide(two_sum(S(1), -t), q[l]), divide(one, two_sum(S(1), t)));
      factor.set(l, f);
      r.log_det[l] = n * rows::value(rows::log(f));
    });
    for (std::size_t i = 1; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        r.z[r.at(i - 1) + l] = rows::value(multiply(factor[l], r.theta[r.at(i) + l]));
      });
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> q = r.pairs(0, 1);
    squares(r, r.z, r.n - 1, q);
    const HiLo<S> log2{S(math::Constants<rows::Real<S>>::ln2), S(math::Constants<rows::Real<S>>::ln2_rest)};
    const S n = rows::whole<S>(r.n - 1);
    rows::each(r.lanes, [=](std::size_t l) {
      const HiLo<S> one{S(1), S(0)}, d = q[l] + one;
      const bool huge = real(d.hi) > Float<rows::Real<S>>::large;
      r.theta[l] = select(huge, S(-1), rows::value(divide(one - q[l], d)));
      const HiLo<S> logarithm = rows::log(HiLo<S>{d.hi, select(huge, S(0), d.lo)});
      r.log_det[l] = n * rows::value(log2 - logarithm);
      q.set(l, {d.hi, select(huge, S(0), d.lo)});
    });
    for (std::size_t i = 1; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const S z = r.z[r.at(i - 1) + l];
        const bool huge = real(q.hi[l]) > Float<rows::Real<S>>::large;  // q may be infinite
        const S t = rows::value(divide(HiLo<S>{S(2) * z, S(0)}, q[l]));
        r.theta[r.at(i) + l] = select(huge, S(2) * (z / q.hi[l]), t);
      });
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    S *const q = r.room(0), *const dot = r.room(1), *const by_q = r.room(2), *const factor = r.room(3);
    rows::each(r.lanes, [=](std::size_t l) { q[l] = dot[l] = S(0); });
    for (std::size_t i = 1; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const S t = r.theta[r.at(i) + l];
        q[l] = fma(t, t, q[l]);
        dot[l] = fma(t, r.grad_z[r.at(i - 1) + l], dot[l]);
      });
    const S n = rows::whole<S>(r.n - 1);
    rows::each(r.lanes, [=](std::size_t l) {  // z = f t and log_det = n log f; f depends on t[0], or on q too
      const S t = r.theta[l];
      const bool far = real(t) < 0;
      const S f = select(far, (S(1) - t) / q[l], S(1) / (S(1) + t));
      const S by_f = fma(r.grad_log_det[l], n / f, dot[l]);
      factor[l] = f;
      by_q[l] = select(far, S(-2) * by_f * (f / q[l]), S(0));
      r.grad_theta[l] = select(far, -by_f / q[l], -by_f * (f * f));
    });
    for (std::size_t i = 1; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const S g = r.grad_z[r.at(i - 1) + l];
        r.grad_theta[r.at(i) + l] = fma(factor[l], g, by_q[l] * r.theta[r.at(i) + l]);
      });
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    S *const q = r.room(0), *const dot = r.room(1), *const by_q = r.room(2), *const factor = r.room(3);
    rows::each(r.lanes, [=](std::size_t l) {
      q[l] = S(1);
      dot[l] = r.grad_theta[l];
    });
    for (std::size_t i = 1; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const S z = r.z[r.at(i - 1) + l];
        q[l] = fma(z, z, q[l]);
        dot[l] = fma(z, r.grad_theta[r.at(i) + l], dot[l]);
      });
    const S n = rows::whole<S>(r.n - 1);
    rows::each(r.lanes, [=](std::size_t l) {  // t = (f - 1, f z), log_det = n log f, f = 2 / (1 + q)
      factor[l] = S(2) / q[l];
      by_q[l] = -factor[l] * fma(factor[l], dot[l], n * r.grad_log_det[l]);
    });
    for (std::size_t i = 1; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const S z = r.z[r.at(i - 1) + l];
        r.grad_z[r.at(i - 1) + l] = fma(factor[l], r.grad_theta[r.at(i) + l], by_q[l] * z);
      });
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) {
    const rows::Pairs<T> q = r.pairs(0, 1);
    squares(r, r.theta + r.at(1), r.n - 1, q);
    rows::each(r.lanes, [=](std::size_t l) {
      const T t = r.theta[l], norm2 = fma(t, t, q.hi[l]);
      const bool fits = (abs(norm2 - 1) <= 2 * row_tolerance<T>()) & ((t > 0) | (q.hi[l] > 0));
      refused[l] = select(fits, T(0), T(1));
    });
  }
};

}  // namespace fastmap::FM_ISA
