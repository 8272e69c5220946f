#include "bind/xla.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "engine/step.hpp"

namespace fastmap::xla {
namespace {

constexpr std::size_t kLarge = 4 << 20;  // bytes from which huge pages pay

// A handler is called with attributes that `_jax.py` of the same build has written: what cannot be as it should is a
// mistake there, or a call by hand.
[[noreturn]] void malformed(const char* what) {
  throw std::invalid_argument(std::string("malformed call: ") + what);
}

void expect(bool condition, const char* what) {
  if (!condition) malformed(what);
}

const void* attribute(const Frame& frame, const char* name, int type) {
  const Attributes& all = frame.attributes;
  for (std::int64_t i = 0; i < all.size; ++i) {
    const Span& given = *all.names[i];
    if (given.size == std::strlen(name) && std::memcmp(given.data, name, given.size) == 0) {
      expect(all.types[i] == type, name);
      return all.values[i];
    }
  }
  malformed(name);
}

std::string text(const Frame& frame, const char* name) {
  const auto* span = static_cast<const Span*>(attribute(frame, name, kString));
  return {span->data, span->size};
}

// An array attribute, read from its beginning.
template <class T> class Reader {
 public:
  Reader(const Frame& frame, const char* name, int dtype) {
    const auto* array = static_cast<const Array*>(attribute(frame, name, kArray));
    expect(array->dtype == dtype, name);
    at_ = static_cast<const T*>(array->data);
    end_ = at_ + array->size;
  }
  explicit Reader(const std::vector<T>& values) : at_(values.data()), end_(at_ + values.size()) {}
  T next() { return *take(1); }
  const T* take(std::size_t n) {
    expect(n <= std::size_t(end_ - at_), "too short");
    return std::exchange(at_, at_ + n);
  }
  std::vector<std::size_t> list() {
    const auto n = std::size_t(next());
    const T* first = take(n);
    return {first, first + n};
  }
  // All that is left.
  std::vector<T> rest() { return {std::exchange(at_, end_), end_}; }

 private:
  const T *at_, *end_;
};

Storage storage_of(int dtype) {
  switch (dtype) {
    case kF32:
      return kStoredFloat32;
    case kF64:
      return kStoredFloat64;
    case kBF16:
      return kStoredBFloat16;
    case kF16:
      return kStoredFloat16;
  }
  malformed("dtype");
}

const Buffer& buffer(const Buffers& buffers, std::int64_t i) {
  expect(i < buffers.size, "too few buffers");
  return *static_cast<const Buffer*>(buffers.buffers[i]);
}

std::vector<std::ptrdiff_t> c_strides(const std::vector<std::size_t>& shape, std::size_t item) {
  std::vector<std::ptrdiff_t> strides(shape.size());
  auto stride = std::ptrdiff_t(item);
  for (std::size_t d = shape.size(); d-- > 0; stride *= std::ptrdiff_t(shape[d])) strides[d] = stride;
  return strides;
}

// The maps of a call, as its attributes describe them.
struct Maps {
  struct Part {
    std::size_t start;               // of its slice
    std::vector<std::size_t> slice;  // its shape
    std::unique_ptr<Program> program;
  };
  using Text = std::pair<std::vector<std::int64_t>, std::vector<double>>;

  explicit Maps(Text text) : text(std::move(text)) {
    Reader<std::int64_t> program(this->text.first);
    Reader<double> params(this->text.second);
    for (auto n = program.next(); n > 0; --n) parts.push_back(part(program, params));
  }

  const Text text;  // programs point to the parameters in it
  std::vector<Part> parts;

