// attention_mma.h: attention of bf16 on tensor cores, after FlashAttention-2 (Dao 2023, arXiv 2307.08691):
// scores, weights and sums in f32 registers, operands in bf16. Used by attention_cuda.cu.
//
// A warp owns 16 rows of a product, or 32, and all its columns, so that its sums are, pair by pair, the left
// operand of the next product (docs/emulation.md, fragments). A block of four warps owns a tile of rows and
// goes over tiles of 64 rows on the other side, one ahead of the arithmetic: queries over keys for y and for
// dq = ds k, keys over queries for dv = p^T dy and dk = ds^T q.
//
// Weights are 2^(c score - top) with c = scale log2(e) and a whole number `top`, cut to 16 bits, and `weight`
// is one over the sum of the cut ones. Another top moves the exponent alone, so the backward pass finds the
// very weights that made y: ds = scale p (dp - delta) with delta = dy . y sums up to 0 over the keys, also
// where p is nearly 1 for one of them and dp - delta cancels. That takes y before rounding (rest_of).
//
// What the keys have in common cancels in dq, and so may values in y: ds and the weights of y are multiplied
// as sums of two bf16 numbers, p in dv as one. That makes three products forward, nine backward.
#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/ops/attention/attention_gpu.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int kMmaThreads = 128;
constexpr int kPassing = 64;  // rows of the tiles that pass by, two of which are in shared memory
constexpr float kLog2E = 1.44269504f;

template <int P>
using MmaRow = bf16[P + 8];  // 8 more, so that 16 bytes of eight neighbouring rows lie in other banks

// The place of a thread: rows `row` and row + 8 of 16, columns `column` and column + 1 of 8.
struct Place {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2;
};

// Rows [begin, begin + kRows) of x [.., stride], 0 from row `end` and from channel D on. With `aligned` (rows
// begin at multiples of 16 bytes) in the background, until arrive().
template <int P, int kRows>
RK_DEV void load_tile(MmaRow<P>* to, const bf16* x, int64_t stride, int64_t begin, int64_t end, int64_t D,
                      bool aligned) {
  constexpr int kPacks = P / rk::kPack;
#pragma unroll
  for (int e = threadIdx.x; e < kRows * kPacks; e += kMmaThreads) {
    const int row = e / kPacks, d = e % kPacks * rk::kPack;
    const bool inside = begin + row < end && d < D;
    const bf16* from = inside ? x + (begin + row) * stride + d : x;
    if (aligned) {
      rk::cp_async16(&to[row][d], from, inside);
    } else {
      rk::Vec16<bf16> pack;
      for (int i = 0; i < rk::kPack; ++i) pack[i] = inside && d + i < D ? from[i] : bf16(0.f);
      rk::store16(&to[row][d], pack);
    }
  }
}

// All tiles are there for everybody, and nobody reads any more what lay there before.
RK_DEV void arrive() {
  rk::cp_async_commit();
  rk::cp_async_wait<0>();
  __syncthreads();
}

// Left operands: 16 M rows from `row` on.
template <int M, int P>
RK_DEV void load_left(uint32_t (&out)[M][P / 16][4], const MmaRow<P>* x, int row) {
  const int lane = Place().lane;
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int step = 0; step < P / 16; ++step)
      rk::ldmatrix_x4(out[i][step], &x[row + 16 * i + lane % 16][16 * step + lane / 16 * 8]);
}

// out = a b^T: [16 M, 8 N], b the rows from `row` on.
template <int M, int N, int P>
RK_DEV void multiply(float (&out)[M][N][4], const uint32_t (&a)[M][P / 16][4], const MmaRow<P>* b, int row) {
  const int lane = Place().lane;
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int j = 0; j < N; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) out[i][j][e] = 0;
#pragma unroll
  for (int step = 0; step < P / 16; ++step)
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      uint32_t r[4];
      rk::ldmatrix_x4(r, &b[row + 8 * j + lane / 16 * 8 + lane % 8][16 * step + lane / 8 % 2 * 8]);
      const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
