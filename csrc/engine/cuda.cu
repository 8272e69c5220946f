// Compiled once per map by nvcc, with FM_ISA=cuda, FM_MAP and FM_MAP_HEADER: the kernels of one map on a GPU.
//
// The flags belong to the text: -fmad=false (fma is written out) and no -use_fast_math. Then every operation of the
// PTX is that of IEEE 754, and the bits are those of the CPU. tests/test_cuda.py runs this PTX without a GPU, which
// it can as long as threads do not talk to each other.
#include FM_MAP_HEADER
#include "engine/cuda_step.hpp"
#include "math/half.hpp"

namespace fastmap::FM_ISA {
namespace {

// The elements of a thread in a tile, as it computes with them and as 16-bit types lie in memory.
template <class T> struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T v[size];
};
struct alignas(8) HalfPack {
  std::uint16_t v[Pack<float>::size];
};

// The first element leaves, one comes at the end: with this in a loop that is not unrolled, formulas are in a kernel
// once. As several copies they would cost code, registers and compile time.
template <class T> __device__ __forceinline__ void push(Pack<T>& p, T x) {
#pragma unroll
  for (int j = 1; j < Pack<T>::size; ++j) p.v[j - 1] = p.v[j];
  p.v[Pack<T>::size - 1] = x;
}

__device__ __forceinline__ bool is_half(Storage s) { return s == kStoredBFloat16 || s == kStoredFloat16; }
__device__ __forceinline__ float widen(std::uint16_t h, Storage s) {
  return s == kStoredBFloat16 ? widen_bfloat16(h) : widen_float16(h);
}
__device__ __forceinline__ std::uint16_t narrow(float x, Storage s) {
  return s == kStoredBFloat16 ? narrow_bfloat16(x) : narrow_float16(x);
}

template <class T> __device__ __forceinline__ T element(const CudaBuffer& b, std::uint64_t i) {
  if constexpr (sizeof(T) == 4) {
    if (is_half(b.storage)) return widen(static_cast<const std::uint16_t*>(b.data)[i], b.storage);
  }
  return static_cast<const T*>(b.data)[i];
}

// A tile of buffers of n elements, for one thread. Whole: inside the buffers, which are aligned. Then its pack lies in
// one piece; else it is every kCudaThreads-th element, so that neighbouring threads take neighbours here, too.
template <class T> struct Tile {
  std::uint64_t begin, n;
  bool whole;

  // Where element k of this thread lies.
  __device__ __forceinline__ std::uint64_t index(std::uint64_t k) const {
    return begin + (whole ? threadIdx.x * Pack<T>::size + k : k * kCudaThreads + threadIdx.x);
  }

  // In memory S, of which P is a pack.
  template <class P, class S, class Convert>
  __device__ __forceinline__ Pack<T> load_as(const CudaBuffer& b, const Convert& convert) const {
    const S* from = static_cast<const S*>(b.data) + begin;
    Pack<T> p{};
    if (whole) {
      const P pack = reinterpret_cast<const P*>(from)[threadIdx.x];
#pragma unroll
      for (int k = 0; k < Pack<T>::size; ++k) p.v[k] = convert(pack.v[k]);
    } else {
#pragma unroll 1
      for (std::uint64_t k = 0; k < Pack<T>::size; ++k) {
        const std::uint64_t i = k * kCudaThreads + threadIdx.x;
        push(p, begin + i < n ? convert(from[i]) : T(0));
      }
    }
    return p;
  }
  template <class P, class S, class Convert>
  __device__ __forceinline__ void store_as(const CudaBuffer& b, const Pack<T>& p,
                                           const Convert& convert) const {
    S* to = static_cast<S*>(b.data) + begin;
    if (whole) {
      P pack;
#pragma unroll
      for (int k = 0; k < Pack<T>::size; ++k) pack.v[k] = convert(p.v[k]);
      reinterpret_cast<P*>(to)[threadIdx.x] = pack;
    } else {
      Pack<T> rest = p;
#pragma unroll 1
      for (std::uint64_t k = 0; k < Pack<T>::size; ++k) {
        const std::uint64_t i = k * kCudaThreads + threadIdx.x;
        if (begin + i < n) to[i] = convert(rest.v[0]);
        push(rest, T(0));
      }
    }
  }
  __device__ __forceinline__ Pack<T> load(const CudaBuffer& b) const {
    if constexpr (sizeof(T) == 4) {
      if (is_half(b.storage))
        return load_as<HalfPack, std::uint16_t>(b, [&](std::uint16_t h) { return widen(h, b.storage); });
    }
    return load_as<Pack<T>, T>(b, [](T x) { return x; });
  }
  __device__ __forceinline__ void store(const CudaBuffer& b, const Pack<T>& p) const {
    if constexpr (sizeof(T) == 4) {
      if (is_half(b.storage))
        return store_as<HalfPack, std::uint16_t>(b, p, [&](float x) { return narrow(x, b.storage); });
    }
    store_as<Pack<T>, T>(b, p, [](T x) { return x; });
  }
};

// Here each element chooses its path, not a block: both give the same bits wherever the fast one is right.
template <class Map, Op op, class T, class A> FM_INLINE T compute(T x, const A& a) {
  return is_usual<Map, op>(x, a) ? apply<Map, op, Path::fast>(x, a) : exact_lane<Map, op>(x, a);
}

template <class Map, Op op, class T, class A>
__device__ __forceinline__ void compute_pack(Pack<T>& p, const A& a) {
#pragma unroll 1
  for (int k = 0; k < Pack<T>::size; ++k) push(p, compute<Map, op>(p.v[0], a));
}

// Every NaN is the one quiet NaN.
template <class T> FM_INLINE T one_nan(T x) { return select(is_nan(x), nan<T>(), x); }

__device__ __forceinline__ bool is_aligned(const CudaBuffer& b) {
  return reinterpret_cast<std::uintptr_t>(b.data) % (is_half(b.storage) ? sizeof(HalfPack) : 16) == 0;
}

// out = p factor + addend, each result rounded.
template <class T> __device__ __forceinline__ void finish(const Tile<T>& tile, Pack<T>& p,
                                                          const CudaBuffer& factor, const CudaBuffer& addend,
                                                          const CudaBuffer& out) {
  if (factor.data) {
    const Pack<T> by = tile.load(factor);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) p.v[k] = one_nan(p.v[k] * by.v[k]);
  }
  if (addend.data) {
    const Pack<T> more = tile.load(addend);
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) p.v[k] = one_nan(p.v[k] + more.v[k]);
  }
  tile.store(out, p);
}

