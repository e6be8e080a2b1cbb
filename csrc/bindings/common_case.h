// The calls of training loops: plain tensors, and nothing in torch's state that a kernel would not see.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

namespace fusestep {

// Nothing if a closer look is needed: at an operand that is no strided tensor of one of torch's own two
// classes, or not floating point, or of another dtype, shape or device than the first; or at a mode, a
// transform, forward-mode AD, a trace. Else whether autograd has to see the call.
std::optional<bool> common_case(const pybind11::tuple& operands);

}  // namespace fusestep
