// How a call is cut into blocks, and what a thread works in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "engine/dispatch.hpp"
#include "engine/float_mode.hpp"
#include "engine/threads.hpp"

namespace fastmap {

constexpr std::size_t kBlockBytes = 8192;  // input and stage share the L1 cache
// Blocks that are streamed after they were computed are short: as many stores as the store queue holds, so that it
// drains while the next block is computed.
constexpr std::size_t kStreamBlockBytes = 1024;
#if !defined(FASTMAP_SHRINK)  // the fuzzer's buffers are small, and go the ways of large ones
#define FASTMAP_SHRINK 0
#endif
constexpr std::size_t kStreamBytes = (32u << 20) >> FASTMAP_SHRINK;  // larger outputs bypass the caches
constexpr std::size_t kPartBytes = (64u << 10) >> FASTMAP_SHRINK;    // what a thread takes at a time
constexpr std::size_t kAloneBytes = 4 * kPartBytes;  // up to here waking a thread does not pay
// A large output may be fresh memory: two threads that touch one page for the first time both clear it. So a thread
// takes whole huge pages of it.
constexpr std::size_t kPageBytes = (2u << 20) >> FASTMAP_SHRINK;
constexpr std::size_t kTile = 256;  // elements a line apart that, with their results, share the L1 cache

// Runs work(begin, end) over ranges of the blocks [0, n), `part_bytes` each but for the first, of `lead` blocks.
template <class Work> void parallel(std::size_t blocks, std::size_t bytes, const Work& work,
                                    std::size_t part_bytes = kPartBytes, std::size_t lead = 0) {
  const std::size_t part = bytes <= kAloneBytes ? std::max<std::size_t>(1, blocks)
                                                : std::max<std::size_t>(1, blocks * part_bytes / bytes);
  const std::size_t shift = (part - lead % part) % part, parts = (shift + blocks + part - 1) / part;
  for_each_part(parts, std::size_t(num_threads()), [&](std::size_t i) {
    work(std::max(i * part, shift) - shift, std::min(blocks, (i + 1) * part - shift));
  });
}

// The sum of n numbers as a balanced tree over their order, in their place. Every NaN is the one quiet NaN: which of two
// NaNs an addition returns depends on the order of its operands, which compilers choose.
inline double pairwise_sum(double* p, std::size_t n) {
  FloatMode mode;
  if (n == 0) return 0;
  for (; n > 1; n = (n + 1) / 2) {
    for (std::size_t i = 0; i < n / 2; ++i) p[i] = p[2 * i] + p[2 * i + 1];
    if (n % 2) p[n / 2] = p[n - 1];
  }
  return p[0] == p[0] ? p[0] : std::numeric_limits<double>::quiet_NaN();
}

// What a thread works in.
struct Workspace {
  alignas(64) unsigned char gathered[kBlockBytes], wide[kBlockBytes], stage[kBlockBytes],
      narrowed[kBlockBytes];
  Scratch scratch;
  Row row;

  // m elements from a logical index on, as kernels take them: where they lie, or gathered, or widened.
  const void* load(Storage storage, const Layout& l, Operand from, std::size_t index, std::size_t m) {
    const std::size_t item = stored_size(storage);
    const void* block = l.at(from, index);
    if (!l.contiguous(from, index, m, item)) {
      gather(l, from, index, m, item, gathered);
      block = gathered;
    }
    if (half_of(storage) < 0) return block;
    active_isa().engine->widen[half_of(storage)](block, wide, m);
    return wide;
  }
  const void* load(const Segment& s, const Layout& l, Operand from, std::size_t index, std::size_t m) {
    return load(s.storage, l, from, index, m);
  }
  // The elements of a block as the buffers hold them.
  const void* as_stored(const Segment& s, const void* block, std::size_t m) {
    if (half_of(s.storage) < 0) return block;
    active_isa().engine->narrow[half_of(s.storage)](block, narrowed, m);
    return narrowed;
  }
  const Row& steps(const Segment& s, const Layout& l, std::size_t index) {
    return s.program->row(s.storage, s.program->rows() == 1 ? 0 : l.row(index), row);
  }
};

// A layout cut into blocks. A block has one row of parameters.
struct Piece {
  const Segment* segment;
  Layout layout;
  std::size_t run, step, blocks_per_run, first_block, end_block;
  bool stream;  // past the caches

