#include "kernels/cuda/check.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>

#include "kernels/base/error.h"

namespace rookery::cuda {
namespace {

std::string name_of(const void* kernel) {
  const char* mangled = nullptr;
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess || mangled == nullptr) return "a kernel";
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
  return status == 0 ? name.get() : mangled;
}

std::string shape_of(const cudaLaunchConfig_t& c) {
  return str("blocks ", c.gridDim.x, " x ", c.gridDim.y, " x ", c.gridDim.z, " of ",
             c.blockDim.x * c.blockDim.y * c.blockDim.z, " threads, ", c.dynamicSmemBytes,
             " bytes of shared memory");
}

}  // namespace

void call_failed(const char* call, cudaError_t error, std::source_location where) {
  const bool ours = error == cudaErrorIllegalAddress || error == cudaErrorMisalignedAddress ||
                    error == cudaErrorLaunchFailure || error == cudaErrorInvalidValue ||
                    error == cudaErrorInvalidConfiguration || error == cudaErrorAssert ||
                    error == cudaErrorLaunchOutOfResources || error == cudaErrorInvalidResourceHandle;
  throw Error(
      ours ? ExitCode::kInternal : ExitCode::kUnavailable, ours ? "" : "CUDA-01",
      str(call, ": found ", cudaGetErrorName(error), " (", cudaGetErrorString(error), "), expected success",
          ours ? "; an error of a kernel shows at a later call: compute-sanitizer names the kernel"
               : "; `rookery doctor` tells what the driver sees"),
      where);
}

void launch_failed(const void* kernel, const cudaLaunchConfig_t& config, cudaError_t error) {
  call_failed(str("launch of ", name_of(kernel), " (", shape_of(config), ")").c_str(), error);
}

void allow_shared_memory(const void* kernel, const cudaLaunchConfig_t& config) {
  int gpu = 0, most = 0;
  RK_CUDA(cudaGetDevice(&gpu));
  RK_CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, gpu));
  if (config.dynamicSmemBytes > static_cast<size_t>(most))
    fail(ExitCode::kUnavailable, "DEV-01", name_of(kernel), ": found a GPU that gives ", most,
         " bytes of shared memory to a block, expected ", config.dynamicSmemBytes,
         "; use a GPU of compute capability 8.0 or 9.0, or device: cpu");
  RK_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
}

}  // namespace rookery::cuda
