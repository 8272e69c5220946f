// What an update rule must have. A rule is one struct in one header.
//
//   moments                           how many arrays beside z it keeps
//   prepare<T>(const RuleArgs&)       constants of one step, computed in double as torch does
//   update<T>(g, z, m, v, constants)  the new z; m and v, the moments, change in place
#pragma once

#include "engine/abi.hpp"
#include "math/ops.hpp"

namespace fastmap::FM_ISA {

namespace host {

// x^n by squaring: libm differs by platform. Not inlined into the loops over elements.
__attribute__((noinline)) inline double power(double x, std::uint64_t n) {
  double result = 1;
  for (; n; n /= 2, x *= x)
    if (n % 2) result *= x;
  return result;
}

}  // namespace host

}  // namespace fastmap::FM_ISA
