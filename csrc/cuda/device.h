// What the engine takes from CUDA, for two readers: nvcc, and the host compiler, for which the emulator
// of the tests plays the device. The only file that asks which.
#pragma once

#include "core/op_table.h"

#if defined(FUSESTEP_EMULATOR)
#include "emulator.h"
#define FUSESTEP_UNROLL
#else
#include <cuda_runtime.h>
#define FUSESTEP_SHARED(type, name, size) __shared__ type name[size]
#define FUSESTEP_DYNAMIC_SHARED(name) extern __shared__ uint4 name[]
#define FUSESTEP_NOINLINE __noinline__
#define FUSESTEP_UNROLL _Pragma("unroll")
#endif

FUSESTEP_TARGET_BEGIN

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block, but where a kernel says otherwise
constexpr unsigned kWholeWarp = 0xffffffffu;

// Bytes that the parameters of a kernel may have: 32764 from CUDA 12.1 on. Few for the emulator, so that the
// tests' calls take several launches.
constexpr int kLargeParamBytes = 32512;
#if !defined(FUSESTEP_EMULATOR) && CUDART_VERSION >= 12010
constexpr int kParamBytes = kLargeParamBytes;
#else
constexpr int kParamBytes = 4000;
#endif

// NOTE [grid]: blocks of a launch, and so partial sums, are at most this many; kernels stride over what
// is left. The cut depends on sizes alone, never on the device, so results are the same on all of them.
#if defined(FUSESTEP_EMULATOR)
constexpr int64_t kMaxBlocks = 8;  // few, so that the tests' sizes take several turns
#else
constexpr int64_t kMaxBlocks = 4096;  // several waves of the largest device
#endif

inline int64_t blocks_for(int64_t work, int64_t work_per_block) {
  const int64_t blocks = (work + work_per_block - 1) / work_per_block;
  return blocks < kMaxBlocks ? blocks : kMaxBlocks;
}

struct Grid {
  int64_t blocks;
  int threads = kThreads;
  int64_t shared = 0;  // bytes of dynamic shared memory

  Grid(int64_t blocks_) : blocks(blocks_) {}
  Grid(int64_t blocks_, int threads_, int64_t shared_)
      : blocks(blocks_), threads(threads_), shared(shared_) {}
};

#if defined(FUSESTEP_EMULATOR)

template <class Kernel, class Params>
void launch(Kernel kernel, Grid grid, void*, const Params& params) {
  const auto thread = [&] { kernel(params); };
  emulator::run(
      {unsigned(grid.blocks), grid.threads, size_t(grid.shared)},
      [](const void* body) { (*static_cast<decltype(thread)*>(body))(); }, &thread);
}

inline void zero(void* memory, size_t bytes, void*) { memset(memory, 0, bytes); }
inline int64_t most_shared() { return 2048; }
inline const char* take_error() { return nullptr; }
inline int enter_device(int) { return 0; }

#else

// The first failure since it was last asked for. A launch does not throw: the caller, on its way back
// to Python, asks.
inline cudaError_t& first_error() {
  static thread_local cudaError_t error = cudaSuccess;
  return error;
}

inline void check(cudaError_t error) {
  if (first_error() == cudaSuccess) first_error() = error;
}

inline const char* take_error() {
  const cudaError_t error = first_error();
  first_error() = cudaSuccess;
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

inline int enter_device(int index) {
  int before = index;
  check(cudaGetDevice(&before));
  if (before != index) check(cudaSetDevice(index));
  return before;
}

constexpr int64_t kAlwaysShared = 48 << 10;  // bytes of shared memory that need no permission

template <class Kernel, class Params>
void launch(Kernel kernel, Grid grid, void* stream, const Params& params) {
  static_assert(sizeof(Params) <= kParamBytes, "kernel parameters are too large");
  const void* const function = reinterpret_cast<const void*>(kernel);
  if (grid.shared > kAlwaysShared) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(grid.shared)));
  }
  void* arguments[] = {const_cast<Params*>(&params)};
  cudaLaunchKernel(function, dim3(unsigned(grid.blocks)), dim3(unsigned(grid.threads)), arguments,
                   size_t(grid.shared), static_cast<cudaStream_t>(stream));
  check(cudaGetLastError());
}

inline void zero(void* memory, size_t bytes, void* stream) {
  check(cudaMemsetAsync(memory, 0, bytes, static_cast<cudaStream_t>(stream)));
}

// Bytes of shared memory that a block of the current device may have, but for what kernels declare.
inline int64_t most_shared() {
  int device = 0, bytes = int(kAlwaysShared);
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes - 2048;
}

#endif

FUSESTEP_TARGET_END
