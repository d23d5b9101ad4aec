// gemm_bf16.h: the product of parallel_gemm (gemm.h) on operands rounded to bf16, with sums in float.
#pragma once

#include "kernels/ops/matmul/gemm.h"

namespace rookery {

// With fewer rows or columns than this the rounding of the other operand costs more than the product saves.
inline constexpr int64_t kBf16Rows = 32;

// Takes its scratch (both rounded operands) from the device's arena; the same amount on kMeta. All of m, n,
// k > 0; bf16_matmul_available().
void parallel_gemm_bf16(Device& device, int64_t m, int64_t n, int64_t k, Operand<float> a, Operand<float> b,
                        float beta, float* c, int64_t ldc);

}  // namespace rookery
