// pybind11 only: pointers in, one call into the engine with the GIL released, numbers out.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind/borrow.hpp"
#include "engine/dispatch.hpp"
#include "engine/threads.hpp"
#include "fastmap_registry.hpp"

namespace py = pybind11;
using namespace fastmap;

namespace {

constexpr const char* kOpNames[kOps] = {
    "forward", "jacobian",         "log_abs_det",         "log_abs_det_grad",
    "inverse", "inverse_jacobian", "inverse_log_abs_det", "inverse_log_abs_det_grad"};
constexpr const char* kConstraints[] = {"finite", "positive", "nonzero", "lower_bound", "positive_lower_bound", "upper_bound"};
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

// (program, dtype, shape, parameter row strides, then for x, grad and out: pointer, strides in bytes).
Segment segment_of(const py::tuple& t) {
  Segment s{t[0].cast<const BoundProgram*>(), storage_of(t[1].cast<int>()), {}};
  const py::tuple shape = t[2], rows = t[3];
  s.layout.dims.resize(shape.size());
  for (std::size_t d = 0; d < shape.size(); ++d) {
    s.layout.dims[d].length = shape[d].cast<std::size_t>();
    s.layout.dims[d].row = rows[d].cast<std::ptrdiff_t>();
  }
  for (int o = 0; o < kOperands; ++o) {
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
      !out.writeable || !x.same_form(out) || x.partly_overlaps(out))
    return false;
  const auto item = std::ptrdiff_t(stored_size(x.storage));
  Layout layout{{x.data, nullptr, out.data}, {{x.elements, 0, {item, 0, item}}}};
  py::gil_scoped_release release;
  return apply(Op(op), {{program, x.storage, std::move(layout)}}, Policy(policy)).count == 0;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.def("catalog", &catalog);
  py::dict ops;
  for (int op = 0; op < kOps; ++op) ops[kOpNames[op]] = op;
  m.attr("OPS") = ops;
  py::class_<BoundProgram>(m, "Program").def(py::init(&make_program));
  m.def("apply", [](int op, const std::vector<py::tuple>& segments, int policy) {
    const std::vector<Segment> parts = segments_of(segments);
    return found([&] { return apply(Op(op), parts, Policy(policy)); });
  });
  m.def("apply_arrays", &apply_arrays);
  m.def("log_det", [](int op, const std::vector<py::tuple>& segments, std::size_t rows, std::uintptr_t sums,
                      int value_op, int policy) {
    const std::vector<Segment> parts = segments_of(segments);
    return found([&] {
      return log_det(Op(op), parts, rows, reinterpret_cast<double*>(sums), Op(value_op), Policy(policy));
    });
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
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("get_num_threads", &num_threads);
  active_isa();   // an unavailable FASTMAP_ISA is an error at import,
  num_threads();  // and so is a bad FASTMAP_NUM_THREADS
}
