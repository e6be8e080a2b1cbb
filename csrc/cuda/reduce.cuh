// Reductions of a fixed shape: lanes of a warp, warps of a block, blocks of a launch. Sums know no atomics,
// so every run gives the same bits.
#pragma once

#include "cuda/portions.cuh"

FUSESTEP_TARGET_BEGIN

struct Add {
  FUSESTEP_HD double operator()(double a, double b) const { return a + b; }
};

// The other one, if one is NaN.
struct Largest {
  FUSESTEP_HD float operator()(float a, float b) const { return fmaxf(a, b); }
  FUSESTEP_HD double operator()(double a, double b) const { return fmax(a, b); }
};

// Over groups of `lanes` neighbours, a power of two up to a warp. Each lane gets the result: both partners
// of an exchange compute the same.
template <class V, class Combine>
__device__ __forceinline__ V across_lanes(V value, int lanes, Combine combine) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

// Each thread gets the result. Every thread of the block must call it; its warps are a power of two.
template <class V, class Combine>
__device__ __forceinline__ V across_block(V value, Combine combine) {
  FUSESTEP_SHARED(V, part, kWarp);
  value = across_lanes(value, kWarp, combine);
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = value;
  __syncthreads();
  const int warps = int(blockDim.x) / kWarp;
  value = across_lanes(part[threadIdx.x % unsigned(warps)], warps, combine);
  __syncthreads();  // the next call writes to `part`
  return value;
}

// What a mean divides by: known to the host, or left in memory by an earlier launch.
struct Divisor {
  double known;
  const double* computed;  // used if not null

  FUSESTEP_HD double value() const { return computed != nullptr ? *computed : known; }
};

// The workspace of a loss or a norm.
struct Scratch {
  double divisor;
  unsigned arrived;  // blocks that have left their partial sum; 0 between launches
  double partials[kMaxBlocks];
};

template <class Args>
FUSESTEP_HD Scratch* scratch_of(const Args& args) {
  return static_cast<Scratch*>(args.workspace);
}

// Before the first launch of a call that adds up more than one block.
inline void prepare(Scratch* scratch, void* stream) {
  zero(&scratch->arrived, sizeof(scratch->arrived), stream);
}

// The sum over all threads of a launch, which must all call it: store(sum) is called once, by a thread of
// the block that comes last. That adds the blocks in the order of their numbers, whatever order they came in.
template <class Store>
__device__ __forceinline__ void across_grid(double value, Scratch* scratch, Store&& store) {
  FUSESTEP_SHARED(bool, is_last, 1);
  value = across_block(value, Add());
  if (gridDim.x > 1) {
    if (threadIdx.x == 0) {
      scratch->partials[blockIdx.x] = value;
      __threadfence();
      is_last[0] = atomicAdd(&scratch->arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last[0]) return;
    __threadfence();
    value = 0;
    // From L2: what another multiprocessor wrote is not in this one's L1.
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) value += __ldcg(&scratch->partials[i]);
    value = across_block(value, Add());
  }
  if (threadIdx.x != 0) return;
  if (gridDim.x > 1) scratch->arrived = 0;
  store(value);
}

template <class Args>
FUSESTEP_HD bool reduces_loss(const Args& args) {
  return args.reduction != Reduction::none && present(args.loss);
}

// How many blocks: one at least if there is a sum to write, of nothing too.
template <class Args>
int64_t blocks_for_loss(const Args& args, int64_t work, int64_t work_per_block) {
  const int64_t blocks = blocks_for(work, work_per_block);
  return blocks == 0 && reduces_loss(args) ? 1 : blocks;
}

// What each gradient is multiplied by, where the loss is reduced.
template <class Args>
__device__ __forceinline__ double reduced_scale(const Args& args, const Divisor& divisor) {
  const bool seeded = args.reduction != Reduction::none && present(args.seed);
  return 1.0 / divisor.value() * (seeded ? read_lone<double>(args.seed.data, args.seed.dtype, 0) : 1.0);
}

// `sum` is that of the losses of this thread; every thread must call it.
template <class Args>
__device__ __forceinline__ void finish_loss(const Args& args, const Divisor& divisor, double sum) {
  if (!reduces_loss(args)) return;
  across_grid(sum, scratch_of(args),
              [&](double total) { write_lone(args.loss.data, args.loss.dtype, 0, total / divisor.value()); });
}

FUSESTEP_TARGET_END