// One block per processor is enough: for more, ptxas spills on some GPUs (SinhArcsinh on sm_75, SoftClip on sm_100).
template <class Map, Op op, class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    kernel(const CudaBuffer x, const CudaBuffer factor, const CudaBuffer addend, const CudaBuffer out,
           std::uint64_t n, const typename Map::template Args<T> a) {
  static_assert(sizeof a <= sizeof(ArgsBuffer));
  constexpr std::uint64_t step = kCudaThreads * Pack<T>::size;
  const bool aligned = is_aligned(x) & is_aligned(factor) & is_aligned(addend) & is_aligned(out);
  for (std::uint64_t begin = blockIdx.x * step; begin < n; begin += gridDim.x * step) {
    const Tile<T> tile{begin, n, aligned && n - begin >= step};
    Pack<T> p = tile.load(x);
    compute_pack<Map, op>(p, a);
    finish(tile, p, factor, addend, out);
  }
}

// All operations by the exact path, which is right for every x: this kernel reads more than it computes. By the bits of
// their number: of cases nvcc makes a table of branches, which tests/ptx.cpp does not know.
template <class Map, int first, int count, class T, class A>
FM_INLINE T exact_op(std::uint32_t op, T x, const A& a) {
  if constexpr (count == 1) {
    return exact_lane<Map, Op(first)>(x, a);
  } else {
    constexpr int half = count / 2;
    if (op & half) return exact_op<Map, first + half, half>(op, x, a);
    return exact_op<Map, first, half>(op, x, a);
  }
}

// The constants of element i, of n. Unrolled, so that nothing indexes the arguments: they would be copied to local memory.
template <class A>
__device__ __forceinline__ const A& constants_of(std::uint64_t i, std::uint64_t n, const CudaRows& r) {
  std::uint64_t rest = i < n ? i : n - 1, row = 0;  // beyond the end is what a tile has too much
#pragma unroll
  for (std::uint32_t d = 0; d < kCudaDims; ++d) {
    if (d == r.dims) break;
    const std::uint64_t above = rest / r.lengths[d];
    row += (rest - above * r.lengths[d]) * r.strides[d];
    rest = above;
  }
  return static_cast<const A*>(r.args)[row];
}

