// bf16.h: float32 rounded to bfloat16, the operands of the products of gemm_bf16.cpp. Body: bf16_cpu.cpp.
#pragma once

#include "kernels/ops/backend.h"

namespace rookery {

// to[i * to_ld + j] = the upper half of from[i * from_ld + j], rounded to nearest even; NaN stays NaN.
struct RoundBf16Args {
  const float* from;
  int64_t from_ld;
  int64_t rows, columns;
  uint16_t* to;
  int64_t to_ld;
};
RK_BACKENDS(void round_bf16(const RoundBf16Args&))

}  // namespace rookery
