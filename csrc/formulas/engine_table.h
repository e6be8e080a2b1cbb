// The registry, instantiated by an engine: included by the one source file of each, after its Pointwise,
// Rowwise, Dense and Update.
#pragma once

#include "core/op_table.h"
#include "formulas/all.h"  // written by CMake: every header of losses/ and optim/

FUSESTEP_TARGET_BEGIN

namespace {

const Kernel kernels[] = {
#define FUSESTEP_POINTWISE(op, F) {Pointwise<F>::run, nullptr, nullptr, nullptr},
#define FUSESTEP_ROWWISE(op, F) {nullptr, Rowwise<F>::run, nullptr, nullptr},
#define FUSESTEP_DENSE(op, F) {nullptr, nullptr, Dense<F>::run, nullptr},
#define FUSESTEP_UPDATE(op, F) {nullptr, nullptr, nullptr, Update<F>::run},
#include "formulas/registry.def"
#undef FUSESTEP_POINTWISE
#undef FUSESTEP_ROWWISE
#undef FUSESTEP_DENSE
#undef FUSESTEP_UPDATE
};

const char ops[] =
#define FUSESTEP_POINTWISE(op, F) #op " "
#define FUSESTEP_ROWWISE(op, F) #op " "
#define FUSESTEP_DENSE(op, F) #op " "
#define FUSESTEP_UPDATE(op, F) #op " "
#include "formulas/registry.def"
#undef FUSESTEP_POINTWISE
#undef FUSESTEP_ROWWISE
#undef FUSESTEP_DENSE
#undef FUSESTEP_UPDATE
    ;

#define FUSESTEP_STRING_(x) #x
#define FUSESTEP_STRING(x) FUSESTEP_STRING_(x)

const char target_name[] = FUSESTEP_STRING(FUSESTEP_TARGET);

}  // namespace

FUSESTEP_TARGET_END
