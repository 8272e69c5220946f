#pragma once

#include "maps/log_base.hpp"

namespace fastmap::FM_ISA {

struct Log10 : LogBase<10> {
  // clang-format off
  static constexpr MapInfo info{
      "log10",
      "Decimal logarithm of the distance from a lower bound: z = log10(theta - low).",
      1, {{"low", 0, Constraint::lower_bound}},
      "low", "inf", "-inf", "inf",
      {"log(t - low)/log(10)", "1/(log(10)*(t - low))", "-log(log(10)*(t - low))", "-1/(t - low)",
       "low + exp(z*log(10))", "log(10)*exp(z*log(10))", "z*log(10) + log(log(10))", "log(10)"},
      {2, 4}, "sampled", 4, {{0}, {1}, {-1}, {-0.001}}};
  // clang-format on
};

}  // namespace fastmap::FM_ISA
