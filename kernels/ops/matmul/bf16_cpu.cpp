// bf16_cpu.cpp: the rounding of bf16.h, one row at a time on the calling thread.
#include "kernels/ops/matmul/bf16.h"

#include "kernels/base/bf16.h"

namespace rookery::RK_BACKEND {

void round_bf16(const RoundBf16Args& a) {
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* from = a.from + i * a.from_ld;
    uint16_t* to = a.to + i * a.to_ld;
#pragma omp simd
    for (int64_t j = 0; j < a.columns; ++j) to[j] = bf16_bits(from[j]);
  }
}

}  // namespace rookery::RK_BACKEND
