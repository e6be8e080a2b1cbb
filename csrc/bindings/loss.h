// run(): one loss call, checked and handed to an engine.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "formulas/catalog.h"

namespace fusestep {

// A call as Python makes it.
struct LossCall {
  const pybind11::tuple& operands;  // those the formula names; the third may be None or absent
  // (loss, then the gradient of each operand); None where absent. A gradient may also be True, for new
  // memory, or False.
  const pybind11::tuple& outputs;
  const pybind11::tuple& hyper;
  const std::string& reduction;
  const pybind11::object& seed;    // grad_output; 1 if None
  const pybind11::object& weight;  // of elements (pointwise) or of classes; None where absent
  std::optional<int64_t> ignore_index;
  double divisor;              // of a mean; 0: the formula's
  std::optional<int64_t> dim;  // of the classes, for the dense shape; the second, or the only one
};

// Returns the gradients.
pybind11::tuple run_loss(const OpInfo& info, int op, const LossCall& call);

// A label or an element that an op does not allow. In Python it is an IndexError, a RuntimeError and a
// ValueError, because torch raises one or the other.
struct OutOfRange {
  std::string reason;
};

}  // namespace fusestep
