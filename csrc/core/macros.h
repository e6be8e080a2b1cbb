// Qualifiers and the per-target namespace: the only place that asks which compiler is reading.
#pragma once

#if defined(__CUDACC__)
#define FUSESTEP_HD __host__ __device__ __forceinline__
#else
#define FUSESTEP_HD inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define FUSESTEP_NO_UNROLL _Pragma("unroll 1")
#else
#define FUSESTEP_NO_UNROLL
#endif

// Everything with code in it is compiled several times: once per CPU instruction set, once for CUDA,
// once for the emulator. Each copy lives in a namespace of its own, because an inline function shared
// by two objects is merged by the linker, and the copy it keeps may be the one with AVX-512 in it.
#ifndef FUSESTEP_TARGET
#define FUSESTEP_TARGET generic
#endif

#define FUSESTEP_TARGET_BEGIN \
  namespace fusestep {        \
  inline namespace FUSESTEP_TARGET {
#define FUSESTEP_TARGET_END \
  }                         \
  }
