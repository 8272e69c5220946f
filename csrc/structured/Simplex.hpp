#pragma once

#include "structured/helmert.hpp"

namespace fastmap::FM_ISA {

// What the maps of the simplex share: the log-determinant is the sum of log theta up to a constant.
namespace simplex {

template <class T> inline void check(const rows::Rows<T>& r, T* refused) {
  const rows::Pairs<T> sum = r.pairs(0, 1);
  T* const least = r.room(2);
  rows::each(r.lanes, [=](std::size_t l) {
    sum.set(l, {T(-1), T(0)});
    least[l] = 1;
  });
  for (std::size_t i = 0; i < r.n; ++i)
    rows::each(r.lanes, [=](std::size_t l) {
      const T t = r.theta[r.at(i) + l];
      sum.set(l, sum[l] + t);
      least[l] = min(least[l], t);
    });
  rows::each(r.lanes, [=](std::size_t l) {
    refused[l] = select((abs(sum.hi[l]) <= row_tolerance<T>()) & (least[l] > 0), T(0), T(1));
  });
}

}  // namespace simplex

struct Simplex {
  static constexpr StructuredInfo info{
      "simplex",
      "Positive rows that sum to one, by isometric log-ratios (ILR): all entries are treated alike.",
      "positive and sum to 1",
      "z = V' log t, V the orthonormal basis of SumToZero",
      "t = softmax(V z)",
      "the first n - 1 entries",
      1,
      Size::one_less,
      2};

  // log sqrt(n), what the basis adds.
  template <class S> FM_INLINE static HiLo<S> log_root(std::size_t n) {
    const HiLo<S> r = rows::log(rows::whole<S>(n));
    return {S(0.5) * r.hi, S(0.5) * r.lo};
  }
  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> logs = r.pairs(2, 2 + r.n), total = r.pairs(2 + 2 * r.n, 3 + 2 * r.n);
    const HiLo<S> root = log_root<S>(r.n);
    rows::each(r.lanes, [=](std::size_t l) { total.set(l, root); });
    for (std::size_t i = 0; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const HiLo<S> x = rows::log(r.theta[r.at(i) + l]);
        logs.set(r.at(i) + l, x);
        total.set(l, total[l] + x);
      });
    rows::helmert_transposed<S>(
        r.n, r.lanes, r.pairs(0, 1), [=](std::size_t i, std::size_t l) { return logs[r.at(i) + l]; },
        [=](std::size_t i, std::size_t l, S x) { r.z[r.at(i) + l] = x; });
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = -rows::value(total[l]); });
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> a = r.pairs(2, 2 + r.n), sum = r.pairs(2 + 2 * r.n, 3 + 2 * r.n);
    S* const most = r.room(4 + 2 * r.n);
    rows::fill(most, r.lanes, S(-Float<rows::Real<S>>::inf));
    rows::helmert<S>(
        r.n, r.lanes, r.pairs(0, 1), [=](std::size_t i, std::size_t l) { return r.z[r.at(i) + l]; },
        [=](std::size_t i, std::size_t l, HiLo<S> x) {
          a.set(r.at(i) + l, x);
          most[l] = select(real(x.hi) > real(most[l]), x.hi, most[l]);
        });
    rows::each(r.lanes, [=](std::size_t l) { sum.set(l, {S(0), S(0)}); });
    for (std::size_t i = 0; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const S e = rows::exp(add(a[r.at(i) + l], HiLo<S>{-most[l], S(0)}));
        r.theta[r.at(i) + l] = e;
        sum.set(l, sum[l] + e);
      });
    for (std::size_t i = 0; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        r.theta[r.at(i) + l] = rows::value(divide(HiLo<S>{r.theta[r.at(i) + l], S(0)}, sum[l]));
      });
    // V z sums to zero, so that the sum of log theta is -n log sum e^(V z).
    const HiLo<S> root = log_root<S>(r.n);
    const S n = rows::whole<S>(r.n);
    rows::each(r.lanes, [=](std::size_t l) {
      const HiLo<S> p = multiply(rows::log(sum[l]) + most[l], n);
      r.log_det[l] = rows::value(root - normalised(p));
    });
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    rows::helmert<S>(
        r.n, r.lanes, r.pairs(0, 1), [=](std::size_t i, std::size_t l) { return r.grad_z[r.at(i) + l]; },
        [=](std::size_t i, std::size_t l, HiLo<S> x) {
          r.grad_theta[r.at(i) + l] = rows::value(x + -r.grad_log_det[l]) / r.theta[r.at(i) + l];
        });
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    inverse(r);
    S* const dot = r.room(2);
    rows::fill(dot, r.lanes, S(0));
    for (std::size_t i = 0; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        dot[l] = fma(r.grad_theta[r.at(i) + l], r.theta[r.at(i) + l], dot[l]);
      });
    const S n = rows::whole<S>(r.n);
    rows::helmert_transposed<S>(
        r.n, r.lanes, r.pairs(0, 1),
        [=](std::size_t i, std::size_t l) {  // the constant part of the gradient is orthogonal to V
          const S slope = r.grad_theta[r.at(i) + l] - fma(n, r.grad_log_det[l], dot[l]);
          return HiLo<S>{r.theta[r.at(i) + l] * slope, S(0)};
        },
        [=](std::size_t i, std::size_t l, S x) { r.grad_z[r.at(i) + l] = x; });
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) { simplex::check(r, refused); }
};

}  // namespace fastmap::FM_ISA
