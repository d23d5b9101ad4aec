// fma_peak_cpu.cpp: as many independent chains of multiply-adds as hide the latency of one.
#include "kernels/ops/bench/fma_peak.h"
#include "kernels/ops/math/simd.h"

namespace rookery::RK_BACKEND {

void fma_peak(const FmaPeakArgs& a) {
  constexpr int kChains = 10;  // latency 4 or 5 times 2 units; with two operands they fit 16 registers
  const int threads = a.pool.num_threads();
  const int64_t rounds = a.rounds;
  parallel_for(a.pool, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; ++thread) {
      Simd<float>::Vec chain[kChains] = {}, scale = {}, shift = {};
      scale += 0.75f, shift += 0.25f;
      // The compiler is not to know that the chains are alike, nor that nobody reads them.
      asm volatile("" : "+m"(scale), "+m"(shift));
#pragma GCC unroll 16
      for (int c = 0; c < kChains; ++c) asm volatile("" : "+m"(chain[c]));
      for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
        for (int c = 0; c < kChains; ++c) chain[c] = chain[c] * scale + shift;
      }
#pragma GCC unroll 16
      for (int c = 0; c < kChains; ++c) asm volatile("" : : "m"(chain[c]));
    }
  });
  a.multiply_adds = double(threads) * double(rounds) * kChains * Simd<float>::kLanes;
}

}  // namespace rookery::RK_BACKEND
