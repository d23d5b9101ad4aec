// gemm.cpp: calls of CBLAS and the split over threads (kernels/ops/matmul/gemm.h).
#include "kernels/ops/matmul/gemm.h"

#include <cblas.h>

#include <mutex>

#include "kernels/ops/matmul/gemm_bf16.h"
#include "kernels/ops/matmul/slabs.h"

namespace rookery {
namespace {

template <class T>
void split_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<T> a, Operand<T> b, T beta, T* c,
                int64_t ldc) {
  if (device.type() == DeviceType::kMeta) return;
  for_slabs(device, m, n, k, [&](const Slab& s) {
    gemm(s.rows, s.columns, k, a.from_row(s.row), b.from_column(s.column), beta, c + s.row * ldc + s.column,
         ldc);
  });
}

CBLAS_TRANSPOSE op(bool transposed) { return transposed ? CblasTrans : CblasNoTrans; }

}  // namespace

void one_blas_thread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

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
  if (device.matmul_precision == MatmulPrecision::kBf16 && std::min(m, n) >= kBf16Rows && k > 0)
    return parallel_gemm_bf16(device, m, n, k, a, b, beta, c, ldc);
  split_gemm(device, m, n, k, a, b, beta, c, ldc);
}

void parallel_gemm(Device& device, int64_t m, int64_t n, int64_t k, Operand<double> a, Operand<double> b,
                   double beta, double* c, int64_t ldc) {
  split_gemm(device, m, n, k, a, b, beta, c, ldc);
}

}  // namespace rookery
