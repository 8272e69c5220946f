// pybind11 only: pointers in, one call into the engine with the GIL released, numbers out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind/borrow.hpp"
#include "bind/xla.hpp"
#include "engine/dispatch.hpp"
#include "engine/float_mode.hpp"
#include "engine/step.hpp"
#include "engine/threads.hpp"
#include "fastmap_registry.hpp"
#include "structured/dispatch.hpp"
#include "subspace/subspace.hpp"

namespace py = pybind11;
using namespace fastmap;

namespace {

constexpr const char* kOpNames[kOps] = {
    "forward", "jacobian",         "log_abs_det",         "log_abs_det_grad",
    "inverse", "inverse_jacobian", "inverse_log_abs_det", "inverse_log_abs_det_grad"};
constexpr const char* kConstraints[] = {
    "finite", "positive", "nonzero", "lower_bound", "positive_lower_bound", "upper_bound"};
#define FM_NAME(map, arg) #map,
constexpr const char* kClassNames[] = {FASTMAP_FOR_MAPS(FM_NAME, any)};

py::list catalog() {
  py::list maps;
  for (std::size_t id = 0; id < map_count(); ++id) {
    const MapInfo& info = map_info(int(id));
    py::list params, examples;
    for (int i = 0; i < info.n_params; ++i)
      params.append(py::dict(py::arg("name") = info.params[i].name,
                             py::arg("default") = info.params[i].default_value,
                             py::arg("constraint") = kConstraints[int(info.params[i].constraint)]));
    for (int e = 0; e < info.n_examples; ++e) {
      py::dict example;
      for (int i = 0; i < info.n_params; ++i) example[info.params[i].name] = info.examples[e][i];
      examples.append(example);
    }
    py::dict formulas;
    for (int op = 0; op < kOps; ++op) formulas[kOpNames[op]] = info.formulas[op];
    py::dict map;
    map["id"] = id;
    map["name"] = info.name;
    map["class_name"] = kClassNames[id];
    map["doc"] = info.doc;
    map["params"] = params;
    map["examples"] = examples;
    map["domain"] = py::make_tuple(info.domain_low, info.domain_high);
    map["codomain"] = py::make_tuple(info.codomain_low, info.codomain_high);
    map["formulas"] = formulas;
    map["ulp"] = py::make_tuple(info.ulp[0], info.ulp[1]);
    map["monotone"] = info.monotone;
    map["closed"] = info.closed;
    maps.append(map);
  }
  return maps;
}

Storage storage_of(int code) {
  if (code < 0 || code >= kStorages) throw py::value_error("no such dtype");
  return Storage(code);
}
int map_of(int id) {
  if (id < 0 || std::size_t(id) >= map_count()) throw py::value_error("no such map");
  return id;
}

// Holds the arrays that the parameters lie in.
struct BoundProgram : Program {
  BoundProgram(std::vector<std::size_t> shape, std::vector<StepSpec> steps, std::vector<py::object> arrays)
      : Program(std::move(shape), std::move(steps)), arrays_(std::move(arrays)) {}

