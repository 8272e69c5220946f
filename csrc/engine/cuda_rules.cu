// What the step of an optimizer depends on besides its buffers, made on the GPU: learning rates, counts and scales may
// lie there, and nothing waits for them. Compiled by nvcc with the flags of cuda.cu; one thread for each parameter.
#include "engine/cuda_step.hpp"

namespace fastmap::FM_ISA {
namespace {

// What gradients are multiplied by; NaN where there is no step.
__device__ __forceinline__ double gradient_factor(const CudaCounts& c, std::uint32_t i) {
  if (c.found_inf && *c.found_inf != 0) return nan<double>();
  const double factor = c.grad_scale ? 1 / double(*c.grad_scale) : 1;
  if (!c.squares) return factor;
  const double norm = sqrt(*c.squares) * factor;
  if (c.skips_nonfinite && !is_finite(norm)) {
    if (i == 0 && c.skipped) ++*c.skipped;
    return nan<double>();
  }
  const double share = c.max_norm / (norm + 1e-6);  // as torch.nn.utils.clip_grad_norm_
  return share < 1 ? factor * share : factor;
}

template <class T>
__device__ __forceinline__ StepScalars<T> scalars(const CudaCounts& c, double factor, float steps) {
  RuleArgs args = at_step(c.args, std::uint64_t(steps) + 1);
  args.lr = c.lr;
  if (c.lr_at)
    args.lr = c.lr_storage == kStoredFloat64 ? *static_cast<const double*>(c.lr_at)
                                             : double(*static_cast<const float*>(c.lr_at));
  const double rate = args.lr * c.weight_decay;
  args.decay = c.decays_z ? 1 - rate : 1;
  StepScalars<T> s;
  s.factor = T(c.maximize ? -factor : factor);
  s.weight_decay = T(c.weight_decay);
  s.rate = T(rate);
  s.skip = 0;
  s.still = args.lr == 0;
  if (c.rule == kAdam)
    s.adam = Adam::prepare<T>(args);
  else if (c.rule == kLion)
    s.lion = Lion::prepare<T>(args);
  else
    s.sgd = Sgd<true>::prepare<T>(args);
  return s;
}

// Counts the step, unless gradients are not finite.
template <class T> __global__ void __launch_bounds__(kCudaThreads, 1) counts(const CudaCounts c) {
  static_assert(sizeof(StepScalars<T>) <= kScalarsBytes);
  const std::uint32_t i = blockIdx.x * kCudaThreads + threadIdx.x;
  if (i >= c.count) return;
  auto* to = static_cast<StepScalars<T>*>(c.tensors[i].scalars);
  const double factor = gradient_factor(c, i);
  if (is_nan(factor)) {
    to->skip = 1;
    return;
  }
  const float steps = *c.tensors[i].steps;
  *to = scalars<T>(c, factor, steps);
  *c.tensors[i].steps = steps + 1;
}

}  // namespace
}  // namespace fastmap::FM_ISA

#define FM_KERNEL(T) reinterpret_cast<const void*>(&fastmap::FM_ISA::counts<T>)
extern "C" {
extern const fastmap::CudaRules fastmap_cuda_rules;
const fastmap::CudaRules fastmap_cuda_rules{{FM_KERNEL(float), FM_KERNEL(double)}};
}
