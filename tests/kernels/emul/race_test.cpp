// race_test.cpp: accesses that no barrier orders. This file is compiled with the race detector's hooks, so
// its lambdas are seen as kernels are.
#include <array>

#include "kernels/tensor/guard.h"
#include "kernels/tensor/tensor.h"
#include "tests/kernels/emul/support.h"

namespace rookery {
namespace {

using namespace test;
using emulator::Order;
using emulator::ScopedOptions;

using Shared = rk::SharedLayout<float[256]>;

std::string fault_with_shared(unsigned threads, void (*body)(float*)) {
  return fault_of(
      threads,
      [body] {
        auto [x] = Shared::carve();
        body(x);
      },
      Shared::kBytes);
}

TEST(Race, WriteThenReadOfANeighbour) {
  // With ascending order the result would be right: only the detector sees it.
  const std::string message = fault_with_shared(64, [](float* x) {
    x[threadIdx.x] = 1.0f;
    if (threadIdx.x > 0) x[threadIdx.x + 64] = x[threadIdx.x - 1];
  });
  EXPECT_FAULT(message, "race in shared memory, byte 0:\n  thread 1 reads at ");
  EXPECT_FAULT(message, "thread 0 writes at ");
  EXPECT_FAULT(message, "race_test.cpp:");  // the source line of both
  EXPECT_FAULT(message, "[order ascending");
}

TEST(Race, ReadThenRewrite) {
  const std::string message = fault_with_shared(64, [](float* x) {
    x[threadIdx.x] = 1.0f;
    __syncthreads();
    if (threadIdx.x == 0) x[64] = x[1];
    if (threadIdx.x == 1) x[1] = 2.0f;
  });
  EXPECT_FAULT(message, "race in shared memory, byte 4:\n  thread 1 writes at ");
  EXPECT_FAULT(message, "thread 0 reads at ");
}

TEST(Race, TwoWriters) {
  EXPECT_FAULT(fault_with_shared(64, [](float* x) { x[0] = static_cast<float>(threadIdx.x); }),
               "race in shared memory, byte 0:\n  thread 1 writes");
}

TEST(Race, ReadersOfOneCellAreAllRemembered) {
  // All lanes of both warps read x[0]; the writer is ordered after one warp only.
  EXPECT_FAULT(fault_with_shared(64,
                                 [](float* x) {
                                   if (threadIdx.x == 0) x[0] = 1.0f;
                                   __syncthreads();
                                   x[64 + threadIdx.x] = x[0];
                                   rk::syncwarp();
                                   if (threadIdx.x == 32) x[0] = 2.0f;
                                 }),
               "thread 32 writes");
}

TEST(Race, NothingIsReportedWhereBarriersStand) {
  for (const emulator::Options& options : all_orders()) {
    const ScopedOptions scope(options);
    EXPECT_EQ(fault_with_shared(128,
                                [](float* x) {
                                  const unsigned t = threadIdx.x;
                                  for (int round = 0; round < 3; ++round) {
                                    x[t] = 1.0f;
                                    __syncthreads();
                                    const float y = x[(t + 64) % 128] + x[0];
                                    __syncthreads();
                                    x[t] = y;
                                    rk::syncwarp();
                                    x[128 + t] = x[t ^ 1] + x[t / 32 * 32];
                                    rk::syncwarp();
                                    x[t] = 0.0f;
                                  }
                                }),
              "no fault");
  }
}

TEST(Race, AShuffleOrdersNothing) {
  EXPECT_FAULT(fault_with_shared(32,
                                 [](float* x) {
                                   x[threadIdx.x] = 1.0f;
                                   rk::shfl(0, 0);
                                   x[32 + threadIdx.x] = x[threadIdx.x ^ 1];
                                 }),
               "race in shared memory");
}

TEST(Race, SyncwarpOrdersItsOwnLanesOnly) {
  EXPECT_FAULT(fault_with_shared(64,
                                 [](float* x) {
                                   x[threadIdx.x] = 1.0f;
                                   rk::syncwarp();
                                   if (threadIdx.x >= 32) x[64 + threadIdx.x] = x[threadIdx.x - 32];
                                 }),
               "race in shared memory");
  EXPECT_FAULT(fault_with_shared(32,
                                 [](float* x) {
                                   x[threadIdx.x] = 1.0f;
                                   rk::syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u);
                                   if (threadIdx.x >= 16) x[32 + threadIdx.x] = x[threadIdx.x - 16];
                                 }),
               "race in shared memory");
}

TEST(Race, OrderIsPassedOnThroughOthers) {
  // Thread 0 -> (syncwarp) thread 31 -> (named barrier) warp 1: what thread 0 wrote is known there.
  const auto kernel = [](float* x) {
    if (threadIdx.x == 0) x[0] = 1.0f;
    rk::syncwarp();
    rk::named_barrier_sync(3, 64);
    x[1 + threadIdx.x] = x[0];
  };
  EXPECT_EQ(fault_with_shared(64, kernel), "no fault");
}

TEST(Race, MemoryThatNobodyHasWritten) {
  EXPECT_FAULT(fault_with_shared(32, [](float* x) { x[threadIdx.x] = x[threadIdx.x + 32]; }),
               "thread 0 reads byte 128 of shared memory, which nobody has written, at ");
  // Nor does an earlier block's value count.
  const std::function<void()> body = [] {
    auto [x] = Shared::carve();
    if (blockIdx.x == 0) x[threadIdx.x] = 1.0f;
    x[32 + threadIdx.x] = x[threadIdx.x];
  };
  EXPECT_THROW(rk::launch(device(), call, {2, 32, Shared::kBytes}, &body), Error);
}

TEST(Race, AccessBehindAnArrayStopsAtOnce) {
  EXPECT_FAULT(fault_with_shared(32,
                                 [](float* x) {
                                   if (threadIdx.x == 9) x[256] = 1.0f;
                                 }),
               "thread 9 writes byte 1024 of shared memory, which is behind the end of an array, at ");
  EXPECT_FAULT(fault_with_shared(32, [](float* x) { x[-1] = 1.0f; }), "outside shared memory (byte -4 of");
  float* nothing = nullptr;
  asm("" : "+r"(nothing));  // the compiler is not to know
  EXPECT_FAULT(fault_of(1, [nothing] { *nothing = 1.0f; }), "thread 0 writes through a null pointer at ");
}

TEST(Race, CopiesThatNobodyHasWaitedFor) {
  using Tile = rk::SharedLayout<float[32][4]>;
  alignas(16) static float source[4];
  const auto fault = [](void (*body)(float(*)[4])) {
    return fault_of(
        32,
        [body] {
          auto [x] = Tile::carve();
          rk::cp_async16(x[threadIdx.x], source);
          rk::cp_async_commit();
          body(x);
        },
        Tile::kBytes);
  };
  const std::string early = fault([](float(*x)[4]) {
    rk::cp_async_wait<1>();
    x[threadIdx.x][0] += 1.0f;
  });
  EXPECT_FAULT(early, "thread 0 reads byte 0 of shared memory at ");
  EXPECT_FAULT(early, "before the cp_async16 of thread 0 to it, at ");
  // The wait is for the thread's own copies: others' need a barrier too.
  EXPECT_FAULT(fault([](float(*x)[4]) {
                 rk::cp_async_wait<0>();
                 if (threadIdx.x == 1) x[1][0] = x[0][0];
               }),
               "race in shared memory, byte 0:\n  thread 1 reads");
}

TEST(Race, BetweenBlocks) {
  std::array<float, 64> memory{};
  float* x = memory.data();
  const auto fault = [](const std::function<void()>& body) -> std::string {
    try {
      rk::launch(device(), call, {3, 32}, &body);
    } catch (const Error& e) {
      return e.what();
    }
    return "no fault";
  };
  EXPECT_FAULT(fault([x] {
                 if (threadIdx.x == 0) x[0] = 1.0f;
               }),
               "race in global memory:\n  thread 0 writes");
  EXPECT_FAULT(fault([x] {
                 if (threadIdx.x == blockIdx.x) x[blockIdx.x] = x[blockIdx.x ^ 1];
               }),
               "block (0, 0, 0) writes");
  EXPECT_EQ(fault([x] {
              if (threadIdx.x == 0) x[blockIdx.x] = x[60];
            }),
            "no fault");
  EXPECT_EQ(fault([x] {
              if (threadIdx.x == 0) rk::atomic_add(x, 1.0f);
            }),
            "no fault");
  // Within a block, barriers order global memory too.
  EXPECT_FAULT(fault([x] {
                 if (blockIdx.x > 0) return;
                 x[threadIdx.x] = 1.0f;
                 x[32 + threadIdx.x] = x[31 - threadIdx.x];
               }),
               "race in global memory");
  EXPECT_EQ(fault([x] {
              if (blockIdx.x > 0) return;
              x[threadIdx.x] = 1.0f;
              __syncthreads();
              x[32 + threadIdx.x] = x[31 - threadIdx.x];
            }),
            "no fault");
}

// What Arena::guard_blocks() puts around a tensor, also in accesses of one byte, which are not looked at
// else.
TEST(Race, BesideTensors) {
  const GuardWatch watch(emulator::forbid_memory);
  Device emul(DeviceType::kEmul, 1);
  emul.arena().guard_blocks();
  const auto fault = [](auto* x, int64_t at, bool writes) {
    return fault_of(32, [=] {
      if (threadIdx.x != 3) return;
      if (writes) x[at] = 1;
      if (!writes && x[at] == 1) x[0] = 1;
    });
  };
  const Tensor floats = zeros({3}, DType::kF32, emul), bytes = zeros({4}, DType::kU8, emul);
  for (const bool writes : {false, true}) {
    const std::string expected =
        str("thread 3 ", writes ? "writes" : "reads", " global memory before or behind");
    for (const int64_t at : {-1, 3, 100}) EXPECT_FAULT(fault(floats.data<float>(), at, writes), expected);
    for (const int64_t at : {-1, 4}) EXPECT_FAULT(fault(bytes.data<uint8_t>(), at, writes), expected);
    EXPECT_EQ(fault(floats.data<float>(), 2, writes), "no fault");
    EXPECT_EQ(fault(bytes.data<uint8_t>(), 3, writes), "no fault");
  }
}

TEST(Race, MemoryOfTensorsThatAreGoneIsFree) {
  std::vector<float> memory(32);
  float* x = memory.data();
  emulator::forbid_memory(reinterpret_cast<std::byte*>(x), 128, true);
  EXPECT_FAULT(fault_of(32, [x] { x[threadIdx.x] = 1; }), "before or behind a tensor");
  emulator::forbid_memory(reinterpret_cast<std::byte*>(x), 128, false);
  EXPECT_EQ(fault_of(32, [x] { x[threadIdx.x] = 1; }), "no fault");
}

TEST(Race, OptionTurnsItOff) {
  const ScopedOptions scope({.races = false});
  EXPECT_EQ(fault_with_shared(64, [](float* x) { x[0] = static_cast<float>(threadIdx.x); }), "no fault");
}

}  // namespace
}  // namespace rookery
