// The registry, instantiated for CUDA: by nvcc for the device, and by the host compiler for the
// emulator of the tests.
#include "cuda/pointwise.cuh"
#include "cuda/rowwise.cuh"
#include "cuda/update.cuh"
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

int64_t workspace_bytes(Shape shape, int64_t) {
  return shape == Shape::update ? 0 : (1 + kMaxBlocks) * int64_t(sizeof(double));
}

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
const OpTable table = {
    FUSESTEP_STRING(FUSESTEP_TARGET), ops, kernels, workspace_bytes, take_error, enter_device};

FUSESTEP_TARGET_END

extern "C" const fusestep::OpTable* fusestep_engine() { return &fusestep::table; }
