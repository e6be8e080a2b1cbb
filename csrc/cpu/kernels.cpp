// The registry, instantiated for one instruction set. CMake compiles this file once for each, with
// FUSESTEP_TARGET naming it.
#include "cpu/pointwise.h"
#include "cpu/rowwise.h"
#include "cpu/update.h"
#include "formulas/all.h"

FUSESTEP_TARGET_BEGIN

namespace {

const Kernel kernels[] = {
#define FUSESTEP_POINTWISE(op, F) {Pointwise<F>::run, nullptr, nullptr},
#define FUSESTEP_ROWWISE(op, F) {nullptr, Rowwise<F>::run, nullptr},
#define FUSESTEP_UPDATE(op, F) {nullptr, nullptr, Update<F>::run},
#include "formulas/registry.def"
#undef FUSESTEP_POINTWISE
#undef FUSESTEP_ROWWISE
#undef FUSESTEP_UPDATE
};

const char ops[] =
#define FUSESTEP_POINTWISE(op, F) #op " "
#define FUSESTEP_ROWWISE(op, F) #op " "
#define FUSESTEP_UPDATE(op, F) #op " "
#include "formulas/registry.def"
#undef FUSESTEP_POINTWISE
#undef FUSESTEP_ROWWISE
#undef FUSESTEP_UPDATE
    ;

#define FUSESTEP_STRING_(x) #x
#define FUSESTEP_STRING(x) FUSESTEP_STRING_(x)

}  // namespace

extern const OpTable table;
const OpTable table = {FUSESTEP_STRING(FUSESTEP_TARGET), ops, kernels, nullptr, nullptr, nullptr};

FUSESTEP_TARGET_END
