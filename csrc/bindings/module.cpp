// fusestep._native: a handful of functions around the op table.
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <string>

#include "bindings/arrays.h"
#include "bindings/engines.h"
#include "bindings/loss.h"
#include "bindings/update.h"
#include "cpu/threads.h"
#include "formulas/catalog.h"

namespace py = pybind11;
using namespace fusestep;

namespace {

// What the generated stub shows.
using AnyTuple = py::typing::Tuple<py::object, py::ellipsis>;
using AnyDict = py::typing::Dict<py::str, py::object>;

int find_op(const std::string& name) {
  for (int i = 0; i < kOpCount; ++i) {
    if (name == kOps[i].name) return i;
  }
  throw py::key_error("no op named " + name);
}

int find_op(const std::string& name, bool update) {
  const int op = find_op(name);
  if ((kOps[op].shape == Shape::update) != update) {
    throw py::value_error(name + (update ? " is not an optimizer" : " is not a loss"));
  }
  return op;
}

py::tuple tuple_of(const char* const* list, int count) {
  py::tuple result(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) result[size_t(i)] = list[i];
  return result;
}

py::typing::Dict<py::str, AnyDict> ops() {
  static const char* const shapes[] = {"pointwise", "rowwise", "update"};
  py::typing::Dict<py::str, AnyDict> result;
  for (int i = 0; i < kOpCount; ++i) {
    const OpInfo& info = kOps[i];
    py::dict op;
    op["class_name"] = info.class_name;
    op["shape"] = shapes[int(info.shape)];
    op["hyper"] = tuple_of(info.hyper, info.hyper_count);
    op["states"] = tuple_of(info.states, info.state_count);
    op["asked_by"] = tuple_of(info.asked_by, info.state_count);
    op["counts_steps"] = info.counts_steps;
    result[info.name] = op;
  }
  return result;
}

py::typing::Dict<py::str, py::bool_> isas() {
  py::typing::Dict<py::str, py::bool_> result;
  for (int i = 0; i < kIsaCount; ++i) result[kIsas[i].name] = kIsas[i].supported();
  return result;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Kernels of fusestep behind a few functions. Not public: use fusestep.nn, .optim, .numpy.";
  // Never released: a static object would be, after the interpreter has gone.
  static const auto* const unsupported = new py::exception<Unsupported>(m, "Unsupported", PyExc_TypeError);
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Unsupported& error) {
      py::set_error(*unsupported, error.reason.c_str());
    }
  });

  m.def("ops", ops, "Name, shape, hyper-parameters and states of every op, from the registry.");
  m.def("isas", isas, "Compiled instruction sets, and whether this machine has them.");
  m.def("isa", [] { return current_isa().name; }, "The instruction set in use.");
  m.def("set_isa", set_isa, py::arg("name"));
  m.def("get_num_threads", get_num_threads);
  m.def("set_num_threads", set_num_threads, py::arg("count"), "0 goes back to the runtime's setting.");
  m.def("threading", threading_runtime, "'openmp', 'pool' or 'serial'.");
  m.def("use_exchange_api", use_exchange_api, py::arg("use"));
  m.def(
      "run",
      [](const std::string& op, const AnyTuple& inputs, const AnyTuple& outputs, const AnyTuple& hyper,
         const std::string& reduction, const py::object& seed, int64_t ignore_index) {
        const int index = find_op(op, false);
        run_loss(kOps[index], index, inputs, outputs, hyper, reduction, seed, ignore_index);
      },
      py::arg("op"), py::arg("inputs"), py::arg("outputs"), py::arg("hyper") = AnyTuple(py::tuple()),
      py::arg("reduction") = "mean", py::arg("seed") = py::none(), py::arg("ignore_index") = -100,
      "One loss call. inputs: (input, target[, weight]).\n"
      "outputs: (loss, grad_input[, grad_target]), written where not None.\n"
      "seed: grad_output, 1 if None.");
  m.def(
      "step",
      [](const std::string& op, const py::typing::Iterable<AnyTuple>& groups) {
        const int index = find_op(op, true);
        run_step(kOps[index], index, groups);
      },
      py::arg("op"), py::arg("groups"), "One optimizer step. Each group is a StepGroup of fusestep._rules.");
}
