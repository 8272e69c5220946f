#pragma once

#include "maps/Cloglog.hpp"
#include "maps/mirrored.hpp"

namespace fastmap::FM_ISA {

struct Loglog : Mirrored<Cloglog> {
  // clang-format off
  static constexpr MapInfo info{
      "loglog",
      "Log-log (Gumbel) on (low, high): z = -log(-log(p)), p = (theta - low)/(high - low).",
      2, {{"low", 0, Constraint::lower_bound}, {"high", 1, Constraint::upper_bound}},
      "low", "high", "-inf", "inf",
      {"-log(-log((t - low)/(high - low)))", "-1/((t - low)*log((t - low)/(high - low)))",
       "-log(t - low) - log(-log((t - low)/(high - low)))",
       "-(1 + log((t - low)/(high - low)))/((t - low)*log((t - low)/(high - low)))",
       "low + (high - low)*exp(-exp(-z))", "(high - low)*exp(-z - exp(-z))",
       "log(high - low) - z - exp(-z)", "expm1(-z)"},
      {2, 4}, "no", 5, {{0, 1}, {-1, 3}, {1000, 1001}, {-5, -2}, {-0.001, 10}}};
  // clang-format on
  template <class T> static Args<T> prepare(const double* p) {
    const double mirrored[] = {-p[1], -p[0]};
    return prepare_image<T>(mirrored);
  }
};

}  // namespace fastmap::FM_ISA