#pragma unroll
      for (int i = 0; i < M; ++i) {
        rk::mma_bf16_16816(out[i][j], a[i][step], left, out[i][j]);
        rk::mma_bf16_16816(out[i][j + 1], a[i][step], right, out[i][j + 1]);
      }
    }
}

// out += a b: [16 M, P], a of 8 N columns, as the sum of kParts bf16 numbers of 8 bits each; b the rows from
// `row` on.
template <int kParts, int M, int N, int P>
RK_DEV void add_product(float (&out)[M][P / 8][4], const float (&a)[M][N][4], const MmaRow<P>* b, int row) {
  const int lane = Place().lane;
#pragma unroll
  for (int step = 0; step < N / 2; ++step) {
    uint32_t parts[kParts][M][4];
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float* pair = &a[i][2 * step + e / 2][e % 2 * 2];
        float low = pair[0], high = pair[1];
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          parts[part][i][e] = rk::pack_bf16(low, high);
          low -= float(bf16(low));
          high -= float(bf16(high));
        }
      }
#pragma unroll
    for (int c = 0; c < P / 8; c += 2) {
      uint32_t r[4];
      rk::ldmatrix_x4_trans(r, &b[row + 16 * step + lane % 16][8 * c + lane / 16 * 8]);
      const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
#pragma unroll
      for (int part = 0; part < kParts; ++part)
#pragma unroll
        for (int i = 0; i < M; ++i) {
          rk::mma_bf16_16816(out[i][c], parts[part][i], left, out[i][c]);
          rk::mma_bf16_16816(out[i][c + 1], parts[part][i], right, out[i][c + 1]);
        }
    }
  }
}

// The weight of a score before division: 16 bits, which two bf16 numbers hold.
RK_DEV float weight_of(float score, float c, float top) {
  return from_bits(bits_of(rk::fast_exp2(fmaf(score, c, -top))) & 0xFFFFFF00);
}

// Over the four threads with the same rows.
RK_DEV float quad_max(float x) {
  x = fmaxf(x, rk::shfl_xor(x, 1));
  return fmaxf(x, rk::shfl_xor(x, 2));
}
RK_DEV float quad_sum(float x) {
  x += rk::shfl_xor(x, 1);
  return x + rk::shfl_xor(x, 2);
}

// A tile of queries that goes over its keys. With M = 2 a warp has 32 of them and uses each right operand
// twice, at more registers.
template <int M>
struct Queries {
  static constexpr int kRows = 64 * M;
  const Sizes& n;
  const int32_t* first;  // may be null
  Place place;
  int own = 16 * M * place.warp;  // first row of the warp
  int b, h, g, begin;             // sequence, head, its key head, first query
  int from, to;                   // the keys that the block's queries see
  // Of the warp: keys that its first query sees, and its last one. Both grow with the queries.
  int first_from, first_to, last_from, last_to;

  RK_DEV Queries(const Sizes& sizes, const int32_t* first_keys)
      : n(sizes),
        first(first_keys),
        b(static_cast<int>(blockIdx.z)),
        h(static_cast<int>(blockIdx.y)),
        g(static_cast<int>(h * n.Hkv / n.Hq)),
        begin(static_cast<int>(gridDim.x - 1 - blockIdx.x) * kRows) {
    from = static_cast<int>(most(0, from_of(begin)));
    to = to_of(least(begin + kRows, n.tokens) - 1);
    const int64_t own_first = begin + own, own_last = own_first + 16 * M - 1;
    first_from = from_of(own_first);
    first_to = to_of(own_first);
    last_from = from_of(own_last);
    last_to = to_of(own_last);
  }
  RK_DEV int64_t row(int i, int half) const { return begin + own + 16 * i + 8 * half + place.row; }
  // The keys [from_of(t), to_of(t)) are those that query t sees.
  RK_DEV int from_of(int64_t t) const { return first ? first[b * n.tokens + least(t, n.tokens - 1)] : 0; }
  RK_DEV int to_of(int64_t t) const { return static_cast<int>(least(n.past + t + 1, n.S)); }
  RK_DEV bool sees_any(int key) const { return key < last_to && key + kPassing > first_from; }

