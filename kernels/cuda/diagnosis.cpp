// diagnosis.cpp: what is wrong with the GPUs of a machine, from what the driver says: no call of CUDA, so
// every build can test it.
#include <charconv>

#include "kernels/base/error.h"
#include "kernels/cuda/device.h"

namespace rookery::cuda {

std::string version_text(int version) { return str(version / 1000, ".", version % 1000 / 10); }

namespace {

enum class Code : uint8_t { kNone, kTranslated, kMachine };

// "90a" is machine code for 9.0 alone; "80" and "80-real" are machine code for 8.0 and later 8.x, and "80"
// and "80-virtual" hold what the driver translates for anything later.
Code code_for(std::string_view architectures, int major, int minor) {
  Code best = Code::kNone;
  while (!architectures.empty()) {
    const size_t end = std::min(architectures.find(';'), architectures.size());
    const std::string_view one = architectures.substr(0, end);
    architectures.remove_prefix(std::min(end + 1, architectures.size()));
    int number = 0;
    const auto [rest, error] = std::from_chars(one.data(), one.data() + one.size(), number);
    if (error != std::errc()) continue;
    const std::string_view kind(rest, static_cast<size_t>(one.data() + one.size() - rest));
    const int found = major * 10 + minor;
    if (found < number || (kind.starts_with("a") && found > number)) continue;
    const bool same = major == number / 10;
    if (same && kind != "-virtual") return Code::kMachine;
    if (kind != "-real" && !kind.starts_with("f")) best = Code::kTranslated;
  }
  return best;
}

std::string gib(size_t bytes) {
  const size_t tenths = bytes / ((size_t{1} << 30) / 10);
  return str(tenths / 10, ".", tenths % 10, " GiB");
}

// Why a GPU that the driver shows is not for this build; empty: it is.
std::string problem_of(const Gpu& gpu, const Runtime& r) {
  const std::string capability = str("compute capability ", gpu.major, ".", gpu.minor);
  if (!runs_on(r.architectures, gpu.major, gpu.minor))
    return str(capability, ", kernels are built for ", r.architectures,
               "; build with -DCMAKE_CUDA_ARCHITECTURES=", gpu.major, gpu.minor, gpu.major >= 9 ? "a" : "");
  if (r.driver < r.toolkit && translated(r.architectures, gpu.major, gpu.minor))
    return str(capability, ", for which the driver has to translate kernels of CUDA ",
               version_text(r.toolkit), ", and it is for ", version_text(r.driver),
               "; update it, or build with -DCMAKE_CUDA_ARCHITECTURES=", gpu.major, gpu.minor);
  if (gpu.mode == ComputeMode::kProhibited)
    return str("compute mode Prohibited, in which no process may use it; mend it by `nvidia-smi -i ",
               gpu.index, " -c DEFAULT` as root");
  return "";
}

}  // namespace

bool runs_on(std::string_view architectures, int major, int minor) {
  return code_for(architectures, major, minor) != Code::kNone;
}

bool translated(std::string_view architectures, int major, int minor) {
  return code_for(architectures, major, minor) == Code::kTranslated;
}

std::vector<Finding> findings(const Gpu& gpu, const Trial& trial) {
  std::vector<Finding> found;
  if (gpu.name.find(" MIG ") != std::string::npos)
    found.push_back(
        {"a MIG slice, whose memory, multiprocessors and peak are a part of the GPU's; for the "
         "whole of it switch MIG off (`nvidia-smi -mig 0` as root)",
         false});
  const std::string others =
      "nvidia-smi shows who holds it: end that, or choose another GPU with CUDA_VISIBLE_DEVICES";
  constexpr size_t kLeast = size_t{1} << 30;  // the library of matrix products and a small model
  if (trial.out_of_memory || (trial.refusal.empty() && trial.free_bytes < kLeast)) {
    found.push_back({str("found ", gib(trial.free_bytes), " of ", gib(gpu.total_bytes),
                         " free, expected at least ", gib(kLeast), "; ", others),
                     true});
  } else if (!trial.refusal.empty() && gpu.mode == ComputeMode::kExclusive) {
    found.push_back({str("compute mode Exclusive_Process, and another process has it (", trial.refusal, "); ",
                         others, ", or set `nvidia-smi -i ", gpu.index, " -c DEFAULT` as root"),
                     true});
  } else if (!trial.refusal.empty()) {
    found.push_back({str("it cannot be used (", trial.refusal,
                         "); look at nvidia-smi and at what the kernel says (dmesg, lines with Xid)"),
                     true});
  } else if (gpu.mode == ComputeMode::kExclusive) {
    found.push_back({"compute mode Exclusive_Process: one process at a time", false});
  }
  return found;
}

void diagnose(Runtime& r) {
  auto found = [&](const char* id, std::string problem) {
    r.problem_id = id;
    r.problem = std::move(problem);
  };
  found("", "");
  for (Gpu& gpu : r.gpus) gpu.problem = problem_of(gpu, r);
  if (!r.built) {
    found("DEV-05", "this build has no CUDA; install the CUDA toolkit 13 and build with -DROOKERY_CUDA=ON");
  } else if (r.driver == 0) {
    found("DEV-02", "found no NVIDIA driver; install one, or use device: cpu");
  } else if (r.driver / 1000 < r.toolkit / 1000) {
    found("DEV-03", str("found a driver for CUDA ", version_text(r.driver), ", the program is built with ",
                        version_text(r.toolkit), "; update the driver, or build with an older toolkit"));
  } else if (r.gpus.empty()) {
    found("DEV-02", str("the driver shows no GPU", r.refusal.empty() ? "" : str(" (", r.refusal, ")"),
                        "; look at nvidia-smi (with MIG on, a slice must be made) and CUDA_VISIBLE_DEVICES, "
                        "or use device: cpu"));
  } else {
    for (const Gpu& gpu : r.gpus)
      if (gpu.problem.empty()) return;
    found("DEV-04", str("GPU 0 (", r.gpus[0].name, ") has ", r.gpus[0].problem));
  }
}

Gpu gpu_of_rank(const Runtime& r, int local_rank, const char* visible) {
  const std::string seen = str("; CUDA_VISIBLE_DEVICES is ", visible ? str("'", visible, "'") : "not set",
                               ", GPUs are ", r.gpus.size());
  if (!r.problem.empty())
    fail(ExitCode::kUnavailable, "COMM-08", "local rank ", local_rank, ": ", r.problem, seen);
  const size_t index = r.gpus.size() == 1 ? 0 : static_cast<size_t>(local_rank);
  if (index >= r.gpus.size())
    fail(ExitCode::kUnavailable, "COMM-08", "local rank ", local_rank, ": expected a GPU ", local_rank, seen,
         "; start as many ranks on a machine as it has GPUs");
  const Gpu& gpu = r.gpus[index];
  if (gpu.name.find("MIG") != std::string::npos && local_rank > 0)
    fail(ExitCode::kUnavailable, "COMM-08", "local rank ", local_rank, ": found ", gpu.name,
         ", a slice of a GPU, expected a whole GPU for each rank", seen,
         "; start one rank on it, or turn MIG off");
  if (!gpu.problem.empty())
    fail(ExitCode::kUnavailable, "COMM-08", "local rank ", local_rank, ": GPU ", gpu.index, " (", gpu.name,
         ") has ", gpu.problem, seen);
  return gpu;
}

}  // namespace rookery::cuda
