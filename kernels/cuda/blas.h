// blas.h: a matrix product on a GPU, row-major. Body: blas_lt.cpp (cuBLASLt).
#pragma once

#include <compare>
#include <cstdint>

#include "kernels/tensor/device.h"
#include "kernels/tensor/dtype.h"

namespace rookery::cuda {

// Element (i, j) stands at i * ld + j, or at j * ld + i where transposed.
struct GpuMatrix {
  void* data;
  int64_t ld;
  bool transposed = false;
};

// C [m, n] = A [m, k] B [k, n] + (accumulate ? C : 0), C not transposed. A and B f32, C f32; or A and B bf16,
// C bf16 or f32. Products of f32 are IEEE fp32, and all sums.
struct Product {
  int64_t m, n, k;
  GpuMatrix a, b, c;
  DType in, out;
  bool accumulate;
};
void product(Device& device, const Product& p);

}  // namespace rookery::cuda
