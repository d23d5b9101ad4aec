// fma_peak.h: how many multiply-adds this machine does, measured: the floor that kernel times are set
// against. Body: fma_peak_cpu.cpp.
#pragma once

#include "kernels/ops/backend.h"

namespace rookery {

// Multiply-adds of float per second, by all threads of the device's pool at once, in its instruction set, on
// data in registers; the best of several runs that take about `seconds` together.
double measure_fma_rate(Device& device, double seconds = 0.1);

struct FmaPeakArgs {
  ThreadPool& pool;
  int64_t rounds;
  double& multiply_adds;  // out: done by all threads together
};
RK_BACKENDS(void fma_peak(const FmaPeakArgs&))

}  // namespace rookery
