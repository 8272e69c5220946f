// The contract between the CUDA kernels of a map, csrc/engine/cuda.cu, and who launches them.
#pragma once

#include "engine/abi.hpp"

namespace fastmap {

constexpr unsigned kCudaThreads = 256;  // of a block

// Elements that a block takes at a time: 16 bytes per thread, of what it computes in.
constexpr std::size_t cuda_tile(DType dtype) { return kCudaThreads * (dtype == kFloat64 ? 2 : 4); }

// What kernels compute in float32 may lie in any type but float64.
struct CudaBuffer {
  void* data;
  Storage storage;
};

// The kernels of one map, for cudaLaunchKernel and any grid:
//   (CudaBuffer x, CudaBuffer factor, CudaBuffer addend, CudaBuffer out, uint64 n, Args<T>)
//   out = op(x) factor + addend, each result rounded, at last to the type of out; without what is null.
// out may be one of the others. The bytes of Args are those of an ArgsBuffer, from the front.
struct CudaTable {
  const void* kernels[kDTypes][kOps];
  const void* steps[kDTypes];      // (CudaStep, Args<T> a): the step of an optimizer
  const void* rows[kDTypes];       // as kernels of all operations, with CudaRows in place of Args<T>
  const void* step_rows[kDTypes];  // (CudaStep, CudaRows): of the first tensor, which is the only one
  // (CudaStep, double* lanes, Args<T> a) and (CudaStep, double* lanes, CudaRows): what those tensors' gradients, in
  // theta or in z, add to the lanes of a sum of squares
  const void* squares[kDTypes];
  const void* square_rows[kDTypes];
  std::size_t args_bytes[kDTypes];  // of Args<T>
};

// Constants that differ from element to element: a table of Args<T>, and how an index of x leads to its rows.
constexpr std::uint32_t kCudaDims = 6;
struct CudaRows {
  const void* args;
  std::uint32_t op, dims;
  std::uint64_t lengths[kCudaDims], strides[kCudaDims];  // of x, from the last dimension on; strides in rows
};

// The step of an optimizer (step.hpp) in two launches, and without a word from the host: csrc/engine/cuda_rules.cu
// makes its constants of what lies on the device, by one thread per parameter, and counts the step. Then kernels of
// the maps move the parameters that share a map, many in one launch.
constexpr std::size_t kScalarsBytes = 96;  // the constants of one parameter: StepScalars of cuda_step.hpp
constexpr std::uint32_t kCudaStepTensors = 47,
                        kCudaCountedTensors = 244;  // in one launch, of 4 KB of arguments

struct CudaCounts {
  double lr, weight_decay;
  RuleArgs args;                        // without lr, decay, bias1, bias2, first
  const void* lr_at;                    // where not null, in place of lr
  const float *grad_scale, *found_inf;  // what gradients were multiplied by; not 0: no step. Null: neither
  const double* squares;                // of all gradients, the sum; null: nobody asks
  double max_norm;                      // to which they are scaled down; infinite: never
  std::uint64_t* skipped;               // null, or where steps that the next one prevents are counted
  Storage lr_storage;
  std::uint32_t rule, decays_z, maximize, count, skips_nonfinite;
  struct Tensor {
    float* steps;
    void* scalars;
  } tensors[kCudaCountedTensors];
};

struct CudaStepTensor {
  void *theta, *gradient, *z, *first, *second;  // no moment: null
  const void* scalars;
  std::uint64_t n, end;  // elements; tiles of the launch up to those of this tensor
  Storage theta_storage, gradient_storage, moment_storage;
  std::uint32_t first_block;  // of the blocks of all sums of squares
};

// Element i of a block of a sum of squares goes to lane i % kSumLanes, as in EngineTable::sum_of_squares.
constexpr unsigned kSumLanes = 32;
constexpr std::size_t kSquaresBytes = 2048;  // of a block: the CPU's kStepBytes

struct CudaStep {
  double clamp_low, clamp_high;
  std::uint32_t rule, gradient, decay, decoupled, count, unused;
  CudaStepTensor tensors[kCudaStepTensors];
};
static_assert(sizeof(CudaStep) + sizeof(double*) + sizeof(ArgsBuffer) <= 4096 && sizeof(CudaCounts) <= 4096);

struct CudaRules {
  const void* counts[kDTypes];  // (CudaCounts), one thread for each tensor
};

// Sums, csrc/engine/cuda_sum.cu; one thread for what is named in [].
struct CudaSums {
  const void* lanes[kDTypes];  // (const T* x, double* lanes, uint64 rows, uint64 n) [lane of a block]
  const void* fold;            // (const double* lanes, double* out, uint64 blocks) [block]
  const void* pairs;           // (const double* from, double* to, uint64 rows, uint64 n) [element of `to`]
};

#if defined(__CUDACC__)
// Where in a launch a thread is, and how many there are.
__device__ __forceinline__ std::uint64_t thread() {
  return blockIdx.x * std::uint64_t(kCudaThreads) + threadIdx.x;
}
__device__ __forceinline__ std::uint64_t threads() { return gridDim.x * std::uint64_t(kCudaThreads); }
#endif

}  // namespace fastmap
