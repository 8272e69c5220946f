#include "subspace/subspace.hpp"

#include <cmath>
#include <vector>

#include "engine/blocks.hpp"

namespace fastmap {
namespace {

constexpr std::size_t kRows = 1 << 16;          // of a block
constexpr std::size_t kPartialSums = 1u << 22;  // numbers that a projection keeps at most, unless m is larger

// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The columns of P in parts, and where a row has its entries.
class Pattern {
 public:
  explicit Pattern(const Subspace& s) : nonzeros_(s.nonzeros), key_(mix(s.seed + kGolden)) {
    for (int k = 0; k <= nonzeros_; ++k) begin_[k] = s.m * std::size_t(k) / std::size_t(nonzeros_);
  }
  // entry(2 column + (1 if negative)) for each: a number to look up, since half of all branches would be mispredicted.
  template <class Entry> void row(std::size_t i, const Entry& entry) const {
    std::uint64_t bits = 0;
    for (int k = 0; k < nonzeros_; ++k) {
      bits = k % 2 == 0 ? mix(key_ + kGolden * (2 * std::uint64_t(i) + std::uint64_t(k / 2) + 1))
                        : bits >> 32;
      const std::uint64_t width = begin_[k + 1] - begin_[k];
      const std::uint64_t column = begin_[k] + ((bits & 0x7fffffffu) * width >> 31);
      entry(std::size_t(2 * column + (bits >> 31 & 1)));
    }
  }

 private:
  static constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;
  int nonzeros_;
  std::uint64_t key_;
  std::size_t begin_[5] = {};
};

double entry_size(const Subspace& s) {
  return s.scale * std::sqrt(double(s.m) / (double(s.n) * double(s.nonzeros)));
}

template <class T> void expand_rows(const Subspace& s, const T* start, const double* z, T* theta) {
  const Pattern pattern(s);
  std::vector<double> scaled(2 * s.m);
  const double size = entry_size(s);
  for (std::size_t c = 0; c < s.m; ++c) scaled[2 * c + 1] = -(scaled[2 * c] = size * z[c]);
  const std::size_t blocks = (s.n + kRows - 1) / kRows;
  parallel(blocks, s.n * sizeof(T) * 8, [&](std::size_t first, std::size_t last) {
    for (std::size_t i = first * kRows; i < std::min(s.n, last * kRows); ++i) {
      double sum = start ? double(start[i]) : 0;
      pattern.row(i, [&](std::size_t entry) { sum += scaled[entry]; });
      theta[i] = T(sum);
    }
  });
}

template <class T> void project_rows(const Subspace& s, const T* grad_theta, double* grad_z) {
  const Pattern pattern(s);
  const std::size_t most = std::max<std::size_t>(1, kPartialSums / s.m);
  const std::size_t rows = std::max(kRows, (s.n + most - 1) / most), blocks = (s.n + rows - 1) / rows;
  std::vector<double> sums(blocks * s.m);  // of column c in block b at [c * blocks + b]
  parallel(blocks, s.n * sizeof(T) * 8, [&](std::size_t first, std::size_t last) {
    std::vector<double> own(2 * s.m);
    for (std::size_t b = first; b < last; ++b) {
      std::fill(own.begin(), own.end(), 0.0);
      for (std::size_t i = b * rows; i < std::min(s.n, (b + 1) * rows); ++i) {
        const double g = double(grad_theta[i]);
        pattern.row(i, [&](std::size_t entry) { own[entry] += g; });
      }
      for (std::size_t c = 0; c < s.m; ++c) sums[c * blocks + b] = own[2 * c] - own[2 * c + 1];
    }
  });
  const double size = entry_size(s);
  for (std::size_t c = 0; c < s.m; ++c) grad_z[c] = size * pairwise_sum(sums.data() + c * blocks, blocks);
}

}  // namespace

void expand(const Subspace& s, const float* start, const double* z, float* theta) {
  expand_rows(s, start, z, theta);
}
void expand(const Subspace& s, const double* start, const double* z, double* theta) {
  expand_rows(s, start, z, theta);
}
void project(const Subspace& s, const float* grad_theta, double* grad_z) {
  project_rows(s, grad_theta, grad_z);
}
void project(const Subspace& s, const double* grad_theta, double* grad_z) {
  project_rows(s, grad_theta, grad_z);
}

}  // namespace fastmap
