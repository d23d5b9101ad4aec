// device.cpp: what the processor can do.
#include "kernels/tensor/device.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "kernels/base/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace rookery {
namespace {

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::clamp(CPU_COUNT(&set), 1, kMaxThreads);
  return 1;
}

}  // namespace

std::string to_string(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable:
      return "portable";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
  }
  return "?";
}

bool cpu_isa_available(CpuIsa isa) {
#if defined(__x86_64__)
  if (isa == CpuIsa::kAvx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  if (isa == CpuIsa::kAvx512) return __builtin_cpu_supports("x86-64-v4");
#endif
  return isa == CpuIsa::kPortable;
}

CpuIsa best_cpu_isa() {
  if (cpu_isa_available(CpuIsa::kAvx512)) return CpuIsa::kAvx512;
  if (cpu_isa_available(CpuIsa::kAvx2)) return CpuIsa::kAvx2;
  return CpuIsa::kPortable;
}

bool cpu_has_bf16() {
#if defined(__x86_64__)
  if (!cpu_isa_available(CpuIsa::kAvx512)) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5))) return true;   // AVX512_BF16
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 22))) return true;  // AMX-BF16
#endif
  return false;
}

CpuIsa selected_cpu_isa() {
  const char* wish = std::getenv("ROOKERY_ISA");
  if (wish == nullptr || *wish == '\0') return best_cpu_isa();
  for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (to_string(isa) != wish) continue;
    if (!cpu_isa_available(isa))
      fail(ExitCode::kUnavailable, "CPU-02", "ROOKERY_ISA=", wish,
           ": this processor does not have it; unset the variable");
    return isa;
  }
  fail(ExitCode::kUsage, "CPU-01", "ROOKERY_ISA=", wish, ": expected portable, avx2 or avx512");
}

std::string to_string(DeviceType type) {
  switch (type) {
    case DeviceType::kCpu:
      return "cpu";
    case DeviceType::kEmul:
      return "emul";
    case DeviceType::kCuda:
      return "cuda";
    case DeviceType::kMeta:
      return "meta";
  }
  return "?";
}

Device::Device(DeviceType type, int num_threads, CpuIsa isa)
    : type_(type),
      isa_(isa),
      pool_(num_threads > 0 ? num_threads : available_cores()),
      arena_(type == DeviceType::kMeta ? Arena::Memory::kAddressesOnly : Arena::Memory::kReal) {
  RK_CHECK(type != DeviceType::kCuda, "[Device] cuda needs an accelerator");
}

Device::Device(std::unique_ptr<Accelerator> accelerator, int num_threads)
    : type_(DeviceType::kCuda),
      isa_(selected_cpu_isa()),
      pool_(num_threads > 0 ? num_threads : available_cores()),
      accelerator_(std::move(accelerator)),
      arena_(*accelerator_) {}

Accelerator& Device::accelerator() const {
  RK_CHECK(accelerator_ != nullptr, "[Device] ", type_, " has no accelerator");
  return *accelerator_;
}

std::unique_ptr<Replay> Device::capture(std::function<void()> work) {
  if (accelerator_) return accelerator_->capture(work);
  struct Again : Replay {
    explicit Again(std::function<void()> body) : work(std::move(body)) {}
    void run() override { work(); }
    std::function<void()> work;
  };
  return std::make_unique<Again>(std::move(work));
}

}  // namespace rookery
