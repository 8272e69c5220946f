// What an update rule must have. A rule is one struct in one header.
//
//   moments                           how many arrays beside z it keeps
//   prepare<T>(const RuleArgs&)       constants of one step
//   update<T>(g, z, m, v, constants)  the new z; m and v, the moments, change in place
#pragma once

#include "engine/abi.hpp"
#include "math/ops.hpp"

namespace fastmap::FM_ISA {

// 1 - beta^step by squaring, in double as torch has it: libm differs by platform.
FM_INLINE double bias_correction(double beta, std::uint64_t step) {
  double power = 1;
  for (; step; step /= 2, beta *= beta)
    if (step % 2) power *= beta;
  return 1 - power;
}

// The arguments of a step of this number, from 1 on.
FM_INLINE RuleArgs at_step(RuleArgs args, std::uint64_t number) {
  args.bias1 = bias_correction(args.beta1, number);
  args.bias2 = bias_correction(args.beta2, number);
  args.first = number == 1;
  return args;
}

}  // namespace fastmap::FM_ISA
