// How much a launch takes on a device, of which the emulator is given an eighth: checked as this compiles.
#define FUSESTEP_TARGET emulated
#define FUSESTEP_EMULATOR
#include "cuda/update_kernel.cuh"
#include "formulas/optim/adam.h"

FUSESTEP_TARGET_BEGIN

constexpr int kEntry = sizeof(UpdateEntry<Access::plain, Adam<float>, false, 3>),
              kSetting = sizeof(Setting<float, Adam<float>, false>);
using Large = UpdateParams<Access::plain, float, Adam<float>, false, 3, kLargeParamBytes>;

static_assert(465 * (kEntry + kSetting) <= Large::kBytes, "465 groups of one tensor");
static_assert(1000 * kEntry + kSetting <= Large::kBytes, "1000 tensors of one group");
static_assert(sizeof(Large) <= kLargeParamBytes, "what a launch takes");

FUSESTEP_TARGET_END
