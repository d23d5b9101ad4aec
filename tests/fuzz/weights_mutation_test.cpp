// weights_mutation_test.cpp: thousands of fixed mutations of small files of weights: each is read or refused,
// none crashes or asks for memory that the file did not pay for.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

#include "kernels/base/io.h"
#include "tests/fuzz/weights_case.h"
#include "tests/support/program.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/torch_file.h"

namespace rookery::foreign {
namespace {

const std::vector<TensorInfo> kTensors = {{"emb.weight", Type::kBf16, {6, 4}},
                                          {"blocks.0.att.x", Type::kF32, {1, 1, 4}},
                                          {"scalar", Type::kI64, {}}};

std::string written(const fs::path& path, const std::function<std::unique_ptr<TensorWriter>()>& make) {
  const auto writer = make();
  for (const TensorInfo& t : writer->tensors())
    writer->write(std::vector<std::byte>(t.bytes(), std::byte{3}));
  writer->finish();
  return test::slurp(path);
}

// A byte, a number of four or eight bytes that readers like to believe, or a stretch removed or repeated.
std::string mutate(std::string file, std::mt19937& rng) {
  static const uint64_t kNumbers[] = {
      0, 1, 0x7f, 0xff, 0xffff, 0x7fffffff, 0xffffffff, ~uint64_t{0}, uint64_t{1} << 63};
  const size_t at = rng() % (file.size() + 1);
  switch (rng() % 5) {
    case 0:
    case 1:
      if (at < file.size()) file[at] = static_cast<char>(rng());
      return file;
    case 2: {
      const size_t width = rng() % 2 ? 4 : 8;
      if (at + width <= file.size())
        std::memcpy(file.data() + at, &kNumbers[rng() % std::size(kNumbers)], width);
      return file;
    }
    case 3:
      return file.erase(at, rng() % 16);
    default:
      return file.insert(at, file.substr(rng() % file.size(), rng() % 64));
  }
}

void run_mutations(const std::string& name, const std::string& sound) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const std::string path = (dir.path() / name).string();
  ASSERT_TRUE(weights_case(path, sound));
  std::mt19937 rng(11);
  int read = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string file = sound;
    for (size_t n = 1 + rng() % 3; n > 0 && !file.empty(); --n) file = mutate(std::move(file), rng);
    (weights_case(path, file) ? read : refused) += 1;
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 1000);
}

TEST(WeightsFuzz, MutationsOfATorchFileAreReadOrRefused) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const fs::path path = dir.path() / "sound.pth";
  run_mutations("file.pth", written(path, [&] { return write_torch_file(path, kTensors); }));
}

TEST(WeightsFuzz, MutationsOfSafetensorsAreReadOrRefused) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const fs::path path = dir.path() / "sound.safetensors";
  run_mutations("file.safetensors", written(path, [&] {
                  return write_safetensors(path, kTensors, {{"k", "v"}});
                }));
}

}  // namespace
}  // namespace rookery::foreign
