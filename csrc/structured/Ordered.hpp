#pragma once

#include "structured/increments.hpp"

namespace fastmap::FM_ISA {

struct Ordered : Increments<false> {
  static constexpr StructuredInfo info{"ordered",
                                       "Rows that increase strictly: cut points, for instance.",
                                       "strictly increasing",
                                       "z[0] = t[0], z[k] = log(t[k] - t[k-1])",
                                       "t[0] = z[0], t[k] = t[k-1] + exp(z[k])",
                                       "all entries",
                                       1,
                                       Size::same,
                                       1};
};

}  // namespace fastmap::FM_ISA
