// bias_cuda.cu: the sum of rows in two steps, without atomics: parts of the rows into scratch, then the
// parts.
#include "kernels/ops/grad_out.h"
#include "kernels/ops/matmul/bias.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr unsigned kThreads = 128;

// Thread x owns eight columns of row blockIdx.y.
template <class T>
__global__ void fill_kernel(const T* row, T* rows, int64_t N) {
  const int64_t i = rk::first_of_pack();
  if (i < N) rk::store_pack(rows + blockIdx.y * N, i, N, rk::load_pack(row, i, N));
}

// Thread x owns eight columns, blockIdx.y a part of the rows.
template <class T>
__global__ void part_kernel(const T* rows, float* parts, int64_t M, int64_t N) {
  const int64_t i = rk::first_of_pack();
  if (i >= N) return;
  const int64_t begin = M * blockIdx.y / gridDim.y, end = M * (blockIdx.y + 1) / gridDim.y;
  rk::Pack sum{};
  for (int64_t m = begin; m < end; ++m) {
    const rk::Pack row = rk::load_pack(rows + m * N, i, N);
#pragma unroll
    for (int j = 0; j < rk::kPack; ++j) sum[j] += row[j];
  }
  rk::store_pack(parts + blockIdx.y * N, i, N, sum);
}

__global__ void total_kernel(const float* parts, int64_t count, rk::GradOut sum, int64_t N) {
  const int64_t i = rk::first_of_pack();
  if (i >= N) return;
  rk::Pack total{};
  for (int64_t p = 0; p < count; ++p) {
    const rk::Pack part = rk::load_pack(parts + p * N, i, N);
#pragma unroll
    for (int j = 0; j < rk::kPack; ++j) total[j] += part[j];
  }
  sum.store(i, N, total);
}

rk::Launch columns(int64_t N, int64_t rows) {
  constexpr int64_t kColumns = int64_t{kThreads} * rk::kPack;
  return {dim3(static_cast<unsigned>((N + kColumns - 1) / kColumns), static_cast<unsigned>(rows)),
          dim3(kThreads)};
}

}  // namespace

void fill_rows(const FillRowsArgs& a) {
  const int64_t N = a.row.numel(), M = a.rows.numel() / N;
  constexpr int64_t kMostRows = 65535;  // of a grid in y
  dispatch_gpu_float(a.rows.dtype(), [&]<class T>() {
    for (int64_t m = 0; m < M; m += kMostRows)
      rk::launch(a.rows.device(), fill_kernel<T>, columns(N, std::min(kMostRows, M - m)), a.row.data<T>(),
                 a.rows.data<T>() + m * N, N);
  });
}

void sum_rows(const SumRowsArgs& a) {
  const int64_t N = a.sum.tensor.numel(), M = a.rows.numel() / N, parts = sum_rows_parts(M);
  const Device& device = a.rows.device();
  dispatch_gpu_float(a.rows.dtype(), [&]<class T>() {
    rk::launch(device, part_kernel<T>, columns(N, parts), a.rows.data<T>(), a.parts.data<float>(), M, N);
  });
  rk::launch(device, total_kernel, columns(N, 1), a.parts.data<float>(), parts, rk::grad_out(a.sum), N);
}

}  // namespace rookery::RK_BACKEND
