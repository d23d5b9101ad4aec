// mutation_test.cpp: each barrier, wait, arrival and commit of a kernel is left out in turn, and each time
// something must be noticed. The same for the kernels of the program: every_kernel_test.cpp.
#include "kernels/emul/mutation.h"

#include <numeric>

#include "tests/kernels/emul/kernels.h"
#include "tests/kernels/emul/support.h"

namespace rookery {
namespace {

using namespace test;
using emulator::unnoticed_removals;

std::string listed(const std::vector<emulator::SyncSite>& sites) {
  std::string text;
  for (const emulator::SyncSite& site : sites) text += to_string(site) + "\n";
  return text;
}

constexpr int64_t kTiles = 5;
std::vector<float> input() {
  std::vector<float> values(kTiles * 512);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 13);
  return values;
}

bool tree_sum_passes() {
  const std::vector<float> in = input();
  std::vector<float> out(kTiles);
  emul::tree_sum(device(), in.data(), out.data(), kTiles);
  for (size_t row = 0; row < out.size(); ++row) {
    const auto begin = in.begin() + static_cast<std::ptrdiff_t>(row * 128);
    if (out[row] != std::accumulate(begin, begin + 128, 0.0f)) return false;
  }
  return true;
}

bool row_sum_passes() {
  const std::vector<float> in = input();
  float out = 0;
  emul::row_sum(device(), in.data(), &out, 1, 2560, 128);
  return out == std::accumulate(in.begin(), in.end(), 0.0f);
}

bool turned_tiles_passes() {
  const std::vector<float> in = input();
  std::vector<float> out(in.size());
  emul::turned_tiles(device(), in.data(), out.data(), kTiles);
  for (size_t i = 0; i < in.size(); ++i)
    if (out[i] != in[i / 512 * 512 + (127 - i % 512 / 4) * 4 + i % 4]) return false;
  return true;
}

bool ring_passes(void (*kernel)(const Device&, const float*, float*, int64_t)) {
  const std::vector<float> in = input();
  std::vector<float> out(kTiles * 96);
  kernel(device(), in.data(), out.data(), kTiles);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto tile = in.begin() + static_cast<std::ptrdiff_t>(i / 96 * 128);
    if (out[i] != std::accumulate(tile, tile + 128, 0.0f) * static_cast<float>(1 + i % 96)) return false;
  }
  return true;
}

bool tile_product_passes() {
  constexpr int64_t kDepth = 96;
  std::vector<bf16> a(32 * kDepth), b(16 * kDepth), out(32 * 16);
  for (size_t i = 0; i < a.size(); ++i) a[i] = bf16(static_cast<float>(i % 3) - 1);
  for (size_t i = 0; i < b.size(); ++i) b[i] = bf16(static_cast<float>(i % 5) - 2);
  emul::tile_product(device(), a.data(), b.data(), out.data(), kDepth);
  for (size_t i = 0; i < 32; ++i) {
    for (size_t j = 0; j < 16; ++j) {
      float sum = 0;  // of small integers: exact, in bf16 too
      for (size_t k = 0; k < kDepth; ++k)
        sum += static_cast<float>(a[i * kDepth + k]) * static_cast<float>(b[k * 16 + j]);
      if (static_cast<float>(out[i * 16 + j]) != sum) return false;
    }
  }
  return true;
}

struct Case {
  const char* name;
  size_t sites;
  bool (*passes)();
};

TEST(Mutation, EveryBarrierIsMissed) {
  const std::vector<Case> cases = {
      {"row_sum", 1, row_sum_passes},
      {"tree_sum", 3, tree_sum_passes},
      {"turned_tiles", 4, turned_tiles_passes},
      {"tile_product", 3, tile_product_passes},
      {"ring_by_mbarriers", 5, [] { return ring_passes(emul::ring_by_mbarriers); }},
      {"ring_by_named_barriers", 4, [] { return ring_passes(emul::ring_by_named_barriers); }},
  };
  for (const Case& c : cases) {
    emulator::Trace traced;
    const auto unnoticed = unnoticed_removals(c.passes, &traced);
    EXPECT_EQ(traced.sites.size(), c.sites) << c.name;
    EXPECT_EQ(traced.kernels.size(), 1u) << c.name;
    EXPECT_TRUE(unnoticed.empty()) << c.name << ":\n" << listed(unnoticed);
  }
}

TEST(Mutation, ABarrierThatIsNotNeededIsListed) {
  const auto unnoticed = unnoticed_removals([] {
    const std::vector<float> in = input();
    std::vector<float> out(128);
    emul::one_barrier_too_many(device(), in.data(), out.data());
    return out[0] == in[127];
  });
  ASSERT_EQ(unnoticed.size(), 1u) << listed(unnoticed);
  const std::string site = to_string(unnoticed[0]);
  EXPECT_TRUE(site.starts_with("__syncthreads of ") && site.ends_with(" in one_barrier_too_many_kernel"))
      << site;
}

TEST(Mutation, ATestThatFailsAnywayIsRefused) {
  EXPECT_THROW(unnoticed_removals([] { return false; }), Error);
}

}  // namespace
}  // namespace rookery
