#pragma once

#include "structured/increments.hpp"

namespace fastmap::FM_ISA {

struct PositiveOrdered : Increments<true> {
  static constexpr StructuredInfo info{"positive_ordered",
                                       "Rows of positive numbers that increase strictly.",
                                       "positive and strictly increasing",
                                       "z[0] = log(t[0]), z[k] = log(t[k] - t[k-1])",
                                       "t[0] = exp(z[0]), t[k] = t[k-1] + exp(z[k])",
                                       "all entries",
                                       1,
                                       Size::same,
                                       1};
};

}  // namespace fastmap::FM_ISA
