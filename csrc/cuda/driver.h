// Whether a machine can run what was compiled here: known before anything is launched, so that a call can
// still go elsewhere. Nothing is set up on a device to find out.
#pragma once

#include <stdio.h>

#include <atomic>

#include "cuda/device.h"

FUSESTEP_TARGET_BEGIN

#if defined(FUSESTEP_EMULATOR)

inline const char* why_unusable(int) { return nullptr; }

#else

// A driver serves all toolkits of its major version; kernel parameters beyond 4 KB came with 12.1.
constexpr int kToolkit = CUDART_VERSION / 1000 * 1000, kLeastDriver = kToolkit < 12010 ? 12010 : kToolkit;
constexpr int kArchitectures[] = {__CUDA_ARCH_LIST__};  // the oldest first, as 750

inline const char* why_no_driver() {
  static char message[96];
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return "there is no CUDA driver";
  if (driver >= kLeastDriver) return nullptr;
  snprintf(message, sizeof(message), "the driver is too old: it serves CUDA %d.%d, and %d.%d is needed",
           driver / 1000, driver % 1000 / 10, kLeastDriver / 1000, kLeastDriver % 1000 / 10);
  return message;
}

inline const char* why_no_device(int device) {
  static thread_local char message[96];
  int major = 0, minor = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) {
    cudaGetLastError();  // forgotten
    return cudaGetErrorString(error);
  }
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (major * 100 + minor * 10 >= kArchitectures[0]) return nullptr;
  snprintf(message, sizeof(message), "device %d has compute capability %d.%d, and %d.%d is needed", device,
           major, minor, kArchitectures[0] / 100, kArchitectures[0] % 100 / 10);
  return message;
}

// Null if kernels can run on a device. Asked before each launch, so a yes is remembered.
inline const char* why_unusable(int device) {
  static std::atomic<uint64_t> usable{0};
  const uint64_t bit = device >= 0 && device < 64 ? uint64_t(1) << device : 0;
  if ((usable.load(std::memory_order_relaxed) & bit) != 0) return nullptr;
  static const char* const driver = why_no_driver();
  const char* const reason = driver != nullptr ? driver : why_no_device(device);
  if (reason == nullptr) usable.fetch_or(bit, std::memory_order_relaxed);
  return reason;
}

#endif

FUSESTEP_TARGET_END
