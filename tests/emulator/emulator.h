// A CUDA device on the host, as much of one as csrc/cuda uses: the threads of a block are fibers that
// take turns, blocks run one after another. Included by csrc/cuda/device.h in place of CUDA's header.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__ &  // one copy for all threads of a launch, as on the device
#define FUSESTEP_NOINLINE

// One array for a block, wherever its threads meet the declaration. On the heap, of exact size and full
// of NaN, so that the address sanitizer sees an overrun and the results a missing initialisation.
#define FUSESTEP_SHARED(type, name, size) \
  static const char name##_key = 0;       \
  type* const name = static_cast<type*>(emulator::shared(&name##_key, sizeof(type) * (size)))

// Of the size that the launch asked for.
#define FUSESTEP_DYNAMIC_SHARED(name) uint4* const name = static_cast<uint4*>(emulator::dynamic_shared())

#define threadIdx emulator::thread_index
#define blockDim emulator::block_size
#define blockIdx emulator::block_index
#define gridDim emulator::grid_size

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulator {

struct Index {
  unsigned x;
};
extern Index thread_index, block_index, block_size, grid_size;

struct Launch {
  unsigned blocks;
  int threads;
  size_t shared;  // bytes
};
void run(const Launch& launch, void (*body)(const void*), const void* context);
extern int launches;  // so far

// 0: threads and blocks in their natural order; else in a random one that follows from the seed.
void set_seed(unsigned seed);

void* shared(const void* key, size_t bytes);
void* dynamic_shared();
void wait_for_block();
uint64_t exchange(unsigned mask, uint64_t bits, unsigned lane);

}  // namespace emulator

inline void __syncthreads() { emulator::wait_for_block(); }

template <class V>
V __shfl_xor_sync(unsigned mask, V value, int distance) {
  static_assert(sizeof(V) <= sizeof(uint64_t), "a shuffle moves at most 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(V));
  bits = emulator::exchange(mask, bits, (threadIdx.x ^ unsigned(distance)) % 32);
  memcpy(&value, &bits, sizeof(V));
  return value;
}

inline void __threadfence() {}  // blocks run one after another
inline unsigned atomicAdd(unsigned* at, unsigned value) {
  const unsigned before = *at;
  *at += value;
  return before;
}
template <class T>
T __ldca(const T* from) {
  return *from;
}
template <class T>
T __ldcg(const T* from) {
  return *from;
}

template <class W>
void __stwb(W* to, W words) {
  *to = words;
}
