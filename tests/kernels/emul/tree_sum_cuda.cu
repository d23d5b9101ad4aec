// tree_sum_cuda.cu: a reduction by a tree in shared memory.
#include "kernels/cuda/portable.h"
#include "tests/kernels/emul/kernels.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kThreads = 128;
using Shared = rk::SharedLayout<float[kThreads]>;

__global__ void __launch_bounds__(kThreads) tree_sum_kernel(const float* in, float* out, int64_t rows) {
  auto [partial] = Shared::carve();
  const int thread = threadIdx.x;
  for (int64_t row = 0; row < rows; ++row) {
    partial[thread] = in[row * kThreads + thread];
    __syncthreads();
    for (int half = kThreads / 2; half >= 32; half /= 2) {
      if (thread < half) partial[thread] += partial[thread + half];
      __syncthreads();
    }
    if (thread >= 32) continue;
    for (int half = 16; half > 0; half /= 2) {
      if (thread < half) partial[thread] += partial[thread + half];
      rk::syncwarp();
    }
    if (thread == 0) out[row] = partial[0];
  }
}

__global__ void one_barrier_too_many_kernel(const float* in, float* out) {
  auto [partial] = Shared::carve();
  partial[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = partial[kThreads - 1 - threadIdx.x];
  __syncthreads();
}

}  // namespace

void tree_sum(const Device& device, const float* in, float* out, int64_t rows) {
  rk::launch(device, tree_sum_kernel, {1, kThreads, Shared::kBytes}, in, out, rows);
}

void one_barrier_too_many(const Device& device, const float* in, float* out) {
  rk::launch(device, one_barrier_too_many_kernel, {1, kThreads, Shared::kBytes}, in, out);
}

}  // namespace rookery::RK_BACKEND
