// device.h: GPUs as devices. In a build without CUDA (no_cuda.cpp) there are none, and the errors say so.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor/device.h"

namespace rookery::cuda {

enum class ComputeMode : uint8_t { kDefault, kExclusive, kProhibited };  // of `nvidia-smi -c`

struct Gpu {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  size_t total_bytes = 0;
  int multiprocessors = 0;
  double clock_hz = 0;
  ComputeMode mode = ComputeMode::kDefault;
  std::string problem;  // why this build cannot use it; empty: it can
  std::string uuid;     // "GPU-6b8f..", like no other
};

// What the driver says. Versions as CUDA writes them: 13020 is 13.2; 0: none.
struct Runtime {
  bool built = false;  // this build has CUDA
  int toolkit = 0, driver = 0;
  std::string architectures;  // that kernels were built for: "90a"
  std::vector<Gpu> gpus;
  std::string refusal;     // what the driver answered where it gave no GPU; empty: nothing
  std::string problem;     // why there is no GPU to use; empty: there is one
  std::string problem_id;  // DEV-02 to DEV-05
};
Runtime inspect();                      // never throws
std::string version_text(int version);  // "13.2"

// What a GPU answers when a process begins to use it.
struct Trial {
  size_t free_bytes = 0;
  bool out_of_memory = false;
  std::string refusal;  // what the driver answered instead; empty: it can be used
};
Trial try_gpu(int index);  // makes a context, never throws

// What is worth knowing of a GPU that this build has kernels for, with what to do about it.
struct Finding {
  std::string text;
  bool fatal;  // it cannot be used
};
std::vector<Finding> findings(const Gpu& gpu, const Trial& trial);

// Of cuBLASLt, as found: "13.0.2". Throws Error kUnavailable CUDA-02.
std::string blas_version();

// The GPU of a rank, by its place among the ranks of this machine. One that is alone is everybody's:
// launchers show each rank its own. `visible`: CUDA_VISIBLE_DEVICES, null where it is not set. Throws Error
// kUnavailable COMM-08 with what was seen.
Gpu gpu_of_rank(const Runtime& runtime, int local_rank, const char* visible);

struct DeviceOptions {
  int index = 0;
  int num_threads = 0;         // of the host
  bool deterministic = false;  // matrix products by the library's first choice, not by what was faster here
  std::filesystem::path cache = {};  // folder for what was measured; empty: measure again in each process
};
// Throws Error kUnavailable DEV-02 (no GPU), DEV-03 (the driver is older than the toolkit), DEV-04
// (architecture or compute mode), DEV-05 (built without CUDA), DEV-06 (no such index).
std::unique_ptr<Device> make_device(const DeviceOptions& options);

// Does the driver have to translate kernels built for `architectures` for compute capability major.minor?
bool translated(std::string_view architectures, int major, int minor);
// Do kernels built for `architectures` ("80;90a", as CMake has them) run on compute capability major.minor?
bool runs_on(std::string_view architectures, int major, int minor);
// Fills `problem` and `problem_id`, and those of the gpus, from the rest.
void diagnose(Runtime& runtime);

}  // namespace rookery::cuda
