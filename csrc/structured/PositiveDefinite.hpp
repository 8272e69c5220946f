#pragma once

#include "structured/triangular.hpp"

namespace fastmap::FM_ISA {

struct PositiveDefinite {
  static constexpr StructuredInfo info{
      "positive_definite",
      "Symmetric positive definite matrices; z has the entries of their Cholesky factors, as CholeskyFactor.",
      "symmetric positive definite",
      "z = CholeskyFactor of L, t = L L'",
      "t = L L'",
      "the lower triangle",
      2,
      Size::triangle,
      1};

  // The gradient of log_det by z on the diagonal: n + 1 - i.
  template <class S> FM_INLINE static S weight(const rows::Rows<S>& r, std::size_t i) {
    return rows::whole<S>(r.n + 1 - i);
  }
  // Where L is kept.
  template <class S> FM_INLINE static S* factor(const rows::Rows<S>& r) { return r.room(8); }

  // L of the symmetric part of theta, row by row (Cholesky and Banachiewicz).
  template <class S> static void factorise(const rows::Rows<S>& r) {
    S *const L = factor(r), *const rest = r.room(0);
    for (std::size_t i = 0; i < r.n; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        rows::each(r.lanes, [=](std::size_t l) {
          rest[l] = S(0.5) * r.theta[r.at(i * r.n + j) + l] + S(0.5) * r.theta[r.at(j * r.n + i) + l];
        });
        for (std::size_t k = 0; k < j; ++k)
          rows::each(r.lanes, [=](std::size_t l) {
            rest[l] = fma(-L[r.at(rows::triangle(i, k)) + l], L[r.at(rows::triangle(j, k)) + l], rest[l]);
          });
        rows::each(r.lanes, [=](std::size_t l) {
          const S diagonal = L[r.at(rows::triangle(j, j)) + l];
          L[r.at(rows::triangle(i, j)) + l] = i == j ? rows::sqrt(rest[l]) : rest[l] / diagonal;
        });
      }
  }
  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> total = r.pairs(1, 2);
    const S* const L = factor(r);
    factorise(r);
    rows::each(r.lanes, [=](std::size_t l) { total.set(l, {S(0), S(0)}); });
    for (std::size_t i = 0; i < r.n; ++i) {
      for (std::size_t j = 0; j < i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          r.z[r.at(rows::triangle(i, j)) + l] = L[r.at(rows::triangle(i, j)) + l];
        });
      const S w = weight(r, i), log2 = S(math::Constants<rows::Real<S>>::ln2);
      rows::each(r.lanes, [=](std::size_t l) {
        const S z = rows::value(rows::log(L[r.at(rows::triangle(i, i)) + l]));
        r.z[r.at(rows::triangle(i, i)) + l] = z;
        total.set(l, total[l] + fma(w, z, log2));
      });
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = -rows::value(total[l]); });
  }
  template <class S> static void from_z(const rows::Rows<S>& r) {
    S* const L = factor(r);
    for (std::size_t i = 0; i < r.n; ++i)
      for (std::size_t j = 0; j <= i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(rows::triangle(i, j)) + l;
          L[at] = i == j ? rows::exp(r.z[at]) : r.z[at];
        });
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> total = r.pairs(1, 2), sum = r.pairs(3, 4);
    const S* const L = factor(r);
    from_z(r);
    rows::each(r.lanes, [=](std::size_t l) { total.set(l, {S(0), S(0)}); });
    for (std::size_t i = 0; i < r.n; ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        rows::each(r.lanes, [=](std::size_t l) { sum.set(l, {S(0), S(0)}); });
        for (std::size_t k = 0; k <= j; ++k)
          rows::each(r.lanes, [=](std::size_t l) {
            const S a = L[r.at(rows::triangle(i, k)) + l], b = L[r.at(rows::triangle(j, k)) + l];
            sum.set(l, sum[l] + two_product(a, b));
          });
        rows::each(r.lanes, [=](std::size_t l) {
          r.theta[r.at(i * r.n + j) + l] = r.theta[r.at(j * r.n + i) + l] = rows::value(sum[l]);
        });
      }
      const S w = weight(r, i), log2 = S(math::Constants<rows::Real<S>>::ln2);
      rows::each(r.lanes, [=](std::size_t l) {
        total.set(l, total[l] + fma(w, r.z[r.at(rows::triangle(i, i)) + l], log2));
      });
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = rows::value(total[l]); });
  }
  // The steps of `factorise` backwards; S. P. Smith, "Differentiation of the Cholesky Algorithm" (1995).
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    const S* const L = factor(r);
    S *const by_L = r.grad_z, *const by_rest = r.room(0);  // grad_z becomes the gradient by L, in its place
    factorise(r);
    for (std::size_t i = 0; i < r.n; ++i) {
      const S w = weight(r, i);
      rows::each(r.lanes, [=](std::size_t l) {
        const std::size_t at = r.at(rows::triangle(i, i)) + l;
        by_L[at] = (by_L[at] - r.grad_log_det[l] * w) / L[at];
      });
    }
    for (std::size_t i = r.n; i-- > 0;)
      for (std::size_t j = i + 1; j-- > 0;) {
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(rows::triangle(i, j)) + l, diagonal = r.at(rows::triangle(j, j)) + l;
          const S g = by_L[at] / L[diagonal];
          by_rest[l] = i == j ? S(0.5) * g : g;
          if (i != j) by_L[diagonal] = by_L[diagonal] - g * L[at];
          const S half = i == j ? by_rest[l] : S(0.5) * g;
          r.grad_theta[r.at(i * r.n + j) + l] = r.grad_theta[r.at(j * r.n + i) + l] = half;
        });
        for (std::size_t k = 0; k < j; ++k)
          rows::each(r.lanes, [=](std::size_t l) {
            const std::size_t a = r.at(rows::triangle(i, k)) + l, b = r.at(rows::triangle(j, k)) + l;
            by_L[a] = by_L[a] - by_rest[l] * L[b];
            by_L[b] = by_L[b] - by_rest[l] * L[a];
          });
      }
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    const S* const L = factor(r);
    S* const sum = r.room(0);
    from_z(r);
    for (std::size_t i = 0; i < r.n; ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        rows::fill(sum, r.lanes, S(0));
        for (std::size_t k = j; k < r.n; ++k)
          rows::each(r.lanes, [=](std::size_t l) {
            const S g = r.grad_theta[r.at(i * r.n + k) + l] + r.grad_theta[r.at(k * r.n + i) + l];
            sum[l] = fma(g, L[r.at(rows::triangle(k, j)) + l], sum[l]);
          });
        const S w = weight(r, i);
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(rows::triangle(i, j)) + l;
          r.grad_z[at] = i == j ? fma(sum[l], L[at], r.grad_log_det[l] * w) : sum[l];
        });
      }
  }
  // That it is definite shows in z.
  template <class T> static void check(const rows::Rows<T>& r, T* refused) {
    rows::fill(refused, r.lanes, T(0));
    for (std::size_t i = 0; i < r.n; ++i)
      for (std::size_t j = 0; j < i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          const T a = r.theta[r.at(i * r.n + j) + l], b = r.theta[r.at(j * r.n + i) + l];
          refused[l] = select(abs(a - b) <= row_tolerance<T>() * max(abs(a), abs(b)), refused[l], T(1));
        });
  }
};

}  // namespace fastmap::FM_ISA
