// Everything between a binding and the kernels: threads, blocks, policies.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/layout.hpp"
#include "engine/program.hpp"

namespace fastmap {

// One buffer of a call, and its map.
struct Segment {
  const Program* program;
  Storage storage;
  Layout layout;
};

// How many inputs of a segment were refused, and the logical index of the first of them.
struct Invalid {
  std::size_t segment = 0, count = 0, first = 0;
};

// out[i] = op(x[i]) * (g ? g[i] : 1) for every segment, in one pass. In a segment x and out (or g and out) may be
// the same elements; nothing else may overlap. Where that is so, "raise" and "clip" read all before anything is
// written. Throws std::invalid_argument, before any write, where a parameter is wrong for the storage type.
Invalid apply(Op op, const std::vector<Segment>& segments, Policy policy);

// sums[i * rows + r] = sum of op over row r of segment i: the logical order of each segment holds `rows` rows. Where
// a segment has an out, also out = value_op(x), which may alias x, as in `apply`.
Invalid log_det(Op op, const std::vector<Segment>& segments, std::size_t rows, double* sums, Op value_op,
                Policy policy);

// Asks for huge pages behind a large buffer that nobody has touched yet: a page fault every 4 KiB costs more
// than the mapping itself.
void advise_huge_pages(void* buffer, std::size_t bytes);

}  // namespace fastmap
