// backend.cpp: what is said where a kernel is missing (kernels/ops/backend.h).
#include "kernels/ops/backend.h"

#include <algorithm>

#include "kernels/base/error.h"

namespace rookery {

void refuse_device(const char* operation, const Device& device) {
  fail(ExitCode::kUnavailable, kNoKernel, "operation ", operation, ": found no kernel for device ",
       device.target(), ", expected one; mend it by device: cpu");
}

void check_cpu(const char* operation, const Device& device) {
  if (device.target() != DeviceType::kCpu) refuse_device(operation, device);
}

int64_t sum_parts(Device& device, int64_t rows) {
  if (device.target() == DeviceType::kCpu) return device.pool().num_threads();
  constexpr int64_t kRows = 16, kMost = 512;  // enough to fill a GPU, few enough to add up
  return std::clamp<int64_t>(rows / kRows, 1, kMost);
}

}  // namespace rookery
