// async_test.cpp: copies, named barriers and mbarriers, and the matrices of a warp.
#include <array>
#include <cmath>
#include <numeric>

#include "kernels/base/rng.h"
#include "tests/kernels/emul/kernels.h"
#include "tests/kernels/emul/support.h"

namespace rookery {
namespace {

using namespace test;
using emulator::CopyTime;
using emulator::Options;
using emulator::Order;
using emulator::ScopedOptions;

// Every order with every time of copies.
std::vector<Options> all_options() {
  std::vector<Options> all;
  for (Options options : all_orders()) {
    for (const CopyTime time : {CopyTime::kLate, CopyTime::kEarly, CopyTime::kRandom}) {
      options.copies = time;
      all.push_back(options);
    }
  }
  return all;
}

std::vector<float> some_values(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i % 251) * 0.25f;
  return values;
}

struct alignas(16) Row {
  std::array<float, 4> values;
};

TEST(Copies, ArriveAtTheWaitAtTheLatest) {
  using Shared = rk::SharedLayout<float[32][4]>;
  std::vector<Row> rows(32, Row{{1, 2, 3, 4}});
  for (const CopyTime time : {CopyTime::kLate, CopyTime::kEarly, CopyTime::kRandom}) {
    const ScopedOptions scope({.copies = time, .races = false});  // which would not let it look early
    run_block(
        32,
        [&] {
          auto [x] = Shared::carve();
          const unsigned t = threadIdx.x;
          rk::cp_async16(x[t], &rows[t], t % 2 == 0);
          rk::cp_async_commit();
          if (time != CopyTime::kRandom) {
            EXPECT_EQ(std::isnan(x[t][3]), time == CopyTime::kLate);
          }
          rk::cp_async_wait<0>();
          EXPECT_EQ(x[t][3], t % 2 == 0 ? 4.0f : 0.0f);
        },
        Shared::kBytes);
  }
}

TEST(Copies, FaultsAreFound) {
  using Shared = rk::SharedLayout<float[32][4]>;
  alignas(16) static float source[8];
  const auto fault = [](const std::function<void(float(*)[4])>& body) {
    return fault_of(
        32,
        [&] {
          auto [x] = Shared::carve();
          body(x);
        },
        Shared::kBytes);
  };
  EXPECT_FAULT(fault([](float(*x)[4]) { rk::cp_async16(x[0] + 1, source); }),
               "is not a multiple of 16 bytes");
  EXPECT_FAULT(fault([](float(*)[4]) { rk::cp_async16(source + 4, source); }),
               "does not go to shared memory");
  EXPECT_FAULT(fault([](float(*x)[4]) { rk::cp_async16(x[0], x[1]); }), "does not come from global memory");
  EXPECT_FAULT(fault([](float(*x)[4]) { rk::cp_async16(x[threadIdx.x], source); }),
               "returns with a cp_async16 that it has not waited for");
}

TEST(Pipelines, GiveTheSameWhateverIsDelayed) {
  constexpr int64_t kTiles = 5;
  const std::vector<float> in = some_values(kTiles * 512);
  for (const Options& options : all_options()) {
    const ScopedOptions scope(options);
    std::vector<float> out(in.size());
    emul::turned_tiles(device(), in.data(), out.data(), kTiles);
    for (size_t i = 0; i < in.size(); ++i) {
      const size_t tile = i / 512 * 512, group = i % 512 / 4;
      ASSERT_EQ(out[i], in[tile + (127 - group) * 4 + i % 4]) << i << ", " << to_string(options);
    }
    std::vector<float> by_mbarriers(kTiles * 96), by_names(kTiles * 96);
    emul::ring_by_mbarriers(device(), in.data(), by_mbarriers.data(), kTiles);
    emul::ring_by_named_barriers(device(), in.data(), by_names.data(), kTiles);
    for (size_t i = 0; i < by_names.size(); ++i) {
      const auto tile = in.begin() + static_cast<std::ptrdiff_t>(i / 96 * 128);
      const float expected = std::accumulate(tile, tile + 128, 0.0f) * static_cast<float>(1 + i % 96);
      ASSERT_EQ(by_mbarriers[i], expected) << i << ", " << to_string(options);
      ASSERT_EQ(by_names[i], expected) << i << ", " << to_string(options);
    }
  }
}

TEST(NamedBarrier, FaultsAreFound) {
  EXPECT_FAULT(fault_of(64, [] { rk::named_barrier_sync(0, 64); }), "expected 1 to 15");
  EXPECT_FAULT(fault_of(64, [] { rk::named_barrier_sync(1, 48); }), "expected a multiple of 32");
  EXPECT_FAULT(fault_of(64, [] { rk::named_barrier_sync(1, 96); }), "at most the 64 of the block");
  EXPECT_FAULT(fault_of(64, [] { rk::named_barrier_sync(1, threadIdx.x < 32 ? 32 : 64); }), "deadlock");
  EXPECT_FAULT(fault_of(64, [] { rk::named_barrier_sync(1, threadIdx.x % 2 ? 32 : 64); }),
               "named barrier 1: 32 threads are expected at");
  EXPECT_FAULT(fault_of(64,
                        [] {
                          if (threadIdx.x < 32) rk::named_barrier_sync(1, 64);
                        }),
               "deadlock:\n  named barrier of ");
  EXPECT_FAULT(fault_of(32, [] { rk::named_barrier_sync(1 + (threadIdx.x == 3), 32); }),
               "divergent warp 0: lane 3 waits at named barrier 2 of ");
  EXPECT_FAULT(fault_of(64,
                        [] {
                          if (threadIdx.x < 16) rk::named_barrier_sync(1, 32);
                        }),
               "lanes 16-31 have not come");
  EXPECT_FAULT(fault_of(64,
                        [] {
                          if (threadIdx.x % 32 != 0) {
                            rk::named_barrier_sync(1, 64);
                          } else {
                            rk::named_barrier_arrive(1, 64);
                          }
                        }),
               "divergent warp 0: lane 1 waits at named barrier 1 of ");
  EXPECT_FAULT(fault_of(64,
                        [] {
                          if (threadIdx.x < 32)
                            for (int i = 0; i < 2; ++i) rk::named_barrier_arrive(1, 64);
                        }),
               "named barrier 1: warp 0 arrives again at ");
}

// A warp counts for 32 threads, the last one too where it has fewer; who only arrives goes on.
TEST(NamedBarrier, CountsWarps) {
  std::array<int, 48> seen{};
  const std::function<void()> body = [&] {
    if (threadIdx.x < 32) {
      for (int i = 0; i < 2; ++i) rk::named_barrier_sync(1, 32);
      rk::named_barrier_sync(2, 64);
    } else {
      rk::named_barrier_arrive(2, 64);
    }
    seen[threadIdx.x] = 1;
  };
  for (const Options& options : all_options()) {
    const ScopedOptions scope(options);
    EXPECT_EQ(fault_of(48, body), "no fault") << to_string(options);
    EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), 0), 48);
    seen.fill(0);
  }
}