 private:
  std::vector<py::object> arrays_;
};

// steps: (map, inverted, float64 arrays of the program's shape, one per parameter).
std::unique_ptr<BoundProgram> make_program(std::vector<std::size_t> shape, const py::list& steps) {
  std::vector<StepSpec> specs;
  std::vector<py::object> arrays;
  for (const py::handle step : steps) {
    const auto [map, inverted, params] = step.cast<std::tuple<int, bool, std::vector<py::array>>>();
    StepSpec spec{map_of(map), inverted, {}};
    if (params.size() != std::size_t(map_info(map).n_params))
      throw py::value_error(std::string(map_info(map).name) + " takes " +
                            std::to_string(map_info(map).n_params) + " parameters");
    for (const py::array& param : params) {
      if (!param.dtype().is(py::dtype::of<double>()) || std::size_t(param.ndim()) != shape.size())
        throw py::type_error("parameters are float64 arrays of the program's shape");
      spec.params.push_back(
          {static_cast<const double*>(param.data()), {param.strides(), param.strides() + param.ndim()}});
      arrays.push_back(param);
    }
    specs.push_back(std::move(spec));
  }
  return std::make_unique<BoundProgram>(std::move(shape), std::move(specs), std::move(arrays));
}

// The elementary maps that theta passes, as an engine of its own takes them: (map, inverted, constants of a call). An
// infinite bound has made other maps of one.
py::list steps_of(const BoundProgram& program, int dtype) {
  if (program.rows() != 1) throw py::value_error("the parameters are arrays");
  const Storage storage = storage_of(dtype);
  program.check(storage);
  Row scratch;
  py::list steps;
  for (const Step& s : program.row(storage, 0, scratch))
    steps.append(py::make_tuple(s.map, s.inverted,
                                py::bytes(reinterpret_cast<const char*>(s.args.bytes), sizeof s.args.bytes)));
  return steps;
}

// The same where parameters are arrays: (map, inverted, table) with what `write` appends for each row. None where infinite
// bounds make different maps of its elements.
template <class Write> py::object tables_of(const BoundProgram& program, int dtype, const Write& write) {
  const Storage storage = storage_of(dtype);
  program.check(storage);
  FloatMode mode;  // rows may be built here
  Row scratch, first;
  std::vector<std::string> tables;
  for (std::size_t i = 0; i < program.rows(); ++i) {
    const Row& row = program.row(storage, i, scratch);
    if (i == 0) tables.resize((first = row).size());
    const auto same = [](const Step& a, const Step& b) { return a.map == b.map && a.inverted == b.inverted; };
    if (!std::equal(row.begin(), row.end(), first.begin(), first.end(), same)) return py::none();
    for (std::size_t k = 0; k < row.size(); ++k) write(tables[k], row[k]);
  }
  py::list steps;
  for (std::size_t k = 0; k < first.size(); ++k)
    steps.append(py::make_tuple(first[k].map, first[k].inverted, py::bytes(tables[k])));
  return steps;
}

// Of the constants. sizes: by map, how many bytes belong to it.
py::object constants_of(const BoundProgram& program, int dtype, const std::vector<std::size_t>& sizes) {
  return tables_of(program, dtype, [&](std::string& table, const Step& step) {
    table.append(reinterpret_cast<const char*>(step.args.bytes), sizes.at(std::size_t(step.map)));
  });
}

// Of a `Range` each.
py::object ranges_of(const BoundProgram& program, int dtype, bool forward, bool clips) {
  return tables_of(program, dtype, [&](std::string& table, const Step& step) {
    const Range r = range_of(step, storage_of(dtype), forward ? kForward : kInverse, forward, clips);
    table.append(reinterpret_cast<const char*>(&r), sizeof r);
  });
}

// (program, dtype, shape, parameter row strides, then for x, grad and out: pointer, strides in bytes).
Segment segment_of(const py::tuple& t) {
  Segment s{t[0].cast<const BoundProgram*>(), storage_of(t[1].cast<int>()), {}};
  const py::tuple shape = t[2], rows = t[3];
  s.layout.dims.resize(shape.size());
  for (std::size_t d = 0; d < shape.size(); ++d) {
    s.layout.dims[d].length = shape[d].cast<std::size_t>();
    s.layout.dims[d].row = rows[d].cast<std::ptrdiff_t>();
  }
  for (const Operand o : {kX, kG, kOut}) {
    s.layout.data[o] = reinterpret_cast<char*>(t[4 + 2 * o].cast<std::uintptr_t>());
    const py::tuple strides = t[5 + 2 * o];
    for (std::size_t d = 0; d < strides.size(); ++d)
      s.layout.dims[d].strides[o] = strides[d].cast<std::ptrdiff_t>();
  }
  return s;
}

std::vector<Segment> segments_of(const std::vector<py::tuple>& segments) {
  std::vector<Segment> result;
  for (const py::tuple& segment : segments) result.push_back(segment_of(segment));
  return result;
}

// Calls the engine without the GIL.
template <class Call> std::tuple<std::size_t, std::size_t, std::size_t> found(const Call& call) {
  py::gil_scoped_release release;
  const Invalid r = call();
  return {r.segment, r.count, r.first};
}

// out = op(x) in the usual case: two plain buffers of one shape and dtype, apart or the same, and parameters
// that are numbers. False where the case is another or a value was refused: then the caller looks closer and
// says what is wrong.
bool apply_arrays(int op, const BoundProgram* program, int policy, py::handle x_, py::handle out_) {
  bind::Plain x, out;
  if (!program || !program->shape().empty() || !bind::borrow(x_, x) || !bind::borrow(out_, out) ||
      !x.contiguous || !out.contiguous || !out.writeable || !x.same_form(out) || x.partly_overlaps(out))
    return false;
  const auto item = std::ptrdiff_t(stored_size(x.storage));
  Layout layout{{x.data, nullptr, out.data}, {{x.elements, 0, {item, 0, item}}}};
  py::gil_scoped_release release;
  return apply(Op(op), {{program, x.storage, std::move(layout)}}, Policy(policy)).count == 0;
}

// The steps of one optimizer.
class Stepper {
 public:
  // rows: (program, parameter row strides, group, theta, gradient, z or None where it is theta, first moment or None,
  // second or None, how many steps it or each of its rows has taken, address and number of the indices of the rows
  // that take part or None).
  // Returns the row with a buffer that cannot be used, else -1; what is wrong is the caller's to find out.
  int prepare(const std::vector<py::tuple>& rows, const std::vector<py::tuple>& groups) {
    groups_.clear();
    tensors_.clear();
    counts_.clear();
    for (const py::tuple& group : groups) groups_.push_back(group_of(group));
    std::vector<Span> spans;
    for (std::size_t i = 0; i < rows.size(); ++i)
      if (!add(rows[i], int(i), spans)) return int(i);
    if (spans == verified_) return -1;
    std::vector<Span> sorted = spans;
    std::sort(sorted.begin(), sorted.end());
    const char *written = nullptr, *read = nullptr;  // up to where memory is, so far
    for (const Span& s : sorted) {
      if (s.begin < written || (!s.is_input && s.begin < read)) return s.row;
      const char*& end = s.is_input ? read : written;
      end = std::max(end, s.end);
    }
    verified_ = std::move(spans);
    return -1;
  }
  // Of the gradients of these rows.
  double sum_of_squares(bool of_z, const std::vector<std::size_t>& rows) const {
    std::vector<StepTensor> tensors;
    for (const std::size_t row : rows) tensors.push_back(tensors_.at(row));
    py::gil_scoped_release release;
    return fastmap::sum_of_squares(tensors, of_z);
  }
  // Counts it, too.
  void step(double factor) const {
    py::gil_scoped_release release;
    fastmap::step(tensors_, factor);
    for (const Counts& c : counts_)
      for (std::size_t i = 0; i < c.n; ++i) c.data[c.rows ? std::size_t(c.rows[i]) : i] += 1;
  }