 private:
  static Part part(Reader<std::int64_t>& program, Reader<double>& params) {
    const auto start = std::size_t(program.next());
    auto slice = program.list(), shape = program.list();
    const auto rows = std::accumulate(shape.begin(), shape.end(), std::size_t(1), std::multiplies<>());
    std::vector<StepSpec> steps;
    for (auto n = program.next(); n > 0; --n) {
      const auto map = program.next();
      expect(map >= 0 && std::size_t(map) < map_count(), "map");
      StepSpec step{int(map), program.next() != 0, {}};
      for (int i = 0; i < map_info(int(map)).n_params; ++i)
        step.params.push_back({params.take(rows), c_strides(shape, sizeof(double))});
      steps.push_back(std::move(step));
    }
    return {start, std::move(slice), std::make_unique<Program>(std::move(shape), std::move(steps))};
  }
};

// Those of recent calls are kept: a training loop makes the same calls again and again, and to prepare the parameters
// takes longer than to map a small buffer.
std::shared_ptr<const Maps> maps_of(Maps::Text text) {
  static std::mutex mutex;
  static auto& recent =
      *new std::map<Maps::Text, std::shared_ptr<const Maps>>;  // XLA's threads may outlive statics
  constexpr std::size_t most = 64;
  {
    std::lock_guard lock(mutex);
    if (const auto found = recent.find(text); found != recent.end()) return found->second;
  }
  auto maps = std::make_shared<const Maps>(text);
  std::lock_guard lock(mutex);
  if (recent.size() >= most) recent.clear();
  return recent.emplace(std::move(text), std::move(maps)).first->second;
}

// What a handler was asked for.
class Call {
 public:
  explicit Call(const Frame& frame) : argument_(text(frame, "argument")), x_(buffer(frame.args, 0)) {
    Reader<std::int64_t> program(frame, "program", kS64);
    op = Op(program.next());
    value_op = Op(program.next());
    policy = Policy(program.next());
    const auto summed = std::size_t(program.next());
    const auto axes = program.list();  // negative numbers, as unsigned ones
    const auto rank = std::size_t(x_.rank);
    expect(axes.size() <= rank && summed <= axes.size(), "axes");
    order_.resize(rank - axes.size());
    std::iota(order_.begin(), order_.end(), 0);
    for (const std::size_t axis : axes) order_.push_back(axis + rank);
    for (std::size_t i = 0; i < rank - summed; ++i) rows *= std::size_t(x_.dims[order_.at(i)]);
    const bool sliced = program.next();
    maps_ = maps_of({program.rest(), Reader<double>(frame, "params", kF64).rest()});
    for (const Maps::Part& part : maps_->parts)
      segments.push_back({part.program.get(), storage_of(x_.dtype), layout(part, sliced)});
  }

  void expect_like_x(const Buffer& b, bool dtype) const {
    expect(
        b.rank == x_.rank && std::equal(b.dims, b.dims + b.rank, x_.dims) && (!dtype || b.dtype == x_.dtype),
        "shape or dtype");
  }

  void bind(Operand operand, const Buffer& b) {
    expect_like_x(b, true);
    const std::size_t item = stored_size(storage_of(b.dtype));
    std::size_t bytes = item;
    for (std::int64_t d = 0; d < b.rank; ++d) bytes *= std::size_t(b.dims[d]);
    if (operand == kOut && bytes >= kLarge) advise_huge_pages(b.data, bytes);  // XLA's memory is fresh, too
    for (std::size_t i = 0; i < segments.size(); ++i)
      segments[i].layout.data[operand] = static_cast<char*>(b.data) + maps_->parts[i].start * item;
  }

  void refuse(const Invalid& invalid) const {
    if (!invalid.count) return;
    const Segment& s = segments[invalid.segment];
    throw std::invalid_argument(
        argument_ + ": " + std::to_string(invalid.count) + " of " + std::to_string(s.layout.size()) +
        " values cannot be mapped, first at element " + std::to_string(invalid.first) + " of its C order" +
        (segments.size() > 1 ? " in slice " + std::to_string(invalid.segment) : ""));
  }

  Op op, value_op;
  Policy policy;
  std::size_t rows = 1;  // of `log_det`
  std::vector<Segment> segments;