  // Of the 8 N keys from `key` on: the score of what a query does not see becomes -infinity.
  template <int N>
  RK_DEV void mask(float (&scores)[M][N][4], int key) const {
    if (key >= last_from && key + 8 * N <= first_to) return;
    const int own_key = key + place.column;
#pragma unroll
    for (int i = 0; i < M; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row_from = from_of(row(i, half)), row_to = to_of(row(i, half));
#pragma unroll
        for (int e = 0; e < 2 * N; ++e) {
          const int s = own_key + e / 2 * 8 + e % 2;
          if (s < row_from || s >= row_to) scores[i][e / 2][2 * half + e % 2] = -INFINITY;
        }
      }
  }
};

// Scores of the next keys: moves the thread's maxima, and its sums with them, then turns the scores into
// weights, added to `sum`.
template <int M, int N, int C>
RK_DEV void soften(float (&scores)[M][N][4], float (&top)[M][2], float (&sum)[M][2], float (&out)[M][C][4],
                   float c) {
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -INFINITY;
#pragma unroll
      for (int j = 0; j < N; ++j)
        largest = fmaxf(largest, fmaxf(scores[i][j][2 * half], scores[i][j][2 * half + 1]));
      const float before = top[i][half];
      top[i][half] = fmaxf(before, ceilf(quad_max(largest) * c));
      if (top[i][half] != before) {
        const float factor = rk::fast_exp2(before - top[i][half]);
        sum[i][half] *= factor;
#pragma unroll
        for (int d = 0; d < C; ++d) {
          out[i][d][2 * half] *= factor;
          out[i][d][2 * half + 1] *= factor;
        }
      }
#pragma unroll
      for (int e = 0; e < 2 * N; ++e) {
        float& score = scores[i][e / 2][2 * half + e % 2];
        score = weight_of(score, c, top[i][half]);
        sum[i][half] += score;
      }
    }
}

template <int P>
struct ForwardMma {
  static constexpr int M = P == 64 ? 2 : 1;
  using Shared = rk::SharedLayout<MmaRow<P>[64 * M], MmaRow<P>[2 * kPassing], MmaRow<P>[2 * kPassing]>;
};

template <int P>
__global__ void __launch_bounds__(kMmaThreads, 2) forward_mma(Forward<bf16> a, bool aligned) {
  constexpr int M = ForwardMma<P>::M, N = kPassing / 8, C = P / 8;
  auto [q_tile, k_tiles, v_tiles] = ForwardMma<P>::Shared::carve();
  const Sizes& n = a.n;
  const Queries<M> at(n, a.first);
  const float c = a.scale * kLog2E;
  const auto load_keys = [&](int tile, int key) {
    const int64_t head = n.k_at(at.b, 0, at.g), stride = n.Hkv * n.D;
    load_tile<P, kPassing>(k_tiles + tile * kPassing, a.k + head, stride, key, at.to, n.D, aligned);
    load_tile<P, kPassing>(v_tiles + tile * kPassing, a.v + head, stride, key, at.to, n.D, aligned);
  };
  load_tile<P, 64 * M>(q_tile, a.q + n.q_at(at.b, 0, at.h), n.Hq * n.D, at.begin, n.tokens, n.D, aligned);
  load_keys(0, at.from);

  float out[M][C][4], top[M][2], sum[M][2];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = at.row(i, half);
      const bool goes_on = !a.first_part && t < n.tokens;
      top[i][half] = goes_on ? a.top[n.row_at(at.b, at.h, t)] : -FLT_MAX;
      // Four threads share the sum.
      sum[i][half] = goes_on && at.place.column == 0 ? a.weight[n.row_at(at.b, at.h, t)] : 0.f;
#pragma unroll
      for (int e = 0; e < 2 * C; ++e) {
        const int d = e / 2 * 8 + at.place.column + e % 2;
        out[i][e / 2][2 * half + e % 2] = goes_on && d < n.D ? a.sums[n.q_at(at.b, t, at.h) + d] : 0.f;
      }
    }
  arrive();
  uint32_t q[M][P / 16][4];
  load_left<M, P>(q, q_tile, at.own);

  int tile = 0;
  for (int key = at.from; key < at.to; key += kPassing, tile ^= 1) {
    if (key + kPassing < at.to) load_keys(tile ^ 1, key + kPassing);
    if (at.sees_any(key)) {
      float scores[M][N][4];
      multiply<M, N, P>(scores, q, k_tiles, tile * kPassing);
      at.mask(scores, key);
      soften(scores, top, sum, out, c);
      add_product<2, M, N, P>(out, scores, v_tiles, tile * kPassing);
    }
    arrive();
  }

