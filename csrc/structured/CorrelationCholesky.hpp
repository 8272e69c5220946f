#pragma once

#include "structured/triangular.hpp"

namespace fastmap::FM_ISA {

// Every row of L is a unit vector: L[i, j] = tanh(z[j]) r[j], r[j+1] = r[j] / cosh(z[j]), r[0] = 1, L[i, i] = r[i].
// Products of 1 / cosh, and norms of what is right of an entry, do not cancel as 1 - tanh^2 and 1 - L^2 - ... do.
struct CorrelationCholesky {
  static constexpr StructuredInfo info{
      "correlation_cholesky",
      "Cholesky factors of correlation matrices, by partial correlations (Lewandowski, Kurowicka and Joe "
      "2009).",
      "lower triangular with a positive diagonal and rows of norm 1",
      "z[i(i-1)/2 + j] = asinh(t[i, j] / |t[i, j+1:]|)",
      "t[i, j] = tanh(z[j]) / (cosh(z[0]) ... cosh(z[j-1])), z that of row i",
      "the lower triangle without its diagonal",
      2,
      Size::strict_triangle,
      2};

  // How often log cosh(z[i, j]) is in log_det.
  template <class S> FM_INLINE static S weight(std::size_t i, std::size_t j) {
    return rows::whole<S>(i + 1 - j);
  }
  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> square = r.pairs(0, 1), total = r.pairs(2, 3);
    rows::each(r.lanes, [=](std::size_t l) { total.set(l, {S(0), S(0)}); });
    for (std::size_t i = 1; i < r.n; ++i) {
      rows::each(r.lanes, [=](std::size_t l) {
        const S t = r.theta[r.at(i * r.n + i) + l];
        square.set(l, two_product(t, t));
      });
      for (std::size_t j = i; j-- > 0;) {
        const S w = S(0.5) * weight<S>(i, j);
        rows::each(r.lanes, [=](std::size_t l) {
          const S t = r.theta[r.at(i * r.n + j) + l];
          const HiLo<S> sinh = divide(HiLo<S>{t, S(0)}, rows::sqrt(square[l]));
          r.z[r.at(rows::strict_triangle(i, j)) + l] = rows::asinh(sinh);
          const HiLo<S> longer = square[l] + two_product(t, t);
          total.set(l, total[l] + w * rows::value(rows::log(divide(longer, square[l]))));
          square.set(l, longer);
        });
      }
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = rows::value(total[l]); });
  }
  // tanh, 1 / cosh and its logarithm, by e = e^-|z|.
  template <class S> FM_INLINE static S sech(S z) {
    const S e = rows::exp(-rows::abs(z));
    return rows::value(divide(HiLo<S>{S(2) * e, S(0)}, two_sum(S(1), e * e)));
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> total = r.pairs(0, 1), rest = r.pairs(2, 3);
    const S log2 = S(math::Constants<rows::Real<S>>::ln2);
    rows::clear_above(r, r.theta);
    rows::each(r.lanes, [=](std::size_t l) {
      r.theta[l] = S(1);
      total.set(l, {S(0), S(0)});
    });
    for (std::size_t i = 1; i < r.n; ++i) {
      rows::each(r.lanes, [=](std::size_t l) { rest.set(l, {S(1), S(0)}); });
      for (std::size_t j = 0; j < i; ++j) {
        const S w = weight<S>(i, j);
        rows::each(r.lanes, [=](std::size_t l) {
          const S z = r.z[r.at(rows::strict_triangle(i, j)) + l], a = rows::abs(z), e = rows::exp(-a);
          r.theta[r.at(i * r.n + j) + l] = rows::value(multiply(rest[l], rows::tanh(z)));
          const HiLo<S> p = multiply(rest[l], sech(z));
          rest.set(l, normalised(p));
          const S log_cosh = a + rows::value(rows::log(two_sum(S(1), e * e)) + -log2);
          total.set(l, total[l] + -(w * log_cosh));
        });
      }
      rows::each(r.lanes, [=](std::size_t l) { r.theta[r.at(i * r.n + i) + l] = rows::value(rest[l]); });
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = rows::value(total[l]); });
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    S *const square = r.room(0), *const by_square = r.room(r.n + 1);  // square[j] = |t[i, j:]|^2
    rows::clear_above(r, r.grad_theta);
    rows::fill(r.grad_theta, r.lanes, S(0));
    for (std::size_t i = 1; i < r.n; ++i) {
      rows::fill(square + r.at(i + 1), r.lanes, S(0));
      for (std::size_t j = i + 1; j-- > 0;)
        rows::each(r.lanes, [=](std::size_t l) {
          const S t = r.theta[r.at(i * r.n + j) + l];
          square[r.at(j) + l] = fma(t, t, square[r.at(j + 1) + l]);
        });
      rows::fill(by_square, r.lanes, S(0));
      for (std::size_t j = 0; j < i; ++j) {
        const S w = S(0.5) * weight<S>(i, j);
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(i * r.n + j) + l;
          const S t = r.theta[at], here = square[r.at(j) + l], next = square[r.at(j + 1) + l];
          const S g = r.grad_z[r.at(rows::strict_triangle(i, j)) + l] / rows::sqrt(here);
          const S by_log = r.grad_log_det[l] * w, by_here = by_square[l] + by_log / here;
          r.grad_theta[at] = fma(S(2) * t, by_here, g);
          by_square[l] = by_here - (by_log + S(0.5) * t * g) / next;
        });
      }
      rows::each(r.lanes, [=](std::size_t l) {
        const std::size_t at = r.at(i * r.n + i) + l;
        r.grad_theta[at] = S(2) * r.theta[at] * by_square[l];
      });
    }
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    S *const rest = r.room(0), *const by_rest = r.room(r.n);
    for (std::size_t i = 1; i < r.n; ++i) {
      rows::fill(rest, r.lanes, S(1));
      for (std::size_t j = 0; j + 1 < i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          rest[r.at(j + 1) + l] = rest[r.at(j) + l] * sech(r.z[r.at(rows::strict_triangle(i, j)) + l]);
        });
      rows::each(r.lanes, [=](std::size_t l) { by_rest[l] = r.grad_theta[r.at(i * r.n + i) + l]; });
      for (std::size_t j = i; j-- > 0;) {
        const S w = weight<S>(i, j);
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(rows::strict_triangle(i, j)) + l;
          const S t = rows::tanh(r.z[at]), s = sech(r.z[at]), g = r.grad_theta[r.at(i * r.n + j) + l];
          const S slope = rest[r.at(j) + l] * s * (g * s - by_rest[l] * t);
          r.grad_z[at] = slope - r.grad_log_det[l] * w * t;
          by_rest[l] = fma(g, t, by_rest[l] * s);
        });
      }
    }
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) {
    T* const square = r.room(0);
    rows::check_triangle(r, refused);
    for (std::size_t i = 0; i < r.n; ++i) {
      rows::fill(square, r.lanes, T(-1));
      for (std::size_t j = 0; j <= i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          const T t = r.theta[r.at(i * r.n + j) + l];
          square[l] = fma(t, t, square[l]);
        });
      rows::each(r.lanes, [=](std::size_t l) {
        refused[l] = select(abs(square[l]) <= 2 * row_tolerance<T>(), refused[l], T(1));
      });
    }
  }
};

}  // namespace fastmap::FM_ISA
