// banks_test.cpp: how many steps a request of shared memory takes, counted from the accesses of the lanes.
#include "kernels/emul/banks.h"

#include "tests/kernels/emul/support.h"

namespace rookery {
namespace {

using namespace test;

// `access` makes one access to shared memory per thread of a warp.
emulator::BankConflicts conflicts_of(const std::function<void(char*)>& access) {
  constexpr size_t kBytes = 64 << 10;
  const emulator::ScopedOptions scope({.races = false});  // several lanes write the same word
  const emulator::BankReport report = emulator::bank_conflicts([&] {
    run_block(
        32, [&] { access(rk::dyn_smem()); }, kBytes);
  });
  EXPECT_EQ(report.size(), 1u);
  return report.empty() ? emulator::BankConflicts() : report.begin()->second;
}

TEST(Banks, FloatsByStride) {
  const auto strided = [](int stride) {
    return conflicts_of([=](char* shared) {
      reinterpret_cast<float*>(shared)[static_cast<int>(threadIdx.x) * stride] = 1.0f;
    });
  };
  EXPECT_EQ(strided(1).steps, 1u);
  EXPECT_EQ(strided(0).steps, 1u);  // one word for all
  EXPECT_EQ(strided(2).steps, 2u);
  EXPECT_EQ(strided(32).steps, 32u);
  EXPECT_EQ(strided(33).steps, 1u);
  EXPECT_EQ(strided(32).requests, 1u);
  EXPECT_EQ(strided(32).worst, 32);
}

TEST(Banks, TwoHalvesOfAWordAreOneWord) {
  const auto found = conflicts_of(
      [](char* shared) { reinterpret_cast<uint16_t*>(shared)[static_cast<int>(threadIdx.x)] = 1; });
  EXPECT_EQ(found.steps, 1u);
}

// Rows of 64 floats lie in the same banks; 4 more per row move them.
TEST(Banks, SixteenBytesGoByQuartersOfTheWarp) {
  const auto rows_of = [](int floats) {
    return conflicts_of([=](char* shared) {
      const rk::Vec16<float> zeros{};
      rk::store16(reinterpret_cast<float*>(shared) + static_cast<int>(threadIdx.x) * floats, zeros);
    });
  };
  EXPECT_EQ(rows_of(4).least, 4u);
  EXPECT_EQ(rows_of(4).steps, 4u);
  EXPECT_EQ(rows_of(64).steps, 32u);
  EXPECT_EQ(rows_of(64).worst, 8);
  EXPECT_EQ(rows_of(68).steps, 4u);
}

// Lanes that make fewer requests than others, and requests of several times.
TEST(Banks, LoopsAndBranches) {
  const auto found = conflicts_of([](char* shared) {
    for (int i = 0; i < (threadIdx.x < 16 ? 3 : 1); ++i)
      reinterpret_cast<float*>(shared)[static_cast<int>(threadIdx.x) + 32 * i] = 1.0f;
  });
  EXPECT_EQ(found.requests, 3u);
  EXPECT_EQ(found.steps, 3u);
}

}  // namespace
}  // namespace rookery
