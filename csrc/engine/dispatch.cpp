#include "engine/dispatch.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "engine/blocks.hpp"
#include "engine/float_mode.hpp"

namespace fastmap {
namespace {

bool is_acceptable(const Row& row, Storage storage, Op op, const void* x, std::size_t n, Policy policy,
                   Workspace& w) {
  const bool forward = op < kThetaOps;
  if (row.size() > 1)
    return compute(row, storage, forward ? kForward : kInverse, x, w.stage, n, policy, w.scratch);
  const Check check = policy == Policy::clip ? kNumber : check_of(row[0].native(op), forward);
  return row[0].kernels->all_valid[check](x, n, row[0].args);
}

Invalid count_invalid(Op op, const std::vector<Segment>& segments, Policy policy) {
  constexpr std::size_t most = kStepBytes / 8;
  unsigned char refused[most];
  Workspace w;
  FloatMode mode;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const Segment& s = segments[i];
    const std::size_t n = s.layout.size(), run = n ? s.layout.run() : 1;
    Invalid r{i, 0, 0};
    for (std::size_t index = 0, m; index < n; index += m) {
      m = std::min({most, n - index, run - index % run});
      const void* x = w.load(s, s.layout, kX, index, m);
      mark_refused(w.steps(s, s.layout, index), s.storage, op, x, m, policy, refused, w.scratch);
      for (std::size_t j = 0; j < m; ++j)
        if (refused[j] && r.count++ == 0) r.first = index + j;
    }
    if (r.count) return r;
  }
  return {};
}

// The sums over the rows of one segment: fixed blocks of each row, then their sums pairwise.
class SumPass {
 public:
  SumPass(const Segment& segment, std::size_t rows, double* sums)
      : s_(segment), rows_(rows), n_(segment.layout.size() / rows), sums_(sums) {
    merge(s_.layout);
    run_ = s_.layout.run();
  }
  bool in_place() const { return s_.layout.data[kX] == s_.layout.data[kOut]; }

  // Whether the policy takes all elements; writes nothing.
  bool accept(Op op, Policy policy) const {
    return each_block([&](std::size_t b, Workspace& w) {
      return each_part(b, w, [&](std::size_t, std::size_t, std::size_t m, const Row& row, const void* x) {
        return is_acceptable(row, s_.storage, op, x, m, policy, w);
      });
    });
  }

  bool run(Op op, Op value_op, Policy policy) {
    std::vector<double> partial(rows_ * per_row());
    const std::size_t item = compute_size(s_.storage);
    const bool done = each_block([&](std::size_t b, Workspace& w) {
      alignas(64) unsigned char terms[kSumBlock * 8];
      const bool computed = each_part(
          b, w, [&](std::size_t index, std::size_t done, std::size_t m, const Row& row, const void* x) {
            if (!compute(row, s_.storage, op, x, terms + done * item, m, policy, w.scratch)) return false;
            if (!s_.layout.data[kOut]) return true;
            compute(row, s_.storage, value_op, x, w.stage, m, policy,
                    w.scratch);  // as valid as it was for op
            scatter(s_.layout, w.as_stored(s_, w.stage, m), index, m, stored_size(s_.storage), kOut);
            return true;
          });
      if (computed) partial[b] = active_isa().engine->sum[dtype_of(s_.storage)](terms, length(b));
      return computed;
    });
    if (!done) return false;
    for (std::size_t r = 0; r < rows_; ++r)
      sums_[r] = pairwise_sum(partial.data() + r * per_row(), per_row());
    return true;
  }

 private:
  std::size_t per_row() const { return (n_ + kSumBlock - 1) / kSumBlock; }
  std::size_t length(std::size_t b) const { return std::min(kSumBlock, n_ - b % per_row() * kSumBlock); }

