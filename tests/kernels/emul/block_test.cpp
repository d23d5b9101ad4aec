// block_test.cpp: threads, barriers, warp operations and shared memory of an emulated block. Kernels are
// lambdas here: what matters is the order of events, not what nvcc would make of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/kernels/emul/kernels.h"
#include "tests/kernels/emul/support.h"

namespace rookery {
namespace {

using namespace test;
using emulator::Options;
using emulator::Order;
using emulator::ScopedOptions;

TEST(RowSum, IsTheSumInEveryOrder) {
  constexpr int64_t kRows = 5, kColumns = 301;
  std::vector<float> in(kRows * kColumns);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 17) - 3.5f;
  for (const int threads : {32, 64, 256, 1024}) {
    for (const Options& options : all_orders()) {
      const ScopedOptions scope(options);
      std::vector<float> out(kRows, -1.0f);
      emul::row_sum(device(), in.data(), out.data(), kRows, kColumns, threads);
      for (int64_t row = 0; row < kRows; ++row) {
        float expected = 0;  // exact: multiples of a half
        for (int64_t i = 0; i < kColumns; ++i) expected += in[static_cast<size_t>(row * kColumns + i)];
        EXPECT_EQ(out[static_cast<size_t>(row)], expected) << threads << " threads, " << to_string(options);
      }
    }
  }
}

TEST(Launch, EveryThreadKnowsItsPlace) {
  std::vector<int> seen(2 * 3 * 2 * 4 * 2 * 3, 0);
  const std::function<void()> body = [&] {
    EXPECT_EQ(gridDim.y, 3u);
    EXPECT_EQ(blockDim.z, 3u);
    const unsigned block = blockIdx.x + 2 * (blockIdx.y + 3 * blockIdx.z);
    const unsigned thread = threadIdx.x + 4 * (threadIdx.y + 2 * threadIdx.z);
    __syncthreads();
    EXPECT_EQ(thread, threadIdx.x + 4 * (threadIdx.y + 2 * threadIdx.z));
    ++seen[block * 24 + thread];
  };
  rk::launch(device(), call, {dim3(2, 3, 2), dim3(4, 2, 3)}, &body);
  EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
}

TEST(Launch, LimitsOfADeviceHold) {
  bool ran = false;
  const std::function<void()> body = [&ran] { ran = true; };
  rk::launch(device(), call, {0, 32}, &body);
  EXPECT_FALSE(ran) << "a grid without blocks";
  EXPECT_THROW(rk::launch(device(), call, {dim3(1, 65536), 32}, &body), Error);
  EXPECT_THROW(rk::launch(device(), call, {1, 1025}, &body), Error);
  EXPECT_THROW(rk::launch(device(), call, {1, dim3(1, 1, 65)}, &body), Error);
  EXPECT_FAULT(fault_of(
                   32, [] { rk::dyn_smem(); }, (227 << 10) + 16),
               "a block has 232448");
}

TEST(Launch, AnExceptionOfAThreadArrives) {
  EXPECT_FAULT(fault_of(64,
                        [] {
                          __syncthreads();
                          RK_CHECK(threadIdx.x != 40, "thread 40");
                          __syncthreads();
                        }),
               "thread 40");
  run_block(64, [] { __syncthreads(); });  // and the next launch is not disturbed
}

TEST(BlockBarrier, SeparatesWhatComesBeforeFromWhatComesAfter) {
  for (const Options& options : all_orders()) {
    const ScopedOptions scope(options);
    for (const unsigned threads : {1u, 31u, 96u, 1024u}) {
      unsigned counter = 0;
      run_block(threads, [&] {
        for (unsigned round = 1; round <= 4; ++round) {
          ++counter;
          __syncthreads();
          EXPECT_EQ(counter, round * threads);
          __syncthreads();
        }
      });
    }
  }
}

TEST(BlockBarrier, FoldsPredicates) {
  run_block(96, [] {
    const bool third = threadIdx.x % 3 == 0;
    EXPECT_EQ(__syncthreads_count(third), 32);
    EXPECT_EQ(__syncthreads_and(third), 0);
    EXPECT_NE(__syncthreads_or(third), 0);
    EXPECT_NE(__syncthreads_and(1), 0);
    EXPECT_EQ(__syncthreads_or(0), 0);
  });
}

TEST(BlockBarrier, DivergenceIsReportedWithBothLines) {
  const std::string message = fault_of(64, [] {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  });
  EXPECT_FAULT(message, "divergent block barriers: thread 32 is at ");
  EXPECT_FAULT(message, "block_test.cpp:");
}

TEST(BlockBarrier, AfterAReturnIsReportedUnlessAllowed) {
  const auto body = [] {
    if (threadIdx.x == 7) return;
    __syncthreads();
  };
  EXPECT_FAULT(fault_of(32, body), "thread 7 has returned while others wait at the block barrier");
  {
    const ScopedOptions scope({.order = Order::kDescending});
    EXPECT_FAULT(fault_of(32,
                          [] {
                            if (threadIdx.x == 31) return;
                            __syncthreads();
                          }),
                 "after 1 threads have returned");
  }
  const ScopedOptions scope({.barrier_after_exit = true});
  EXPECT_EQ(fault_of(32, body), "no fault");
}

TEST(Deadlock, TellsWhoWaitsWhereAndWhoIsMissing) {
  const std::string message = fault_of(64, [] {
    if (threadIdx.x < 32 || threadIdx.x == 40) {
      __syncthreads();
    } else {
      rk::syncwarp();
    }
  });
  EXPECT_FAULT(message, "deadlock:");
  EXPECT_FAULT(message, "threads 0-31, 40");
  EXPECT_FAULT(message, "threads 32-39, 41-63");
  EXPECT_FAULT(message, "warp 1 at ");
  EXPECT_FAULT(message, "lanes 8 have not come");
}

TEST(Warp, Shuffles) {
  for (const Options& options : all_orders()) {
    const ScopedOptions scope(options);
    run_block(64, [] {
      const int lane = static_cast<int>(threadIdx.x % 32), base = static_cast<int>(threadIdx.x) - lane;
      const int own = static_cast<int>(threadIdx.x);
      EXPECT_EQ(rk::shfl(own, 5), base + 5);
      EXPECT_EQ(rk::shfl(own, lane + 1, 8), base + lane / 8 * 8 + (lane + 1) % 8);
      EXPECT_EQ(rk::shfl_up(own, 3), lane >= 3 ? own - 3 : own);
      EXPECT_EQ(rk::shfl_up(own, 1, 4), lane % 4 ? own - 1 : own);
      EXPECT_EQ(rk::shfl_down(own, 3), lane + 3 < 32 ? own + 3 : own);
      EXPECT_EQ(rk::shfl_down(own, 1, 4), lane % 4 < 3 ? own + 1 : own);
      EXPECT_EQ(rk::shfl_xor(0.5 * own, 7), 0.5 * (base + (lane ^ 7)));
      EXPECT_EQ(rk::shfl_xor(own, 16, 8), lane < 16 ? own : own - 16);  // earlier segments can be read
    });
  }
}

TEST(Warp, VotesAndReductions) {
  run_block(32, [] {
    const int lane = static_cast<int>(threadIdx.x);
    EXPECT_EQ(rk::ballot(lane % 2 == 0), 0x55555555u);
    EXPECT_TRUE(rk::any(lane == 9));
    EXPECT_FALSE(rk::all(lane == 9));
    EXPECT_TRUE(rk::all(true));
    EXPECT_EQ(rk::reduce_add(lane), 496);
    EXPECT_EQ(rk::reduce_max(-lane), 0);
    EXPECT_EQ(rk::reduce_min(5u + threadIdx.x), 5u);
    EXPECT_EQ(rk::warp_sum(static_cast<float>(lane)), 496.0f);
    EXPECT_EQ(rk::warp_max(static_cast<float>(-lane)), 0.0f);
    if (lane < 8) {
      EXPECT_EQ(rk::ballot(lane < 2, 0xffu), 3u);
    } else {
      EXPECT_EQ(rk::reduce_add(1, 0xffffff00u), 24);
    }
  });
}

TEST(Warp, FaultsAreFound) {
  EXPECT_FAULT(fault_of(32,
                        [] {
                          if (threadIdx.x < 16) rk::syncwarp(0xffff0000u);
                        }),
               "is not in the mask of its own syncwarp");
  EXPECT_FAULT(fault_of(32,
                        [] {
                          if (threadIdx.x < 16) {
                            rk::syncwarp();
                          } else {
                            rk::ballot(true);
                          }
                        }),
               "divergent warp 0: lane 16 is at the ballot");
  EXPECT_FAULT(fault_of(32,
                        [] {
                          if (threadIdx.x < 16) rk::shfl(1, 20, 32, 0xffffu);
                        }),
               "reads lane 20, which its mask does not name");
  EXPECT_FAULT(fault_of(48, [] { rk::syncwarp(); }),
               "names lanes that the last warp of a block of 48 threads");
  EXPECT_FAULT(fault_of(32,
                        [] {
                          if (threadIdx.x > 0) rk::syncwarp();
                        }),
               "names lane 0 of warp 0, which has returned");
  EXPECT_FAULT(fault_of(32, [] { rk::shfl(1, 2, 5); }), "has width 5");
}

TEST(SharedMemory, IsCarvedAlignedAndPoisoned) {
  using Shared = rk::SharedLayout<float[3], bf16[2][8], double>;
  run_block(
      32,
      [] {
        auto [a, b, c] = Shared::carve();
        static_assert(std::is_same_v<decltype(a), float*> && std::is_same_v<decltype(b), bf16(*)[8]>);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 16, 0u);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(b) % 16, 0u);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(c) % 16, 0u);
        EXPECT_TRUE(std::isnan(a[2]));
        EXPECT_TRUE(std::isnan(static_cast<float>(b[1][7])));
        __syncthreads();
        a[threadIdx.x % 3] = 1.0f;
        b[1][threadIdx.x % 8] = bf16(2.0f);
        *c = 3.0;
      },
      Shared::kBytes);
}

