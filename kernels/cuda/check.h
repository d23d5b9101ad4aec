// check.h: every call of the CUDA libraries goes through one of these macros; what fails is named with its
// arguments as they stand in the source.
#pragma once

#include <cuda_runtime_api.h>

#include <source_location>

namespace rookery::cuda {

// Throws Error: kInternal where a kernel or an argument of ours is at fault, else kUnavailable.
[[noreturn]] void call_failed(const char* call, cudaError_t error,
                              std::source_location where = std::source_location::current());

}  // namespace rookery::cuda

#define RK_CUDA(call)                                                              \
  do {                                                                             \
    if (const cudaError_t rk_error = (call); rk_error != cudaSuccess) [[unlikely]] \
      ::rookery::cuda::call_failed(#call, rk_error);                               \
  } while (false)
