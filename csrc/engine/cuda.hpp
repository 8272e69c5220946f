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
};

// Sums, csrc/engine/cuda_sum.cu; one thread for what is named in [].
struct CudaSums {
  const void* lanes[kDTypes];  // (const T* x, double* lanes, uint64 rows, uint64 n) [lane of a block]
  const void* fold;            // (const double* lanes, double* out, uint64 blocks) [block]
  const void* pairs;           // (const double* from, double* to, uint64 rows, uint64 n) [element of `to`]
};

}  // namespace fastmap
