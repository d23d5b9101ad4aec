// product.h: matrix products of tensors, on whichever device they lie. Bodies: gemm.h on the
// host, kernels/cuda/blas.h.
#pragma once

#include "kernels/tensor/tensor.h"

namespace rookery {

// Element (i, j) of a matrix stands at offset + i * ld + j of the tensor, or at offset + j * ld + i where
// transposed.
struct Matrix {
  Tensor tensor;
  int64_t ld;
  bool transposed = false;
  int64_t offset = 0;
};

// C [m, n] (+)= A [m, k] B [k, n]; C is not transposed. All of one dtype (f64 on the host only), or A and B
// bf16 and C f32. Sums of bf16 are kept in f32. Only on the host, bf16 takes memory of its own.
void product(int64_t m, int64_t n, int64_t k, const Matrix& a, const Matrix& b, bool accumulate,
             const Matrix& c);

}  // namespace rookery
