// slabs.h: how a product is split over the threads of a device (gemm.cpp, gemm_bf16.cpp).
#pragma once

#include "kernels/base/parallel.h"
#include "kernels/tensor/device.h"

namespace rookery {

// Rows [row, row + rows) and columns [column, column + columns) of C, computed by one thread.
struct Slab {
  int64_t row, rows, column, columns;
};

// body(slab) on each thread for its slab of C [m, n]: whole rows where m >= n, else whole columns, in
// multiples of 16. Below 2^17 multiply-adds a second thread costs more than it brings.
template <class F>
void for_slabs(Device& device, int64_t m, int64_t n, int64_t k, F&& body) {
  constexpr int64_t kParallelWork = 1 << 17, kTile = 16;
  const int64_t length = m >= n ? m : n, tiles = (length + kTile - 1) / kTile;
  parallel_for(device.pool(), tiles, m * n * k < kParallelWork ? tiles : 1, [&](int64_t first, int64_t last) {
    const int64_t begin = first * kTile;
    const int64_t count = (last * kTile < length ? last * kTile : length) - begin;
    body(m >= n ? Slab{begin, count, 0, n} : Slab{0, m, begin, count});
  });
}

}  // namespace rookery