 private:
  // The axes of x in their order, or those of the slice in place of its last one; parameters broadcast from the end.
  Layout layout(const Maps::Part& part, bool sliced) const {
    const std::vector<std::size_t>& params = part.program->shape();
    const std::size_t item = stored_size(storage_of(x_.dtype));
    std::vector<std::size_t> shape(x_.dims, x_.dims + x_.rank);
    std::vector<std::ptrdiff_t> strides = c_strides(shape, item);
    std::vector<std::size_t> order = order_;
    if (sliced) {
      expect(!order.empty() && order.back() == shape.size() - 1, "axes");
      for (std::vector<std::size_t>* list : {&shape, &order}) list->pop_back();
      strides.pop_back();
      for (const std::size_t length : part.slice) {
        order.push_back(shape.size());
        shape.push_back(length);
      }
      const auto inner = c_strides(part.slice, item);
      strides.insert(strides.end(), inner.begin(), inner.end());
    }
    expect(params.size() <= shape.size(), "rank of the parameters");
    std::vector<std::ptrdiff_t> rows(shape.size(), 0);
    std::ptrdiff_t row = 1;
    for (std::size_t back = 1; back <= params.size(); ++back) {
      const std::size_t length = params[params.size() - back];
      expect(length == 1 || length == shape[shape.size() - back], "shape of the parameters");
      if (length == 1) continue;
      rows[shape.size() - back] = row;
      row *= std::ptrdiff_t(length);
    }
    Layout l;
    for (const std::size_t d : order) {
      Layout::Dim dim{shape.at(d), rows.at(d), {}};
      for (const Operand operand : {kX, kG, kOut}) dim.strides[operand] = strides.at(d);
      l.dims.push_back(dim);
    }
    return l;
  }

  std::string argument_;
  const Buffer& x_;
  std::vector<std::size_t> order_;
  std::shared_ptr<const Maps> maps_;
};

// The argument that is one number.
const void* scalar(const Buffer& b, int dtype) {
  expect(b.rank == 0 && b.dtype == dtype, "scalar");
  return b.data;
}

StepGroup group_of(const Frame& frame, std::int64_t operand) {
  Reader<std::int64_t> rule(frame, "rule", kS64);
  Reader<double> given(frame, "numbers", kF64);
  std::vector<double> n = given.rest();
  constexpr std::size_t count = 8;
  expect(n.size() == count, "numbers");
  if (operand < frame.args.size) {
    const Buffer& b = buffer(frame.args, operand);
    expect(b.rank == 1 && std::size_t(b.dims[0]) == count && (b.dtype == kF32 || b.dtype == kF64), "numbers");
    for (std::size_t i = 0; i < count; ++i)
      if (n[i] != n[i])
        n[i] = b.dtype == kF64 ? static_cast<const double*>(b.data)[i] : static_cast<const float*>(b.data)[i];
  }
  const auto below = [&](std::int64_t end) {
    const std::int64_t value = rule.next();
    expect(value >= 0 && value < end, "rule");
    return int(value);
  };
  StepGroup g{Rule(below(kRules)),
              Gradient(below(3)),
              n[0],
              n[1],
              Decay(below(3)),
              below(2) != 0,
              n[2],
              below(2) != 0,
              {}};
  g.args = {n[3], n[4], n[5], n[6], n[7], 1, 1, 1, false, below(2) != 0};
  return g;
}

// One parameter, whose buffers are dense and in C order.
class OneStep {
 public:
  OneStep(const Frame& frame, const Call& call, const StepGroup& group, std::int64_t moments)
      : call_(call), tensor{call.segments.at(0), kStoredFloat32, kStoredFloat32, &group, {}} {
    const Storage theta = tensor.segment.storage;
    bind(kOut, buffer(frame.args, 0), &buffer(frame.results, 0));
    tensor.gradient = bind(kG, buffer(frame.args, 1), nullptr);
    tensor.moments = bind(kX, buffer(frame.args, 2), &buffer(frame.results, 1));
    expect(tensor.gradient == theta && tensor.moments == computed_in(theta), "shape or dtype");
    for (std::int64_t i = 0; i < moments; ++i)
      expect(tensor.moments ==
                 bind(i ? kSecond : kFirst, buffer(frame.args, 4 + i), &buffer(frame.results, 2 + i)),
             "shape or dtype");
    const auto count = *static_cast<const std::int32_t*>(scalar(buffer(frame.args, 3), kS32));
    expect(count >= 0, "count");
    tensor.args = at_step(group.args, std::uint64_t(count) + 1);
  }

