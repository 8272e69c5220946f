// The plain contract between the kernels, which are compiled once per ISA, and everything else.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmap {

// Ops on theta come first.
enum Op {
  kForward,
  kJacobian,
  kLogAbsDet,
  kLogAbsDetGrad,
  kInverse,
  kInverseJacobian,
  kInverseLogAbsDet,
  kInverseLogAbsDetGrad,
  kOps
};
constexpr int kThetaOps = kInverse;
enum DType { kFloat32, kFloat64, kDTypes };  // what kernels compute in
// What buffers hold. The 16-bit types are widened to float32 and the result is rounded once, block by block in
// the L1 cache: they add no kernels.
enum Storage { kStoredFloat32, kStoredFloat64, kStoredBFloat16, kStoredFloat16, kStorages };

enum class Constraint { finite, positive, nonzero, lower_bound, positive_lower_bound, upper_bound };

struct ParamInfo {
  const char* name;
  double default_value;
  Constraint constraint;
};

constexpr int kMaxParams = 4, kMaxExamples = 6;

struct MapInfo {
  const char* name;
  const char* doc;
  int n_params;
  ParamInfo params[kMaxParams];
  const char *domain_low, *domain_high;  // open ends, as text in the parameters
  const char *codomain_low, *codomain_high;
  // In the subset of C++ that Python reads too: + - * / log log1p exp expm1 sqrt abs sign sinh cosh tanh asinh
  // sin cos tan asin atan ndtr, probit(p, q) = ndtri(p / (p + q)), lambertw, where(condition, yes, no), pi,
  // t (theta), z, parameters. Tests evaluate these texts to many digits, so a form must not cancel beyond 60 bits
  // in the whole domain, roots that parameters move aside.
  const char* formulas[kOps];
  double ulp[2];  // stated bounds: values, derivatives
  const char* monotone;
  int n_examples;
  double examples[kMaxExamples][kMaxParams];  // published parameter sets; the first is the default
  // For a map between two bounds: the map of the lower bound alone that is left when the upper one is
  // infinite. Without it bounds must be finite. An upper bound alone gives its mirror image, which increases
  // too, and no bound the identity.
  const char* one_bound = nullptr;
  bool closed = false;  // finite ends belong to the domain and the codomain
};

// Constants of one call, opaque outside the kernels.
struct alignas(64) ArgsBuffer {
  unsigned char bytes[256];
};

// n of a fast kernel is a multiple of this, so that its loop has no remainder: the caller fills up what is left over.
constexpr std::size_t kLanes = 64;

constexpr std::size_t kLineBytes = 64;  // of a cache line

// Returns true if an element was unusual: `out` is then worthless and the exact kernel has to run. `stream`: out
// begins on a cache line, and what is stored bypasses the caches.
using FastKernel = bool (*)(const void* x, void* out, std::size_t n, const ArgsBuffer& args, bool stream);
using ExactKernel = void (*)(const void* x, void* out, std::size_t n, const ArgsBuffer& args);

// How an optimizer moves z, csrc/rules/<name>.hpp.
enum Rule { kSgd, kAdam, kLion, kRules };

// What the update of a group of parameters depends on in one step; rules take what they need.
struct RuleArgs {
  double lr, beta1, beta2, eps, dampening;  // beta1: the momentum of kSgd
  double decay;                             // z is multiplied by it first
  double bias1, bias2;                      // 1 - beta^step
  bool first, nesterov;                     // the first step
};
// z, and the moments that the rule has, move in place. Moments may be null where the rule has none.
using RuleKernel = void (*)(const RuleArgs& args, const void* gradient, void* z, void* first, void* second,
                            std::size_t n);

// A block of an optimizer's step in one loop: the pullback of factor times the gradient, the rule, and theta of the
// new z, or the old theta where z has not moved. Returns true if an element was unusual: the outputs are then worthless.
struct StepBlock {
  const void *gradient, *z, *first, *second, *theta;
  void *new_z, *new_first, *new_second, *new_theta;
};
using FusedKernel = bool (*)(const RuleArgs& args, const ArgsBuffer& map, double factor,
                             const StepBlock& block, std::size_t n);

// What may enter a kernel: theta or z as the first input of a call, where they are finite and inside the domain or
// codomain, or on the way back from search space, where limits are fine.
enum Check { kThetaInside, kZInside, kThetaOnClosure, kZOnClosure, kNumber, kChecks };
constexpr Check check_of(Op op, bool to_search_space) {
  return op < kThetaOps ? (to_search_space ? kThetaInside : kThetaOnClosure)
                        : (to_search_space ? kZInside : kZOnClosure);
}

// One map in one dtype. Kernels work on blocks that fit the L1 cache; out is not x, since an unusual
// block is computed twice.
struct MapKernels {
  void (*prepare)(const double* params, ArgsBuffer& args);
  bool (*all_valid[kChecks])(const void* x, std::size_t n, const ArgsBuffer& args);
  void (*theta_range)(const ArgsBuffer& args, double* low, double* high);  // the closed domain
  void (*z_range)(const ArgsBuffer& args, double* low, double* high);      // the closed codomain
  FastKernel fast[kOps];
  ExactKernel exact[kOps];
  FusedKernel fused[kRules];  // null where it does not pay
};

struct MapTable {
  const MapInfo* info;
  MapKernels kernels[kDTypes];
};

// What the engine itself needs per ISA. Sums: 32 interleaved float64 lanes over at most
// kSumBlock elements, folded pairwise, so that the bits depend on nothing but the elements.
constexpr std::size_t kSumBlock = 4096;
struct EngineTable {
  void (*multiply[kDTypes])(const void* a, const void* b, void* out, std::size_t n);
  void (*add[kDTypes])(const void* a, const void* b, void* out, std::size_t n);
  void (*clip[kDTypes])(const void* x, void* out, std::size_t n, double low, double high);
  double (*sum[kDTypes])(const void* x, std::size_t n);
  double (*sum_of_squares[kDTypes])(const void* x, std::size_t n);
  void (*scale[kDTypes])(const void* x, void* out, std::size_t n, double factor);
  void (*add_scaled[kDTypes])(void* x, const void* y, std::size_t n, double factor);  // x += factor y
  // x -= factor y / slope, where the slope is not 0
  void (*subtract_quotient[kDTypes])(void* x, const void* y, const void* slope, std::size_t n, double factor);
  void (*replace_moved[kDTypes])(void* x, const void* fresh, const void* z, const void* old_z, std::size_t n);
  RuleKernel rules[kRules][kDTypes];
  // bfloat16, float16: to and from float32, rounding to nearest even.
  void (*widen[2])(const void* from, void* to, std::size_t n);
  void (*narrow[2])(const void* from, void* to, std::size_t n);
  // Non-temporal copy that meanwhile fetches as many bytes at `next` into the cache.
  void (*stream)(const void* from, void* to, std::size_t bytes, const void* next);
};

}  // namespace fastmap
