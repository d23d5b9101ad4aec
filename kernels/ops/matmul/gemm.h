// gemm.h: matrix products through BLAS, row-major. The pool's threads each call a single-threaded BLAS on
// their own rows or columns of C, so there is one pool, and the bits depend on the number of threads alone.
#pragma once

#include <cstdint>

#include "kernels/base/parallel.h"
#include "kernels/tensor/device.h"

namespace rookery {

// One row-major matrix operand: element (i, j) is data[i * ld + j], or data[j * ld + i] where transposed.
template <class T>
struct Operand {
  const T* data;
  int64_t ld;
  bool transposed = false;

  Operand from_row(int64_t i) const { return {data + (transposed ? i : i * ld), ld, transposed}; }
  Operand from_column(int64_t j) const { return {data + (transposed ? j * ld : j), ld, transposed}; }
};

// From now on BLAS and LAPACK compute on the calling thread only: two pools on the same cores would fight,
// and bits would depend on the number of cores. Products call it; whoever calls LAPACK must.
void one_blas_thread();

// C [m, n] = A [m, k] B [k, n] + beta C on the calling thread.
void gemm(int64_t m, int64_t n, int64_t k, Operand<float> a, Operand<float> b, float beta, float* c,
          int64_t ldc);
void gemm(int64_t m, int64_t n, int64_t k, Operand<double> a, Operand<double> b, double beta, double* c,
          int64_t ldc);

// The same on all threads of the device; nothing on kMeta. Where device.matmul_precision says so, float
// operands are rounded to bf16 first (gemm_bf16.h; sums stay fp32) if C has 32 rows and columns or more.
void parallel_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<float> a, Operand<float> b,
                   float beta, float* c, int64_t ldc);
void parallel_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<double> a, Operand<double> b,
                   double beta, double* c, int64_t ldc);

// Can this build and processor multiply in bf16 faster than in fp32 (MatmulPrecision::kBf16)?
bool bf16_matmul_available();

}  // namespace rookery
