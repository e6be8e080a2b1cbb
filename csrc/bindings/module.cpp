// fusestep._native: a handful of functions around the op table.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <string>

#include "bindings/arrays.h"
#include "bindings/cached_plan.h"
#include "bindings/common_case.h"
#include "bindings/engines.h"
#include "bindings/loss.h"
#include "bindings/pool.h"
#include "bindings/update.h"
#include "bindings/vectors.h"
#include "cpu/threads.h"
#include "formulas/catalog.h"

namespace py = pybind11;
using namespace fusestep;

namespace {

// What the generated stub shows.
using AnyTuple = py::typing::Tuple<py::object, py::ellipsis>;
using AnyVectors = py::typing::Iterable<py::object>;
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
  static const char* const shapes[] = {"pointwise", "rowwise", "dense", "update"};
  py::typing::Dict<py::str, AnyDict> result;
  for (int i = 0; i < kOpCount; ++i) {
    const OpInfo& info = kOps[i];
    py::dict op;
    op["class_name"] = info.class_name;
    op["shape"] = shapes[int(info.shape)];
    op["hyper"] = tuple_of(info.hyper, info.hyper_count);
    op["operands"] = tuple_of(info.operands, info.operand_count);
    op["domain"] = info.domain == nullptr ? py::object(py::none()) : py::str(info.domain);
    op["states"] = tuple_of(info.states, info.state_count);
    op["asked_by"] = tuple_of(info.asked_by, info.state_count);
    op["numbers"] = tuple_of(info.numbers, info.number_count);
    const int starts = info.starts_at == nullptr ? 0 : info.number_count + info.state_count;
    op["starts_at"] = tuple_of(info.starts_at, starts);
    op["by_rows"] = info.by_rows;
    result[info.name] = op;
  }
  return result;
}

py::typing::Dict<py::str, py::bool_> isas() {
  py::typing::Dict<py::str, py::bool_> result;
  for (int i = 0; i < kIsaCount; ++i) result[kIsas[i].name] = kIsas[i].supported();
  return result;
}

