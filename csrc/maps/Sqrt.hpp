#pragma once

#include "maps/Power.hpp"

namespace fastmap::FM_ISA {

struct Sqrt : Power {
  // clang-format off
  static constexpr MapInfo info{
      "sqrt",
      "Square root of a positive value: z = sqrt(theta); the scale of counts and variances.",
      0, {},
      "0", "inf", "0", "inf",
      {"sqrt(t)", "1/(2*sqrt(t))", "-log(4*t)/2", "-1/(2*t)", "z*z", "2*z", "log(2*z)", "1/z"},
      {2, 4}, "sampled", 1, {{}}};
  // clang-format on
  template <class T> static Args<T> prepare(const double*) { return powers::prepare<T>(0.5, T(0)); }
};

}  // namespace fastmap::FM_ISA
