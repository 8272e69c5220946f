// Sums on a GPU, in the order of the CPU (EngineTable::sum, then pairwise_sum): so the same bits for any grid. Compiled
// by nvcc with the flags of cuda.cu. Threads do not talk to each other here either: what they would tell goes through
// memory, 33 float64 for every kSumBlock elements.
#include "engine/cuda.hpp"
#include "math/ops.hpp"

namespace fastmap::FM_ISA {
namespace {

// Element i of a block goes to lane i % kSumLanes. x: rows of n elements; lanes: kSumLanes for each block of each row.
template <class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    lanes(const T* x, double* out, std::uint64_t rows, std::uint64_t n) {
  const std::uint64_t per_row = (n + kSumBlock - 1) / kSumBlock;
  for (std::uint64_t t = thread(); t < rows * per_row * kSumLanes; t += threads()) {
    const std::uint64_t block = t / kSumLanes, row = block / per_row,
                        begin = (block - row * per_row) * kSumBlock;
    const std::uint64_t end = n - begin < kSumBlock ? n : begin + kSumBlock;
    double sum = 0;
#pragma unroll 4
    for (std::uint64_t i = begin + t % kSumLanes; i < end; i += kSumLanes) sum += double(x[row * n + i]);
    out[t] = sum;
  }
}

// In halves, the upper one onto the lower one. By recursion: nvcc does not unroll the loop over the widths, and then
// the lanes would lie in memory.
template <int width> __device__ __forceinline__ double folded(double (&v)[kSumLanes]) {
#pragma unroll
  for (int j = 0; j < width; ++j) v[j] += v[j + width];
  if constexpr (width == 1)
    return v[0];
  else
    return folded<width / 2>(v);
}

// The lanes of a block.
__global__ void __launch_bounds__(kCudaThreads, 1)
    fold(const double* lanes, double* out, std::uint64_t blocks) {
  for (std::uint64_t t = thread(); t < blocks; t += threads()) {
    double v[kSumLanes];
#pragma unroll
    for (int j = 0; j < kSumLanes; ++j) v[j] = lanes[t * kSumLanes + j];
    const double sum = folded<kSumLanes / 2>(v);
    out[t] = select(is_nan(sum), nan<double>(), sum);
  }
}

// Neighbours of each row; without one, an element stays as it is.
__global__ void __launch_bounds__(kCudaThreads, 1)
    pairs(const double* from, double* to, std::uint64_t rows, std::uint64_t n) {
  const std::uint64_t half = (n + 1) / 2;
  for (std::uint64_t t = thread(); t < rows * half; t += threads()) {
    const std::uint64_t row = t / half, i = 2 * (t - row * half);
    const double *p = from + row * n + i, first = p[0], sum = i + 1 < n ? first + p[1] : first;
    to[t] = select(is_nan(sum), nan<double>(), sum);
  }
}

}  // namespace
}  // namespace fastmap::FM_ISA

#define FM_KERNEL(...) reinterpret_cast<const void*>(&fastmap::FM_ISA::__VA_ARGS__)
extern "C" {
extern const fastmap::CudaSums fastmap_cuda_sums;
const fastmap::CudaSums fastmap_cuda_sums{
    {FM_KERNEL(lanes<float>), FM_KERNEL(lanes<double>)}, FM_KERNEL(fold), FM_KERNEL(pairs)};
}
