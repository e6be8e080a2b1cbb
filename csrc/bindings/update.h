// step(): one optimizer step over all parameter groups, checked as a whole before anything is written.
#pragma once

#include <pybind11/pybind11.h>

#include "formulas/catalog.h"

namespace fusestep {

// Each group is (hyper, maximize, state_keys, params, grads, states, fresh): the formula's
// hyper-parameters; whether to ascend; the keys of the states it keeps; as many parameters, gradients
// and state dictionaries; and the positions whose states were made for this step.
void run_step(const OpInfo& info, int op, const pybind11::list& groups);

}  // namespace fusestep