 private:
  struct Span {
    const char *begin, *end;
    int row;
    bool is_input;  // only read: may be that of several rows
    bool operator==(const Span& o) const { return begin == o.begin && end == o.end && row == o.row; }
    bool operator<(const Span& o) const { return begin != o.begin ? begin < o.begin : row < o.row; }
  };

  struct Counts {
    float* data;
    const std::int64_t* rows;
    std::size_t n;
  };

  static StepGroup group_of(const py::tuple& t) {
    StepGroup g{Rule(t[0].cast<int>()), Gradient(t[1].cast<int>()), t[2].cast<double>(),
                t[3].cast<double>(),    Decay(t[4].cast<int>()),    t[5].cast<bool>(),
                t[6].cast<double>(),    t[7].cast<bool>(),          {}};
    g.args = {t[8].cast<double>(),
              t[9].cast<double>(),
              t[10].cast<double>(),
              t[11].cast<double>(),
              t[12].cast<double>(),
              1,
              1,
              1,
              false,
              t[13].cast<bool>()};
    return g;
  }

  bool add(const py::tuple& t, int row, std::vector<Span>& spans) {
    const Program* program = t[0].cast<const BoundProgram*>();
    const StepGroup& group = groups_.at(t[2].cast<std::size_t>());
    StepTensor tensor{{program, kStoredFloat32, {}}, kStoredFloat32, kStoredFloat32, &group, {}};
    const py::tuple parameter_rows = t[1];
    Layout& layout = tensor.segment.layout;
    bind::Plain theta;
    constexpr Operand order[] = {kOut, kG, kX, kFirst, kSecond};
    for (int i = 0; i < 5; ++i) {
      bind::Plain b;
      const bool is_theta = i == 2 && t[5].is_none();
      if (i >= 3 && t[3 + std::size_t(i)].is_none()) continue;
      if (!bind::borrow_tensor(is_theta ? t[3] : t[3 + i], b)) return false;
      if (i == 0) {
        theta = b;
        tensor.segment.storage = b.storage;
        layout.dims.resize(std::size_t(b.ndim));
      }
      if (b.ndim != theta.ndim || !std::equal(b.shape, b.shape + b.ndim, theta.shape)) return false;
      const auto item = std::ptrdiff_t(stored_size(b.storage));
      layout.data[order[i]] = b.data;
      for (int d = 0; d < b.ndim; ++d) {
        Layout::Dim& dim = layout.dims[std::size_t(d)];
        dim.length = std::size_t(b.shape[d]);
        dim.row = d < int(parameter_rows.size()) ? parameter_rows[std::size_t(d)].cast<std::ptrdiff_t>() : 0;
        dim.strides[order[i]] = std::ptrdiff_t(b.strides[d]) * item;
      }
      const bool computed = b.storage == computed_in(theta.storage);
      if (b.elements && !is_theta) spans.push_back({b.first_byte(), b.first_byte() + b.reach(), row, i == 1});
      if (i == 1) {
        if (computed_in(b.storage) != computed_in(theta.storage)) return false;
        tensor.gradient = b.storage;
        continue;
      }
      if (i == 2 && !computed) return false;
      if (i == 3) tensor.moments = b.storage;
      // A moment of 16 bits is widened to float32: to what z is then stored in, too.
      const bool widens = b.storage == kStoredBFloat16 && computed_in(theta.storage) == kStoredFloat32;
      if (i >= 3 && (b.storage != tensor.moments || !(computed || widens))) return false;
      // What changes is dense, in one order: its elements fill one stretch of memory.
      if (!bind::is_dense(b) || !std::equal(b.strides, b.strides + b.ndim, theta.strides)) return false;
    }
    if (!count(t, tensor)) return false;
    tensors_.push_back(std::move(tensor));
    return true;
  }

