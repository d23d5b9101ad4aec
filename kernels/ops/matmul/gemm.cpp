// gemm.cpp: calls of CBLAS and the split over threads (kernels/ops/matmul/gemm.h).
#include "kernels/ops/matmul/gemm.h"

#include <cblas.h>

#include <mutex>

namespace rookery {
namespace {

// Two pools on the same cores would fight: OpenBLAS computes on the calling thread only.
void one_blas_thread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kParallelWork = 1 << 17;
constexpr int64_t kTile = 16;  // parts are multiples of this many rows or columns

template <class T>
Operand<T> from_row(Operand<T> a, int64_t i) {
  a.data += a.transposed ? i : i * a.ld;
  return a;
}
template <class T>
Operand<T> from_column(Operand<T> b, int64_t j) {
  b.data += b.transposed ? j * b.ld : j;
  return b;
}

template <class T>
void split_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<T> a, Operand<T> b, T beta, T* c,
                int64_t ldc) {
  if (m * n * k < kParallelWork || device.pool().num_threads() == 1) return gemm(m, n, k, a, b, beta, c, ldc);
  const int64_t tiles = ((m >= n ? m : n) + kTile - 1) / kTile;
  parallel_for(device.pool(), tiles, 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kTile;
    if (m >= n) {
      const int64_t rows = (last * kTile < m ? last * kTile : m) - begin;
      gemm(rows, n, k, from_row(a, begin), b, beta, c + begin * ldc, ldc);
    } else {
      const int64_t columns = (last * kTile < n ? last * kTile : n) - begin;
      gemm(m, columns, k, a, from_column(b, begin), beta, c + begin, ldc);
    }
  });
}

CBLAS_TRANSPOSE op(bool transposed) { return transposed ? CblasTrans : CblasNoTrans; }

}  // namespace

void gemm(int64_t m, int64_t n, int64_t k, Operand<float> a, Operand<float> b, float beta, float* c,
          int64_t ldc) {
  one_blas_thread();
  if (m > 0 && n > 0)
    cblas_sgemm(CblasRowMajor, op(a.transposed), op(b.transposed), static_cast<int>(m), static_cast<int>(n),
                static_cast<int>(k), 1.f, a.data, static_cast<int>(a.ld), b.data, static_cast<int>(b.ld),
                beta, c, static_cast<int>(ldc));
}

void gemm(int64_t m, int64_t n, int64_t k, Operand<double> a, Operand<double> b, double beta, double* c,
          int64_t ldc) {
  one_blas_thread();
  if (m > 0 && n > 0)
    cblas_dgemm(CblasRowMajor, op(a.transposed), op(b.transposed), static_cast<int>(m), static_cast<int>(n),
                static_cast<int>(k), 1., a.data, static_cast<int>(a.ld), b.data, static_cast<int>(b.ld), beta,
                c, static_cast<int>(ldc));
}

void parallel_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<float> a, Operand<float> b,
                   float beta, float* c, int64_t ldc) {
  split_gemm(device, m, n, k, a, b, beta, c, ldc);
}

void parallel_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<double> a, Operand<double> b,
                   double beta, double* c, int64_t ldc) {
  split_gemm(device, m, n, k, a, b, beta, c, ldc);
}

bool bf16_matmul_available() { return false; }

}  // namespace rookery
