// pybind11 only: fastmap._cuda, which launches the kernels of csrc/engine/cuda.cu. It is imported without a driver or
// a GPU; what is missing is an error of the call.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "engine/cuda.hpp"
#include "fastmap_registry.hpp"

#define FM_DECLARE(map, arg) extern const fastmap::CudaTable fastmap_cuda_##map;
extern "C" {
FASTMAP_FOR_MAPS(FM_DECLARE, any)
extern const fastmap::CudaSums fastmap_cuda_sums;
extern const fastmap::CudaRules fastmap_cuda_rules;
}

namespace py = pybind11;
using namespace fastmap;

namespace {

#define FM_TABLE(map, arg) &fastmap_cuda_##map,
constexpr const CudaTable* kTables[] = {FASTMAP_FOR_MAPS(FM_TABLE, any)};

// Blocks of 256 threads that a multiprocessor has room for; a larger grid brings nothing, its blocks go around.
constexpr std::size_t kBlocksPerProcessor = 8;

std::string remedy(cudaError_t error) {
  const std::string version = std::to_string(CUDART_VERSION / 1000) + "." +
                              std::to_string(CUDART_VERSION / 10 % 100);
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "; the NVIDIA driver is missing, or too old for CUDA " + version +
             ", which fastmap was built with";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "; see nvidia-smi and CUDA_VISIBLE_DEVICES";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidKernelImage:
    case cudaErrorJitCompilerNotFound:
      return "; fastmap was not built for this GPU: it needs compute capability 7.5, and its architecture or "
             "PTX in "
             "FASTMAP_CUDA_CODE";
    default:
      return "";
  }
}

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // not the error of later calls, too
  throw std::runtime_error("CUDA: " + std::string(cudaGetErrorString(error)) + " (" +
                           cudaGetErrorName(error) + ")" + remedy(error));
}

// The device of the calling thread for the time of a call.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_));
    if (device != before_) check(cudaSetDevice(device));
    changed_ = device != before_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

struct Place {
  int device;
  cudaStream_t stream;
};

// A kernel whose blocks take `tile` of n elements at a time.
void launch_kernel(const Place& place, const void* kernel, std::uint64_t n, std::uint64_t tile,
                   void** params) {
  const DeviceGuard guard(place.device);
  int processors;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, place.device));
  if (n == 0) return;
  const std::uint64_t tiles = (n - 1) / tile + 1, most = std::uint64_t(processors) * kBlocksPerProcessor;
  check(cudaLaunchKernel(kernel, dim3(unsigned(std::min(tiles, most))), dim3(kCudaThreads), params, 0,
                         place.stream));
}

DType dtype_of(int code) {
  if (code < 0 || code >= kDTypes) throw py::value_error("no such dtype");
  return DType(code);
}

template <class Params> Params params_of(const py::bytes& bytes, const char* name) {
  const std::string_view given = bytes;
  Params params;
  if (given.size() != sizeof params) throw py::value_error(std::string(name) + ": not of its size");
  std::memcpy(&params, given.data(), sizeof params);
  return params;
}

using Address = std::pair<std::uintptr_t, int>;  // on the device, 0 for none; and what is there
CudaBuffer buffer_of(const Address& a) {
  if (a.second < 0 || a.second >= kStorages) throw py::value_error("no such dtype");
  return {reinterpret_cast<void*>(a.first), Storage(a.second)};
}

int map_of(int map) {
  if (map < 0 || std::size_t(map) >= std::size(kTables)) throw py::value_error("no such map");
  return map;
}

// x, factor, addend and out of a launch, which computes in a dtype.
struct Buffers {
  CudaBuffer all[4];
  DType type;

  Buffers(const Address& x, const Address& factor, const Address& addend, const Address& out)
      : all{buffer_of(x), buffer_of(factor), buffer_of(addend), buffer_of(out)},
        type(all[0].storage == kStoredFloat64 ? kFloat64 : kFloat32) {
    for (const CudaBuffer& b : all)
      if (b.data && (b.storage == kStoredFloat64) != (type == kFloat64))
        throw py::value_error("float64 and other dtypes in one call");
  }
};

// out = op(x) factor + addend on a stream; no factor and no addend where the address is 0. `args` are those of
// Program.steps for this map.
void launch(int device, std::uintptr_t stream, int map, int op, const py::bytes& args, std::uint64_t n,
            const Address& x, const Address& factor, const Address& addend, const Address& out) {
  const CudaTable& table = *kTables[map_of(map)];
  if (op < 0 || op >= kOps) throw py::value_error("no such operation");
  Buffers b(x, factor, addend, out);
  auto constants = params_of<ArgsBuffer>(args, "args");
  void* params[] = {&b.all[0], &b.all[1], &b.all[2], &b.all[3], &n, constants.bytes};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, table.kernels[b.type][op], n,
                cuda_tile(b.type), params);
}

// Constants for each element: the address of a table of them, and for each dimension of x, from the last one on, its
// length and how far its rows are apart.
using Dims = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
CudaRows rows_of(std::uintptr_t args, const Dims& dims, int op) {
  if (op < 0 || op >= kOps) throw py::value_error("no such operation");
  if (dims.size() > kCudaDims) throw py::value_error("dims: too many");
  CudaRows rows{reinterpret_cast<const void*>(args), std::uint32_t(op), std::uint32_t(dims.size()), {}, {}};
  for (std::size_t d = 0; d < dims.size(); ++d) std::tie(rows.lengths[d], rows.strides[d]) = dims[d];
  return rows;
}

