// Plain arrays of NumPy and tensors of frameworks, seen as memory without a copy or a Python call.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <unordered_map>

#include "engine/program.hpp"

namespace fastmap::bind {

namespace py = pybind11;

// The parts of the DLPack 1.x binary interface that are read here (dmlc/dlpack, dlpack.h).
namespace dlpack {
struct Tensor {
  void* data;
  std::int32_t device_type, device_id;  // 1: CPU
  std::int32_t ndim;
  std::uint8_t type_code, bits;  // 2: floating point, 4: bfloat16
  std::uint16_t lanes;
  std::int64_t *shape, *strides;  // in elements; no strides: C order
  std::uint64_t byte_offset;
};
struct ExchangeApi {
  std::uint32_t major, minor;
  const ExchangeApi* older;
  void *allocator, *managed_from_py, *managed_to_py;
  int (*tensor_from_py)(void* object, Tensor* out);  // borrows; may be null
  void* current_stream;
};
}  // namespace dlpack

constexpr int kMaxDims = 16;

// A buffer of floating-point numbers on the CPU.
struct Plain {
  char* data = nullptr;
  Storage storage = kStoredFloat32;
  bool is_numpy = false, writeable = false, contiguous = true;  // in C order
  int ndim = 0;
  std::int64_t shape[kMaxDims], strides[kMaxDims];  // strides in elements, of tensors only
  std::size_t elements = 1;

  std::size_t bytes() const { return elements * stored_size(storage); }
  // Where the memory of a tensor begins, and how far it reaches.
  const char* first_byte() const {
    std::int64_t offset = 0;
    for (int d = 0; d < ndim; ++d) offset += std::min<std::int64_t>(0, strides[d] * (shape[d] - 1));
    return data + offset * std::int64_t(stored_size(storage));
  }
  std::size_t reach() const {
    std::int64_t steps = 1;
    for (int d = 0; d < ndim; ++d) steps += std::abs(strides[d]) * (shape[d] - 1);
    return std::size_t(steps) * stored_size(storage);
  }
  bool same_form(const Plain& other) const {
    return is_numpy == other.is_numpy && storage == other.storage && ndim == other.ndim &&
           std::equal(shape, shape + ndim, other.shape);
  }
  bool partly_overlaps(const Plain& other) const {
    return data != other.data && data < other.data + other.bytes() && other.data < data + bytes();
  }
};

// Whether the elements of a tensor fill one stretch of memory, in any order of the axes.
inline bool is_dense(const Plain& t) {
  std::pair<std::int64_t, std::int64_t> axes[kMaxDims];
  int n = 0;
  for (int d = 0; d < t.ndim; ++d)
    if (t.shape[d] != 1) axes[n++] = {t.strides[d], t.shape[d]};
  std::sort(axes, axes + n);
  std::int64_t expected = 1;
  for (int i = 0; i < n; ++i) {
    if (axes[i].first != expected) return t.elements == 0;
    expected *= axes[i].second;
  }
  return true;
}

// Exactly numpy.ndarray, aligned, in native byte order.
inline bool borrow_array(py::handle object, Plain& plain) {
  using Api = py::detail::npy_api;
  const auto* array = py::detail::array_proxy(object.ptr());
  if (Py_TYPE(object.ptr()) != Api::get().PyArray_Type_) return false;
  const auto* descr = py::detail::array_descriptor_proxy(array->descr);
  constexpr int wanted = Api::NPY_ARRAY_C_CONTIGUOUS_ | Api::NPY_ARRAY_ALIGNED_;
  if (descr->byteorder != '=' || (array->flags & wanted) != wanted || array->nd > kMaxDims) return false;
  switch (descr->type) {
    case 'f':
      plain.storage = kStoredFloat32;
      break;
    case 'd':
      plain.storage = kStoredFloat64;
      break;
    case 'e':
      plain.storage = kStoredFloat16;
      break;
    default:
      return false;
  }
  plain.data = array->data;
  plain.is_numpy = true;
  plain.writeable = array->flags & Api::NPY_ARRAY_WRITEABLE_;
  plain.ndim = array->nd;
  for (int i = 0; i < array->nd; ++i) {
    plain.shape[i] = array->dimensions[i];
    plain.elements *= std::size_t(array->dimensions[i]);
  }
  return true;
}

// A tensor whose type offers DLPack's C exchange interface. What that does not tell (requires_grad, negative
// bit) is the caller's to check.
inline bool borrow_tensor(py::handle object, Plain& plain) {
  // Of each thread: a Python without a GIL has threads here at the same time.
  thread_local std::unordered_map<PyTypeObject*, decltype(dlpack::ExchangeApi::tensor_from_py)> known;
  PyTypeObject* type = Py_TYPE(object.ptr());
  auto found = known.find(type);
  if (found == known.end()) {
    const py::object capsule = py::getattr(py::handle(reinterpret_cast<PyObject*>(type)),
                                           "__dlpack_c_exchange_api__", py::none());
    if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return false;
    auto* api = static_cast<const dlpack::ExchangeApi*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    while (api && api->major != 1) api = api->older;
    if (!api || !api->tensor_from_py) return false;
    Py_INCREF(type);  // stays as long as its entry
    found = known.emplace(type, api->tensor_from_py).first;
  }
  dlpack::Tensor tensor;
  if (found->second(object.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  if (tensor.device_type != 1 || tensor.lanes != 1 || tensor.ndim > kMaxDims) return false;
  const int kind = tensor.type_code << 8 | tensor.bits;
  switch (kind) {
    case 2 << 8 | 32:
      plain.storage = kStoredFloat32;
      break;
    case 2 << 8 | 64:
      plain.storage = kStoredFloat64;
      break;
    case 2 << 8 | 16:
      plain.storage = kStoredFloat16;
      break;
    case 4 << 8 | 16:
      plain.storage = kStoredBFloat16;
      break;
    default:
      return false;
  }
  plain.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  plain.writeable = true;
  plain.ndim = tensor.ndim;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    const auto c_order = std::int64_t(plain.elements);
    plain.shape[i] = tensor.shape[i];
    plain.strides[i] = tensor.strides && tensor.shape[i] != 1 ? tensor.strides[i] : c_order;
    plain.contiguous &= plain.strides[i] == c_order;
    plain.elements *= std::size_t(tensor.shape[i]);
  }
  return tensor.data || !plain.elements;  // a storage may have been freed, or never have been there
}

inline bool borrow(py::handle object, Plain& plain) {
  return borrow_array(object, plain) || borrow_tensor(object, plain);
}

}  // namespace fastmap::bind