#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = at.row(i, half);
      const float total = quad_sum(sum[i][half]), weight = a.last_part ? 1 / total : total;
      if (t >= n.tokens) continue;
      if (at.place.column == 0) {
        a.top[n.row_at(at.b, at.h, t)] = top[i][half];
        a.weight[n.row_at(at.b, at.h, t)] = weight;
      }
#pragma unroll
      for (int e = 0; e < 2 * C; ++e) {
        const int d = e / 2 * 8 + at.place.column + e % 2;
        const int64_t to = n.q_at(at.b, t, at.h) + d;
        const float value = out[i][e / 2][2 * half + e % 2];
        if (d >= n.D) continue;
        if (a.last_part) {
          const float y = value / total;  // of a single key, whose weight is `total`: its value
          a.y[to] = bf16(y);
          if (a.rest) a.rest[to] = rest_of(y);
        } else {
          a.sums[to] = value;
        }
      }
    }
}

template <int P>
struct QueryGradientMma {
  static constexpr int M = P == 64 ? 2 : 1;
  static constexpr int N = 4;  // keys of a pass over registers, in eights
  using Shared = rk::SharedLayout<MmaRow<P>[64 * M], MmaRow<P>[64 * M], MmaRow<P>[2 * kPassing],
                                  MmaRow<P>[2 * kPassing]>;
};