  // The number of the block that begins at a logical index; not for streamed ones.
  std::size_t number(std::size_t index) const {
    return first_block + index / run * blocks_per_run + index % run / step;
  }
  bool in_place() const {
    return layout.data[kOut] == layout.data[kX] || layout.data[kOut] == layout.data[kG];
  }
  // Whether a result is no result of a kernel yet when it is computed: narrowed or multiplied it goes into `out`.
  bool staged() const { return layout.data[kG] || half_of(segment->storage) >= 0 || in_place(); }
  // Elements of `out` from a logical index on before an address that `bytes` divides.
  std::size_t before_multiple_of(std::size_t bytes, std::size_t index) const {
    return -reinterpret_cast<std::uintptr_t>(layout.at(kOut, index)) % bytes / stored_size(segment->storage);
  }
  // Blocks before the first huge page of `out`.
  std::size_t before_page() const { return (before_multiple_of(kPageBytes, 0) + step - 1) / step; }
  // The logical index where a block begins, and its length.
  std::pair<std::size_t, std::size_t> block(std::size_t b) const {
    const std::size_t start = b / blocks_per_run * run, c = b % blocks_per_run;
    // Streamed blocks end where a cache line of `out` ends: a line written in two ways costs a flush. They even end
    // at multiples of their size, and so where a page ends. So the first one is short; none is longer than `step`.
    const std::size_t lead = stream ? before_multiple_of(step * stored_size(segment->storage), start) : 0;
    const std::size_t shift = lead ? step - lead : 0;
    const std::size_t begin = std::max(c * step, shift) - shift;
    const std::size_t end = std::min(run, (c + 1) * step - shift);
    return {start + begin, end > begin ? end - begin : 0};
  }
};

// The pieces of all segments, how many blocks they have, and their bytes. Short blocks have at most kStepBytes and
// are not streamed.
inline std::vector<Piece> cut(const std::vector<Segment>& segments, std::size_t& blocks, std::size_t& bytes,
                              bool short_blocks = false) {
  bytes = blocks = 0;
  for (const Segment& s : segments) bytes += s.layout.size() * stored_size(s.storage);
  std::vector<Piece> pieces;
  for (const Segment& s : segments) {
    if (s.layout.size() == 0) continue;
    for (const Layout& l : ordered(s.layout, kTile)) {
      Piece piece{&s, l, l.run(), 0, 0, blocks, 0, false};
      const std::size_t item = stored_size(s.storage);
      piece.stream = !short_blocks && bytes >= kStreamBytes && !piece.in_place() &&
                     piece.run * item > kStreamBlockBytes && l.contiguous(kOut, 0, piece.run, item);
      piece.step = short_blocks || s.program->longest_row() > 1 ? kStepBytes / compute_size(s.storage)
                   : piece.stream && piece.staged()             ? kStreamBlockBytes / item
                                                                : kBlockBytes / compute_size(s.storage);
      piece.blocks_per_run = (piece.run + piece.step - 1) / piece.step + piece.stream;
      piece.end_block = blocks += l.size() / piece.run * piece.blocks_per_run;
      pieces.push_back(piece);
    }
  }
  return pieces;
}

// Runs work(piece, index, m, workspace) for all blocks until one returns false; whether all returned true.
template <class Work> bool for_each_block(const std::vector<Piece>& pieces, std::size_t blocks,
                                          std::size_t bytes, const Work& work) {
  std::atomic<bool> refused{false};
  const bool pages = !pieces.empty() && pieces.front().stream;
  const auto part = [&](std::size_t begin, std::size_t end) {
    Workspace workspace;
    auto piece = std::upper_bound(pieces.begin(), pieces.end(), begin,
                                  [](std::size_t b, const Piece& p) { return b < p.first_block; }) -
                 1;
    for (std::size_t b = begin; b < end && !refused; ++b) {
      while (b >= piece->end_block) ++piece;
      const auto [index, m] = piece->block(b - piece->first_block);
      if (m && !work(*piece, index, m, workspace)) refused = true;
    }
#if defined(__SSE2__)
    _mm_sfence();
#endif
  };
  if (pages)
    parallel(blocks, bytes, part, kPageBytes, pieces.front().before_page());
  else
    parallel(blocks, bytes, part);
  return !refused;
}

}  // namespace fastmap
