// step(): one optimizer step over all parameter groups, checked as a whole before anything is written.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "formulas/catalog.h"

namespace fusestep {

struct StepCall {
  const pybind11::iterable& groups;  // StepGroups of python/fusestep/_rules.py
  const std::string& gradients;      // "kept", "unscaled" or "cleared"
  const pybind11::object& norm;      // a float64 for the norm of all gradients, or None
  bool norm_is_known;                // it holds the norm already
  uint64_t seed;                     // of stochastic rounding
};

// Whether the gradients were written as wanted; they were not if any share memory.
bool run_step(const OpInfo& info, int op, const StepCall& call);

}  // namespace fusestep
