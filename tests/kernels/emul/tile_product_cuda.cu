// tile_product_cuda.cu: a matrix product on tensor cores, two warps of 16 rows each.
#include "kernels/cuda/portable.h"
#include "tests/kernels/emul/kernels.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kRows = 32, kColumns = 16, kDepth = 32, kThreads = 64;
constexpr int kPad = 8;  // bf16: rows begin in different banks
using Shared =
    rk::SharedLayout<bf16[kRows][kDepth + kPad], bf16[kDepth][kColumns + kPad], bf16[kRows][kColumns + kPad]>;

__global__ void __launch_bounds__(kThreads)
    tile_product_kernel(const bf16* a, const bf16* b, bf16* out, int64_t k) {
  auto [tile_a, tile_b, tile_out] = Shared::carve();
  const int thread = threadIdx.x, lane = thread % 32, row0 = thread / 32 * 16;
  const int matrix_row = lane % 16, matrix_column = lane / 16 * 8;  // of the 16 x 16 that four matrices make
  float sum[2][4] = {};
  for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
    for (int i = thread; i < kRows * kDepth / 8; i += kThreads) {
      const int row = i / (kDepth / 8), column = i % (kDepth / 8) * 8;
      rk::store16(&tile_a[row][column], rk::load16(a + row * k + k0 + column));
    }
    for (int i = thread; i < kDepth * kColumns / 8; i += kThreads) {
      const int row = i / (kColumns / 8), column = i % (kColumns / 8) * 8;
      rk::store16(&tile_b[row][column], rk::load16(b + (k0 + row) * kColumns + column));
    }
    __syncthreads();
    for (int kk = 0; kk < kDepth; kk += 16) {
      uint32_t fragment_a[4], fragment_b[4];
      rk::ldmatrix_x4(fragment_a, &tile_a[row0 + matrix_row][kk + matrix_column]);
      rk::ldmatrix_x4_trans(fragment_b, &tile_b[kk + matrix_row][matrix_column]);
      rk::mma_bf16_16816(sum[0], fragment_a, {fragment_b[0], fragment_b[1]}, sum[0]);
      rk::mma_bf16_16816(sum[1], fragment_a, {fragment_b[2], fragment_b[3]}, sum[1]);
    }
    __syncthreads();
  }
  // Accumulators of 8 columns are two matrices of rows g and g + 8.
  const uint32_t rounded[4] = {rk::pack_bf16(sum[0][0], sum[0][1]), rk::pack_bf16(sum[0][2], sum[0][3]),
                               rk::pack_bf16(sum[1][0], sum[1][1]), rk::pack_bf16(sum[1][2], sum[1][3])};
  rk::stmatrix_x4(&tile_out[row0 + matrix_row][matrix_column], rounded);
  rk::syncwarp();
  for (int i = lane; i < 16 * kColumns / 8; i += 32) {
    const int row = row0 + i / (kColumns / 8), column = i % (kColumns / 8) * 8;
    rk::store16(out + row * kColumns + column, rk::load16(&tile_out[row][column]));
  }
}

}  // namespace

void tile_product(const Device& device, const bf16* a, const bf16* b, bf16* out, int64_t k) {
  rk::launch(device, tile_product_kernel, {1, kThreads, Shared::kBytes}, a, b, out, k);
}

}  // namespace rookery::RK_BACKEND
