// attention_fma.h: attention of f32 outside the tensor cores. Used by attention_cuda.cu.
//
// Forward, a block owns a tile of queries of one head and goes over the tiles of their keys. Backward, blocks
// of queries go over them for dq = ds k, ds = scale p (dp - delta); then blocks of keys give dv = p^T dy and
// dk = ds^T q over all query heads that use the key head. Each output has one block and one order of its
// sums.
//
// A block has 256 threads, (x, y) = (thread % 16, thread / 16). A thread has rows y, y + 16, ... of a product
// and its columns x, x + 16, ...
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/ops/attention/attention_gpu.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kThreads = 256, kSide = 16;

// Tiles of rows of P >= D elements; 4 more, so that 16 bytes of neighbouring rows lie in other banks.
template <int P>
struct Tile {
  static constexpr int kRows = P >= 64 ? 64 : 32;
  static constexpr int kOwn = kRows / kSide;  // rows, or columns of scores, of a thread
  static constexpr int kColumns = P / kSide;  // columns of a thread in rows of P
  using Row = float[P + 4];
  using ScoreRow = float[kRows + 4];
  using Scores = float[kOwn][kOwn];
  using Rows = float[kOwn][kColumns];

  int x = threadIdx.x % kSide, y = threadIdx.x / kSide;

  // Rows [begin, end) of x [.., stride], at most kRows; the others are 0.
  RK_DEV static void load(Row* to, const float* from, int64_t stride, int64_t begin, int64_t end, int64_t D) {
    for (int e = threadIdx.x; e < kRows * P; e += kThreads) {
      const int row = e / P, d = e % P;
      to[row][d] = begin + row < end && d < D ? from[(begin + row) * stride + d] : 0.f;
    }
  }
  // a b^T.
  RK_DEV void scores(Scores& out, const Row* a, const Row* b) const {
    for (int i = 0; i < kOwn; ++i)
      for (int j = 0; j < kOwn; ++j) out[i][j] = 0;
    for (int d = 0; d < P; d += 4) {
      rk::Vec16<float> right[kOwn];
      for (int j = 0; j < kOwn; ++j) right[j] = rk::load16(&b[x + kSide * j][d]);
      for (int i = 0; i < kOwn; ++i) {
        const auto left = rk::load16(&a[y + kSide * i][d]);
        for (int j = 0; j < kOwn; ++j)
          for (int e = 0; e < 4; ++e) out[i][j] += left[e] * right[j][e];
      }
    }
  }
  RK_DEV void store(ScoreRow* to, const Scores& from) const {
    for (int i = 0; i < kOwn; ++i)
      for (int j = 0; j < kOwn; ++j) to[y + kSide * i][x + kSide * j] = from[i][j];
  }
  // out += scores b.
  RK_DEV void add_product(Rows& out, const ScoreRow* scores, const Row* b) const {
    for (int s = 0; s < kRows; s += 4) {
      rk::Vec16<float> left[kOwn];
      for (int i = 0; i < kOwn; ++i) left[i] = rk::load16(&scores[y + kSide * i][s]);
      for (int e = 0; e < 4; ++e)
        for (int c = 0; c < kColumns; ++c) {
          const float right = b[s + e][x + kSide * c];
          for (int i = 0; i < kOwn; ++i) out[i][c] += left[i][e] * right;
        }
    }
  }
};

// Over the 16 threads with the same rows.
RK_DEV float row_max(float value) {
  for (int distance = kSide / 2; distance > 0; distance /= 2)
    value = fmaxf(value, rk::shfl_xor(value, distance));
  return value;
}
RK_DEV float row_sum(float value) {
  for (int distance = kSide / 2; distance > 0; distance /= 2) value += rk::shfl_xor(value, distance);
  return value;
}

template <int P>
using ForwardShared =
    rk::SharedLayout<typename Tile<P>::Row[Tile<P>::kRows], typename Tile<P>::Row[Tile<P>::kRows],
                     typename Tile<P>::Row[Tile<P>::kRows], typename Tile<P>::ScoreRow[Tile<P>::kRows]>;