template <int P>
__global__ void __launch_bounds__(kMmaThreads, 2) query_gradient_mma(Backward<bf16> a, bool aligned) {
  constexpr int M = QueryGradientMma<P>::M, N = QueryGradientMma<P>::N, C = P / 8;
  auto [q_tile, dy_tile, k_tiles, v_tiles] = QueryGradientMma<P>::Shared::carve();
  const Sizes& n = a.n;
  const Queries<M> at(n, a.first);
  const float c = a.scale * kLog2E;
  const auto load_keys = [&](int tile, int key) {
    const int64_t head = n.k_at(at.b, 0, at.g), stride = n.Hkv * n.D;
    load_tile<P, kPassing>(k_tiles + tile * kPassing, a.k + head, stride, key, at.to, n.D, aligned);
    load_tile<P, kPassing>(v_tiles + tile * kPassing, a.v + head, stride, key, at.to, n.D, aligned);
  };
  const int64_t head = n.q_at(at.b, 0, at.h), stride = n.Hq * n.D;
  load_tile<P, 64 * M>(q_tile, a.q + head, stride, at.begin, n.tokens, n.D, aligned);
  load_tile<P, 64 * M>(dy_tile, a.dy + head, stride, at.begin, n.tokens, n.D, aligned);
  load_keys(0, at.from);

  float dq[M][C][4] = {}, top[M][2], weight[M][2], delta[M][2];
#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t t = least(at.row(i, half), n.tokens - 1), row = n.row_at(at.b, at.h, t);
      top[i][half] = a.top[row];
      weight[i][half] = a.weight[row];
      delta[i][half] = a.delta[row];
    }
  arrive();
  uint32_t q[M][P / 16][4], dy[M][P / 16][4];
  load_left<M, P>(q, q_tile, at.own);
  load_left<M, P>(dy, dy_tile, at.own);

  int tile = 0;
  for (int key = at.from; key < at.to; key += kPassing, tile ^= 1) {
    if (key + kPassing < at.to) load_keys(tile ^ 1, key + kPassing);
#pragma unroll 1
    for (int part = 0; part < kPassing && at.sees_any(key); part += 8 * N) {
      const int row = tile * kPassing + part;
      float s[M][N][4], dp[M][N][4];
      multiply<M, N, P>(s, q, k_tiles, row);
      multiply<M, N, P>(dp, dy, v_tiles, row);
      at.mask(s, key + part);
#pragma unroll
      for (int i = 0; i < M; ++i)
#pragma unroll
        for (int e = 0; e < 4 * N; ++e) {
          const int half = e % 4 / 2;
          s[i][e / 4][e % 4] = weight_of(s[i][e / 4][e % 4], c, top[i][half]) * weight[i][half] *
                               (dp[i][e / 4][e % 4] - delta[i][half]);
        }
      add_product<2, M, N, P>(dq, s, k_tiles, row);
    }
    arrive();
  }

#pragma unroll
  for (int i = 0; i < M; ++i)
#pragma unroll
    for (int e = 0; e < 4 * C; ++e) {
      const int d = e / 4 * 8 + at.place.column + e % 2;
      const int64_t t = at.row(i, e % 4 / 2);
      if (t < n.tokens && d < n.D) put(a.dq, n.q_at(at.b, t, at.h) + d, a.scale * dq[i][e / 4][e % 4]);
    }
}

template <int P>
struct KeyGradientMma {
  static constexpr int N = P == 128 ? 2 : 4;  // queries of a pass over registers, in eights
  using Shared = rk::SharedLayout<MmaRow<P>[64], MmaRow<P>[64], MmaRow<P>[2 * kPassing],
                                  MmaRow<P>[2 * kPassing], float[2][3][kPassing], int32_t[2][kPassing]>;
};

