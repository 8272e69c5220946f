// A map as the engine runs it: elementary maps in a row, some of them inverted, with parameters that may differ
// from element to element.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/isa.hpp"

namespace fastmap {

// What becomes of invalid input; `nearest` is the engine's own: `clip`, but NaN stays.
enum class Policy { raise, nan, clip, nearest };

constexpr int half_of(Storage s) { return s - kStoredBFloat16; }  // which 16-bit type; negative: none
constexpr DType dtype_of(Storage s) { return s == kStoredFloat64 ? kFloat64 : kFloat32; }
constexpr Storage computed_in(Storage s) { return s == kStoredFloat64 ? kStoredFloat64 : kStoredFloat32; }
constexpr std::size_t compute_size(Storage s) { return s == kStoredFloat64 ? 8 : 4; }
constexpr std::size_t stored_size(Storage s) { return half_of(s) >= 0 ? 2 : compute_size(s); }

// The number of the storage type next to v, not below (up) or not above it.
double round_inwards(double v, Storage storage, bool up);

// One elementary map with its constants.
struct Step {
  int map;
  const MapKernels* kernels;
  bool inverted;  // a map's inverse in its place
  ArgsBuffer args;

  Op native(Op op) const { return inverted ? Op((op + kThetaOps) % kOps) : op; }
};
// What an operation accepts, or clips to, ends included.
struct Range {
  double low, high;
};
Range range_of(const Step& step, Storage storage, Op op, bool to_search_space, bool clips);

using Row = std::vector<Step>;  // theta passes the first step first
using Params = std::array<double, kMaxParams>;

// The parameters of one elementary map: one number each, or one per row of the program.
struct StepSpec {
  int map;
  bool inverted;
  struct Param {
    const double* data;
    std::vector<std::ptrdiff_t> strides;  // in bytes, one per dimension of the program
  };
  std::vector<Param> params;
};

class Program {
 public:
  // Throws std::invalid_argument that names a parameter which is wrong.
  Program(std::vector<std::size_t> shape, std::vector<StepSpec> steps);

  const std::vector<std::size_t>& shape() const { return shape_; }
  std::size_t rows() const { return rows_; }
  std::size_t longest_row() const { return longest_row_; }
  // Throws std::invalid_argument if a parameter is wrong once it is rounded for this storage type.
  void check(Storage storage) const;
  // After check: the steps for row i, in C order of the shape. May build them in `scratch`, as the rows of
  // large arrays are not kept: they would be many times the size of the buffers.
  const Row& row(Storage storage, std::size_t i, Row& scratch) const;

 private:
  Params params(const StepSpec& spec, std::size_t i) const;
  Row build(Storage storage, std::size_t i) const;
  std::size_t validate(Storage storage) const;  // throws, or returns how many steps the longest row has

  std::vector<std::size_t> shape_;
  std::vector<StepSpec> specs_;
  std::size_t rows_ = 1, longest_row_ = 0;
  mutable std::array<std::once_flag, kStorages> checked_;
  mutable std::array<std::vector<Row>, kStorages> kept_;
};

// Room for the values and products inside a program of several steps; elements of one block.
constexpr std::size_t kStepBytes = 2048;
struct Scratch {
  alignas(64) unsigned char values[2][kStepBytes], term[kStepBytes], product[kStepBytes];
};

// out = op(x), out is not x. False: an input was refused; then `out` is worthless. Where the program has several
// steps, a block has at most kStepBytes; with one, `stream` stores past the caches. Then out begins on a cache line.
bool compute(const Row& row, Storage storage, Op op, const void* x, void* out, std::size_t n, Policy policy,
             Scratch& scratch, bool stream = false);

// refused[i] = 1 where a policy refuses element i.
void mark_refused(const Row& row, Storage storage, Op op, const void* x, std::size_t n, Policy policy,
                  unsigned char* refused, Scratch& scratch);

}  // namespace fastmap
