// The registry, instantiated for one instruction set. CMake compiles this file once for each, with
// FUSESTEP_TARGET naming it.
#include "cpu/dense.h"
#include "cpu/norm.h"
#include "cpu/pointwise.h"
#include "cpu/rowwise.h"
#include "cpu/update.h"
#include "cpu/vectors.h"
#include "formulas/engine_table.h"

FUSESTEP_TARGET_BEGIN

extern const OpTable table;
const OpTable table = {target_name, ops, kernels, norm, dots, combine, nullptr, nullptr, nullptr, nullptr};

FUSESTEP_TARGET_END
