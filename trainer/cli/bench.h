// bench.h: what the benchmarks share.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace rookery::cli {

double median(std::vector<double> values);  // at least one

struct StepSizes {
  std::string arch, precision, graph, recompute;
  int64_t layers, hidden, batch, seq_len, vocab, threads, repeat;
};
// `rookery bench step` on "cuda" or "emul" (bench_gpu_step.cpp).
int bench_gpu_step(const StepSizes& sizes, const std::string& device, bool json);

// A gpu-check.json of `rookery bench report` that tells of a GPU. Throws Error kData BENCH-04, kNoInput.
nlohmann::json read_gpu_check(const std::filesystem::path& path);

}  // namespace rookery::cli
