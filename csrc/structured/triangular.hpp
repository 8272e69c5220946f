// Lower triangular matrices, n x n, and their entries row by row.
#pragma once

#include "structured/rows.hpp"

namespace fastmap::FM_ISA::rows {

// Of the triangle with its diagonal, and without.
FM_INLINE std::size_t triangle(std::size_t i, std::size_t j) { return i * (i + 1) / 2 + j; }
FM_INLINE std::size_t strict_triangle(std::size_t i, std::size_t j) { return i * (i - 1) / 2 + j; }

template <class S> FM_INLINE void clear_above(const Rows<S>& r, S* matrix) {
  for (std::size_t i = 0; i < r.n; ++i)
    for (std::size_t j = i + 1; j < r.n; ++j) fill(matrix + r.at(i * r.n + j), r.lanes, S(0));
}
// 1 where an entry above the diagonal is not 0, or one on it not positive.
template <class T> FM_INLINE void check_triangle(const Rows<T>& r, T* refused) {
  fill(refused, r.lanes, T(0));
  for (std::size_t i = 0; i < r.n; ++i)
    for (std::size_t j = i; j < r.n; ++j)
      each(r.lanes, [=](std::size_t l) {
        const T t = r.theta[r.at(i * r.n + j) + l];
        refused[l] = select(i == j ? t > 0 : t == 0, refused[l], T(1));
      });
}

}  // namespace fastmap::FM_ISA::rows
