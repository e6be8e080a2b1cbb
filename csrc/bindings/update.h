// step(): one optimizer step over all parameter groups, checked as a whole before anything is written.
#pragma once

#include <pybind11/pybind11.h>

#include "formulas/catalog.h"

namespace fusestep {

// Each group is a StepGroup of python/fusestep/_rules.py.
void run_step(const OpInfo& info, int op, const pybind11::iterable& groups);

}  // namespace fusestep
