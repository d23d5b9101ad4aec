// row_team.h: what kernels on rows share on GPUs, top down: packs of rows, threads that work on a row
// together, sums over rows in two stages. Packs and gradients: kernels/cuda/pack.h, kernels/ops/grad_out.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/ops/grad_out.h"

namespace rookery::rk {
inline namespace RK_SIDE {

template <class T>
const T* data_or_null(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

RK_DEV float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
RK_DEV float silu(float x) { return x * sigmoid(x); }

// --- one pass over rows of C elements: a thread per pack, none of which crosses rows ---
struct RowPack {
  int64_t row, i;  // elements i to i + 7 of the row
};
RK_DEV RowPack row_pack(int64_t C) {
  const int64_t packs = (C + kPack - 1) / kPack, t = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  return {t / packs, t % packs * kPack};
}
inline Launch row_pack_launch(int64_t rows, int64_t C) {
  return pack_launch(rows * ((C + kPack - 1) / kPack) * kPack);
}

// --- rows of G groups of N elements: a team of threads has the same group of every row ---
struct Rows {
  int64_t count, groups, N;
  int team;  // threads: a power of two up to 32, or the block
  RK_DEV int64_t C() const { return groups * N; }
};

// Blocks in x have several teams (one, if it is the block), blocks in y take turns at the rows. `sums`: how
// many rows each thread keeps its packs of in shared memory (RowTeam::column).
struct RowsLaunch {
  Rows rows;
  Launch launch;
  RowsLaunch(int64_t count, int64_t groups, int64_t N, int64_t row_blocks, int sums,
             int most_threads = kPackThreads);
};
// For kernels without sums over rows: as many blocks as CUDA allows.
inline int64_t blocks_of_rows(int64_t rows) { return std::min<int64_t>(rows, 65535); }

// A thread of a team: the group, and the packs of it that are the thread's.
class RowTeam {
 public:
  RK_DEV explicit RowTeam(const Rows& rows)
      : rows_(rows),
        group_(int64_t{blockIdx.x} * (blockDim.x / rows.team) + threadIdx.x / rows.team),
        rank_(threadIdx.x % rows.team),
        shared_(reinterpret_cast<float*>(dyn_smem())) {}

  RK_DEV bool has_group() const { return group_ < rows_.groups; }  // else it only takes part in sums
  RK_DEV bool is_first() const { return rank_ == 0 && has_group(); }
  RK_DEV int64_t group() const { return group_; }
  RK_DEV int64_t N() const { return rows_.N; }
  RK_DEV int64_t channel() const { return group_ * rows_.N; }  // of the row, where the group begins

  // body(row), the rows of this block.
  template <class F>
  RK_DEV void each_row(F&& body) const {
    for (int64_t row = blockIdx.y; row < rows_.count; row += gridDim.y) body(row);
  }
  // body(i), the packs of this thread.
  template <class F>
  RK_DEV void each_pack(F&& body) const {
    if (!has_group()) return;
    for (int64_t i = int64_t{rank_} * kPack; i < rows_.N; i += int64_t{rows_.team} * kPack) body(i);
  }
  // Pack i of a group that begins at `from`; zeros past its end.
  template <class T>
  RK_DEV Pack load(const T* from, int64_t i) const {
    return load_pack(from, i, rows_.N);
  }
  template <class T>
  RK_DEV void store(T* to, int64_t i, const Pack& pack) const {
    store_pack(to, i, rows_.N, pack);
  }
  // ... at element `at` of the tensor.
  RK_DEV void store(const GradOut& to, int64_t at, int64_t i, const Pack& pack) const {
    if (to.wanted()) to.store(at + i, at + rows_.N, pack);
  }

  // Each of x over the team, the same bits in all its threads. To be called by all threads of a block.
  template <int K, class Op>
  RK_DEV void fold(float (&x)[K], Op op) {
    static_assert(K <= kMostFolds);
    const int lanes = rows_.team < 32 ? rows_.team : 32;
#pragma unroll
    for (int k = 0; k < K; ++k)
      for (int distance = lanes / 2; distance > 0; distance /= 2) x[k] = op(x[k], shfl_xor(x[k], distance));
    if (rows_.team <= 32) return;
    // Two sets of slots in turn: who writes to one has seen a barrier since the last read of it.
    float* slots = shared_ + set_ * kMostFolds * 32;
    set_ ^= 1;
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    if (threadIdx.x % 32 == 0)
      for (int k = 0; k < K; ++k) slots[k * 32 + warp] = x[k];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      x[k] = slots[k * 32];
      for (int w = 1; w < warps; ++w) x[k] = op(x[k], slots[k * 32 + w]);
    }
  }
  template <int K>
  RK_DEV void add_up(float (&x)[K]) {
    fold(x, [](float a, float b) { return a + b; });
  }
  RK_DEV float sum(float x) {
    float one[1] = {x};
    add_up(one);
    return one[0];
  }
  RK_DEV float max(float x) {
    float one[1] = {x};
    fold(one, [](float a, float b) { return fmaxf(a, b); });
    return one[0];
  }

  // A row in shared memory, number k: of this thread's packs, so without barriers. Sums over the rows of the
  // block, or what one row leaves to the next.
  RK_DEV Pack column(int k, int64_t i) const { return load(columns(k), i); }
  RK_DEV void set_column(int k, int64_t i, const Pack& x) const { store(columns(k), i, x); }
  RK_DEV void add_to_column(int k, int64_t i, const Pack& x) const {
    Pack sum = column(k, i);
#pragma unroll
    for (int j = 0; j < kPack; ++j) sum[j] += x[j];
    set_column(k, i, sum);
  }
  RK_DEV void clear_columns(int K) const {
    each_pack([&](int64_t i) {
      for (int k = 0; k < K; ++k) set_column(k, i, Pack{});
    });
  }
  // The first K of them to partial [blocks in y, K, C].
  RK_DEV void write_columns(int K, float* partial) const {
    each_pack([&](int64_t i) {
      for (int k = 0; k < K; ++k)
        store(partial + (int64_t{blockIdx.y} * K + k) * rows_.C() + channel(), i, column(k, i));
    });
  }

  // Shared memory of the launch past what the team uses, where it has no column sums.
  RK_DEV float* rest() const { return shared_ + kSlots; }
  static constexpr int kMostFolds = 3;
  static constexpr int kSlots = 2 * kMostFolds * 32;  // floats: two sets of a value per warp and fold

 private:
  RK_DEV float* columns(int k) const {
    const int64_t teams = blockDim.x / rows_.team;
    return shared_ + kSlots + (k * teams + threadIdx.x / rows_.team) * rows_.N;
  }
  Rows rows_;
  int64_t group_;
  int rank_;
  float* shared_;
  int set_ = 0;
};

inline RowsLaunch::RowsLaunch(int64_t count, int64_t groups, int64_t N, int64_t row_blocks, int sums,
                              int most_threads)
    : rows{count, groups, N, 1} {
  const int64_t packs = (N + kPack - 1) / kPack;
  const auto in_warps = [most_threads](int64_t threads) {
    return static_cast<int>(std::min<int64_t>(most_threads, (threads + 31) / 32 * 32));
  };
  int threads = in_warps(packs);
  if (packs > 32) {
    rows.team = threads;
  } else {
    while (rows.team < packs) rows.team *= 2;
    threads = in_warps(rows.team * groups);
  }
  const int64_t teams = threads / rows.team;
  const size_t floats = RowTeam::kSlots + static_cast<size_t>(sums * teams * N);
  launch = {dim3(static_cast<unsigned>((groups + teams - 1) / teams), static_cast<unsigned>(row_blocks)),
            dim3(static_cast<unsigned>(threads)), floats * sizeof(float)};
}

// --- the second stage: sums over the parts, in their order ---
constexpr int kPartRows = 8;
template <int kColumns>
__global__ void add_parts_kernel(const float* partial, int64_t parts, int64_t stride, int64_t C,
                                 GradOut out) {
  auto [sums] = SharedLayout<float[kPartRows][kColumns]>::carve();
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (column < C)
    for (int64_t part = threadIdx.y; part < parts; part += kPartRows) sum += partial[part * stride + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= C) return;
  Pack total{};
  for (int row = 0; row < kPartRows; ++row) total[0] += sums[row][threadIdx.x];
  out.store(column, column + 1, total);
}

// out (+)= the sums of row k of partial [parts, K, C], C elements.
inline void add_parts(const Tensor& partial, int64_t k, const GradTarget& out) {
  if (!out.tensor.defined()) return;
  constexpr int kColumns = 32;
  const int64_t K = partial.dim(1), C = partial.dim(2);
  launch(partial.device(), add_parts_kernel<kColumns>,
         {dim3(static_cast<unsigned>((C + kColumns - 1) / kColumns)), dim3(kColumns, kPartRows),
          SharedLayout<float[kPartRows][kColumns]>::kBytes},
         partial.data<float>() + k * C, partial.dim(0), K * C, C, grad_out(out));
}

}  // namespace RK_SIDE
}  // namespace rookery::rk
