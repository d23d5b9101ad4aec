// kernels.h: small kernels that the tests of the emulator run: one for each kind of barrier. Bodies:
// *_cuda.cu, as in kernels/ops.
#pragma once

#include <cstdint>

#include "kernels/base/bf16.h"
#include "kernels/tensor/device.h"

namespace rookery::emul {

// out[row] = sum of in[row][0 .. columns), a block of `threads` (a multiple of 32) per row.
void row_sum(const Device& device, const float* in, float* out, int64_t rows, int64_t columns, int threads);

// The same for rows of 128, all in one block: a tree in shared memory (block barriers, syncwarp).
void tree_sum(const Device& device, const float* in, float* out, int64_t rows);

// out = in, each tile of 512 floats turned round in groups of four: copies that run two tiles ahead
// (cp.async).
void turned_tiles(const Device& device, const float* in, float* out, int64_t tiles);

// out[32][16] = a[32][K] b[K][16], K a multiple of 32 (ldmatrix, mma, stmatrix).
void tile_product(const Device& device, const bf16* a, const bf16* b, bf16* out, int64_t k);

// out[tile][consumer] = sum over a tile of 128 floats, times 1 + consumer, for 96 consumers. A warp reads
// tiles into a ring of two stages, three warps add: by mbarriers and cp.async, or by named barriers and plain
// stores.
void ring_by_mbarriers(const Device& device, const float* in, float* out, int64_t tiles);
void ring_by_named_barriers(const Device& device, const float* in, float* out, int64_t tiles);

// A kernel with one barrier that it does not need.
void one_barrier_too_many(const Device& device, const float* in, float* out);

}  // namespace rookery::emul