  template <class Work> bool each_block(const Work& work) const {
    std::atomic<bool> refused{false};
    parallel(rows_ * per_row(), rows_ * n_ * stored_size(s_.storage),
             [&](std::size_t begin, std::size_t end) {
               Workspace w;
               for (std::size_t b = begin; b < end && !refused; ++b)
                 if (!work(b, w)) refused = true;
             });
    return !refused;
  }
  // The parts of a block that are computed at once: part(index, done, m, steps, x) until one returns false.
  template <class Part> bool each_part(std::size_t b, Workspace& w, const Part& part) const {
    const Layout& l = s_.layout;
    const std::size_t start = b / per_row() * n_ + b % per_row() * kSumBlock;
    const std::size_t step = kStepBytes / compute_size(s_.storage);
    for (std::size_t done = 0, m; done < length(b); done += m) {
      const std::size_t index = start + done;
      m = std::min({step, length(b) - done, run_ - index % run_});
      if (!part(index, done, m, w.steps(s_, l, index), w.load(s_, l, kX, index, m))) return false;
    }
    return true;
  }

  Segment s_;
  std::size_t rows_, n_, run_ = 1;
  double* sums_;
};

}  // namespace

Invalid apply(Op op, const std::vector<Segment>& segments, Policy policy) {
  for (const Segment& s : segments) s.program->check(s.storage);
  std::size_t blocks, bytes;
  const std::vector<Piece> pieces = cut(segments, blocks, bytes);
  const bool any_in_place = std::any_of(pieces.begin(), pieces.end(),
                                        [](const Piece& p) { return p.in_place(); });
  if (any_in_place && policy != Policy::nan) {
    const bool acceptable = for_each_block(
        pieces, blocks, bytes, [&](const Piece& p, std::size_t index, std::size_t m, Workspace& w) {
          const void* x = w.load(*p.segment, p.layout, kX, index, m);
          return is_acceptable(w.steps(*p.segment, p.layout, index), p.segment->storage, op, x, m, policy, w);
        });
    if (!acceptable) return count_invalid(op, segments, policy);
  }
  const EngineTable& engine = *active_isa().engine;
  const bool done = for_each_block(
      pieces, blocks, bytes, [&](const Piece& p, std::size_t index, std::size_t m, Workspace& w) {
        const Segment& s = *p.segment;
        const Layout& l = p.layout;
        const std::size_t item = stored_size(s.storage);
        char* out = l.at(kOut, index);
        const Row& row = w.steps(s, l, index);
        const bool direct = l.contiguous(kOut, index, m, item) && !p.staged() &&
                            (!p.stream || row.size() == 1);
        const bool stream = direct && p.stream && reinterpret_cast<std::uintptr_t>(out) % kLineBytes == 0;
        void* to = direct ? static_cast<void*>(out) : w.stage;
        const void* x = w.load(s, l, kX, index, m);
        if (!compute(row, s.storage, op, x, to, m, policy, w.scratch, stream)) return false;
        if (l.data[kG]) engine.multiply[dtype_of(s.storage)](w.stage, w.load(s, l, kG, index, m), w.stage, m);
        if (direct) return true;
        const void* result = w.as_stored(s, w.stage, m);
        if (p.stream)
          engine.stream(result, out, m * item, l.at(kX, index) + m * item);
        else
          scatter(l, result, index, m, item, kOut);
        return true;
      });
  return done ? Invalid{} : count_invalid(op, segments, policy);
}

Invalid log_det(Op op, const std::vector<Segment>& segments, std::size_t rows, double* sums, Op value_op,
                Policy policy) {
  std::fill(sums, sums + segments.size() * rows, 0.0);
  std::vector<SumPass> passes;
  for (const Segment& s : segments) {
    s.program->check(s.storage);
    if (rows > 0 && s.layout.size() > 0) passes.emplace_back(s, rows, sums + (&s - segments.data()) * rows);
  }
  const bool any_in_place = std::any_of(passes.begin(), passes.end(),
                                        [](const SumPass& pass) { return pass.in_place(); });
  bool acceptable = true;
  if (any_in_place && policy != Policy::nan)
    for (const SumPass& pass : passes) acceptable = acceptable && pass.accept(op, policy);
  for (SumPass& pass : passes) acceptable = acceptable && pass.run(op, value_op, policy);
  return acceptable ? Invalid{} : count_invalid(op, segments, policy);
}

void advise_huge_pages(void* buffer, std::size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t page = 2u << 20;
  const std::uintptr_t start = (reinterpret_cast<std::uintptr_t>(buffer) + page - 1) / page * page;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(buffer) + bytes) / page * page;
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);  // advice only
#else
  (void)buffer, (void)bytes;
#endif
}

}  // namespace fastmap
