// rope_cuda.cu: cosines and sines of every position in double first, then a thread per pack of pairs.
#include <cmath>

#include "kernels/ops/rope/rope.h"
#include "kernels/ops/row_team.h"

namespace rookery::RK_BACKEND {
namespace {

// Frequencies travel as an argument: nothing is copied to the device.
constexpr int64_t kMostPairs = 256;
struct Frequencies {
  double values[kMostPairs];
};

// turns: [tokens, 2, half], cosines and sines.
__global__ void turns_kernel(Frequencies f, float* turns, int64_t tokens, int64_t half, int64_t offset,
                             bool back) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= tokens * half) return;
  const int64_t t = at / half, i = at % half;
  const double angle = static_cast<double>(offset + t) * f.values[i];
  turns[2 * t * half + i] = static_cast<float>(cos(angle));
  turns[(2 * t + 1) * half + i] = static_cast<float>(back ? -sin(angle) : sin(angle));
}

// Pairs i to i + 7 of a head of a token. Halves: packs at i and at i + half; adjacent: two packs at 2 i.
template <class T, RopePairs pairs>
__global__ void rotate_kernel(const T* x, rk::GradOut y, const float* turns, int64_t tokens, int64_t heads,
                              int64_t half, int64_t rows) {
  constexpr bool kHalves = pairs == RopePairs::kHalves;
  constexpr int kPack = rk::kPack;
  const auto [row, i] = rk::row_pack(half);
  if (row >= rows) return;
  const int64_t t = row / heads % tokens, head = row * 2 * half, end = head + 2 * half;
  const rk::Pack cosine = rk::load_pack(turns + 2 * t * half, i, half),
                 sine = rk::load_pack(turns + (2 * t + 1) * half, i, half);
  const int64_t first = head + (kHalves ? i : 2 * i), second = first + (kHalves ? half : kPack);
  const int64_t first_end = kHalves ? head + half : end;
  rk::Pack part[2] = {rk::load_pack(x, first, first_end), rk::load_pack(x, second, end)};
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    float& a = kHalves ? part[0][j] : part[2 * j / kPack][2 * j % kPack];
    float& b = kHalves ? part[1][j] : part[2 * j / kPack][2 * j % kPack + 1];
    const float za = a * cosine[j] - b * sine[j], zb = b * cosine[j] + a * sine[j];
    a = za;
    b = zb;
  }
  y.store(first, first_end, part[0]);
  y.store(second, end, part[1]);
}

}  // namespace

void rope_rotate(const RopeArgs& a) {
  const int64_t tokens = a.x.dim(1), heads = a.x.dim(2), half = a.x.dim(3) / 2;
  const int64_t rows = a.x.numel() / (2 * half);
  RK_CHECK(half <= kMostPairs, "[rope] heads of ", 2 * half, ", at most ", 2 * kMostPairs);
  Frequencies f{};
  std::copy(a.frequencies.begin(), a.frequencies.end(), f.values);
  float* turns = a.scratch.data<float>();
  const Device& device = a.x.device();
  const int64_t blocks = (tokens * half + rk::kPackThreads - 1) / rk::kPackThreads;
  rk::launch(device, turns_kernel, {dim3(static_cast<unsigned>(blocks)), dim3(rk::kPackThreads)}, f, turns,
             tokens, half, a.offset, a.back);
  dispatch_gpu_float(a.x.dtype(), [&]<class T>() {
    const auto kernel = a.pairs == RopePairs::kHalves ? rotate_kernel<T, RopePairs::kHalves>
                                                      : rotate_kernel<T, RopePairs::kAdjacent>;
    rk::launch(device, kernel, rk::row_pack_launch(rows, half), a.x.data<T>(), rk::grad_out(a.y), turns,
               tokens, heads, half, rows);
  });
}

}  // namespace rookery::RK_BACKEND
