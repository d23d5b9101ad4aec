// check.h: every call of the CUDA libraries goes through one of these macros; what fails is named with its
// arguments as they stand in the source, a launch with its kernel and shape.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <source_location>

namespace rookery::cuda {

// Throws Error: kInternal where a kernel or an argument of ours is at fault, else kUnavailable.
[[noreturn]] void call_failed(const char* call, cudaError_t error,
                              std::source_location where = std::source_location::current());

// Of a kernel that could not be started, or of what ran before it: an error of a kernel shows later.
[[noreturn]] void launch_failed(const void* kernel, const cudaLaunchConfig_t& config, cudaError_t error);

// Shared memory that every GPU gives to a block of every kernel; a kernel is granted more, always the GPU's
// most, so that no launch takes from what another was granted. Throws Error kUnavailable DEV-01 where the GPU
// has less than the launch needs.
constexpr size_t kSharedBytesOfAll = 48 << 10;
void allow_shared_memory(const void* kernel, const cudaLaunchConfig_t& config);

}  // namespace rookery::cuda

#define RK_CUDA(call)                                                              \
  do {                                                                             \
    if (const cudaError_t rk_error = (call); rk_error != cudaSuccess) [[unlikely]] \
      ::rookery::cuda::call_failed(#call, rk_error);                               \
  } while (false)
