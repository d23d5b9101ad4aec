// fma_peak_test.cpp: the measured rate of multiply-adds is one that a processor can have.
#include "kernels/ops/bench/fma_peak.h"

#include <gtest/gtest.h>

namespace rookery {
namespace {

// Bounds per thread: half a multiply-add per nanosecond at least, and no more than 2 vectors of 16 lanes in
// each cycle of a 7 GHz clock. A loop that the compiler has simplified away shows as a rate beyond it.
TEST(FmaPeak, IsPlausible) {
  for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (!cpu_isa_available(isa)) continue;
    const double lanes = isa == CpuIsa::kPortable ? 4 : isa == CpuIsa::kAvx2 ? 8 : 16;
    for (int threads : {1, 2}) {
      Device device(DeviceType::kCpu, threads, isa);
      const double rate = measure_fma_rate(device, 0.05);
      EXPECT_GT(rate, 0.5e9) << to_string(isa);
      EXPECT_LT(rate, threads * 2 * lanes * 7e9) << to_string(isa);
    }
  }
}

}  // namespace
}  // namespace rookery