// The same as `kernel`, where constants differ from element to element.
template <class Map, class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    row_kernel(const CudaBuffer x, const CudaBuffer factor, const CudaBuffer addend, const CudaBuffer out,
               std::uint64_t n, const CudaRows r) {
  using Args = typename Map::template Args<T>;
  static_assert(kOps == 8);  // exact_op goes by their bits
  constexpr std::uint64_t step = kCudaThreads * Pack<T>::size;
  const bool aligned = is_aligned(x) & is_aligned(factor) & is_aligned(addend) & is_aligned(out);
  for (std::uint64_t begin = blockIdx.x * step; begin < n; begin += gridDim.x * step) {
    const Tile<T> tile{begin, n, aligned && n - begin >= step};
    Pack<T> p = tile.load(x);
#pragma unroll 1
    for (int k = 0; k < Pack<T>::size; ++k)
      push(p, exact_op<Map, 0, kOps>(r.op, p.v[0], constants_of<Args>(tile.index(k), n, r)));
    finish(tile, p, factor, addend, out);
  }
}

// constants(i): those of element i.
template <class Map, class T, class Constants>
__device__ __forceinline__ void step_tile(Tile<T> tile, const CudaBuffer& theta, const CudaBuffer& gradient,
                                          const CudaBuffer& z, const CudaBuffer& first,
                                          const CudaBuffer& second, const CudaStep& s,
                                          const StepScalars<T>& c, const Constants& constants) {
  tile.whole = tile.n - tile.begin >= kCudaThreads * Pack<T>::size && is_aligned(theta) &&
               is_aligned(gradient) && is_aligned(z) && is_aligned(first) && is_aligned(second);
  Pack<T> g = tile.load(gradient), old_z = tile.load(z), m{}, v{}, old_theta = tile.load(theta);
  if (first.data) m = tile.load(first);
  if (second.data) v = tile.load(second);
#pragma unroll 1
  for (int k = 0; k < Pack<T>::size; ++k) {
    StepElement<T> e{g.v[0], old_z.v[0], m.v[0], v.v[0], old_theta.v[0]};
    step_element<Map>(e, s, first.data, c, constants(tile.index(k)));
    push(g, T(0));
    push(old_z, one_nan(e.z));
    push(m, one_nan(e.m));
    push(v, one_nan(e.v));
    push(old_theta, e.theta);
  }
  tile.store(theta, old_theta);
  tile.store(z, old_z);
  if (first.data) tile.store(first, m);
  if (second.data) tile.store(second, v);
}

// Tile t of a parameter.
template <class Map, class T, class Constants>
__device__ __forceinline__ void step_tensor(const CudaStep& s, const CudaStepTensor& x, std::uint64_t t,
                                            const Constants& constants) {
  const StepScalars<T>& c = *static_cast<const StepScalars<T>*>(x.scalars);
  if (c.skip) return;
  const Storage in = sizeof(T) == 8 ? kStoredFloat64 : kStoredFloat32;
  step_tile<Map, T>({t * kCudaThreads * Pack<T>::size, x.n, false}, {x.theta, x.theta_storage},
                    {x.gradient, x.gradient_storage}, {x.z, in}, {x.first, x.moment_storage},
                    {x.second, x.moment_storage}, s, c, constants);
}

// The step of the parameters that share a map. The tiles of all of them are counted in a row.
template <class Map, class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    step_kernel(const CudaStep s, const typename Map::template Args<T> a) {
  std::uint32_t k = 0;
  std::uint64_t first = 0;
  for (std::uint64_t t = blockIdx.x; t < s.tensors[s.count - 1].end; t += gridDim.x) {
    for (; t >= s.tensors[k].end; ++k) first = s.tensors[k].end;
    step_tensor<Map, T>(s, s.tensors[k], t - first, [&](std::uint64_t) -> decltype(a) { return a; });
  }
}

// The step of one parameter, where constants differ from element to element.
template <class Map, class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    step_row_kernel(const CudaStep s, const CudaRows r) {
  using Args = typename Map::template Args<T>;
  const CudaStepTensor& x = s.tensors[0];
  for (std::uint64_t t = blockIdx.x; t < x.end; t += gridDim.x)
    step_tensor<Map, T>(s, x, t,
                        [&](std::uint64_t i) -> const Args& { return constants_of<Args>(i, x.n, r); });
}

