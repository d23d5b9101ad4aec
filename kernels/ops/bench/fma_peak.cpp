// fma_peak.cpp: timing.
#include "kernels/ops/bench/fma_peak.h"

#include <algorithm>
#include <chrono>

namespace rookery {
namespace {

constexpr auto kFmaPeak = RK_KERNEL(fma_peak);

double rate(Device& device, int64_t rounds, double& seconds) {
  const auto start = std::chrono::steady_clock::now();
  double multiply_adds = 0;
  kFmaPeak(device, {device.pool(), rounds, multiply_adds});
  seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return multiply_adds / seconds;
}

}  // namespace

double measure_fma_rate(Device& device, double seconds) {
  constexpr int kRuns = 10;
  int64_t rounds = 1000;
  double took = 0, best = 0;
  while (rate(device, rounds, took), took < seconds / kRuns && rounds < int64_t{1} << 40) rounds *= 2;
  for (int run = 0; run < kRuns; ++run) best = std::max(best, rate(device, rounds, took));
  return best;
}

}  // namespace rookery
