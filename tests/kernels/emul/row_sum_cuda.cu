// row_sum_cuda.cu: the example of docs/emulation.md.
#include "kernels/cuda/portable.h"
#include "tests/kernels/emul/kernels.h"

namespace rookery::RK_BACKEND {
namespace {

using Shared = rk::SharedLayout<float[32]>;  // a partial sum per warp

// A block owns a row; a thread adds every blockDim.x-th value, then warps, then the first warp the warps'
// sums.
__global__ void row_sum_kernel(const float* in, float* out, int64_t columns) {
  auto [partial] = Shared::carve();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const float* row = in + int64_t{blockIdx.x} * columns;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) sum += row[i];
  sum = rk::warp_sum(sum);
  if (lane == 0) partial[warp] = sum;
  __syncthreads();
  if (warp != 0) return;
  sum = rk::warp_sum(lane < warps ? partial[lane] : 0.0f);
  if (lane == 0) out[blockIdx.x] = sum;
}

}  // namespace

void row_sum(const Device& device, const float* in, float* out, int64_t rows, int64_t columns, int threads) {
  rk::launch(device, row_sum_kernel,
             {dim3(static_cast<unsigned>(rows)), dim3(static_cast<unsigned>(threads)), Shared::kBytes}, in,
             out, columns);
}

}  // namespace rookery::RK_BACKEND