template <int P>
__global__ void __launch_bounds__(kThreads) forward_fma(Forward<float> a) {
  constexpr int kRows = Tile<P>::kRows, kOwn = Tile<P>::kOwn, kColumns = Tile<P>::kColumns;
  auto [q, k, v, weights] = ForwardShared<P>::carve();
  const Tile<P> tile;
  const Sizes& n = a.n;
  // The last queries see the most keys: they begin.
  const int64_t begin = int64_t{gridDim.x - 1 - blockIdx.x} * kRows, b = blockIdx.z, h = blockIdx.y,
                g = h * n.Hkv / n.Hq;
  tile.load(q, a.q + n.q_at(b, 0, h), n.Hq * n.D, begin, n.tokens, n.D);
  typename Tile<P>::Rows out;
  float top[kOwn], sum[kOwn];
  for (int i = 0; i < kOwn; ++i) {
    const int64_t t = begin + tile.y + kSide * i;
    const bool goes_on = !a.first_part && t < n.tokens;
    top[i] = goes_on ? a.top[n.row_at(b, h, t)] : -FLT_MAX;
    sum[i] = goes_on ? a.weight[n.row_at(b, h, t)] : 0.f;
    for (int c = 0; c < kColumns; ++c) {
      const int d = tile.x + kSide * c;
      out[i][c] = goes_on && d < n.D ? a.sums[n.q_at(b, t, h) + d] : 0.f;
    }
  }

  const int64_t from = a.first ? most(0, a.first[b * n.tokens + begin]) : 0;
  const int64_t to = least(n.past + least(begin + kRows, n.tokens), n.S);
  for (int64_t key = from; key < to; key += kRows) {
    __syncthreads();
    tile.load(k, a.k + n.k_at(b, 0, g), n.Hkv * n.D, key, to, n.D);
    tile.load(v, a.v + n.k_at(b, 0, g), n.Hkv * n.D, key, to, n.D);
    __syncthreads();
    typename Tile<P>::Scores s;
    tile.scores(s, q, k);
    for (int i = 0; i < kOwn; ++i) {
      const int64_t t = begin + tile.y + kSide * i;
      float largest = top[i];
      for (int j = 0; j < kOwn; ++j) {
        if (!n.sees(a.first, b, t, key + tile.x + kSide * j)) s[i][j] = -INFINITY;
        largest = fmaxf(largest, s[i][j]);
      }
      largest = row_max(largest);
      const float before = expf(a.scale * (top[i] - largest));
      float added = 0;
      for (int j = 0; j < kOwn; ++j) added += s[i][j] = expf(a.scale * (s[i][j] - largest));
      top[i] = largest;
      sum[i] = sum[i] * before + row_sum(added);
      for (int c = 0; c < kColumns; ++c) out[i][c] *= before;
    }
    tile.store(weights, s);
    __syncthreads();
    tile.add_product(out, weights, v);
  }

  __syncthreads();  // top and weight have been read by all, also where there was no key
  for (int i = 0; i < kOwn; ++i) {
    const int64_t t = begin + tile.y + kSide * i;
    if (t >= n.tokens) continue;
    const float weight = a.last_part ? 1 / sum[i] : sum[i];
    if (tile.x == 0) {
      a.top[n.row_at(b, h, t)] = top[i];
      a.weight[n.row_at(b, h, t)] = weight;
    }
    for (int c = 0; c < kColumns; ++c) {
      const int d = tile.x + kSide * c;
      if (d >= n.D) continue;
      if (a.last_part) {
        a.y[n.q_at(b, t, h) + d] = out[i][c] * weight;
      } else {
        a.sums[n.q_at(b, t, h) + d] = out[i][c];
      }
    }
  }
}

template <int P>
using BackwardShared =
    rk::SharedLayout<typename Tile<P>::Row[Tile<P>::kRows], typename Tile<P>::Row[Tile<P>::kRows],
                     typename Tile<P>::Row[Tile<P>::kRows], typename Tile<P>::Row[Tile<P>::kRows],
                     typename Tile<P>::ScoreRow[Tile<P>::kRows], float[3][Tile<P>::kRows]>;

template <int P>
__global__ void __launch_bounds__(kThreads) query_gradient_fma(Backward<float> a) {
  constexpr int kRows = Tile<P>::kRows, kOwn = Tile<P>::kOwn, kColumns = Tile<P>::kColumns;
  auto [q, dy, k, v, ds, of_query] = BackwardShared<P>::carve();
  float *top = of_query[0], *weight = of_query[1], *delta = of_query[2];
  const Tile<P> tile;
  const Sizes& n = a.n;
  const int64_t begin = int64_t{gridDim.x - 1 - blockIdx.x} * kRows, b = blockIdx.z, h = blockIdx.y,
                g = h * n.Hkv / n.Hq;
  tile.load(q, a.q + n.q_at(b, 0, h), n.Hq * n.D, begin, n.tokens, n.D);
  tile.load(dy, a.dy + n.q_at(b, 0, h), n.Hq * n.D, begin, n.tokens, n.D);
  if (threadIdx.x < kRows) {
    const bool inside = begin + threadIdx.x < n.tokens;
    top[threadIdx.x] = inside ? a.top[n.row_at(b, h, begin + threadIdx.x)] : 0.f;
    weight[threadIdx.x] = inside ? a.weight[n.row_at(b, h, begin + threadIdx.x)] : 0.f;
    delta[threadIdx.x] = inside ? a.delta[n.row_at(b, h, begin + threadIdx.x)] : 0.f;
  }
  typename Tile<P>::Rows dq = {};
  const int64_t from = a.first ? most(0, a.first[b * n.tokens + begin]) : 0;
  const int64_t to = least(n.past + least(begin + kRows, n.tokens), n.S);
  for (int64_t key = from; key < to; key += kRows) {
    __syncthreads();
    tile.load(k, a.k + n.k_at(b, 0, g), n.Hkv * n.D, key, to, n.D);
    tile.load(v, a.v + n.k_at(b, 0, g), n.Hkv * n.D, key, to, n.D);
    __syncthreads();
    typename Tile<P>::Scores s, dp;
    tile.scores(s, q, k);
    tile.scores(dp, dy, v);
    for (int i = 0; i < kOwn; ++i) {
      const int row = tile.y + kSide * i;
      for (int j = 0; j < kOwn; ++j) {
        const bool seen = n.sees(a.first, b, begin + row, key + tile.x + kSide * j);
        const float weighed = seen ? expf(a.scale * (s[i][j] - top[row])) * weight[row] : 0.f;
        dp[i][j] = a.scale * weighed * (dp[i][j] - delta[row]);
      }
    }
    tile.store(ds, dp);
    __syncthreads();
    tile.add_product(dq, ds, k);
  }
  for (int i = 0; i < kOwn; ++i) {
    const int64_t t = begin + tile.y + kSide * i;
    for (int c = 0; c < kColumns; ++c) {
      const int d = tile.x + kSide * c;
      if (t < n.tokens && d < n.D) put(a.dq, n.q_at(b, t, h) + d, dq[i][c]);
    }
  }
}