TEST(Mbarrier, FaultsAreFound) {
  using Shared = rk::SharedLayout<rk::mbarrier[2]>;
  const auto fault = [](void (*body)(rk::mbarrier*)) {
    return fault_of(
        64,
        [&] {
          auto [barriers] = Shared::carve();
          body(barriers);
        },
        Shared::kBytes);
  };
  EXPECT_FAULT(fault([](rk::mbarrier* b) { rk::mbarrier_arrive(b); }), "has not been initialised");
  EXPECT_FAULT(fault([](rk::mbarrier* b) {
                 if (threadIdx.x == 0) rk::mbarrier_init(b, 64);
                 rk::mbarrier_arrive(b);
               }),
               "race: thread 1 uses an mbarrier at ");
  EXPECT_FAULT(fault([](rk::mbarrier* b) {
                 if (threadIdx.x == 0) rk::mbarrier_init(b, 0);
               }),
               "expects 0 arrivals");
  EXPECT_FAULT(fault([](rk::mbarrier* b) {
                 if (threadIdx.x == 0) rk::mbarrier_init(b, 2);
                 __syncthreads();
                 if (threadIdx.x == 0) {
                   rk::mbarrier_arrive(b);
                   rk::mbarrier_init(b, 2);
                 }
               }),
               "is in use since");
  EXPECT_FAULT(fault([](rk::mbarrier* b) {  // wrong parity
                 if (threadIdx.x == 0) rk::mbarrier_init(b, 64);
                 __syncthreads();
                 rk::mbarrier_arrive(b);
                 rk::mbarrier_wait(b, 1);
               }),
               "deadlock:\n  mbarrier of ");
  EXPECT_FAULT(fault([](rk::mbarrier* b) {  // a thread waits for phase 0 while others end phases 0 and 1
                 if (threadIdx.x == 0) rk::mbarrier_init(b, 32);
                 __syncthreads();
                 if (threadIdx.x == 0) rk::mbarrier_wait(b, 0);
                 if (threadIdx.x < 32) return;
                 rk::mbarrier_arrive(b);
                 rk::mbarrier_arrive(b);
               }),
               "it would wait for ever");
}

// Matrix m holds 64 m + 8 row + column.
constexpr int kMatrices = 4;
void fill_matrices(uint16_t (*x)[8]) {
  for (int i = static_cast<int>(threadIdx.x); i < kMatrices * 64; i += 32)
    x[i / 8][i % 8] = static_cast<uint16_t>(i);
  rk::syncwarp();
}

