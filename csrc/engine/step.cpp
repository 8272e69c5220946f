#include "engine/step.hpp"

#include <cstring>

#include "engine/blocks.hpp"
#include "engine/float_mode.hpp"
#include "rules/rule.hpp"

namespace fastmap {
namespace {

// A block of an operand that changes: where it lies, or gathered and widened, then to be put back.
struct Held {
  alignas(64) unsigned char buffer[kStepBytes];
  void* data;

  void take(Workspace& w, Storage storage, const Layout& l, Operand operand, std::size_t index,
            std::size_t m) {
    const void* block = w.load(storage, l, operand, index, m);
    data = l.at(operand, index);
    if (block == data) return;
    std::memcpy(buffer, block, m * compute_size(storage));
    data = buffer;
  }
  void put_back(Workspace& w, Storage storage, const Layout& l, Operand operand, std::size_t index,
                std::size_t m) const {
    if (data != buffer) return;
    const void* block = data;
    if (half_of(storage) >= 0) {
      active_isa().engine->narrow[half_of(storage)](block, w.narrowed, m);
      block = w.narrowed;
    }
    scatter(l, block, index, m, stored_size(storage), operand);
  }
};

struct StepSpace {
  alignas(64) unsigned char gradient[kStepBytes], slope[kStepBytes], old_z[kStepBytes], new_theta[kStepBytes];
  Held theta, z, first, second;
};

// As far as z lies in the codomain; where it does not, from its nearest point, in the type that z is kept in. NaN stays.
void from_z(const Row& row, Storage storage, Op op, const void* z, void* out, std::size_t m,
            Scratch& scratch) {
  compute(row, computed_in(storage), op, z, out, m, Policy::nearest, scratch);
}

// dL/dz of a block, up to weight decay.
void pull_back(const StepTensor& t, const Row& row, const void* g, const void* z, std::size_t m,
               double factor, StepSpace& s, Scratch& scratch) {
  const EngineTable& engine = *active_isa().engine;
  const StepGroup& group = *t.group;
  const DType dtype = dtype_of(t.segment.storage);
  engine.scale[dtype](g, s.gradient, m, factor);
  if (group.gradient == Gradient::dual) return;
  from_z(row, t.segment.storage, kInverseJacobian, z, s.slope, m, scratch);
  if (group.gradient == Gradient::clamped)
    engine.clip[dtype](s.slope, s.slope, m, group.clamp_low, group.clamp_high);
  engine.multiply[dtype](s.gradient, s.slope, s.gradient, m);
}

// Old values that lie elsewhere come to where the new ones will be, block by block: the step finds them in the cache.
void bring_old(const StepTensor& t, const Layout& l, Operand operand, std::size_t index, std::size_t m,
               std::size_t item) {
  const std::ptrdiff_t distance = t.old[operand];
  if (!distance || !l.data[operand]) return;
  if (l.contiguous(operand, index, m, item)) {
    char* block = l.at(operand, index);
    std::memcpy(block, block + distance, m * item);
    return;
  }
  unsigned char buffer[kStepBytes];
  Layout from = l;
  from.data[operand] += distance;
  gather(from, operand, index, m, item, buffer);
  scatter(l, buffer, index, m, item, operand);
}

// In one loop where there is one for this map and rule and nothing is unusual.
bool fused_step(const StepTensor& t, const Row& row, const Layout& l, std::size_t index, std::size_t m,
                double factor, StepSpace& s) {
  const StepGroup& group = *t.group;
  const Storage storage = t.segment.storage;
  if (row.size() != 1 || row[0].inverted || t.gradient != storage || t.moments != storage ||
      half_of(storage) >= 0 || group.gradient != Gradient::chain || group.args.lr == 0 || l.data[kCount] ||
      !(group.decay == Decay::none || (group.decay == Decay::z && group.decoupled)))
    return false;
  const FusedKernel kernel = row[0].kernels->fused[group.rule];
  const std::size_t item = stored_size(storage);
  if (!kernel) return false;
  for (const Operand o : {kX, kG, kOut, kFirst, kSecond})
    if (!l.contiguous(o, index, m, item)) return false;
  RuleArgs args = t.args;
  if (group.decay == Decay::z) args.decay = 1 - args.lr * group.weight_decay;
  const StepBlock block{l.at(kG, index),      l.at(kX, index),   l.at(kFirst, index),
                        l.at(kSecond, index), l.at(kOut, index), s.old_z,
                        s.gradient,           s.slope,           s.new_theta};
  if (kernel(args, row[0].args, factor, block, m)) return false;
  std::memcpy(l.at(kX, index), s.old_z, m * item);
  std::memcpy(l.at(kFirst, index), s.gradient, m * item);
  std::memcpy(l.at(kSecond, index), s.slope, m * item);
  if (!t.is_z()) std::memcpy(l.at(kOut, index), s.new_theta, m * item);
  return true;
}

// Moves z and the moments by the rule. Rows with counts of their own: stretches of one count after another.
void update(const StepTensor& t, const Layout& l, std::size_t index, std::size_t m, double decay,
            StepSpace& s) {
  const RuleKernel rule = active_isa().engine->rules[t.group->rule][dtype_of(t.segment.storage)];
  const std::size_t item = compute_size(t.segment.storage);
  const auto from = [&](Operand o, const Held& held, std::size_t i) -> void* {
    return l.data[o] ? static_cast<char*>(held.data) + i * item : nullptr;
  };
  const auto run = [&](RuleArgs args, std::size_t i, std::size_t n) {
    args.decay = decay;
    rule(args, s.gradient + i * item, from(kX, s.z, i), from(kFirst, s.first, i), from(kSecond, s.second, i),
         n);
  };
  if (!l.data[kCount]) return run(t.args, 0, m);
  float counts[kStepBytes / sizeof(float)];
  gather(l, kCount, index, m, sizeof(float), counts);
  for (std::size_t i = 0, end; i < m; i = end) {
    end = std::size_t(std::find_if(counts + i, counts + m, [&](float c) { return c != counts[i]; }) - counts);
    run(at_step(t.group->args, std::uint64_t(counts[i]) + 1), i, end - i);
  }
}

void step_block(const StepTensor& t, const Layout& l, std::size_t index, std::size_t m, double factor,
                Workspace& w, StepSpace& s) {
  const EngineTable& engine = *active_isa().engine;
  const StepGroup& group = *t.group;
  const Storage storage = t.segment.storage;
  const DType dtype = dtype_of(storage);
  const Storage computed = computed_in(storage);
  const std::size_t bytes = m * compute_size(storage);
  const double decay_rate = group.args.lr * group.weight_decay;
  const Row& row = w.steps(t.segment, l, index);
  bring_old(t, l, kOut, index, m, stored_size(storage));
  bring_old(t, l, kX, index, m, stored_size(computed));
  for (const Operand o : {kFirst, kSecond}) bring_old(t, l, o, index, m, stored_size(t.moments));
  if (fused_step(t, row, l, index, m, factor, s)) return;

  s.theta.take(w, storage, l, kOut, index, m);
  s.z.take(w, computed, l, kX, index, m);
  if (l.data[kFirst]) s.first.take(w, t.moments, l, kFirst, index, m);
  if (l.data[kSecond]) s.second.take(w, t.moments, l, kSecond, index, m);
  std::memcpy(s.old_z, s.z.data, bytes);
  const void* g = w.load(t.gradient, l, kG, index, m);
  if (group.decay == Decay::theta && !group.decoupled) {
    engine.scale[dtype](g, s.gradient, m, factor);
    engine.add_scaled[dtype](s.gradient, s.theta.data, m, group.weight_decay);
    std::memcpy(w.stage, s.gradient, bytes);
    pull_back(t, row, w.stage, s.z.data, m, 1, s, w.scratch);
  } else {
    pull_back(t, row, g, s.z.data, m, factor, s, w.scratch);
  }
  if (group.decay == Decay::z && !group.decoupled)
    engine.add_scaled[dtype](s.gradient, s.z.data, m, group.weight_decay);
  if (group.decay == Decay::theta && group.decoupled) {  // dtheta = -rate theta, to first order in z
    from_z(row, storage, kInverseJacobian, s.old_z, s.slope, m, w.scratch);
    engine.subtract_quotient[dtype](s.z.data, s.theta.data, s.slope, m, decay_rate);
  }
  update(t, l, index, m, group.decay == Decay::z && group.decoupled ? 1 - decay_rate : 1, s);
  if (group.args.lr == 0)
    std::memcpy(s.z.data, s.old_z, bytes);  // even where 0 times the update is -0 or NaN
  if (!t.is_z()) {
    from_z(row, storage, kInverse, s.z.data, s.new_theta, m, w.scratch);
    engine.replace_moved[dtype](s.theta.data, s.new_theta, s.z.data, s.old_z, m);
    s.theta.put_back(w, storage, l, kOut, index, m);
  }
  s.z.put_back(w, computed, l, kX, index, m);
  if (l.data[kFirst]) s.first.put_back(w, t.moments, l, kFirst, index, m);
  if (l.data[kSecond]) s.second.put_back(w, t.moments, l, kSecond, index, m);
}

std::vector<Segment> segments_of(const std::vector<StepTensor>& tensors) {
  std::vector<Segment> segments;
  for (const StepTensor& t : tensors) {
    t.segment.program->check(t.segment.storage);
    segments.push_back(t.segment);
  }
  return segments;
}

}  // namespace

RuleArgs at_step(RuleArgs args, std::uint64_t number) {
  FloatMode mode;
  return FM_ISA::at_step(args, number);
}

void step(const std::vector<StepTensor>& tensors, double factor) {
  const std::vector<Segment> segments = segments_of(tensors);
  std::size_t blocks, bytes;
  const std::vector<Piece> pieces = cut(segments, blocks, bytes, true);
  for_each_block(pieces, blocks, bytes, [&](const Piece& p, std::size_t index, std::size_t m, Workspace& w) {
    StepSpace space;
    const StepTensor& t = tensors[p.segment - segments.data()];
    step_block(t, p.layout, index, m, t.group->maximize ? -factor : factor, w, space);
    return true;
  });
}

double sum_of_squares(const std::vector<StepTensor>& tensors, bool of_z) {
  const std::vector<Segment> segments = segments_of(tensors);
  std::size_t blocks, bytes;
  const std::vector<Piece> pieces = cut(segments, blocks, bytes, true);
  std::vector<double> sums(blocks, 0.0);
  for_each_block(pieces, blocks, bytes, [&](const Piece& p, std::size_t index, std::size_t m, Workspace& w) {
    const StepTensor& t = tensors[p.segment - segments.data()];
    const DType dtype = dtype_of(t.segment.storage);
    const void* g = w.load(t.gradient, p.layout, kG, index, m);
    StepSpace space;
    if (of_z) {
      space.z.take(w, computed_in(t.segment.storage), p.layout, kX, index, m);
      g = w.load(t.gradient, p.layout, kG, index, m);
      pull_back(t, w.steps(t.segment, p.layout, index), g, space.z.data, m, 1, space, w.scratch);
      g = space.gradient;
    }
    sums[p.number(index)] = active_isa().engine->sum_of_squares[dtype](g, m);
    return true;
  });
  return pairwise_sum(sums.data(), blocks);
}

}  // namespace fastmap
