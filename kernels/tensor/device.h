// device.h: where tensors live and kernels run. A Device owns its threads and its arena; nothing is global,
// so several ranks fit in one process.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/base/parallel.h"
#include "kernels/tensor/accelerator.h"
#include "kernels/tensor/arena.h"
#include "kernels/tensor/profile.h"

namespace rookery {

enum class DeviceType : uint8_t {
  kCpu,
  kEmul,  // the kernels of kCuda as C++ on host memory (kernels/emul): for tests
  kCuda,
  kMeta,  // shapes only: kernels are skipped, memory is counted and never touched
};
std::string to_string(DeviceType type);  // "cpu"

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
  // Any type but kCuda. num_threads 0: all cores of this process, at most kMaxThreads.
  explicit Device(DeviceType type = DeviceType::kCpu, int num_threads = 0, CpuIsa isa = selected_cpu_isa());

  // A kCuda device (kernels/cuda/device.h makes the accelerator).
  explicit Device(std::unique_ptr<Accelerator> accelerator, int num_threads = 0);

  DeviceType type() const { return type_; }
  bool on_host() const { return type_ != DeviceType::kCuda; }  // the host can read and write its memory
  Accelerator& accelerator() const;                            // of kCuda only
  void* native_stream() const { return accelerator_ ? accelerator_->stream() : nullptr; }
  CpuIsa isa() const { return isa_; }
  ThreadPool& pool() { return pool_; }
  int num_threads() const { return pool_.num_threads(); }
  Arena& arena() { return arena_; }
  const Arena& arena() const { return arena_; }
  MatmulPrecision matmul_precision = MatmulPrecision::kFull;

  // Of kMeta: the device whose step it foretells. An op that takes other scratch there asks target().
  DeviceType plans_for = DeviceType::kCpu;
  DeviceType target() const { return type_ == DeviceType::kMeta ? plans_for : type_; }

  Profile* profile = nullptr;  // what listens to Range; set by the Profile itself
  // `work`, to be run by the result as often as wanted: on kCuda and kEmul what it launches, noted once as a
  // graph with all numbers and addresses as they are now (its memory must come from a plan of the arena that
  // is replayed); elsewhere the function itself.
  std::unique_ptr<Replay> capture(std::function<void()> work);

  // What the stream is to kCuda, for devices on the host: `work`, which reads and writes memory of the device
  // by its address, is done now, or noted where a capture is under way.
  template <class Work>
  void submit(Work work) const {
    if (noted_ == nullptr) return work();
    noted_->emplace_back(std::move(work));
  }
  // Of what the host does now with memory of the device: throws Error (kInternal) in a capture.
  void refuse_in_capture(const char* why) const;

 private:
  DeviceType type_;
  CpuIsa isa_;
  ThreadPool pool_;
  std::unique_ptr<Accelerator> accelerator_;
  std::vector<std::function<void()>>* noted_ = nullptr;  // of the capture that is under way on kEmul
  Arena arena_;                                          // after what it takes its memory from
};

// While it lives, what the device is told to do has this name in profiles: in those of NVIDIA's tools, and in
// a Profile of this device.
class Range {
 public:
  Range(const Device& device, std::string_view name, Profile::Kind kind = Profile::Kind::kKernel)
      : accelerator_(device.on_host() ? nullptr : &device.accelerator()), profile_(device.profile) {
    if (accelerator_) accelerator_->begin_range(std::string(name));
    if (profile_) profile_->begin(name, kind);
  }
  ~Range() {
    if (profile_) profile_->end();
    if (accelerator_) accelerator_->end_range();
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  Accelerator* accelerator_;
  Profile* profile_;
};

}  // namespace rookery
