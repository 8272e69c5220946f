#pragma once

#include "structured/helmert.hpp"

namespace fastmap::FM_ISA {

struct SumToZero {
  static constexpr StructuredInfo info{
      "sum_to_zero",
      "Rows that sum to zero, in an orthonormal basis of them: distances are kept.",
      "sum to 0",
      "z[i-1] = (t[0] + ... + t[i-1] - i t[i]) / sqrt(i (i+1))",
      "t = the transpose of that",
      "the surface, where it is 0",
      1,
      Size::one_less,
      2};

  template <class S> static void forward(const rows::Rows<S>& r) {
    rows::helmert_transposed<S>(
        r.n, r.lanes, r.pairs(0, 1),
        [=](std::size_t i, std::size_t l) { return HiLo<S>{r.theta[r.at(i) + l], S(0)}; },
        [=](std::size_t i, std::size_t l, S x) { r.z[r.at(i) + l] = x; });
    rows::fill(r.log_det, r.lanes, S(0));
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    rows::helmert<S>(
        r.n, r.lanes, r.pairs(0, 1), [=](std::size_t i, std::size_t l) { return r.z[r.at(i) + l]; },
        [=](std::size_t i, std::size_t l, HiLo<S> x) { r.theta[r.at(i) + l] = rows::value(x); });
    rows::fill(r.log_det, r.lanes, S(0));
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    rows::helmert<S>(
        r.n, r.lanes, r.pairs(0, 1), [=](std::size_t i, std::size_t l) { return r.grad_z[r.at(i) + l]; },
        [=](std::size_t i, std::size_t l, HiLo<S> x) { r.grad_theta[r.at(i) + l] = rows::value(x); });
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    rows::helmert_transposed<S>(
        r.n, r.lanes, r.pairs(0, 1),
        [=](std::size_t i, std::size_t l) { return HiLo<S>{r.grad_theta[r.at(i) + l], S(0)}; },
        [=](std::size_t i, std::size_t l, S x) { r.grad_z[r.at(i) + l] = x; });
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) {
    const rows::Pairs<T> sum = r.pairs(0, 1);
    T* const size = r.room(2);
    rows::each(r.lanes, [=](std::size_t l) {
      sum.set(l, {T(0), T(0)});
      size[l] = 1;
    });
    for (std::size_t i = 0; i < r.n; ++i)
      rows::each(r.lanes, [=](std::size_t l) {
        const T t = r.theta[r.at(i) + l];
        sum.set(l, sum[l] + t);
        size[l] = max(size[l], abs(t));
      });
    rows::each(r.lanes, [=](std::size_t l) {
      refused[l] = select(abs(sum.hi[l]) <= row_tolerance<T>() * size[l], T(0), T(1));
    });
  }
};

}  // namespace fastmap::FM_ISA
