// The orthonormal basis V of the rows that sum to zero, n x (n - 1), whose column i - 1 has i entries 1 / s, then
// -i / s, then zeros, s = sqrt(i (i + 1)): z = V' theta and theta = V z, in one pass each.
// Egozcue et al., "Isometric Logratio Transformations for Compositional Data Analysis" (2003).
#pragma once

#include "structured/rows.hpp"

namespace fastmap::FM_ISA::rows {

// out(i, l, pair) = V z from z(i, l), n elements. `sum`: scratch.
template <class S, class In, class Out>
FM_INLINE void helmert(std::size_t n, std::size_t lanes, Pairs<S> sum, const In& z, const Out& out) {
  each(lanes, [=](std::size_t l) { sum.set(l, {S(0), S(0)}); });
  for (std::size_t i = n - 1; i > 0; --i) {
    const HiLo<S> scale = sqrt(oblong<S>(i));
    const S weight = whole<S>(i);
    each(lanes, [=, &z, &out](std::size_t l) {
      const HiLo<S> w = divide(HiLo<S>{z(i - 1, l), S(0)}, scale), p = multiply(w, weight);
      out(i, l, sum[l] - normalised(p));
      sum.set(l, sum[l] + normalised(w));
    });
  }
  each(lanes, [=, &out](std::size_t l) { out(0, l, sum[l]); });
}

// out(i, l, number) = V' theta from pairs theta(i, l), n - 1 elements. `sum`: scratch.
template <class S, class In, class Out> FM_INLINE void helmert_transposed(std::size_t n, std::size_t lanes,
                                                                          Pairs<S> sum, const In& theta,
                                                                          const Out& out) {
  each(lanes, [=, &theta](std::size_t l) { sum.set(l, theta(0, l)); });
  for (std::size_t i = 1; i < n; ++i) {
    const HiLo<S> scale = sqrt(oblong<S>(i));
    const S weight = whole<S>(i);
    each(lanes, [=, &theta, &out](std::size_t l) {
      const HiLo<S> t = theta(i, l), p = multiply(t, weight);
      const HiLo<S> q = divide(sum[l] - normalised(p), scale);
      out(i - 1, l, value(q));
      sum.set(l, sum[l] + t);
    });
  }
}

}  // namespace fastmap::FM_ISA::rows
