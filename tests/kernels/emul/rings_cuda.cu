// rings_cuda.cu: work that overlaps copies: cp.async by groups, mbarriers, named barriers.
#include "kernels/cuda/portable.h"
#include "tests/kernels/emul/kernels.h"

namespace rookery::RK_BACKEND {
namespace {

// --- a pipeline of whole tiles ---

constexpr int kTile = 512, kTileThreads = kTile / 4, kAhead = 2;
using TileShared = rk::SharedLayout<float[kAhead + 1][kTile]>;

// A block does all tiles; a thread copies four values of each and writes those that its mirror image copied.
__global__ void __launch_bounds__(kTileThreads)
    turned_tiles_kernel(const float* in, float* out, int64_t tiles) {
  auto [ring] = TileShared::carve();
  const int thread = threadIdx.x;
  for (int64_t tile = 0; tile < kAhead; ++tile) {
    if (tile < tiles) rk::cp_async16(ring[tile] + 4 * thread, in + tile * kTile + 4 * thread);
    rk::cp_async_commit();
  }
  for (int64_t tile = 0; tile < tiles; ++tile) {
    rk::cp_async_wait<kAhead - 1>();
    __syncthreads();  // the tile is there for all; the one before it has been read by all
    const int64_t next = tile + kAhead;
    if (next < tiles) rk::cp_async16(ring[next % (kAhead + 1)] + 4 * thread, in + next * kTile + 4 * thread);
    rk::cp_async_commit();
    const float* from = ring[tile % (kAhead + 1)] + kTile - 4 - 4 * thread;
    rk::store16(out + tile * kTile + 4 * thread, rk::load16(from));
  }
}

// --- a warp that reads, three that add ---

constexpr int kStages = 2, kRingTile = 128, kConsumers = 96;

RK_DEV void write_sum(const float* tile, float* out, int consumer) {
  float sum = 0;
  for (int i = 0; i < kRingTile; ++i) sum += tile[i];
  out[consumer] = sum * static_cast<float>(1 + consumer);
}

using MbarrierShared =
    rk::SharedLayout<float[kStages][kRingTile], rk::mbarrier[kStages], rk::mbarrier[kStages]>;

__global__ void ring_by_mbarriers_kernel(const float* in, float* out, int64_t tiles) {
  auto [ring, full, empty] = MbarrierShared::carve();
  const int thread = threadIdx.x;
  if (thread == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      rk::mbarrier_init(&full[stage], 32);
      rk::mbarrier_init(&empty[stage], kConsumers);
    }
  }
  __syncthreads();
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int stage = static_cast<int>(tile % kStages);
    const uint32_t parity = static_cast<uint32_t>(tile / kStages % 2);
    if (thread < 32) {
      rk::mbarrier_wait(&empty[stage], parity ^ 1);
      rk::cp_async16(ring[stage] + 4 * thread, in + tile * kRingTile + 4 * thread);
      rk::cp_async_mbarrier_arrive(&full[stage]);
    } else {
      rk::mbarrier_wait(&full[stage], parity);
      write_sum(ring[stage], out + tile * kConsumers, thread - 32);
      rk::mbarrier_arrive(&empty[stage]);
    }
  }
}

using NamedShared = rk::SharedLayout<float[kStages][kRingTile]>;

__global__ void ring_by_named_barriers_kernel(const float* in, float* out, int64_t tiles) {
  auto [ring] = NamedShared::carve();
  const int thread = threadIdx.x;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int stage = static_cast<int>(tile % kStages), full = 1 + stage, empty = 1 + kStages + stage;
    if (thread < 32) {
      if (tile >= kStages) rk::named_barrier_sync(empty, 32 + kConsumers);
      rk::store16(ring[stage] + 4 * thread, rk::load16(in + tile * kRingTile + 4 * thread));
      rk::named_barrier_arrive(full, 32 + kConsumers);
    } else {
      rk::named_barrier_sync(full, 32 + kConsumers);
      write_sum(ring[stage], out + tile * kConsumers, thread - 32);
      if (tile + kStages < tiles) rk::named_barrier_arrive(empty, 32 + kConsumers);
    }
  }
}

}  // namespace

void turned_tiles(const Device& device, const float* in, float* out, int64_t tiles) {
  rk::launch(device, turned_tiles_kernel, {1, kTileThreads, TileShared::kBytes}, in, out, tiles);
}

void ring_by_mbarriers(const Device& device, const float* in, float* out, int64_t tiles) {
  rk::launch(device, ring_by_mbarriers_kernel, {1, 32 + kConsumers, MbarrierShared::kBytes}, in, out, tiles);
}

void ring_by_named_barriers(const Device& device, const float* in, float* out, int64_t tiles) {
  rk::launch(device, ring_by_named_barriers_kernel, {1, 32 + kConsumers, NamedShared::kBytes}, in, out,
             tiles);
}

}  // namespace rookery::RK_BACKEND
