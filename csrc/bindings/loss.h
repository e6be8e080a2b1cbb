// run(): one loss call, checked and handed to an engine.
#pragma once

#include <pybind11/pybind11.h>

#include "formulas/catalog.h"

namespace fusestep {

// inputs: (input, target[, weight]), outputs: (loss, grad_input[, grad_target]); None where absent.
void run_loss(const OpInfo& info, int op, const pybind11::tuple& inputs, const pybind11::tuple& outputs,
              const pybind11::tuple& hyper, const std::string& reduction, const pybind11::object& seed,
              int64_t ignore_index);

}  // namespace fusestep
