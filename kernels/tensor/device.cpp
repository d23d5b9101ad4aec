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
  struct Graph : Replay {
    void run() override {
      for (const auto& node : nodes) node();
    }
    std::vector<std::function<void()>> nodes;
  };
  auto graph = std::make_unique<Graph>();
  if (type_ != DeviceType::kEmul) {
    graph->nodes.push_back(std::move(work));
    return graph;
  }
  RK_CHECK(noted_ == nullptr, "[capture] inside another");
  struct Noting {
    explicit Noting(Device& d, std::vector<std::function<void()>>& nodes) : device(d) { note(&nodes); }
    ~Noting() { note(nullptr); }
    void note(std::vector<std::function<void()>>* nodes) {
      device.noted_ = nodes;
      device.arena_.may_grow(nodes == nullptr);
    }
    Device& device;
  } noting(*this, graph->nodes);
  work();
  return graph;
}

void Device::refuse_in_capture(const char* why) const { RK_CHECK(noted_ == nullptr, "[capture] ", why); }

}  // namespace rookery
