// diagnosis.cpp: what is wrong with the GPUs of a machine, from what the driver says: no call of CUDA, so
// every build can test it.
#include <charconv>

#include "kernels/base/error.h"
#include "kernels/cuda/device.h"

namespace rookery::cuda {

std::string version_text(int version) { return str(version / 1000, ".", version % 1000 / 10); }

// "90a" is machine code for 9.0 alone; "80" and "80-real" are machine code for 8.0 and later 8.x, and "80"
// and "80-virtual" hold what the driver translates for anything later.
bool runs_on(std::string_view architectures, int major, int minor) {
  while (!architectures.empty()) {
    const size_t end = std::min(architectures.find(';'), architectures.size());
    const std::string_view one = architectures.substr(0, end);
    architectures.remove_prefix(std::min(end + 1, architectures.size()));
    int number = 0;
    const auto [rest, error] = std::from_chars(one.data(), one.data() + one.size(), number);
    if (error != std::errc()) continue;
    const std::string_view kind(rest, static_cast<size_t>(one.data() + one.size() - rest));
    const int found = major * 10 + minor;
    if (kind.starts_with("a")) {
      if (found == number) return true;
    } else if (kind == "-real" || kind.starts_with("f")) {
      if (found >= number && major == number / 10) return true;
    } else if (found >= number) {
      return true;
    }
  }
  return false;
}

void diagnose(Runtime& r) {
  auto found = [&](const char* id, std::string problem) {
    r.problem_id = id;
    r.problem = std::move(problem);
  };
  for (Gpu& gpu : r.gpus)
    gpu.problem = runs_on(r.architectures, gpu.major, gpu.minor)
                      ? ""
                      : str("compute capability ", gpu.major, ".", gpu.minor, ", kernels are built for ",
                            r.architectures, "; build with -DCMAKE_CUDA_ARCHITECTURES=", gpu.major, gpu.minor,
                            gpu.major >= 9 ? "a" : "");
  if (!r.built) {
    found("DEV-05", "this build has no CUDA; install the CUDA toolkit 13 and build with -DROOKERY_CUDA=ON");
  } else if (r.driver == 0) {
    found("DEV-02", "found no NVIDIA driver; install one, or use device: cpu");
  } else if (r.driver / 1000 < r.toolkit / 1000) {
    found("DEV-03", str("found a driver for CUDA ", version_text(r.driver), ", the program is built with ",
                        version_text(r.toolkit), "; update the driver, or build with an older toolkit"));
  } else if (r.gpus.empty()) {
    found("DEV-02", str("the driver shows no GPU", r.refusal.empty() ? "" : str(" (", r.refusal, ")"),
                        "; look at nvidia-smi and CUDA_VISIBLE_DEVICES, or use device: cpu"));
  } else {
    for (const Gpu& gpu : r.gpus)
      if (gpu.problem.empty()) return;
    found("DEV-04", str("GPU 0 (", r.gpus[0].name, ") has ", r.gpus[0].problem));
  }
}

}  // namespace rookery::cuda
