// Which instruction sets were compiled, which this machine has, and the one in use.
#pragma once

#include "core/op_table.h"

namespace fusestep {

struct Isa {
  const char* name;
  const OpTable* table;
  bool (*supported)();
};

extern const Isa kIsas[];  // from the plainest to the widest
extern const int kIsaCount;

// The widest supported one, or the one FUSESTEP_ISA names; null if that one cannot be had here.
const Isa* choose_isa(const char* forced);

}  // namespace fusestep