  // How many steps were taken, and which rows take part.
  bool count(const py::tuple& t, StepTensor& tensor) {
    bind::Plain b;
    if (!bind::borrow_tensor(t[8], b) || b.storage != kStoredFloat32 || b.ndim > 1) return false;
    Layout& layout = tensor.segment.layout;
    Counts counts{reinterpret_cast<float*>(b.data), nullptr, b.elements};
    if (!std::all_of(counts.data, counts.data + b.elements, [](float c) { return c >= 0 && c < 0x1p63f; }))
      return false;
    if (b.ndim == 1) {
      if (layout.dims.empty() || layout.dims[0].length != b.elements || !bind::is_dense(b)) return false;
      layout.data[kCount] = b.data;
      layout.dims[0].strides[kCount] = sizeof(float);
    } else {
      tensor.args = at_step(tensor.group->args, std::uint64_t(*counts.data) + 1);
    }
    if (!t[9].is_none()) {
      if (b.ndim == 0) return false;
      const py::tuple rows = t[9];
      counts.rows = layout.dims[0].chosen = reinterpret_cast<const std::int64_t*>(
          rows[0].cast<std::uintptr_t>());
      counts.n = layout.dims[0].length = rows[1].cast<std::size_t>();
    }
    counts_.push_back(counts);
    return true;
  }