PyObject* new_out_of_range() {
  const py::tuple bases = py::make_tuple(py::handle(PyExc_IndexError), py::handle(PyExc_RuntimeError),
                                         py::handle(PyExc_ValueError));
  PyObject* type = PyErr_NewException("fusestep._native.OutOfRange", bases.ptr(), nullptr);
  if (type == nullptr) throw py::error_already_set();
  return type;
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Kernels of fusestep behind a few functions. Not public: use fusestep.nn, .optim, .numpy.";
  // Never released: a static object would be, after the interpreter has gone.
  static const auto* const unsupported = new py::exception<Unsupported>(m, "Unsupported", PyExc_TypeError);
  static PyObject* const out_of_range = new_out_of_range();
  m.add_object("OutOfRange", out_of_range);
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const Unsupported& error) {
      py::set_error(*unsupported, error.reason.c_str());
    } catch (const OutOfRange& error) {
      py::set_error(out_of_range, error.reason.c_str());
    }
  });

  m.def("ops", ops, "Name, shape, hyper-parameters and states of every op, from the registry.");
  m.def("isas", isas, "Compiled instruction sets, and whether this machine has them.");
  m.def("isa", [] { return current_isa().name; }, "The instruction set in use.");
  m.def("set_isa", set_isa, py::arg("name"));
  m.def("get_num_threads", get_num_threads);
  m.def("set_num_threads", set_num_threads, py::arg("count"), "0 goes back to the runtime's setting.");
  m.def("why_no_cuda", why_no_cuda, py::arg("device") = 0,
        "Why CUDA kernels cannot run on a device of this machine; empty if they can.");
  m.def("threading", threading_runtime, "'openmp', 'pool' or 'serial'.");
  m.def("use_exchange_api", use_exchange_api, py::arg("use"));
  m.def(
      "common_case", [](const AnyTuple& operands) { return common_case(operands); }, py::arg("operands"),
      "Whether autograd has to see a call with these tensors; None if a closer look is needed, because of\n"
      "them (also where dtypes, shapes or devices differ) or of a mode or transform of torch.");
  m.def(
      "empty_like",
      [](const py::object& like, bool row_major) {
        Array array;
        read_array(like, "like", array, false);
        return empty_like(like, array, row_major);
      },
      py::arg("like"), py::arg("row_major") = false,
      "Uninitialised memory like that of a tensor or array, from the pool where that pays.\n"
      "In C order if row_major, or from NumPy.");
  m.def("empty_cache", empty_pool);
  m.def("set_cache_limit", set_pool_limit, py::arg("bytes"));
  m.def("get_cache_limit", get_pool_limit);
  m.def(
      "cache_use",
      [] {
        const PoolUse use = pool_use();
        return std::make_pair(use.in_use, use.idle);
      },
      "Bytes of the pool that are in use, and idle.");
  m.def(
      "run",
      [](const std::string& op, const AnyTuple& operands, const AnyTuple& outputs, const AnyTuple& hyper,
         const std::string& reduction, const py::object& seed, const py::object& weight,
         std::optional<int64_t> ignore_index, double divisor, std::optional<int64_t> dim) -> AnyTuple {
        const int index = find_op(op, false);
        const LossCall call{operands, outputs, hyper, reduction, seed, weight, ignore_index, divisor, dim};
        return run_loss(kOps[index], index, call);
      },
      py::arg("op"), py::arg("operands"), py::arg("outputs"), py::arg("hyper") = AnyTuple(py::tuple()),
      py::arg("reduction") = "mean", py::arg("seed") = py::none(), py::arg("weight") = py::none(),
      py::arg("ignore_index") = py::none(), py::arg("divisor") = 0.0, py::arg("dim") = py::none(),
      "One loss call. operands: those of ops()[op]; the last may be absent.\n"
      "outputs: (loss, the gradient of each operand), written where not None; for softmax and its like\n"
      "(None, result). A gradient may also be True, for new memory, or False. Returns the gradients.\n"
      "seed: grad_output, 1 if None. weight: of elements or of classes. divisor: of a mean, if not 0.\n"
      "dim: of the classes, where the target is dense; None: the second, or the only one.");
  m.def(
      "step",
      [](const std::string& op, const py::typing::Iterable<AnyTuple>& groups, const std::string& gradients,
         const py::object& norm, bool norm_is_known, uint64_t seed, const py::object& loss_scale,
         const py::object& found_inf) {
        const int index = find_op(op, true);
        return run_step(kOps[index], index,
                        {groups, gradients, norm, norm_is_known, seed, loss_scale, found_inf});
      },
      py::arg("op"), py::arg("groups"), py::arg("gradients") = "kept", py::arg("norm") = py::none(),
      py::arg("norm_is_known") = false, py::arg("seed") = 0, py::arg("loss_scale") = py::none(),
      py::arg("found_inf") = py::none(),
      "One optimizer step. Each group is a StepGroup of fusestep._rules.\n"
      "gradients: \"kept\", \"unscaled\" or \"cleared\". norm: a float64 array for the norm of all "
      "gradients,\n"
      "or with it. seed: of stochastic rounding. loss_scale, found_inf: of GradScaler, float32 on the "
      "device\n"
      "of the parameters, where they are read. Returns whether the gradients were written as wanted; they\n"
      "are kept if any share memory.");
  py::class_<CachedPlan>(m, "CachedPlan",
                         "A step that has been taken once, to be repeated while nothing has changed.\n"
                         "steps: a StepGroup for each group, with those of its parameters that have states, "
                         "and as\n"
                         "gradient, where there is none, the parameter. group_keys, default_keys: what of "
                         "the options matters.")
      .def(py::init([](const std::string& op, const py::typing::Iterable<AnyTuple>& steps,
                       const py::object& groups, const py::object& state, const py::object& defaults,
                       const py::object& group_keys, const py::object& default_keys) {
             const int index = find_op(op, true);
             return new CachedPlan(kOps[index], index, steps, {groups, state, defaults}, group_keys,
                                   default_keys);
           }),
           py::arg("op"), py::arg("steps"), py::arg("groups"), py::arg("state"), py::arg("defaults"),
           py::arg("group_keys"), py::arg("default_keys"))
      .def(
          "step",
          [](CachedPlan& plan, const py::object& groups, const py::object& state, const py::object& defaults,
             const py::object& describe, const py::object& norm, const py::object& changed) {
            return plan.step({groups, state, defaults}, describe, norm, changed);
          },
          py::arg("groups"), py::arg("state"), py::arg("defaults"), py::arg("describe"), py::arg("norm"),
          py::arg("changed"),
          "Take the step, or return False with nothing written. describe: makes a StepGroup without "
          "parameters\n"
          "of a group whose options have changed, or None if torch must take the step. changed: called with "
          "the\n"
          "parameters that were updated.");
  m.def(
      "dots", [](const AnyVectors& a, const AnyVectors& b, const py::object& out) { run_dots(a, b, out); },
      py::arg("a"), py::arg("b"), py::arg("out"),
      "out[i * len(b) + j] = the scalar product of the vectors a[i] and b[j], summed in float64.");
  m.def(
      "combine", [](const py::typing::Iterable<AnyTuple>& calls) { run_combine(calls); }, py::arg("calls"),
      "For each (out, coefficients, vectors): out = the sum of coefficients[i] * vectors[i].");
}
