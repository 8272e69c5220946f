// What Ordered and PositiveOrdered share: theta grows by e^z from entry to entry.
#pragma once

#include "structured/rows.hpp"

namespace fastmap::FM_ISA {

template <bool positive> struct Increments {
  static constexpr std::size_t logs = positive ? 0 : 1;  // the first z that is a logarithm

  template <class S> FM_INLINE static HiLo<S> gap(const rows::Rows<S>& r, std::size_t k, std::size_t l) {
    return k == 0 ? HiLo<S>{r.theta[l], S(0)} : two_sum(r.theta[r.at(k) + l], -r.theta[r.at(k - 1) + l]);
  }
  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> total = r.pairs(0, 1);
    rows::each(r.lanes, [=](std::size_t l) {
      total.set(l, {S(0), S(0)});
      r.z[l] = r.theta[l];
    });
    for (std::size_t k = logs; k < r.n; ++k)
      rows::each(r.lanes, [=](std::size_t l) {
        const HiLo<S> x = rows::log(gap(r, k, l));
        r.z[r.at(k) + l] = rows::value(x);
        total.set(l, total[l] + x);
      });
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = -rows::value(total[l]); });
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> theta = r.pairs(0, 1), total = r.pairs(2, 3);
    rows::each(r.lanes, [=](std::size_t l) {
      theta.set(l, {positive ? S(0) : r.z[l], S(0)});
      total.set(l, {S(0), S(0)});
      r.theta[l] = r.z[l];
    });
    for (std::size_t k = logs; k < r.n; ++k)
      rows::each(r.lanes, [=](std::size_t l) {
        const S z = r.z[r.at(k) + l];
        const HiLo<S> sum = theta[l] + rows::exp(z);
        theta.set(l, sum);
        r.theta[r.at(k) + l] = rows::value(sum);
        total.set(l, total[l] + z);
      });
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = rows::value(total[l]); });
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    rows::each(r.lanes, [=](std::size_t l) { r.grad_theta[l] = r.grad_z[l]; });
    for (std::size_t k = logs; k < r.n; ++k)
      rows::each(r.lanes, [=](std::size_t l) {
        const S g = (r.grad_z[r.at(k) + l] - r.grad_log_det[l]) / gap(r, k, l).hi;
        r.grad_theta[r.at(k) + l] = g;
        if (k > 0) r.grad_theta[r.at(k - 1) + l] = r.grad_theta[r.at(k - 1) + l] - g;
      });
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    S* const above = r.room(0);  // the gradients of all entries from k on
    rows::fill(above, r.lanes, S(0));
    for (std::size_t k = r.n; k-- > 0;)
      rows::each(r.lanes, [=](std::size_t l) {
        above[l] = above[l] + r.grad_theta[r.at(k) + l];
        r.grad_z[r.at(k) + l] = k < logs ? above[l]
                                         : fma(above[l], rows::exp(r.z[r.at(k) + l]), r.grad_log_det[l]);
      });
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) {
    rows::fill(refused, r.lanes, T(0));
    for (std::size_t k = logs; k < r.n; ++k)
      rows::each(r.lanes, [=](std::size_t l) { refused[l] = select(gap(r, k, l).hi > 0, refused[l], T(1)); });
  }
};

}  // namespace fastmap::FM_ISA