  std::vector<StepGroup> groups_;
  std::vector<Counts> counts_;
  std::vector<StepTensor> tensors_;
  std::vector<Span> verified_;
};

py::list structured_catalog() {
  py::list maps;
  for (std::size_t id = 0; id < structured_count(); ++id) {
    const StructuredInfo& info = structured_info(int(id));
    maps.append(py::dict(py::arg("id") = id, py::arg("name") = info.name,
                         py::arg("class_name") = structured_class(int(id)), py::arg("doc") = info.doc,
                         py::arg("rows") = info.rows, py::arg("forward") = info.forward,
                         py::arg("inverse") = info.inverse, py::arg("measure") = info.measure,
                         py::arg("theta_axes") = info.theta_axes, py::arg("least") = info.least));
  }
  return maps;
}

// (pointer, strides of the leading dimensions, strides of a row), or None.
RowBuffer row_buffer(const py::handle h) {
  if (h.is_none()) return {};
  const auto [data, leading, row] =
      h.cast<std::tuple<std::uintptr_t, std::vector<std::ptrdiff_t>, std::vector<std::ptrdiff_t>>>();
  return {reinterpret_cast<char*>(data), leading, row};
}

std::pair<std::size_t, std::size_t> run_structured(int map, int op, bool tangent, int dtype,
                                                   std::vector<std::size_t> leading, std::size_t n,
                                                   const py::list& buffers, std::uintptr_t grad_log_det,
                                                   std::uintptr_t log_det) {
  if (map < 0 || std::size_t(map) >= structured_count() || op < 0 || op >= kRowOps || buffers.size() != 4)
    throw py::value_error("no such structured map or operation");
  const RowCall call{map,
                     RowOp(op),
                     tangent,
                     dtype_of(storage_of(dtype)),
                     std::move(leading),
                     n,
                     row_buffer(buffers[0]),
                     row_buffer(buffers[1]),
                     row_buffer(buffers[2]),
                     row_buffer(buffers[3]),
                     reinterpret_cast<const double*>(grad_log_det),
                     reinterpret_cast<double*>(log_det)};
  py::gil_scoped_release release;
  const RefusedRows refused = run_rows(call);
  return {refused.count, refused.first};
}

// (n, m, seed, nonzeros, scale)
Subspace subspace_of(const py::tuple& t) {
  return {t[0].cast<std::size_t>(), t[1].cast<std::size_t>(), t[2].cast<std::uint64_t>(), t[3].cast<int>(),
          t[4].cast<double>()};
}

}  // namespace

