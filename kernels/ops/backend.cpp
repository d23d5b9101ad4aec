// backend.cpp: what is said where a kernel is missing (kernels/ops/backend.h).
#include "kernels/ops/backend.h"

#include "kernels/base/error.h"

namespace rookery {

void refuse_device(const char* operation, const Device& device) {
  fail(ExitCode::kUnavailable, kNoKernel, "operation ", operation, ": found no kernel for device ",
       device.target(), ", expected one; mend it by device: cpu");
}

void check_cpu(const char* operation, const Device& device) {
  if (device.target() != DeviceType::kCpu) refuse_device(operation, device);
}

}  // namespace rookery