TEST(Matrices, LoadAndStoreFollowTheTable) {
  using Shared = rk::SharedLayout<uint16_t[kMatrices * 8][8], uint16_t[kMatrices * 8][8]>;
  run_block(
      32,
      [] {
        auto [x, y] = Shared::carve();
        fill_matrices(x);
        const int lane = static_cast<int>(threadIdx.x), g = lane / 4, q = lane % 4;
        uint32_t plain[4], turned[4], two[2], two_turned[2];
        rk::ldmatrix_x4(plain, x[lane]);
        rk::ldmatrix_x4_trans(turned, x[lane]);
        rk::ldmatrix_x2(two, x[lane % 16]);
        rk::ldmatrix_x2_trans(two_turned, x[lane % 16]);
        for (int m = 0; m < 4; ++m) {
          const int own = 64 * m + 8 * g + 2 * q, other = 64 * m + 8 * (2 * q) + g;
          EXPECT_EQ(plain[m], static_cast<uint32_t>(own | (own + 1) << 16));
          EXPECT_EQ(turned[m], static_cast<uint32_t>(other | (other + 8) << 16));
          if (m >= 2) continue;
          EXPECT_EQ(two[m], plain[m]);
          EXPECT_EQ(two_turned[m], turned[m]);
        }
        rk::stmatrix_x4(y[lane], plain);
        rk::syncwarp();
        for (int i = 0; i < 8; ++i) EXPECT_EQ(y[lane][i], x[lane][i]);
        rk::syncwarp();
        rk::stmatrix_x4_trans(y[lane], turned);
        rk::syncwarp();
        for (int i = 0; i < 8; ++i) EXPECT_EQ(y[lane][i], x[lane][i]);
      },
      Shared::kBytes);
  alignas(16) static uint16_t global[32][8];
  const auto faulty = [](bool outside) {
    return fault_of(
        32,
        [outside] {
          auto [x, y] = Shared::carve();
          fill_matrices(x);
          uint32_t r[4];
          rk::ldmatrix_x4(r, outside ? global[threadIdx.x] : x[threadIdx.x] + 4);
        },
        Shared::kBytes);
  };
  EXPECT_FAULT(faulty(true), "outside shared memory");
  EXPECT_FAULT(faulty(false), "is not a multiple of 16 bytes");
}

TEST(Matrices, ProductsOfBf16) {
  for (const int64_t k : {32, 96}) {
    const Philox rng(7, 0);
    std::vector<bf16> a(static_cast<size_t>(32 * k)), b(static_cast<size_t>(16 * k)), out(32 * 16);
    for (size_t i = 0; i < a.size(); ++i) a[i] = bf16(static_cast<float>(rng.normal(i)));
    for (size_t i = 0; i < b.size(); ++i) b[i] = bf16(static_cast<float>(rng.normal(100000 + i)));
    for (Options options : all_orders()) {
      options.shuffle_sums = options.order == Order::kRandom;
      const ScopedOptions scope(options);
      emul::tile_product(device(), a.data(), b.data(), out.data(), k);
      for (int64_t i = 0; i < 32; ++i) {
        for (int64_t j = 0; j < 16; ++j) {
          double sum = 0, size = 0;
          for (int64_t m = 0; m < k; ++m) {
            const double term = double{static_cast<float>(a[static_cast<size_t>(i * k + m)])} *
                                double{static_cast<float>(b[static_cast<size_t>(m * 16 + j)])};
            sum += term;
            size += std::abs(term);
          }
          // Half a unit of bf16, and the rounding of k sums in float.
          ASSERT_NEAR(static_cast<float>(out[static_cast<size_t>(i * 16 + j)]), sum,
                      std::abs(sum) / 256 + size * 1e-5)
              << i << ", " << j << ", " << to_string(options);
        }
      }
    }
  }
}

TEST(Matrices, ProductsOfTf32) {
  run_block(32, [] {
    const int lane = static_cast<int>(threadIdx.x), g = lane / 4, q = lane % 4;
    // a[i][k] = 10 i + k, b[k][j] = k - j: small integers, exact in tf32.
    const auto at = [](int i, int k) { return rk::to_tf32(static_cast<float>(10 * i + k)); };
    const auto bt = [](int k, int j) { return rk::to_tf32(static_cast<float>(k - j)); };
    float d[4] = {1, 1, 1, 1};
    rk::mma_tf32_1688(d, {at(g, q), at(g + 8, q), at(g, q + 4), at(g + 8, q + 4)}, {bt(q, g), bt(q + 4, g)},
                      d);
    for (int e = 0; e < 4; ++e) {
      const int i = g + e / 2 * 8, j = 2 * q + e % 2;
      float expected = 1;
      for (int k = 0; k < 8; ++k) expected += static_cast<float>((10 * i + k) * (k - j));
      EXPECT_EQ(d[e], expected);
    }
  });
  EXPECT_EQ(rk::to_tf32(1.0f + 0x1p-11f), std::bit_cast<uint32_t>(1.0f + 0x1p-10f));  // a tie, away from zero
  EXPECT_EQ(rk::to_tf32(-1.0f - 0x1p-12f), std::bit_cast<uint32_t>(-1.0f));
}

}  // namespace
}  // namespace rookery
