#include "trainer/loop/device.h"

#include <cstdlib>

#include "kernels/cuda/device.h"
#include "kernels/ops/backend.h"
#include "trainer/loop/memory_plan.h"
#include "trainer/loop/peak.h"

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

DeviceType device_type(const config::RunConfig& config) {
  if (config.device == "cuda") return DeviceType::kCuda;
  // auto as well: training on a GPU must be asked for as long as docs/gpu-results.md has not seen it.
  return config.device == "emul" ? DeviceType::kEmul : DeviceType::kCpu;
}

double known_peak_tflops(const Device& device) {
  if (device.on_host()) return 0;
  const std::string name = device.accelerator().name();
  for (const cuda::Gpu& gpu : cuda::inspect().gpus)
    if (gpu.name == name) return known_peak_tflops(name, gpu.multiprocessors);
  return 0;
}

std::unique_ptr<Device> open_device(const config::RunConfig& config, DeviceType type) {
  const int threads = static_cast<int>(config.threads);
  if (type != DeviceType::kCuda) return std::make_unique<Device>(type, threads);
  cuda::DeviceOptions options;
  options.num_threads = threads;
  options.cache = cache_folder();
  options.deterministic = config.deterministic;
  return cuda::make_device(options);
}

std::unique_ptr<Device> make_device(const config::RunConfig& config) {
  const DeviceType type = device_type(config);
  auto device = open_device(config, type);
  if (type != DeviceType::kCpu) {
    const std::string missing = missing_kernel(config, type);
    if (!missing.empty()) fail(ExitCode::kUnavailable, kNoKernel, "device: ", config.device, ": ", missing);
  }
  return device;
}

}  // namespace rookery::loop
