// bench_load.cpp: `rookery bench load`: reading a large .pth tensor by tensor, beside plain reads of the same
// bytes, and the memory that it takes.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/base/io.h"
#include "trainer/checkpoint/foreign/pickle.h"
#include "trainer/checkpoint/foreign/tensor_file.h"
#include "trainer/checkpoint/foreign/values.h"
#include "trainer/checkpoint/foreign/zip_file.h"
#include "trainer/cli/commands.h"
#include "trainer/cli/terminal.h"
#include "trainer/models/rwkv6.h"

namespace rookery::cli {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBlockBytes = 4u << 20;

// Peak resident memory since the last reset, in bytes.
void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }
uint64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  uint64_t kib = 0;
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) std::sscanf(line.c_str(), "VmHWM: %lu", &kib);
  return kib * 1024;
}

// A Finch of 1.6B parameters in bf16, all zeros: a hole, where the file system has those.
void write_sample(const fs::path& path) {
  Rwkv6Config config;
  config.num_layers = 24;
  config.hidden_size = 2048;
  const auto model = make_rwkv6(config);
  std::vector<foreign::TensorInfo> tensors;
  for (const Parameter* p : model->parameters.all())
    tensors.push_back({p->name, foreign::Type::kBf16, foreign::Dims(p->global.begin(), p->global.end())});
  foreign::ZipWriter zip(path);
  zip.add("archive/data.pkl", foreign::pickle_tensors(tensors));
  for (size_t i = 0; i < tensors.size(); ++i) zip.add_zeros(str("archive/data/", i), tensors[i].bytes());
  zip.add("archive/version", "3\n");
  zip.finish();
}

double plain_read_seconds(const fs::path& path) {
  const io::InputFile file(path);
  std::vector<std::byte> buffer(kBlockBytes);
  const double begin = loop::steady_now();
  for (uint64_t at = 0; at < file.size(); at += kBlockBytes)
    file.read_at(at, std::span(buffer).first(std::min(kBlockBytes, file.size() - at)));
  return loop::steady_now() - begin;
}

struct Loaded {
  double seconds = 0;
  uint64_t bytes = 0, largest = 0, peak = 0;
  size_t tensors = 0;
};

// Every tensor as fp32, one after the other.
Loaded load(const fs::path& path) {
  Loaded l;
  reset_peak();
  const uint64_t before = peak_bytes();
  const double begin = loop::steady_now();
  const auto file = foreign::open_tensor_file(path);
  uint64_t most = 0;
  for (const foreign::TensorInfo& t : file->tensors()) {
    l.bytes += t.bytes();
    l.largest = std::max(l.largest, t.bytes());
    most = std::max(most, *foreign::numel_of(t.shape) * sizeof(float));
  }
  const auto values = std::make_unique_for_overwrite<std::byte[]>(most);
  for (size_t i = 0; i < file->tensors().size(); ++i) {
    const uint64_t bytes = *foreign::numel_of(file->tensors()[i].shape) * sizeof(float);
    foreign::read_values(*file, i, foreign::Type::kF32, {values.get(), bytes});
  }
  l.seconds = loop::steady_now() - begin;
  l.peak = peak_bytes() - before;
  l.tensors = file->tensors().size();
  return l;
}

int run(const Arguments& a) {
  fs::path path;
  const auto given = a.maybe("file");
  if (given) {
    path = *given;
  } else {
    path = io::temporary_beside(fs::path(a.text("dir")) / "bench-load.pth");
    write_sample(path);
  }
  double plain = 1e30;
  Loaded best;
  best.seconds = 1e30;
  try {
    for (int64_t i = 0; i < a.integer("repeat", 1, 100); ++i) {
      plain = std::min(plain, plain_read_seconds(path));
      if (const Loaded l = load(path); l.seconds < best.seconds) best = l;
    }
  } catch (...) {
    if (!given) fs::remove(path);
    throw;
  }
  if (!given) fs::remove(path);
  const double gb = double(best.bytes) / 1e9;
  if (a.flag("json")) {
    std::cout << nlohmann::json{{"tensors", best.tensors},
                                {"bytes", best.bytes},
                                {"load_seconds", best.seconds},
                                {"load_gb_per_s", gb / best.seconds},
                                {"plain_read_gb_per_s", gb / plain},
                                {"largest_tensor_bytes", best.largest},
                                {"peak_bytes", best.peak}}
                     .dump(2)
              << '\n';
    return 0;
  }
  std::printf("%zu tensors, %.2f GB\n", best.tensors, gb);
  std::printf("loaded as fp32        %6.2f s   %6.2f GB/s\n", best.seconds, gb / best.seconds);
  std::printf("the same bytes read   %6.2f s   %6.2f GB/s\n", plain, gb / plain);
  std::printf("peak memory           %6.1f MB, the largest tensor has %.1f MB: %.2f times\n",
              double(best.peak) / 1e6, double(best.largest) / 1e6, double(best.peak) / double(best.largest));
  return 0;
}

}  // namespace

Command bench_load_command() {
  Command c;
  c.name = "load";
  c.summary = "reading a large .pth, beside plain reads and the largest tensor";
  c.details =
      "Makes the file of a Finch of 1.6B parameters in bf16 (as a hole, which takes no room on the disk) "
      "or takes --file, reads it tensor by tensor into fp32 and tells the rate in bytes of the file, the "
      "rate of reading the same bytes without looking at them, and the peak of memory above what the "
      "program held before. The best of the repeats counts, so a file that fits into memory comes from "
      "there.";
  c.options = {{"file", "FILE", "a .pth or .safetensors file to read instead"},
               {"dir", "FOLDER", "where the file is made", "."},
               {"repeat", "R", "times that it is read", "3"},
               {"json", "", "machine-readable output"}};
  c.examples = {{"rookery bench load", "1.6B parameters"}};
  c.exit_codes = {ExitCode::kData, ExitCode::kNoInput, ExitCode::kCannotCreate};
  c.run = run;
  return c;
}

}  // namespace rookery::cli
