// init.cpp: Philox for the draws, LAPACK (part of OpenBLAS) for the QR decomposition.
#include "trainer/nn/init.h"

#include <algorithm>
#include <vector>

#include "kernels/ops/matmul/gemm.h"

extern "C" {
void sgeqrf_(const int* m, const int* n, float* a, const int* lda, float* tau, float* work, const int* lwork,
             int* info);
void sorgqr_(const int* m, const int* n, const int* k, float* a, const int* lda, const float* tau,
             float* work, const int* lwork, int* info);
}

namespace rookery::nn {
namespace {

// Q of A = QR with the signs of diag(R) made positive. `a` [rows, columns] column-major, rows >= columns; Q
// replaces it.
void orthonormalise(std::vector<float>& a, int rows, int columns) {
  one_blas_thread();
  std::vector<float> tau(columns), work(1);
  int info = 0, query = -1;
  sgeqrf_(&rows, &columns, a.data(), &rows, tau.data(), work.data(), &query, &info);
  int size = static_cast<int>(work[0]);
  work.resize(size);
  sgeqrf_(&rows, &columns, a.data(), &rows, tau.data(), work.data(), &size, &info);
  RK_CHECK(info == 0, "[orthogonal] QR decomposition failed with ", info);
  std::vector<float> sign(columns);
  for (int j = 0; j < columns; ++j) sign[j] = a[j + static_cast<int64_t>(j) * rows] < 0 ? -1.f : 1.f;
  sorgqr_(&rows, &columns, &columns, a.data(), &rows, tau.data(), work.data(), &size, &info);
  RK_CHECK(info == 0, "[orthogonal] forming Q failed with ", info);
  for (int j = 0; j < columns; ++j)
    for (int i = 0; i < rows; ++i) a[i + static_cast<int64_t>(j) * rows] *= sign[j];
}

}  // namespace

Init constant(double value) {
  return [value](std::span<float> out, const Shape&, const Philox&) {
    std::fill(out.begin(), out.end(), static_cast<float>(value));
  };
}

Init uniform(double low, double high) {
  return [=](std::span<float> out, const Shape&, const Philox& random) {
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<float>(low + (high - low) * random.uniform(i));
  };
}

Init normal(double deviation) {
  return [deviation](std::span<float> out, const Shape&, const Philox& random) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(deviation * random.normal(i));
  };
}

Init orthogonal(double gain) {
  return [gain](std::span<float> out, const Shape& shape, const Philox& random) {
    RK_CHECK(shape.size() == 2, "[orthogonal] needs a matrix, got ", shape);
    const int rows = static_cast<int>(shape[0]), columns = static_cast<int>(shape[1]);
    const int tall = std::max(rows, columns), narrow = std::min(rows, columns);
    std::vector<float> q(out.size());  // [tall, narrow] column-major
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<float>(random.normal(i));
    orthonormalise(q, tall, narrow);
    // Column-major [tall, narrow] is row-major [narrow, tall]: the wide case as it stands, the tall case
    // transposed.
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < columns; ++j) {
        const int64_t at =
            rows <= columns ? static_cast<int64_t>(i) * tall + j : static_cast<int64_t>(j) * tall + i;
        out[static_cast<int64_t>(i) * columns + j] = static_cast<float>(gain) * q[at];
      }
  };
}

Init values(std::function<float(int64_t)> value) {
  return [value = std::move(value)](std::span<float> out, const Shape&, const Philox&) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = value(static_cast<int64_t>(i));
  };
}

}  // namespace rookery::nn
