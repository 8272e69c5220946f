#pragma once

#include "maps/Power.hpp"

namespace fastmap::FM_ISA {

struct Reciprocal : Power {
  // clang-format off
  static constexpr MapInfo info{
      "reciprocal",
      "Reciprocal of a positive value: z = 1 / theta, decreasing; rates for times, precisions for "
      "variances.",
      0, {},
      "0", "inf", "0", "inf",
      {"1/t", "-1/(t*t)", "-2*log(t)", "-2/t", "1/z", "-1/(z*z)", "-2*log(z)", "-2/z"},
      {2, 4}, "sampled", 1, {{}}};
  // clang-format on
  template <class T> static Args<T> prepare(const double*) { return powers::prepare<T>(-1, T(0)); }
};

}  // namespace fastmap::FM_ISA
