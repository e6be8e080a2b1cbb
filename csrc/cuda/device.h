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
#define FUSESTEP_NOINLINE __noinline__
#define FUSESTEP_UNROLL _Pragma("unroll")
#endif

FUSESTEP_TARGET_BEGIN

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of every block
constexpr unsigned kWholeWarp = 0xffffffffu;

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

#if defined(FUSESTEP_EMULATOR)

template <class Kernel, class Params>
void launch(Kernel kernel, int64_t blocks, void*, const Params& params) {
  const auto thread = [&] { kernel(params); };
  emulator::run(
      unsigned(blocks), kThreads, [](const void* body) { (*static_cast<decltype(thread)*>(body))(); },
      &thread);
}

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

template <class Kernel, class Params>
void launch(Kernel kernel, int64_t blocks, void* stream, const Params& params) {
  // Toolkits before 12.1 allow 4 KB of parameters.
  static_assert(sizeof(Params) <= 4000, "kernel parameters are too large");
  void* arguments[] = {const_cast<Params*>(&params)};
  cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(unsigned(blocks)), dim3(kThreads), arguments,
                   0, static_cast<cudaStream_t>(stream));
  check(cudaGetLastError());
}

#endif

FUSESTEP_TARGET_END
