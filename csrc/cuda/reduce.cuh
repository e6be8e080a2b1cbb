// Reductions of a fixed shape: lanes of a warp, warps of a block, blocks of a launch. No atomics, so
// every run gives the same bits.
#pragma once

#include "cuda/portions.cuh"

FUSESTEP_TARGET_BEGIN

struct Add {
  FUSESTEP_HD double operator()(double a, double b) const { return a + b; }
};

struct Largest {
  template <class T>
  FUSESTEP_HD T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

// Each lane gets the result: both partners of an exchange compute the same.
template <class V, class Combine>
__device__ __forceinline__ V across_warp(V value, Combine combine) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

// Each thread gets the result. Every thread of the block must call it.
template <class V, class Combine>
__device__ __forceinline__ V across_block(V value, Combine combine) {
  FUSESTEP_SHARED(V, part, kThreads / kWarp);
  value = across_warp(value, combine);
  if (threadIdx.x % kWarp == 0) part[threadIdx.x / kWarp] = value;
  __syncthreads();
  V total = part[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) total = combine(total, part[warp]);
  __syncthreads();  // the next call writes to `part`
  return total;
}

// What a mean divides by: known to the host, or left in memory by an earlier launch.
struct Divisor {
  double known;
  const double* computed;  // used if not null

  FUSESTEP_HD double value() const { return computed != nullptr ? *computed : known; }
};

// The workspace of a loss: a divisor, then a partial sum for each block.
template <class Args>
FUSESTEP_HD double* divisor_of(const Args& args) {
  return static_cast<double*>(args.workspace);
}
template <class Args>
FUSESTEP_HD double* partials_of(const Args& args) {
  return divisor_of(args) + 1;
}

template <class Args>
FUSESTEP_HD bool reduces_loss(const Args& args) {
  return args.reduction != Reduction::none && present(args.loss);
}

// What each gradient is multiplied by, where the loss is reduced.
template <class Args>
FUSESTEP_HD double reduced_scale(const Args& args, const Divisor& divisor) {
  const bool seeded = args.reduction != Reduction::none && present(args.seed);
  return 1.0 / divisor.value() * (seeded ? read_one<double>(args.seed.data, args.seed.dtype, 0) : 1.0);
}

// Every thread of the block must call it.
__device__ __forceinline__ void keep_partial(double* partials, double sum) {
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

struct SumParams {
  const double* partials;
  int64_t count;
  Divisor divisor;
  View result;
};

static __global__ void __launch_bounds__(kThreads, 2) sum_kernel(const SumParams __grid_constant__ p) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.partials[i];
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) write_one(p.result.data, p.result.dtype, 0, sum / p.divisor.value());
}

// The divisor whose partial sums `blocks` blocks have left behind.
template <class Args>
Divisor sum_divisor(const Args& args, int64_t blocks) {
  View result;
  result.data = divisor_of(args);
  result.dtype = DType::f64;
  launch(sum_kernel, 1, args.stream, SumParams{partials_of(args), blocks, {1.0, nullptr}, result});
  return {1.0, divisor_of(args)};
}

// As sum_divisor, for the losses.
template <class Args>
void sum_losses(const Args& args, int64_t blocks, const Divisor& divisor) {
  if (!reduces_loss(args)) return;
  launch(sum_kernel, 1, args.stream, SumParams{partials_of(args), blocks, divisor, args.loss});
}

FUSESTEP_TARGET_END