 private:
  Storage bind(Operand operand, const Buffer& from, const Buffer* to) {
    call_.expect_like_x(from, false);
    const Storage storage = storage_of(from.dtype);
    Layout& layout = tensor.segment.layout;
    const auto item = std::ptrdiff_t(stored_size(storage));
    std::ptrdiff_t stride = item;
    for (std::size_t d = layout.dims.size(); d-- > 0; stride *= std::ptrdiff_t(layout.dims[d].length))
      layout.dims[d].strides[operand] = stride;
    layout.data[operand] = static_cast<char*>(from.data);
    if (!to) return storage;
    call_.expect_like_x(*to, false);
    expect(to->dtype == from.dtype, "shape or dtype");
    layout.data[operand] = static_cast<char*>(to->data);
    tensor.old[operand] = static_cast<char*>(from.data) - layout.data[operand];
    if (tensor.old[operand] && std::size_t(stride) >= kLarge)
      advise_huge_pages(to->data, std::size_t(stride));
    return storage;
  }

  const Call& call_;

 public:
  StepTensor tensor;
};

// Answers the question for the version, or runs the call; errors go back to XLA, which raises them.
template <class Work> Error* handle(Frame* frame, const Work& work) {
  std::string message;
  try {
    if (frame->struct_size < offsetof(Frame, attributes) + sizeof(Attributes))
      throw std::runtime_error("this jaxlib is too old for fastmap: pip install -U jax");
    if (Extension* extension = frame->extensions; extension && extension->type == kMetadata) {
      Metadata& metadata = *reinterpret_cast<MetadataExtension*>(extension)->metadata;
      metadata.version = {sizeof(Version), nullptr, kMajor, kMinor};
      metadata.traits = 0;
      return nullptr;
    }
    work();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
  }
  ErrorArgs args{sizeof(ErrorArgs), nullptr, message.c_str(), kInvalidArgument};
  return frame->api->create_error(&args);
}

}  // namespace

Error* apply(Frame* frame) {
  return handle(frame, [&] {
    Call call(*frame);
    call.bind(kX, buffer(frame->args, 0));
    if (frame->args.size == 2) call.bind(kG, buffer(frame->args, 1));
    call.bind(kOut, buffer(frame->results, 0));
    call.refuse(fastmap::apply(call.op, call.segments, call.policy));
  });
}

Error* log_det(Frame* frame) {
  return handle(frame, [&] {
    Call call(*frame);
    call.bind(kX, buffer(frame->args, 0));
    if (frame->results.size == 2) call.bind(kOut, buffer(frame->results, 1));
    std::vector<double> sums(call.segments.size() * call.rows);
    call.refuse(fastmap::log_det(call.op, call.segments, call.rows, sums.data(), call.value_op, call.policy));
    const Buffer& out = buffer(frame->results, 0);
    const bool wide = storage_of(out.dtype) == kStoredFloat64;
    for (std::size_t r = 0; r < call.rows; ++r) {
      double total = sums[r];  // of the slices, one after the other
      for (std::size_t i = r + call.rows; i < sums.size(); i += call.rows) total += sums[i];
      if (wide)
        static_cast<double*>(out.data)[r] = total;
      else
        static_cast<float*>(out.data)[r] = float(total);
    }
  });
}

Error* step(Frame* frame) {
  return handle(frame, [&] {
    const Call call(*frame);
    const std::int64_t moments = frame->results.size - 2;
    expect(call.segments.size() == 1, "map");
    const StepGroup group = group_of(*frame, 4 + moments);
    const int least = group.rule == kAdam ? 2 : group.rule == kLion ? 1 : 0;
    expect(moments >= least && moments <= std::max(least, 1), "moments");
    fastmap::step({OneStep(*frame, call, group, moments).tensor}, 1.0);
  });
}

}  // namespace fastmap::xla
