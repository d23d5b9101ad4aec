// device.h: where tensors live and kernels run. A Device owns its threads and its arena; nothing is global,
// so several ranks fit in one process.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/base/parallel.h"
#include "kernels/tensor/arena.h"

namespace rookery {

enum class DeviceType : uint8_t {
  kCpu,
  kMeta,  // shapes only: kernels are skipped, memory is counted and never touched
};

// Instruction set of the cpu kernels; the order is that of the kernel tables (kernels/ops/backend.h).
enum class CpuIsa : uint8_t { kPortable, kAvx2, kAvx512 };
std::string to_string(CpuIsa isa);
CpuIsa best_cpu_isa();  // what this processor has
bool cpu_isa_available(CpuIsa isa);
bool cpu_has_bf16();  // AVX512-BF16 or AMX-BF16: matrix products in bf16 are fast
// Reads ROOKERY_ISA (portable | avx2 | avx512) where set, else best_cpu_isa(); throws on an unknown or
// missing one.
CpuIsa selected_cpu_isa();

// How linear layers multiply float32 matrices (precision: fp32 | bf16).
enum class MatmulPrecision : uint8_t { kFull, kBf16 };

class Device {
 public:
  // num_threads 0: all cores of this process, at most kMaxThreads.
  explicit Device(DeviceType type = DeviceType::kCpu, int num_threads = 0, CpuIsa isa = selected_cpu_isa());

  DeviceType type() const { return type_; }
  CpuIsa isa() const { return isa_; }
  ThreadPool& pool() { return pool_; }
  Arena& arena() { return arena_; }
  MatmulPrecision matmul_precision = MatmulPrecision::kFull;

 private:
  DeviceType type_;
  CpuIsa isa_;
  ThreadPool pool_;
  Arena arena_;
};

}  // namespace rookery