template <int P>
__global__ void __launch_bounds__(kThreads) key_gradient_fma(Backward<float> a) {
  constexpr int kRows = Tile<P>::kRows, kOwn = Tile<P>::kOwn, kColumns = Tile<P>::kColumns;
  auto [q, dy, k, v, weights, of_query] = BackwardShared<P>::carve();
  float *top = of_query[0], *weight = of_query[1], *delta = of_query[2];
  const Tile<P> tile;
  const Sizes& n = a.n;
  const int64_t key = int64_t{blockIdx.x} * kRows, b = blockIdx.z, g = blockIdx.y, group = n.Hq / n.Hkv,
                end = least(n.past + n.tokens, n.S);  // of what anybody sees
  tile.load(k, a.k + n.k_at(b, 0, g), n.Hkv * n.D, key, end, n.D);
  tile.load(v, a.v + n.k_at(b, 0, g), n.Hkv * n.D, key, end, n.D);
  typename Tile<P>::Rows dk = {}, dv = {};
  for (int64_t h = g * group; h < (g + 1) * group && key < end; ++h) {
    for (int64_t begin = most(0, key - n.past); begin < n.tokens; begin += kRows) {
      if (a.first && a.first[b * n.tokens + begin] >= key + kRows) break;
      __syncthreads();
      tile.load(q, a.q + n.q_at(b, 0, h), n.Hq * n.D, begin, n.tokens, n.D);
      tile.load(dy, a.dy + n.q_at(b, 0, h), n.Hq * n.D, begin, n.tokens, n.D);
      if (threadIdx.x < kRows) {
        const int64_t t = begin + threadIdx.x;
        top[threadIdx.x] = t < n.tokens ? a.top[n.row_at(b, h, t)] : 0.f;
        weight[threadIdx.x] = t < n.tokens ? a.weight[n.row_at(b, h, t)] : 0.f;
        delta[threadIdx.x] = t < n.tokens ? a.delta[n.row_at(b, h, t)] : 0.f;
      }
      __syncthreads();
      typename Tile<P>::Scores s, dp;
      tile.scores(s, k, q);
      tile.scores(dp, v, dy);
      for (int i = 0; i < kOwn; ++i) {
        for (int j = 0; j < kOwn; ++j) {
          const int query = tile.x + kSide * j;
          const bool seen = n.sees(a.first, b, begin + query, key + tile.y + kSide * i);
          s[i][j] = seen ? expf(a.scale * (s[i][j] - top[query])) * weight[query] : 0.f;
          dp[i][j] = seen ? a.scale * s[i][j] * (dp[i][j] - delta[query]) : 0.f;
        }
      }
      tile.store(weights, s);
      __syncthreads();
      tile.add_product(dv, weights, dy);
      __syncthreads();
      tile.store(weights, dp);
      __syncthreads();
      tile.add_product(dk, weights, q);
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int64_t s = key + tile.y + kSide * i;
    for (int c = 0; c < kColumns; ++c) {
      const int d = tile.x + kSide * c;
      if (s >= n.S || d >= n.D) continue;
      if (a.dk.wanted()) put(a.dk, n.k_at(b, s, g) + d, dk[i][c]);
      if (a.dv.wanted()) put(a.dv, n.k_at(b, s, g) + d, dv[i][c]);
    }
  }
}

}  // namespace
}  // namespace rookery::RK_BACKEND
