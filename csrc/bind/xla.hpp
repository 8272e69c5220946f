// XLA's foreign function interface, as far as it is used here (openxla/xla, xla/ffi/api/c_api.h): the handlers by
// which compiled JAX code calls the engine.
//
// The interface is a stable binary one: structs that begin with their size and grow only at the end, and a version
// that XLA asks a handler for when it is registered. Declaring it, as borrow.hpp declares DLPack, means that no JAX
// is needed to build fastmap, and that every build has the handlers. A test compares with the header in jaxlib.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmap::xla {

constexpr int kMajor = 0, kMinor = 1;  // what is declared here has been the same since version 0.1

struct Error;
struct Extension {
  std::size_t struct_size;
  int type;
  Extension* next;
};
struct Version {
  std::size_t struct_size;
  Extension* extensions;
  int major, minor;
};
struct Metadata {
  std::size_t struct_size;
  Version version;
  std::uint32_t traits;
};
constexpr int kMetadata = 1;  // the type of the extension by which XLA asks for the version
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

enum DType { kF16 = 10, kF32 = 11, kF64 = 12, kBF16 = 16, kS32 = 4, kS64 = 5 };
struct Buffer {
  std::size_t struct_size;
  Extension* extensions;
  int dtype;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};
struct Buffers {  // arguments or results
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* types;
  void** buffers;
};

enum AttributeType { kArray = 1, kString = 4 };
struct Span {
  const char* data;
  std::size_t size;
};
struct Array {
  int dtype;
  std::size_t size;
  void* data;
};
struct Attributes {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* types;
  Span** names;
  void** values;
};

constexpr int kInvalidArgument = 3;
struct ErrorArgs {
  std::size_t struct_size;
  Extension* extensions;
  const char* message;
  int code;
};
struct Api {
  std::size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(ErrorArgs*);
};
struct Frame {
  std::size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;
  Buffers args, results;
  Attributes attributes;
};

// The calls of dispatch.hpp. Three attributes say which:
// - `program`, integers: the operation, that of the values in `log_det`, the policy; how many axes are summed, how many
//   follow, and these axes of x, counted from its end, those that are summed last (axes in front are those of a batch);
//   whether the last axis is cut into slices that have maps of their own; how many maps, and for each: where its slice
//   begins; rank and shape of the slice; rank and shape of its parameters; how many steps, and for each: the map's
//   number, whether it is inverted.
// - `params`, doubles: the parameters of each step in turn, in the shape of the program.
// - `argument`, text: the name of x in errors.
Error* apply(Frame* frame);    // (x), or (x, g) for out = op(x) * g, to (out)
Error* log_det(Frame* frame);  // (x) to (sums) or (sums, values)

// A step of an optimizer: (theta, gradient, z, count, moments..., numbers?) to (theta, z, moments...), in place where
// XLA gives a result the memory of its argument. `count`, an int32, is how many steps were taken. `program`, `params`
// and `argument` are those of the map, with operations that do not matter; two attributes more say what the step is:
// - `rule`, integers: the rule, how gradients come to z, what decays, whether apart from the gradient, whether to
//   ascend, whether Nesterov's.
// - `numbers`, doubles: the range of "clamped", weight decay, learning rate, beta1, beta2, epsilon, dampening. NaN: it
//   is in the argument `numbers`, at the same place; so a number may change and nothing is compiled anew.
Error* step(Frame* frame);

}  // namespace fastmap::xla
