#include "trainer/loop/device.h"

#include <cstdlib>

#include "kernels/cuda/device.h"
#include "kernels/ops/backend.h"
#include "trainer/loop/memory_plan.h"

namespace rookery::loop {
namespace {

// What was measured on a machine and may be lost.
std::filesystem::path cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/')
    return std::filesystem::path(cache) / "rookery";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/')
    return std::filesystem::path(home) / ".cache" / "rookery";
  return {};
}

}  // namespace

std::string missing_kernel(const config::RunConfig& config, DeviceType target) {
  try {
    plan_memory(config, target);
  } catch (const Error& e) {
    if (e.id() != kNoKernel) throw;
    return e.what();
  }
  return "";
}

std::unique_ptr<Device> make_device(const config::RunConfig& config) {
  const int threads = static_cast<int>(config.threads);
  if (config.device == "cuda") {
    cuda::DeviceOptions options;
    options.num_threads = threads;
    options.cache = cache_folder();
    const auto device = cuda::make_device(options);
    const std::string missing = missing_kernel(config, DeviceType::kCuda);
    if (!missing.empty()) fail(ExitCode::kUnavailable, kNoKernel, "device: cuda: ", missing);
    // Batches, checkpoints and reports still pass through tensors as memory of the host.
    fail(ExitCode::kUnavailable, kNoKernel,
         "device: cuda: found every kernel, but a training loop that works on memory of the host alone; "
         "mend it by device: cpu");
  }
  return std::make_unique<Device>(DeviceType::kCpu, threads);
}

}  // namespace rookery::loop