// What one lane of a tensor's blocks gets. z is read where the norm is that of the gradient in z.
template <class Map, class T, class Constants>
__device__ __forceinline__ void square_lane(const CudaStep& s, const CudaStepTensor& x, std::uint64_t lane,
                                            double* lanes, const Constants& constants) {
  constexpr std::uint64_t block = kSquaresBytes / sizeof(T);
  const std::uint64_t begin = lane / kSumLanes * block;
  if (begin >= x.n) return;
  const std::uint64_t end = x.n - begin < block ? x.n : begin + block;
  const bool is_dual = Gradient(s.gradient) == Gradient::dual;
  const CudaBuffer gradient{x.gradient, x.gradient_storage},
      z{x.z, sizeof(T) == 8 ? kStoredFloat64 : kStoredFloat32};
  double sum = 0;
#pragma unroll 1
  for (std::uint64_t i = begin + lane % kSumLanes; i < end; i += kSumLanes) {
    T g = element<T>(gradient, i);
    if (!is_dual) g = pulled(g, from_z<Map, kInverseJacobian>(element<T>(z, i), constants(i)), s);
    sum += double(g) * double(g);
  }
  lanes[x.first_block * std::uint64_t(kSumLanes) + lane] = sum;
}

// Lanes of a tile of a tensor.
template <class T> constexpr std::uint64_t kTileLanes = cuda_tile(sizeof(T) == 8 ? kFloat64 : kFloat32) /
                                                        (kSquaresBytes / sizeof(T)) * kSumLanes;

// The squares of the parameters that share a map; one thread for each lane, whose tiles are counted as in step_kernel.
template <class Map, class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    squares_kernel(const CudaStep s, double* lanes, const typename Map::template Args<T> a) {
  constexpr std::uint64_t per_tile = kTileLanes<T>;
  std::uint32_t k = 0;
  std::uint64_t first = 0;
  for (std::uint64_t t = thread(); t < s.tensors[s.count - 1].end * per_tile; t += threads()) {
    for (; t / per_tile >= s.tensors[k].end; ++k) first = s.tensors[k].end;
    square_lane<Map, T>(s, s.tensors[k], t - first * per_tile, lanes,
                        [&](std::uint64_t) -> decltype(a) { return a; });
  }
}

template <class Map, class T> __global__ void __launch_bounds__(kCudaThreads, 1)
    squares_row_kernel(const CudaStep s, double* lanes, const CudaRows r) {
  using Args = typename Map::template Args<T>;
  const CudaStepTensor& x = s.tensors[0];
  for (std::uint64_t t = thread(); t < x.end * kTileLanes<T>; t += threads())
    square_lane<Map, T>(s, x, t, lanes,
                        [&](std::uint64_t i) -> const Args& { return constants_of<Args>(i, x.n, r); });
}

#define FM_KERNEL(op, T) reinterpret_cast<const void*>(&kernel<FM_MAP, op, T>)
#define FM_KERNELS(T)                                               \
  {FM_KERNEL(kForward, T),          FM_KERNEL(kJacobian, T),        \
   FM_KERNEL(kLogAbsDet, T),        FM_KERNEL(kLogAbsDetGrad, T),   \
   FM_KERNEL(kInverse, T),          FM_KERNEL(kInverseJacobian, T), \
   FM_KERNEL(kInverseLogAbsDet, T), FM_KERNEL(kInverseLogAbsDetGrad, T)}

#define FM_STEP(T) reinterpret_cast<const void*>(&step_kernel<FM_MAP, T>)
#define FM_ROWS(T) reinterpret_cast<const void*>(&row_kernel<FM_MAP, T>)
#define FM_STEP_ROWS(T) reinterpret_cast<const void*>(&step_row_kernel<FM_MAP, T>)
#define FM_SQUARES(T) reinterpret_cast<const void*>(&squares_kernel<FM_MAP, T>)
#define FM_SQUARE_ROWS(T) reinterpret_cast<const void*>(&squares_row_kernel<FM_MAP, T>)

CudaTable table() {
  return {{FM_KERNELS(float), FM_KERNELS(double)},
          {FM_STEP(float), FM_STEP(double)},
          {FM_ROWS(float), FM_ROWS(double)},
          {FM_STEP_ROWS(float), FM_STEP_ROWS(double)},
          {FM_SQUARES(float), FM_SQUARES(double)},
          {FM_SQUARE_ROWS(float), FM_SQUARE_ROWS(double)},
          {sizeof(FM_MAP::Args<float>), sizeof(FM_MAP::Args<double>)}};
}

}  // namespace
}  // namespace fastmap::FM_ISA

#define FM_JOIN_(a, b) a##b
#define FM_JOIN(a, b) FM_JOIN_(a, b)

extern "C" {
extern const fastmap::CudaTable FM_JOIN(fastmap_cuda_, FM_MAP);
const fastmap::CudaTable FM_JOIN(fastmap_cuda_, FM_MAP) = fastmap::FM_ISA::table();
}