// What threads share, and how: the thread pool and the maps of recent XLA calls have mutexes, the number of threads is
// an atomic, a program prepares its rows under std::call_once, borrow.hpp keeps what it knows per thread. A Stepper
// belongs to one optimizer, which lets one thread in at a time.
PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.def("catalog", &catalog);
  py::dict ops;
  for (int op = 0; op < kOps; ++op) ops[kOpNames[op]] = op;
  m.attr("OPS") = ops;
  m.attr("RULES") = py::dict(py::arg("sgd") = int(kSgd), py::arg("adam") = int(kAdam),
                             py::arg("lion") = int(kLion));
  m.attr("GRADIENTS") = py::dict(py::arg("chain") = int(Gradient::chain),
                                 py::arg("dual") = int(Gradient::dual),
                                 py::arg("clamped") = int(Gradient::clamped));
  m.attr("DECAYS") = py::dict(py::arg("none") = int(Decay::none), py::arg("z") = int(Decay::z),
                              py::arg("theta") = int(Decay::theta));
  py::class_<BoundProgram>(m, "Program")
      .def(py::init(&make_program))
      .def("steps", &steps_of)
      .def("constants", &constants_of)
      .def("ranges", &ranges_of);
  m.def("apply", [](int op, const std::vector<py::tuple>& segments, int policy) {
    const std::vector<Segment> parts = segments_of(segments);
    return found([&] { return apply(Op(op), parts, Policy(policy)); });
  });
  m.def("apply_arrays", &apply_arrays);
  py::class_<Stepper>(m, "Stepper")
      .def(py::init<>())
      .def("prepare", &Stepper::prepare)
      .def("sum_of_squares", &Stepper::sum_of_squares)
      .def("step", &Stepper::step);
  m.def("log_det", [](int op, const std::vector<py::tuple>& segments, std::size_t rows, std::uintptr_t sums,
                      int value_op, int policy) {
    const std::vector<Segment> parts = segments_of(segments);
    return found([&] {
      return log_det(Op(op), parts, rows, reinterpret_cast<double*>(sums), Op(value_op), Policy(policy));
    });
  });
  m.def("structured_catalog", &structured_catalog);
  m.def("structured_z_size", [](int map, std::size_t n) { return z_size(structured_info(map).z_size, n); });
  m.def("run_structured", &run_structured);
  m.def("expand", [](const py::tuple& subspace, bool is_double, std::uintptr_t start, std::uintptr_t z,
                     std::uintptr_t theta) {
    const Subspace s = subspace_of(subspace);
    const auto* from = reinterpret_cast<const double*>(z);
    py::gil_scoped_release release;
    if (is_double)
      expand(s, reinterpret_cast<const double*>(start), from, reinterpret_cast<double*>(theta));
    else
      expand(s, reinterpret_cast<const float*>(start), from, reinterpret_cast<float*>(theta));
  });
  m.def("project", [](const py::tuple& subspace, bool is_double, std::uintptr_t grad, std::uintptr_t grad_z) {
    const Subspace s = subspace_of(subspace);
    auto* to = reinterpret_cast<double*>(grad_z);
    py::gil_scoped_release release;
    if (is_double)
      project(s, reinterpret_cast<const double*>(grad), to);
    else
      project(s, reinterpret_cast<const float*>(grad), to);
  });
  m.def("info", [] {
    py::list available;
    for (const Isa& isa : isas())
      if (isa.available) available.append(isa.name);
    return py::dict(py::arg("version") = FASTMAP_VERSION, py::arg("isa") = active_isa().name,
                    py::arg("isas") = available, py::arg("threads") = num_threads(),
                    py::arg("compiler") = __VERSION__);
  });
  m.def("advise_huge_pages", [](std::uintptr_t buffer, std::size_t bytes) {
    advise_huge_pages(reinterpret_cast<void*>(buffer), bytes);
  });
  m.attr("XLA_HANDLERS") = py::dict(
      py::arg("apply") = py::capsule(reinterpret_cast<void*>(&xla::apply), "xla._CUSTOM_CALL_TARGET"),
      py::arg("log_det") = py::capsule(reinterpret_cast<void*>(&xla::log_det), "xla._CUSTOM_CALL_TARGET"),
      py::arg("step") = py::capsule(reinterpret_cast<void*>(&xla::step), "xla._CUSTOM_CALL_TARGET"));
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_num_threads", &num_threads);
  active_isa();   // an unavailable FASTMAP_ISA is an error at import,
  num_threads();  // and so is a bad FASTMAP_NUM_THREADS
}
