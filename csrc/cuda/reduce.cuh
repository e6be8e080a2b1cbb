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

struct SumParams {
  const double* partials;
  int64_t count;
  double divisor;
  const double* device_divisor;  // used if not null
  View result;
};

static __global__ void __launch_bounds__(kThreads, 2) sum_kernel(const SumParams __grid_constant__ p) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < p.count; i += kThreads) sum += p.partials[i];
  sum = across_block(sum, Add());
  if (threadIdx.x == 0) {
    const double divisor = p.device_divisor != nullptr ? *p.device_divisor : p.divisor;
    write_one(p.result.data, p.result.dtype, 0, sum / divisor);
  }
}

FUSESTEP_TARGET_END
