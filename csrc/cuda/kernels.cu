// The registry, instantiated for CUDA: by nvcc for the device, and by the host compiler for the
// emulator of the tests.
#include "cuda/dense.cuh"
#include "cuda/norm.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/rowwise.cuh"
#include "cuda/update.cuh"
#include "cuda/vectors.cuh"
#include "formulas/engine_table.h"

FUSESTEP_TARGET_BEGIN

namespace {

// Of scalar products the partial sums; an update needs some if it takes a norm.
int64_t workspace_bytes(Shape shape, int64_t) {
  return shape == Shape::vectors ? kTile * kDotBlocks * int64_t(sizeof(double)) : int64_t(sizeof(Scratch));
}

}  // namespace

extern const OpTable table;
const OpTable table = {target_name,     ops,        kernels,     norm, dots, combine,
                       workspace_bytes, take_error, enter_device};

FUSESTEP_TARGET_END

extern "C" const fusestep::OpTable* fusestep_engine() { return &fusestep::table; }
