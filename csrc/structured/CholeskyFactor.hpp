#pragma once

#include "structured/triangular.hpp"

namespace fastmap::FM_ISA {

struct CholeskyFactor {
  static constexpr StructuredInfo info{
      "cholesky_factor",
      "Lower triangular matrices with a positive diagonal; z has their entries row by row.",
      "lower triangular with a positive diagonal",
      "z[i(i+1)/2 + j] = t[i, j], its logarithm where i = j",
      "t = that, with exp on the diagonal",
      "the lower triangle",
      2,
      Size::triangle,
      1};

  template <class S> static void forward(const rows::Rows<S>& r) {
    const rows::Pairs<S> total = r.pairs(0, 1);
    rows::each(r.lanes, [=](std::size_t l) { total.set(l, {S(0), S(0)}); });
    for (std::size_t i = 0; i < r.n; ++i) {
      for (std::size_t j = 0; j < i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          r.z[r.at(rows::triangle(i, j)) + l] = r.theta[r.at(i * r.n + j) + l];
        });
      rows::each(r.lanes, [=](std::size_t l) {
        const HiLo<S> x = rows::log(r.theta[r.at(i * r.n + i) + l]);
        r.z[r.at(rows::triangle(i, i)) + l] = rows::value(x);
        total.set(l, total[l] + x);
      });
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = -rows::value(total[l]); });
  }
  template <class S> static void inverse(const rows::Rows<S>& r) {
    const rows::Pairs<S> total = r.pairs(0, 1);
    rows::each(r.lanes, [=](std::size_t l) { total.set(l, {S(0), S(0)}); });
    rows::clear_above(r, r.theta);
    for (std::size_t i = 0; i < r.n; ++i) {
      for (std::size_t j = 0; j < i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          r.theta[r.at(i * r.n + j) + l] = r.z[r.at(rows::triangle(i, j)) + l];
        });
      rows::each(r.lanes, [=](std::size_t l) {
        const S z = r.z[r.at(rows::triangle(i, i)) + l];
        r.theta[r.at(i * r.n + i) + l] = rows::exp(z);
        total.set(l, total[l] + z);
      });
    }
    rows::each(r.lanes, [=](std::size_t l) { r.log_det[l] = rows::value(total[l]); });
  }
  template <class S> static void forward_pullback(const rows::Rows<S>& r) {
    rows::clear_above(r, r.grad_theta);
    for (std::size_t i = 0; i < r.n; ++i)
      for (std::size_t j = 0; j <= i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(i * r.n + j) + l;
          const S g = r.grad_z[r.at(rows::triangle(i, j)) + l];
          r.grad_theta[at] = i == j ? (g - r.grad_log_det[l]) / r.theta[at] : g;
        });
  }
  template <class S> static void inverse_pullback(const rows::Rows<S>& r) {
    for (std::size_t i = 0; i < r.n; ++i)
      for (std::size_t j = 0; j <= i; ++j)
        rows::each(r.lanes, [=](std::size_t l) {
          const std::size_t at = r.at(rows::triangle(i, j)) + l;
          const S g = r.grad_theta[r.at(i * r.n + j) + l];
          r.grad_z[at] = i == j ? fma(g, rows::exp(r.z[at]), r.grad_log_det[l]) : g;
        });
  }
  template <class T> static void check(const rows::Rows<T>& r, T* refused) {
    rows::check_triangle(r, refused);
  }
};

}  // namespace fastmap::FM_ISA
