// The contract between the kernels of structured maps, f: R^n -> R^m row by row, and what calls them.
#pragma once

#include "engine/abi.hpp"

namespace fastmap {

// How many numbers z has for a theta of n numbers, or of n x n for a matrix.
enum class Size { same, one_less, triangle, strict_triangle };
constexpr std::size_t z_size(Size size, std::size_t n) {
  return size == Size::same       ? n
         : size == Size::one_less ? n - 1
         : size == Size::triangle ? n * (n + 1) / 2
                                  : n * (n - 1) / 2;
}

struct StructuredInfo {
  const char *name, *doc;
  const char* rows;     // which theta it takes, in words
  const char* forward;  // the formulas, as text
  const char* inverse;
  const char* measure;  // what the log-determinant refers to
  int theta_axes;       // 1: a vector, 2: a square matrix
  Size z_size;
  std::size_t least;  // the smallest n
};

// forward is theta -> z. A pullback takes gradients of the outputs to that of the input.
enum RowOp { kRowForward, kRowInverse, kRowForwardPullback, kRowInversePullback, kRowOps };

// Some rows side by side: element i of the row in lane l is at [i * lanes + l], so that loops over lanes are loops
// over vectors. Kernels for tangents have pairs of numbers (value, derivative) in place of numbers.
struct Tile {
  std::size_t n, lanes;
  void *theta, *z, *log_det, *grad_theta, *grad_z, *grad_log_det, *scratch;
};
// What a kernel may use as scratch, in elements of a row.
constexpr std::size_t scratch_size(std::size_t theta_size, std::size_t z_size) {
  return 4 * (theta_size > z_size ? theta_size : z_size) + 8;
}
using RowKernel = void (*)(const Tile& tile);

struct RowKernels {
  RowKernel plain[kRowOps], tangent[kRowOps];
  // Sets refused[l], of the dtype, to 1 where theta is not on the map's domain within the tolerance, else to 0.
  void (*check)(const Tile& tile, void* refused);
};
struct StructuredTable {
  const StructuredInfo* info;
  RowKernels kernels[kDTypes];
};

// How far theta may be from a sum or a norm of 1, or of 0, relative to its size.
template <class T> constexpr T row_tolerance() { return sizeof(T) == 4 ? T(1e-5) : T(1e-6); }

}  // namespace fastmap
