// step(): one optimizer step over all parameter groups, checked as a whole before anything is written.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bindings/engines.h"
#include "formulas/catalog.h"

namespace fusestep {

struct StepCall {
  const pybind11::iterable& groups;    // StepGroups of python/fusestep/_rules.py
  const std::string& gradients;        // "kept", "unscaled" or "cleared"
  const pybind11::object& norm;        // a float64 for the norm of all gradients, or None
  bool norm_is_known;                  // it holds the norm already
  uint64_t seed;                       // of stochastic rounding
  const pybind11::object& loss_scale;  // of GradScaler: a float32 on the device of the parameters, or None
  const pybind11::object& found_inf;   // likewise
};

// Whether the gradients were written as wanted; they were not if any share memory.
bool run_step(const OpInfo& info, int op, const StepCall& call);

// The memory of a float64 for the norm, null if `object` is None.
double* norm_of(const pybind11::object& object, Device device);

// Where and how a step runs: on the device of its first parameter.
struct StepLaunch {
  const OpInfo& info;
  int op;
  pybind11::handle param;
  const Array& first;
  int64_t elements;
};

// `unknown_norm`: where the norm goes that has to be found first, or null. `store`: puts down the numbers
// of the step, once nothing can fail any more.
template <class Store>
void launch_step(const StepLaunch& step, UpdateArgs args, double* unknown_norm, Store&& store) {
  Launch launch(step.param, step.first, Shape::update, args.count, step.elements);
  const OpTable& table = launch.table();
  args.stream = launch.stream();
  args.workspace = launch.workspace();
  if (unknown_norm != nullptr) {
    launch.run([&] {
      table.norm({args.items, args.count, unknown_norm, args.stream, args.workspace, args.loss_scale});
    });
  }
  store();
  launch.run([&] { table.kernels[step.op].update(args); });
  launch.check(step.info.name);
}

}  // namespace fusestep
