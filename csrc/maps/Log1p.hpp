#pragma once

#include "maps/OneMinusLog.hpp"
#include "maps/mirrored.hpp"

namespace fastmap::FM_ISA {

struct Log1p : Mirrored<OneMinusLog> {
  // clang-format off
  static constexpr MapInfo info{
      "log1p",
      "z = log(1 + theta), theta > -1: linear near zero, logarithmic beyond; for counts and returns.",
      0, {},
      "-1", "inf", "-inf", "inf",
      {"log1p(t)", "1/(1 + t)", "-log1p(t)", "-1/(1 + t)", "expm1(z)", "exp(z)", "z", "1"},
      {2, 4}, "sampled", 1, {{}}};
  // clang-format on
  template <class T> static Args<T> prepare(const double* p) { return prepare_image<T>(p); }
};

}  // namespace fastmap::FM_ISA
