// One step of an optimizer on mapped parameters: theta is what the model sees, z is what moves.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/dispatch.hpp"
#include "engine/step_modes.hpp"

namespace fastmap {

// What the parameters of one group share in a step.
struct StepGroup {
  Rule rule;
  Gradient gradient;
  double clamp_low, clamp_high;
  Decay decay;
  bool decoupled;  // from the gradient, as in AdamW
  double weight_decay;
  bool maximize;
  RuleArgs args;
};

// The arguments of a step of this number, from 1 on.
RuleArgs at_step(RuleArgs args, std::uint64_t number);

// One parameter: in its layout theta is kOut, z kX, the gradient kG, the moments kFirst and kSecond. Under the
// identity z may be the memory of theta. Where rows have counts of their own, kCount is how many steps each has
// taken, in float32.
struct StepTensor {
  Segment segment;  // the storage is that of theta; z is stored in what that computes in
  Storage gradient, moments;
  const StepGroup* group;
  RuleArgs args;  // of this step, where all rows have one count
  // Where an operand that changes has its old values elsewhere: how far from the new ones, in bytes.
  std::ptrdiff_t old[kOperands] = {};

  bool is_z() const { return segment.layout.data[kOut] == segment.layout.data[kX]; }  // theta
};

// Moves z by its rule along factor times the gradient, and theta with it. Where z does not move, theta keeps its
// bits. Throws std::invalid_argument, before any write, where a parameter of a map is wrong for its storage.
void step(const std::vector<StepTensor>& tensors, double factor);

// The sum of squares of the gradients, with respect to theta or to z; not finite if a gradient is not. Fixed blocks,
// then their sums pairwise: the bits do not depend on threads.
double sum_of_squares(const std::vector<StepTensor>& tensors, bool of_z);

}  // namespace fastmap
