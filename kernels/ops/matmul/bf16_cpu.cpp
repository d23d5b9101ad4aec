// bf16_cpu.cpp: the rounding of bf16.h, one row at a time on the calling thread.
#include "kernels/ops/matmul/bf16.h"

#include <bit>

namespace rookery::RK_BACKEND {

void round_bf16(const RoundBf16Args& a) {
  for (int64_t i = 0; i < a.rows; ++i) {
    const float* from = a.from + i * a.from_ld;
    uint16_t* to = a.to + i * a.to_ld;
#pragma omp simd
    for (int64_t j = 0; j < a.columns; ++j) {
      const uint32_t bits = std::bit_cast<uint32_t>(from[j]);
      const uint32_t nearest = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
      const uint32_t quiet_nan = bits >> 16 | 0x40;  // a NaN whose payload sits in the lower half alone
      to[j] = static_cast<uint16_t>((bits & 0x7FFFFFFF) > 0x7F800000 ? quiet_nan : nearest);
    }
  }
}

}  // namespace rookery::RK_BACKEND
