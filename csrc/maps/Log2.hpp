#pragma once

#include "maps/log_base.hpp"

namespace fastmap::FM_ISA {

struct Log2 : LogBase<2> {
  // clang-format off
  static constexpr MapInfo info{
      "log2",
      "Binary logarithm of the distance from a lower bound: z = log2(theta - low). Powers of two are exact.",
      1, {{"low", 0, Constraint::lower_bound}},
      "low", "inf", "-inf", "inf",
      {"log(t - low)/log(2)", "1/(log(2)*(t - low))", "-log(log(2)*(t - low))", "-1/(t - low)",
       "low + exp(z*log(2))", "log(2)*exp(z*log(2))", "z*log(2) + log(log(2))", "log(2)"},
      {2, 4}, "sampled", 4, {{0}, {1}, {-1}, {-0.001}}};
  // clang-format on
};

}  // namespace fastmap::FM_ISA
