// Random subspaces: theta = theta_0 + P z for an n x m matrix P that is never stored.
//
// Row i of P has `nonzeros` entries +-sqrt(m / (n nonzeros)), one in each of as many equal parts of the columns, where
// a hash of (seed, i) says (Nelson and Nguyen, "OSNAP: Faster Numerical Linear Algebra Algorithms via Sparser Subspace
// Embeddings", 2013). Columns have norm 1 on average, so that |P z| is about |z|.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmap {

struct Subspace {
  std::size_t n, m;
  std::uint64_t seed;
  int nonzeros;  // 1 to 4, at most m
  double scale;  // of P
};

// theta = start + P z; start may be null, and theta itself.
void expand(const Subspace& s, const float* start, const double* z, float* theta);
void expand(const Subspace& s, const double* start, const double* z, double* theta);

// grad_z = P' grad_theta, summed in an order that depends on n and m alone.
void project(const Subspace& s, const float* grad_theta, double* grad_z);
void project(const Subspace& s, const double* grad_theta, double* grad_z);

}  // namespace fastmap
