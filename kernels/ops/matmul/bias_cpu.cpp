// bias_cpu.cpp: a thread owns rows when they are filled, columns when they are summed.
#include "kernels/ops/matmul/bias.h"

#include <cstring>

namespace rookery::RK_BACKEND {

void fill_rows(const FillRowsArgs& a) {
  const size_t bytes = a.row.bytes();
  parallel_for(a.rows.device().pool(), a.rows.numel() / a.row.numel(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(a.rows.raw() + i * bytes, a.row.raw(), bytes);
  });
}

void sum_rows(const SumRowsArgs& a) {
  const int64_t N = a.sum.tensor.numel(), M = a.rows.numel() / N;
  dispatch_float(a.rows.dtype(), [&]<class T>() {
    const T* rows = a.rows.data<T>();
    T* sum = a.sum.tensor.data<T>();
    parallel_for(a.rows.device().pool(), N, 64, [&](int64_t begin, int64_t end) {
      if (!a.sum.accumulate) std::memset(sum + begin, 0, (end - begin) * sizeof(T));
      for (int64_t i = 0; i < M; ++i)
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) sum[j] += rows[i * N + j];
    });
  });
}

}  // namespace rookery::RK_BACKEND
