// What the step of an optimizer depends on besides its buffers, made on the GPU: learning rates, counts and scales may
// lie there, and nothing waits for them. Compiled by nvcc with the flags of cuda.cu; one thread for each parameter.
#include "engine/cuda_step.hpp"

namespace fastmap::FM_ISA {
namespace {

template <class T> __device__ __forceinline__ StepScalars<T> scalars(const CudaCounts& c, float steps) {
  RuleArgs args = at_step(c.args, std::uint64_t(steps) + 1);
  args.lr = c.lr;
  if (c.lr_at)
    args.lr = c.lr_storage == kStoredFloat64 ? *static_cast<const double*>(c.lr_at)
                                             : double(*static_cast<const float*>(c.lr_at));
  const double rate = args.lr * c.weight_decay, factor = c.grad_scale ? 1 / double(*c.grad_scale) : 1;
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
  if (c.found_inf && *c.found_inf != 0) {
    to->skip = 1;
    return;
  }
  const float steps = *c.tensors[i].steps;
  *to = scalars<T>(c, steps);
  *c.tensors[i].steps = steps + 1;
}

}  // namespace
}  // namespace fastmap::FM_ISA

#define FM_KERNEL(T) reinterpret_cast<const void*>(&fastmap::FM_ISA::counts<T>)
extern "C" {
extern const fastmap::CudaRules fastmap_cuda_rules;
const fastmap::CudaRules fastmap_cuda_rules{{FM_KERNEL(float), FM_KERNEL(double)}};
}
