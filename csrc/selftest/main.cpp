// Python-free check of one map: round trips and derivative identities over the ordinary range, then a hash of
// all results on fixed inputs, which must be the same on every instruction set.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "engine/loop.hpp"
#include FM_MAP_HEADER

using namespace fastmap;
using namespace fastmap::FM_ISA;
using M = FM_MAP;

namespace {

template <Op op> double at(double x, const ArgsBuffer& buffer) {
  double result;
  exact<M, op, double>(&x, &result, 1, buffer);
  return result;
}

bool check(double z, const ArgsBuffer& buffer) {
  const auto& a = args_of<M, double>(buffer);
  const double t = at<kInverse>(z, buffer);
  if (!(t >= a.low && t <= a.high)) return false;
  if (t == a.low || t == a.high) return true;  // saturated: there is no way back
  const double back = at<kForward>(t, buffer), slope = at<kJacobian>(t, buffer);
  const double inverse_slope = at<kInverseJacobian>(z, buffer), bend = at<kLogAbsDetGrad>(t, buffer);
  // What rounding theta once may do to z and to the slope.
  const double tolerance = 1e-15 * (8 + std::fabs(z) + 4 * std::fabs(t / inverse_slope));
  return std::fabs(back - z) <= tolerance &&
         std::fabs(slope * inverse_slope - 1) <= 1e-13 + 1e-15 * std::fabs(t * bend) &&
         std::fabs(std::log(std::fabs(inverse_slope)) - at<kInverseLogAbsDet>(z, buffer)) <= 1e-12;
}

// FNV-1a.
void add(std::uint64_t& hash, const void* data, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    hash = (hash ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3u;
}

constexpr std::size_t kSamples = 4096;

template <class T, int op = 0> void add_results(std::uint64_t& hash, const ArgsBuffer& buffer) {
  if constexpr (op < kOps) {
    T x[kSamples], out[kSamples];
    std::uint64_t state = 88172645463325252u;
    for (std::size_t i = 0; i < kSamples; ++i) {  // bit patterns (xorshift), and the ordinary range
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      std::memcpy(&x[i], &state, sizeof(T));
      if (i % 2) x[i] = T((double(state >> 11) * 0x1p-53 - 0.5) * 40);
    }
    exact<M, Op(op), T>(x, out, kSamples, buffer);
    add(hash, out, sizeof out);
    const auto& a = args_of<M, T>(buffer);
    std::size_t n = 0;
    for (const T v : x)  // those that the fast path takes, filled up with the last of them
      if (op < kThetaOps ? M::usual_theta(v, a) : M::usual_z(v, a)) x[n++] = v;
    for (; n % kLanes != 0; ++n) x[n] = x[n - 1];
    if (!fast<M, Op(op), T>(x, out, n, buffer, false)) add(hash, out, n * sizeof(T));
    add_results<T, op + 1>(hash, buffer);
  }
}

}  // namespace

int main() {
  int passed = 0, failed = 0;
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (int e = 0; e < M::info.n_examples; ++e) {
    ArgsBuffer buffer;
    prepare<M, double>(M::info.examples[e], buffer);
    const auto& a = args_of<M, double>(buffer);
    for (double z = -12; z <= 12; z += 0.37) {
      if (!is_valid<M, kZInside>(z, a)) continue;
      const bool ok = check(z, buffer);
      ok ? ++passed : ++failed;
      if (!ok) std::printf("%s example %d fails at z = %.17g\n", M::info.name, e, z);
    }
    add_results<double>(hash, buffer);
    prepare<M, float>(M::info.examples[e], buffer);
    add_results<float>(hash, buffer);
  }
  std::printf("%s: %d passed, %d failed, %016llx\n", M::info.name, passed, failed,
              static_cast<unsigned long long>(hash));
  return failed != 0 || passed == 0;
}
