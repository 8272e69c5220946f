// Python-free check of every map: round trips and derivative identities over the exponent range.
#include <cmath>
#include <cstdio>

#include "engine/loop.hpp"
#include FM_MAP_HEADER

using namespace fastmap;
using namespace fastmap::FM_ISA;

int main() {
  using M = FM_MAP;
  int passed = 0, failed = 0;
  for (int e = 0; e < M::info.n_examples; ++e) {
    ArgsBuffer buffer;
    prepare<M, double>(M::info.examples[e], buffer);
    const auto& a = args_of<M, double>(buffer);
    for (double z = -12; z <= 12; z += 0.37) {
      double t, back, slope, inverse_slope, log_slope, bend;
      block<M, kInverse, Path::exact, double>(&z, &t, 1, buffer);
      const bool inside = t >= a.low && t <= a.high;
      if (!(t > a.low && t < a.high)) continue;
      block<M, kForward, Path::exact, double>(&t, &back, 1, buffer);
      block<M, kJacobian, Path::exact, double>(&t, &slope, 1, buffer);
      block<M, kInverseJacobian, Path::exact, double>(&z, &inverse_slope, 1, buffer);
      block<M, kInverseLogAbsDet, Path::exact, double>(&z, &log_slope, 1, buffer);
      block<M, kLogAbsDetGrad, Path::exact, double>(&t, &bend, 1, buffer);
      // What rounding theta once may do to z and to the slope.
      const double tolerance = 1e-15 * (8 + std::fabs(z) + 4 * std::fabs(t / inverse_slope));
      const bool ok = inside && std::fabs(back - z) <= tolerance &&
                      std::fabs(slope * inverse_slope - 1) <= 1e-13 + 1e-15 * std::fabs(t * bend) &&
                      std::fabs(std::log(std::fabs(inverse_slope)) - log_slope) <= 1e-12;
      ok ? ++passed : ++failed;
      if (!ok)
        std::printf("%s example %d: z=%.17g theta=%.17g back=%.17g J=%g 1/J=%g log=%g\n", M::info.name, e, z,
                    t, back, slope, inverse_slope, log_slope);
    }
  }
  std::printf("%s: %d passed, %d failed\n", M::info.name, passed, failed);
  return failed != 0 || passed == 0;
}
