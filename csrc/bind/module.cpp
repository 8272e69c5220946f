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
constexpr const char* kConstraints[] = {"finite", "positive", "nonzero", "lower_bound", "upper_bound"};
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

// out = op(x) in the usual case: two plain buffers of one shape and dtype, apart or the same. False where the
// case is another or a value was refused: then the caller looks closer and says what is wrong.
bool apply_arrays(int op, int map, const std::vector<double>& params, int policy, py::handle x_,
                  py::handle out_) {
  bind::Plain x, out;
  if (!bind::borrow(x_, x) || !bind::borrow(out_, out) || !out.writeable || !x.same_form(out) ||
      x.partly_overlaps(out))
    return false;
  py::gil_scoped_release release;
  const Invalid invalid = apply(Op(op), map_of(map), x.is_double ? kStoredFloat64 : kStoredFloat32, params,
                                x.elements, x.data, nullptr, out.data, Policy(policy));
  return invalid.count == 0;
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.def("catalog", &catalog);
  py::dict ops;
  for (int op = 0; op < kOps; ++op) ops[kOpNames[op]] = op;
  m.attr("OPS") = ops;
  m.def("check_params", [](int map, int dtype, const std::vector<double>& params) {
    effective_params(map_of(map), storage_of(dtype), params);
  });
  m.def("apply", [](int op, int map, int dtype, const std::vector<double>& params, std::size_t n,
                    std::uintptr_t x, std::uintptr_t g, std::uintptr_t out, int policy) {
    py::gil_scoped_release release;
    const Invalid r = apply(Op(op), map_of(map), storage_of(dtype), params, n,
                            reinterpret_cast<const void*>(x), reinterpret_cast<const void*>(g),
                            reinterpret_cast<void*>(out), Policy(policy));
    return std::make_pair(r.count, r.first);
  });
  m.def("apply_arrays", &apply_arrays);
  m.def("log_det",
        [](int op, int map, int dtype, const std::vector<double>& params, std::size_t rows, std::size_t n,
           std::uintptr_t x, std::uintptr_t sums, int value_op, std::uintptr_t out, int policy) {
          py::gil_scoped_release release;
          const Invalid r = log_det(Op(op), map_of(map), storage_of(dtype), params, rows, n,
                                    reinterpret_cast<const void*>(x), reinterpret_cast<double*>(sums),
                                    Op(value_op), reinterpret_cast<void*>(out), Policy(policy));
          return std::make_pair(r.count, r.first);
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