void launch_rows(int device, std::uintptr_t stream, int map, int op, std::uintptr_t args, const Dims& dims,
                 std::uint64_t n, const Address& x, const Address& factor, const Address& addend,
                 const Address& out) {
  const CudaTable& table = *kTables[map_of(map)];
  CudaRows rows = rows_of(args, dims, op);
  Buffers b(x, factor, addend, out);
  void* params[] = {&b.all[0], &b.all[1], &b.all[2], &b.all[3], &n, &rows};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, table.rows[b.type], n, cuda_tile(b.type),
                params);
}

// Of the constants in such a table, by map.
std::vector<std::size_t> args_bytes(int dtype) {
  const DType type = dtype_of(dtype);
  std::vector<std::size_t> sizes;
  for (const CudaTable* table : kTables) sizes.push_back(table->args_bytes[type]);
  return sizes;
}

// The steps of a sum, as CudaSums has them.
void sum_lanes(int device, std::uintptr_t stream, int dtype, std::uintptr_t x, std::uintptr_t lanes,
               std::uint64_t rows, std::uint64_t n) {
  const DType type = dtype_of(dtype);
  void* params[] = {&x, &lanes, &rows, &n};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, fastmap_cuda_sums.lanes[type],
                rows * ((n + kSumBlock - 1) / kSumBlock) * kSumLanes, kCudaThreads, params);
}
void sum_fold(int device, std::uintptr_t stream, std::uintptr_t lanes, std::uintptr_t out,
              std::uint64_t blocks) {
  void* params[] = {&lanes, &out, &blocks};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, fastmap_cuda_sums.fold, blocks,
                kCudaThreads, params);
}
void sum_pairs(int device, std::uintptr_t stream, std::uintptr_t from, std::uintptr_t to, std::uint64_t rows,
               std::uint64_t n) {
  void* params[] = {&from, &to, &rows, &n};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, fastmap_cuda_sums.pairs,
                rows * ((n + 1) / 2), kCudaThreads, params);
}

// The constants of a step, of a CudaCounts.
void count_steps(int device, std::uintptr_t stream, int dtype, const py::bytes& counts) {
  const DType type = dtype_of(dtype);
  auto c = params_of<CudaCounts>(counts, "counts");
  if (c.count > kCudaCountedTensors) throw py::value_error("counts: too many tensors");
  void* params[] = {&c};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, fastmap_cuda_rules.counts[type], c.count,
                kCudaThreads, params);
}

// Tensors of a CudaStep, which share a map.
CudaStep tensors_of(const py::bytes& tensors, std::uint32_t most) {
  const auto s = params_of<CudaStep>(tensors, "tensors");
  if (s.count == 0 || s.count > most) throw py::value_error("tensors: too many, or none");
  return s;
}

// Their step.
void step(int device, std::uintptr_t stream, int map, int dtype, const py::bytes& tensors,
          const py::bytes& args) {
  const CudaTable& table = *kTables[map_of(map)];
  const DType type = dtype_of(dtype);
  auto s = tensors_of(tensors, kCudaStepTensors);
  auto constants = params_of<ArgsBuffer>(args, "args");
  void* params[] = {&s, constants.bytes};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, table.steps[type],
                s.tensors[s.count - 1].end, 1, params);
}

// The same of one tensor, with constants for each element.
void step_rows(int device, std::uintptr_t stream, int map, int dtype, const py::bytes& tensors,
               std::uintptr_t args, const Dims& dims) {
  const CudaTable& table = *kTables[map_of(map)];
  const DType type = dtype_of(dtype);
  auto s = tensors_of(tensors, 1);
  CudaRows rows = rows_of(args, dims, 0);
  void* params[] = {&s, &rows};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, table.step_rows[type], s.tensors[0].end, 1,
                params);
}

// Tiles whose lanes of sums of squares a block of threads takes at a time.
constexpr std::uint64_t kSquaredTiles = kCudaThreads / (cuda_tile(kFloat32) * 4 / kSquaresBytes * kSumLanes);

// The squares of their gradients, into lanes for sum_fold.
void squares(int device, std::uintptr_t stream, int map, int dtype, const py::bytes& tensors,
             std::uintptr_t lanes, const py::bytes& args) {
  const CudaTable& table = *kTables[map_of(map)];
  const DType type = dtype_of(dtype);
  auto s = tensors_of(tensors, kCudaStepTensors);
  auto constants = params_of<ArgsBuffer>(args, "args");
  void* params[] = {&s, &lanes, constants.bytes};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, table.squares[type],
                s.tensors[s.count - 1].end, kSquaredTiles, params);
}
void square_rows(int device, std::uintptr_t stream, int map, int dtype, const py::bytes& tensors,
                 std::uintptr_t lanes, std::uintptr_t args, const Dims& dims) {
  const CudaTable& table = *kTables[map_of(map)];
  const DType type = dtype_of(dtype);
  auto s = tensors_of(tensors, 1);
  CudaRows rows = rows_of(args, dims, 0);
  void* params[] = {&s, &lanes, &rows};
  py::gil_scoped_release release;
  launch_kernel({device, reinterpret_cast<cudaStream_t>(stream)}, table.square_rows[type], s.tensors[0].end,
                kSquaredTiles, params);
}

int device_count() {
  int n;
  check(cudaGetDeviceCount(&n));
  return n;
}

}  // namespace

// Nothing here is kept between calls.
PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.def("launch", &launch);
  m.def("launch_rows", &launch_rows);
  m.def("args_bytes", &args_bytes);
  m.def("sum_lanes", &sum_lanes);
  m.def("sum_fold", &sum_fold);
  m.def("sum_pairs", &sum_pairs);
  m.def("count_steps", &count_steps);
  m.def("step", &step);
  m.def("step_rows", &step_rows);
  m.def("squares", &squares);
  m.def("square_rows", &square_rows);
  m.def("device_count", &device_count);
  m.attr("RUNTIME") = CUDART_VERSION;
}
