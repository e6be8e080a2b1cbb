// What one loss call reads from Python, and whether its arrays go together.
#pragma once

#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/loss.h"

namespace fusestep {

struct Call {
  const OpInfo& info;
  int op;  // its place in the tables
  const LossCall& given;
  std::optional<Array> operand[kMaxOperands], weight;
  std::optional<Array> loss, grad[kMaxOperands], seed;
  double hyper[8] = {};
  Reduction reduction;

  const Array& first() const { return *operand[0]; }
  bool each() const { return reduction == Reduction::none; }
};

std::string grad_name(const OpInfo& info, size_t operand);

// Each throws what names the argument, what it was and what was expected.
void need_floating(const Array& array, const char* name);
void need_same_device(const Array& array, const char* name, const Array& input, const char* input_name);

// Operands, and a sample weight, of one shape.
void need_shape_of_first(const Call& call, const std::optional<Array>& array, const char* name);

// The loss has `loss_count` elements, gradients have the shapes of their operands, and all are memory of
// their own.
void need_outputs(const Call& call, int64_t loss_count);

}  // namespace fusestep
