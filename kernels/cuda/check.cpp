#include "kernels/cuda/check.h"

#include "kernels/base/error.h"

namespace rookery::cuda {

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

}  // namespace rookery::cuda