// The tile's 64 rows are keys; the scores, weights and gradients of them are those above, transposed.
template <int P>
__global__ void __launch_bounds__(kMmaThreads, 2) key_gradient_mma(Backward<bf16> a, bool aligned) {
  constexpr int N = KeyGradientMma<P>::N, C = P / 8;
  auto [k_tile, v_tile, q_tiles, dy_tiles, of_query, first] = KeyGradientMma<P>::Shared::carve();
  const Sizes& n = a.n;
  const Place place;
  const int own = 16 * place.warp;
  const int64_t begin = int64_t{blockIdx.x} * 64, b = blockIdx.z, g = blockIdx.y, group = n.Hq / n.Hkv,
                end = least(n.past + n.tokens, n.S);  // of what anybody sees
  const float c = a.scale * kLog2E;

  // The queries [from, to) may see some of the keys: to is where a document begins behind all of them.
  const int64_t from = most(0, begin - n.past);
  int64_t to = n.tokens;
  for (int64_t low = from; a.first && low < to;) {
    const int64_t middle = (low + to) / 2;
    if (a.first[b * n.tokens + middle] >= begin + 64) {
      to = middle;
    } else {
      low = middle + 1;
    }
  }
  const int tiles = static_cast<int>(most(0, to - from + kPassing - 1) / kPassing);
  const int total = tiles * static_cast<int>(group);
  const auto load_queries = [&](int buffer, int tile) {
    const int64_t h = g * group + tile / tiles, t0 = from + tile % tiles * kPassing;
    const int64_t head = n.q_at(b, 0, h), stride = n.Hq * n.D;
    load_tile<P, kPassing>(q_tiles + buffer * kPassing, a.q + head, stride, t0, n.tokens, n.D, aligned);
    load_tile<P, kPassing>(dy_tiles + buffer * kPassing, a.dy + head, stride, t0, n.tokens, n.D, aligned);
    if (threadIdx.x < kPassing) {
      const int64_t t = t0 + threadIdx.x, row = n.row_at(b, h, least(t, n.tokens - 1));
      // Behind the last query scores are 0: with its top, weights could be infinite.
      of_query[buffer][0][threadIdx.x] = t < n.tokens ? a.top[row] : 0.f;
      of_query[buffer][1][threadIdx.x] = t < n.tokens ? a.weight[row] : 0.f;
      of_query[buffer][2][threadIdx.x] = a.delta[row];
      first[buffer][threadIdx.x] = a.first ? a.first[b * n.tokens + least(t, n.tokens - 1)] : 0;
    }
  };
  const int64_t head = n.k_at(b, 0, g), stride = n.Hkv * n.D;
  load_tile<P, 64>(k_tile, a.k + head, stride, begin, end, n.D, aligned);
  load_tile<P, 64>(v_tile, a.v + head, stride, begin, end, n.D, aligned);
  if (total > 0) load_queries(0, 0);
  arrive();
  uint32_t k[1][P / 16][4], v[1][P / 16][4];
  load_left<1, P>(k, k_tile, own);
  load_left<1, P>(v, v_tile, own);

  float dk[1][C][4] = {}, dv[1][C][4] = {};
  const int64_t s0 = begin + own;  // first key of the warp
  for (int now = 0; now < total; ++now) {
    const int buffer = now % 2;
    if (now + 1 < total) load_queries(buffer ^ 1, now + 1);
    const int64_t t0 = from + now % tiles * kPassing;
#pragma unroll 1
    for (int part = 0; part < kPassing; part += 8 * N) {
      if (n.past + t0 + part + 8 * N <= s0) continue;  // all keys of the warp come later
      const bool all_see_all = n.past + t0 + part >= s0 + 15 && first[buffer][part + 8 * N - 1] <= s0;
      float p[1][N][4], ds[1][N][4];  // scores and dp at first
      multiply<1, N, P>(p, k, q_tiles, buffer * kPassing + part);
      multiply<1, N, P>(ds, v, dy_tiles, buffer * kPassing + part);
#pragma unroll
      for (int e = 0; e < 4 * N; ++e) {
        const int query = part + e / 4 * 8 + place.column + e % 2;
        const int64_t key = s0 + e % 4 / 2 * 8 + place.row;
        const bool seen = all_see_all || (key <= n.past + t0 + query && key >= first[buffer][query]);
        float &weight = p[0][e / 4][e % 4], &slope = ds[0][e / 4][e % 4];
        weight =
            weight_of(seen ? weight : -INFINITY, c, of_query[buffer][0][query]) * of_query[buffer][1][query];
        slope = weight * (slope - of_query[buffer][2][query]);
      }
      add_product<1, 1, N, P>(dv, p, dy_tiles, buffer * kPassing + part);
      add_product<2, 1, N, P>(dk, ds, q_tiles, buffer * kPassing + part);
    }
    arrive();
  }

#pragma unroll
  for (int e = 0; e < 4 * C; ++e) {
    const int d = e / 4 * 8 + place.column + e % 2;
    const int64_t key = s0 + e % 4 / 2 * 8 + place.row;
    if (key >= n.S || d >= n.D) continue;
    if (a.dk.wanted()) put(a.dk, n.k_at(b, key, g) + d, a.scale * dk[0][e / 4][e % 4]);
    if (a.dv.wanted()) put(a.dv, n.k_at(b, key, g) + d, dv[0][e / 4][e % 4]);
  }
}

}  // namespace
}  // namespace rookery::RK_BACKEND
