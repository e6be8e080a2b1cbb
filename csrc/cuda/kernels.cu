// The registry, instantiated for CUDA: by nvcc for the device, and by the host compiler for the
// emulator of the tests.
#include "cuda/dense.cuh"
#include "cuda/driver.h"
#include "cuda/norm.cuh"
#include "cuda/pointwise.cuh"
#include "cuda/rowwise.cuh"
#include "cuda/update.cuh"
#include "cuda/vectors.cuh"
#include "formulas/engine_table.h"

FUSESTEP_TARGET_BEGIN

namespace {

// Of scalar products the partial sums; of an update those of a norm, then what `count` tensors ask the
// device.
int64_t workspace_bytes(Shape shape, int64_t count) {
  if (shape == Shape::vectors) return kTile * kDotBlocks * int64_t(sizeof(double));
  const int64_t scratch = int64_t(sizeof(Scratch));
  if (shape != Shape::update) return scratch;
  const int64_t prepared = (count < kMostPrepared ? count : kMostPrepared) * kPreparedBytes;
  return prepared > scratch ? prepared : scratch;
}

}  // namespace

extern const OpTable table;
const OpTable table = {target_name,     ops,        kernels,      norm,        dots, combine,
                       workspace_bytes, take_error, enter_device, why_unusable};

FUSESTEP_TARGET_END

extern "C" const fusestep::OpTable* fusestep_engine() { return &fusestep::table; }
