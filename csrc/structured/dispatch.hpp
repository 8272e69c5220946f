// Rows of structured maps over buffers: tiles, threads, refusals.
#pragma once

#include <vector>

#include "engine/program.hpp"
#include "structured/abi.hpp"

namespace fastmap {

std::size_t structured_count();
const StructuredInfo& structured_info(int map);
const char* structured_class(int map);

// Where the rows of a buffer lie: strides in bytes, of the leading dimensions and of those of one row.
struct RowBuffer {
  char* data = nullptr;  // null: the call has none
  std::vector<std::ptrdiff_t> leading, row;
};

struct RowCall {
  int map;
  RowOp op;
  bool tangent;  // of op, where x moves along direction
  DType dtype;
  std::vector<std::size_t> leading;  // lengths
  std::size_t n;
  RowBuffer x, direction, grad, out;
  const double* grad_log_det;  // one per row, in C order, as log_det; null: zeros
  double* log_det;             // null: not wanted
};

struct RefusedRows {
  std::size_t count = 0, first = 0;
};

// Refused rows give NaN: those that are not finite, and theta off the map's domain. Nothing overlaps `out`.
RefusedRows run_rows(const RowCall& call);

}  // namespace fastmap