#ifndef __SANITIZE_ADDRESS__  // which stops at the write itself
TEST(SharedMemory, AWriteBehindAnArrayIsFound) {
  using Shared = rk::SharedLayout<float[30], float[4]>;
  EXPECT_FAULT(fault_of(
                   32,
                   [] {
                     auto [a, b] = Shared::carve();
                     a[threadIdx.x] = 1.0f;
                     b[threadIdx.x % 4] = 1.0f;
                   },
                   Shared::kBytes),
               "a thread wrote 0 bytes behind the end of array 0");
}
#endif

TEST(SharedMemory, TheLaunchMustAskForIt) {
  using Shared = rk::SharedLayout<float[30]>;
  EXPECT_FAULT(fault_of(
                   32, [] { Shared::carve(); }, Shared::kBytes / 2),
               "the launch asked for");
  using Large = rk::SharedLayout<char[(227 << 10) + 1]>;
  EXPECT_FAULT(fault_of(
                   32, [] { Large::carve(); }, Large::kBytes),
               "a block has 232448");
}

TEST(Vectors, SixteenBytesMustBeAligned) {
  alignas(16) float x[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  run_block(1, [&] {
    auto v = rk::load16(x + 4);
    v[0] += 0.5f;
    rk::store16(x, v);
  });
  EXPECT_EQ(x[0], 4.5f);
  EXPECT_EQ(x[3], 7.0f);
  EXPECT_FAULT(fault_of(1, [&] { rk::load16(x + 1); }), "is not a multiple of 16 bytes");
  EXPECT_FAULT(fault_of(1, [&] { rk::store16(x + 2, rk::load16(x)); }), "is not a multiple of 16 bytes");
}

TEST(Atomics, Add) {
  int counter = 0;
  float sum = 0;
  run_block(128, [&] {
    rk::atomic_add(&counter, 2);
    rk::atomic_add(&sum, 0.5f);
  });
  EXPECT_EQ(counter, 256);
  EXPECT_EQ(sum, 64.0f);
}

}  // namespace
}  // namespace rookery
