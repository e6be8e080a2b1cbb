// What the rest of the program knows of each op: names only. Derived from registry.def.
#pragma once

#include "core/op_table.h"

namespace fusestep {

struct OpInfo {
  const char* name;        // torch's functional name, or the rule's
  const char* class_name;  // torch's class
  Shape shape;
  const char* const* hyper;
  int hyper_count;
  const char* const* operands;  // of a loss
  int operand_count;
  const char* domain;  // what must hold of the operands, or null
  const char* const* states;
  int state_count;
  const char* const* asked_by;  // for each state the option that asks for it; "" if it is always there
  const char* const* numbers;   // states that are one number
  int number_count;
  const char* const* starts_at;  // numbers, then states: an option, a number, or ""; or none, all "" then
  bool by_rows;
  void (*advance)(const double* hyper, Count* number);
};

extern const OpInfo kOps[];
extern const int kOpCount;

}  // namespace fusestep
