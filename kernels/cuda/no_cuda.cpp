// no_cuda.cpp: the GPU of a build without CUDA (kernels/cuda/device.h, blas.h).
#include "kernels/base/error.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/device.h"

namespace rookery::cuda {

Runtime inspect() {
  Runtime runtime;
  diagnose(runtime);
  return runtime;
}

std::unique_ptr<Device> make_device(const DeviceOptions&) {
  const Runtime runtime = inspect();
  fail(ExitCode::kUnavailable, runtime.problem_id, "device: cuda: ", runtime.problem);
}

Trial try_gpu(int) { return {.refusal = inspect().problem}; }

std::string blas_version() {
  const Runtime runtime = inspect();
  fail(ExitCode::kUnavailable, runtime.problem_id, "cuBLASLt: ", runtime.problem);
}

void product(Device&, const Product&) { RK_CHECK(false, "[product] this build has no CUDA"); }

}  // namespace rookery::cuda
