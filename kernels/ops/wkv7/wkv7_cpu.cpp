// wkv7_cpu.cpp: the WKV7 recurrence on the CPU, forward and backward, for one (sequence, head, strip of value
// columns) at a time. Formulas of one token: tests/kernels/wkv7_test.cpp. Arguments and scratch: wkv7.h.
//
// Value columns never mix: column j of the state sees v[j] and the read p[j] = sum_i a[i] S[i,j] alone. Both
// passes use that to keep what they need in registers. The decay only multiplies, so any decay is exact.
//
// The forward pass keeps the state [key, value], so that p and y are sums over rows. One sweep updates the
// state with token t, reads y_t and the p of token t+1: 5 multiply-adds per state element and token.
//
// The backward pass keeps the states S and their gradient D [value, key]: most gradients are then sums over
// rows, and dv and dp cross the lanes of a vector. With p from the forward pass, a row of S needs nothing of
// the others, so rows stay in registers over a block of tokens. Multiply-adds per state element and token:
// the state at every 16th token 3, those between 3, the gradients 10; together 16.
#include <cstdint>

#include "kernels/ops/math/lanes.h"
#include "kernels/ops/math/vmath.h"
#include "kernels/ops/wkv7/wkv7.h"

namespace rookery::RK_BACKEND {
namespace {

#define RK_INLINE static inline __attribute__((always_inline))

constexpr int kMostVectors = kVectorBytes == 64 ? 4 : 2;  // of a tile: AVX-512 has twice the registers
constexpr int kRows = 4;                                  // of S that stay in registers over a block

// The tensors of a call as pointers; null where undefined.
template <class T>
struct Inputs {
  int64_t B, tokens, H, N;
  const T *r, *w, *k, *v, *a, *b, *state0;
  const uint8_t* doc_start;
  Wkv7Decay decay;
  int64_t strips;
};

// One strip of value columns [first, first + J) of one head, rows padded to P keys. The last `J - columns`
// are padding.
template <class T>
struct Strip {
  int64_t b, h, first, J, P, columns;
  int64_t row_at(const Inputs<T>& in, int64_t t) const { return ((b * in.tokens + t) * in.H + h) * in.N; }
  int64_t state_at(const Inputs<T>& in) const { return ((b * in.H + h) * in.N + first) * in.N; }
};
template <class T>
RK_INLINE Strip<T> strip_of(const Inputs<T>& in, int64_t item) {
  const int64_t units = wkv7_padded(in.N) / kWkv7Pad;
  const int64_t s = item % in.strips, head = item / in.strips;
  const int64_t first = units * s / in.strips * kWkv7Pad, last = units * (s + 1) / in.strips * kWkv7Pad;
  return {head / in.H,  head % in.H,      first,
          last - first, units * kWkv7Pad, last < in.N ? last - first : in.N - first};
}

// The strips [begin, end) in groups of one sequence, as f(first, last). Rows of one head lie H * N elements
// apart in [B, T, H, N]: the heads of a group go through a piece of time one after another before any of them
// goes on, so that memory is read in long stretches, however long the sequence is.
template <class T, class F>
RK_INLINE void for_each_group(const Inputs<T>& in, int64_t begin, int64_t end, F&& f) {
  const int64_t sequence = in.H * in.strips;
  while (begin < end) {
    const int64_t next_sequence = (begin / sequence + 1) * sequence;
    int64_t last = begin + wkv7_group(in.N);
    if (last > end) last = end;
    if (last > next_sequence) last = next_sequence;
    f(begin, last);
    begin = last;
  }
}

// Calls tile.template operator()<C>(begin) for tiles of C vectors that cover n elements, n a multiple of
// kWkv7Pad.
template <class T, class F>
RK_INLINE void for_tiles(int64_t n, F&& tile) {
  constexpr int W = Simd<T>::kLanes;
  int64_t at = 0;
  for (; at + kMostVectors * W <= n; at += kMostVectors * W) tile.template operator()<kMostVectors>(at);
  for (; at < n; at += 2 * W) tile.template operator()<2>(at);
}

// A row of `count` elements, or a copy in `stage` with zeros up to `padded`.
template <class T>
RK_INLINE const T* padded_row(T* stage, int64_t padded, const T* from, int64_t count) {
  if (count == padded) return from;
  fill(stage, padded, T(0));
  copy_row(stage, from, count);
  return stage;
}

constexpr double kC = 0.6065306597126334;  // e^(-1/2)

// exp(x) for x from -87 to 0, without the care that the ends of the range ask for.
RK_INLINE float small_exp(float x) {
  const ScaledExp e = scaled_exp(x);
  return e.mantissa * power_of_two(e.power);
}
RK_INLINE double small_exp(double x) { return vexp(x); }

// exp(-e^(-1/2) s) for s from 0 to 1, as 1 + s q(s) with q through the Chebyshev points: within 4e-9.
RK_INLINE float decay_of_sigmoid(float s) {
  float q = 5.3488783589e-5f;
  q = q * s - 6.6722631555e-4f;
  q = q * s + 5.6304406388e-3f;
  q = q * s - 3.7186383808e-2f;
  q = q * s + 1.8393955214e-1f;
  q = q * s - 6.0653065738e-1f;
  return q * s + 1.f;
}
RK_INLINE double decay_of_sigmoid(double s) { return vexp(-kC * s); }

template <class T>
RK_INLINE void decays(T* out, const T* w, int64_t P, Wkv7Decay kind) {
  if (kind == Wkv7Decay::kSigmoid) {
#pragma omp simd
    for (int64_t i = 0; i < P; ++i) {
      const T below = w[i] < T(0) ? w[i] : -w[i], e = small_exp(below < T(-87) ? T(-87) : below);
      out[i] = decay_of_sigmoid((w[i] < T(0) ? e : T(1)) / (T(1) + e));
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < P; ++i) out[i] = vexp(-vexp(w[i]));
  }
}

// From the gradient of the decay to that of w.
template <class T>
RK_INLINE void decay_gradients(T* dw, const T* decay, const T* w, int64_t P, Wkv7Decay kind) {
  if (kind == Wkv7Decay::kSigmoid) {
    // sigmoid(w) sigmoid(-w) = e / (1 + e)^2, and nothing overflows or cancels.
#pragma omp simd
    for (int64_t i = 0; i < P; ++i) {
      const T e = vexp(w[i] < T(0) ? w[i] : -w[i]), inverse = T(1) / (T(1) + e);
      dw[i] *= T(-kC) * decay[i] * e * inverse * inverse;
    }
  } else {
    // Where the decay is 0, exp(w) may be infinite.
#pragma omp simd
    for (int64_t i = 0; i < P; ++i)
      dw[i] = decay[i] > T(0) ? -vexp(w[i]) * decay[i] * dw[i] : (decay[i] == T(0) ? T(0) : decay[i]);
  }
}

// What the tokens of a sequence do to the state, for each key.
template <class T>
struct Keys {
  const T *r, *w, *k, *a, *b;
};

// C vectors of value columns: p = S a over all keys.
template <class T, int C>
RK_INLINE void read_tile(T* p, const T* S, const T* a, int64_t J, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec sum[C] = {};
  for (int64_t i = 0; i < P; ++i, S += J) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) sum[q] += a[i] * load(S + q * W);
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) store(p + q * W, sum[q]);
}

// The same columns, one token: S <- w S + b p + k v, y = r S, p <- a S with the a of the next token.
template <class T, int C>
RK_INLINE void forward_tile(T* S, T* y, T* p, const T* v, const Keys<T>& x, int64_t J, int64_t P,
                            Ahead<T>& ahead) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec pp[C], vv[C], yy[C] = {}, next[C] = {};
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) pp[q] = load(p + q * W), vv[q] = load(v + q * W);
  for (int64_t begin = 0; begin < P; begin += W) {
    fetch(ahead);
    for (int64_t i = begin; i < begin + W; ++i, S += J) {
      // Once per row: the compiler cannot know that the stores leave them as they are.
      const Vec w = splat(x.w[i]), b = splat(x.b[i]), k = splat(x.k[i]), r = splat(x.r[i]), a = splat(x.a[i]);
#pragma GCC unroll 4
      for (int q = 0; q < C; ++q) {
        Vec state = load(S + q * W) * w;
        state += b * pp[q];
        state += k * vv[q];
        store(S + q * W, state);
        yy[q] += r * state;
        next[q] += a * state;
      }
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) store(y + q * W, yy[q]), store(p + q * W, next[q]);
}

template <class T>
struct Outputs {
  T *y, *state, *read, *saved;
};

// The state of a strip [J, N] at the start of a segment after the first, in `saved`.
template <class T>
RK_INLINE int64_t saved_at(const Inputs<T>& in, const Strip<T>& x, int64_t segment) {
  const int64_t later = (in.tokens - 1) / kWkv7Segment;
  return (((x.b * later + segment - 1) * in.H + x.h) * in.N + x.first) * in.N;
}

// Tokens [begin, end) of strip `index` of `count` in a group. Its state S [P, J] and the read p of the next
// token stay in `memory` until its next turn.
template <class T>
void forward_block(const Inputs<T>& in, const Outputs<T>& out, const Strip<T>& x, int64_t index,
                   int64_t count, int64_t begin, int64_t end, T* memory) {
  constexpr int W = Simd<T>::kLanes;
  const int64_t N = in.N, P = x.P, J = x.J, stride = in.H * N;
  T *S = memory + index * (P + 1) * P, *p = S + P * P;
  Scratch<T> scratch{memory + wkv7_group(N) * (P + 1) * P};
  T *w = scratch.take(kWkv7Block * P), *zeros = scratch.take(P), *y_stage = scratch.take(J),
    *v_stage = scratch.take(J), *stage = scratch.take(4 * P);
  fill(zeros, P, T(0));
  // Of the whole block at once: none waits for another, and the sweeps wait for none.
  for (int64_t t = begin; t < end; ++t)
    decays(w + (t - begin) * P, padded_row(stage, P, in.w + x.row_at(in, t), N), P, in.decay);
  if (begin == 0) {
    fill(S, P * J, T(0));
    for (int64_t j = 0; in.state0 && j < x.columns; ++j) {
      const T* from = in.state0 + x.state_at(in) + j * N;
      for (int64_t i = 0; i < N; ++i) S[i * J + j] = from[i];
    }
    const T* a = padded_row(stage, P, in.a + x.row_at(in, 0), N);
    for_tiles<T>(J, [&]<int C>(int64_t j) { read_tile<T, C>(p + j, S + j, a, J, P); });
  }
  const uint8_t* doc_start = in.doc_start ? in.doc_start + x.b * in.tokens : nullptr;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t at = x.row_at(in, t);
    if (doc_start && doc_start[t]) fill(S, P * J, T(0)), fill(p, J, T(0));
    if (out.read) copy_row(out.read + at + x.first, p, x.columns);
    const T* next = t + 1 < in.tokens ? padded_row(stage, P, in.a + at + stride, N) : zeros;
    const Keys<T> keys{padded_row(stage + P, P, in.r + at, N), w + (t - begin) * P,
                       padded_row(stage + 2 * P, P, in.k + at, N), next,
                       padded_row(stage + 3 * P, P, in.b + at, N)};
    const T* v = padded_row(v_stage, J, in.v + at + x.first, x.columns);
    T* y = out.y + at + x.first;
    T* to = x.columns == J ? y : y_stage;
    // Of the rows of the group in the next block, or of the next sequence, taken as they lie in memory, each
    // strip fetches its share.
    const int64_t row = index * (end - begin) + t - begin;
    const int64_t piece =
        (x.b * in.tokens + end + row / count) * stride + (x.h - index / in.strips + row % count) * N;
    const bool last = end == in.tokens && x.b + 1 == in.B;
    Ahead<T> soon{{in.r + piece, in.w + piece, in.k + piece, in.v + piece, in.a + piece, in.b + piece,
                   out.y + piece, out.read ? out.read + piece : nullptr},
                  last       ? 0
                  : out.read ? 8
                             : 7,
                  0};
    for_tiles<T>(J, [&]<int C>(int64_t j) {
      soon.step = N * C * W * W / (P * J);
      forward_tile<T, C>(S + j, to + j, p + j, v + j, keys, J, P, soon);
    });
    if (to != y) copy_row(y, to, x.columns);
  }
  const bool saves = out.saved && end % kWkv7Segment == 0;
  if (end < in.tokens && !saves) return;
  T* to = end == in.tokens ? out.state + x.state_at(in) : out.saved + saved_at(in, x, end / kWkv7Segment);
  for (int64_t j = 0; j < x.columns; ++j) {
    for (int64_t i = 0; i < N; ++i) to[j * N + i] = S[i * J + j];
  }
}

// A block's rows: what its tokens do to the state, and what they put into it.
template <class T>
struct Block {
  Keys<T> keys[kWkv7Block];
  const T *v[kWkv7Block], *p[kWkv7Block], *dy[kWkv7Block];
};

// kRows rows of C vectors of keys, over tokens [begin, end) of a block: S <- S w + p b + v k. With kKeep the
// state after each token x goes to `to + x * step`, else the last one to `to`.
template <class T, int C, bool kKeep>
RK_INLINE void advance_tile(T* to, int64_t step, const T* from, const Block<T>& x, int begin, int end,
                            int64_t row, int64_t key, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec S[kRows][C];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) S[i][q] = load(from + (row + i) * P + key + q * W);
  }
  for (int t = begin; t < end; ++t) {
    const T *v = x.v[t] + row, *p = x.p[t] + row;
    const Keys<T>& keys = x.keys[t];
    Vec w[C], b[C], k[C];
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) {
      w[q] = load(keys.w + key + q * W), b[q] = load(keys.b + key + q * W), k[q] = load(keys.k + key + q * W);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const Vec read = splat(p[i]), value = splat(v[i]);
#pragma GCC unroll 4
      for (int q = 0; q < C; ++q) {
        S[i][q] *= w[q];
        S[i][q] += read * b[q];
        S[i][q] += value * k[q];
        if constexpr (kKeep) store(to + t * step + (row + i) * P + key + q * W, S[i][q]);
      }
    }
  }
  if constexpr (!kKeep) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int q = 0; q < C; ++q) store(to + (row + i) * P + key + q * W, S[i][q]);
    }
  }
}

// C vectors of keys: dr = S dy, summed over the value rows of a strip.
template <class T, int C>
RK_INLINE void read_rows_tile(T* dr, const T* S, const T* dy, int64_t J, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec sum[C] = {};
  for (int64_t j = 0; j < J; ++j, S += P) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) sum[q] += dy[j] * load(S + q * W);
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) store(dr + q * W, sum[q]);
}

// D <- D + dy r, the gradient of the state after the token, and what follows from it alone: dk = D v, db = D
// p, and across the lanes dv = D k and dp = D b, side by side in `across` [J, 2]. Where `first` is false
// another tile has left its share there.
template <class T, int C>
RK_INLINE void put_tile(T* dk, T* db, T* across, T* D, const Keys<T>& x, const T* v, const T* p, const T* dy,
                        bool first, int64_t J, int64_t P, Ahead<T>& ahead) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  constexpr int R = W / 2;  // rows whose two lane sums fill a vector
  Vec r[C], k[C], b[C], sum_k[C] = {}, sum_b[C] = {};
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) r[q] = load(x.r + q * W), k[q] = load(x.k + q * W), b[q] = load(x.b + q * W);
  for (int64_t j = 0; j < J; j += R) {
    if (j % W == 0) fetch(ahead);
    Vec folded[R];
#pragma GCC unroll 1
    for (int i = 0; i < R; ++i, D += P) {
      const Vec into = splat(dy[j + i]), vv = splat(v[j + i]), pp = splat(p[j + i]);
      Vec with_k = {}, with_b = {};
#pragma GCC unroll 4
      for (int q = 0; q < C; ++q) {
        const Vec d = load(D + q * W) + into * r[q];
        store(D + q * W, d);
        with_k += d * k[q];
        with_b += d * b[q];
        sum_k[q] += vv * d;
        sum_b[q] += pp * d;
      }
      folded[i] = fold<1>(with_k, with_b, std::make_integer_sequence<int, W>());
    }
    Vec sums = lane_sums<T, 2>(folded);
    if (!first) sums += load(across + 2 * j);
    store(across + 2 * j, sums);
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) store(dk + q * W, sum_k[q]), store(db + q * W, sum_b[q]);
}

// Then, with dp complete and S the state before the token: the gradient of the decay D . S, da = dp S, dr =
// S dy of the token before, and D <- D w + dp a, the gradient of S.
template <class T, int C>
RK_INLINE void take_tile(T* dw, T* da, T* dr, T* D, const T* S, const T* w, const T* a, const T* across,
                         const T* dy, int64_t J, int64_t P, Ahead<T>& ahead) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec ww[C], aa[C], sum_w[C] = {}, sum_a[C] = {}, sum_r[C] = {};
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) ww[q] = load(w + q * W), aa[q] = load(a + q * W);
  for (int64_t j = 0; j < J; ++j, D += P, S += P) {
    if (j % W == 0) fetch(ahead);
    const Vec dp = splat(across[2 * j + 1]), before = splat(dy[j]);
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) {
      const Vec state = load(S + q * W), d = load(D + q * W);
      sum_w[q] += d * state;
      sum_a[q] += dp * state;
      sum_r[q] += before * state;
      store(D + q * W, d * ww[q] + dp * aa[q]);
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) {
    store(dw + q * W, sum_w[q]), store(da + q * W, sum_a[q]), store(dr + q * W, sum_r[q]);
  }
}

// Gradients of one strip: dr, dw, dk, da and db are its share of them.
template <class T>
struct Gradients {
  const T *read, *saved, *dy, *dstate;
  T *dr, *dw, *dk, *dv, *da, *db, *dstate0;
};

// Tokens [first, last) of a segment, for strip `index` of a group. The gradient D [J, P] of its state stays
// in `memory` until its next turn.
template <class T>
void backward_segment(const Inputs<T>& in, const Gradients<T>& g, const Strip<T>& x, int64_t index,
                      int64_t first, int64_t last, T* memory) {
  const int64_t N = in.N, P = x.P, J = x.J, state = J * P, stride = in.H * N;
  const int64_t blocks = (last - first + kWkv7Block - 1) / kWkv7Block;
  T* D = memory + index * P * P;
  Scratch<T> scratch{memory + wkv7_group(N) * P * P};
  T *states = scratch.take(blocks * state), *after = scratch.take(kWkv7Block * state),
    *zeros = scratch.take(state), *w = scratch.take((last - first) * P),
    *stage = scratch.take(kWkv7Block * 5 * P), *value_stage = scratch.take(kWkv7Block * 3 * J),
    *out = scratch.take(5 * P), *across = scratch.take(2 * J), *dy_stage = scratch.take(J);
  const uint8_t* doc_start = in.doc_start ? in.doc_start + x.b * in.tokens : nullptr;
  const auto starts = [&](int64_t t) { return doc_start && doc_start[t]; };

  const auto state_in = [&](T* to, const T* from, int64_t at) {
    fill(to, state, T(0));
    for (int64_t j = 0; from && j < x.columns; ++j) copy_row(to + j * P, from + at + j * N, N);
  };
  fill(zeros, state, T(0));
  if (first > 0) {
    state_in(states, g.saved, saved_at(in, x, first / kWkv7Segment));
  } else {
    state_in(states, in.state0, x.state_at(in));
  }
  if (last == in.tokens) state_in(D, g.dstate, x.state_at(in));

  Block<T> block;
  const auto load_block = [&](int64_t begin, int64_t end, bool first_pass) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t at = x.row_at(in, t), n = t - begin, value_at = at + x.first;
      T *keys = stage + n * 5 * P, *values = value_stage + n * 3 * J;
      const auto key_row = [&](int q, const T* from) { return padded_row(keys + q * P, P, from + at, N); };
      const auto value_row = [&](int q, const T* from) {
        return padded_row(values + q * J, J, from + value_at, x.columns);
      };
      block.v[n] = value_row(0, in.v), block.p[n] = value_row(1, g.read);
      block.keys[n].w = w + (t - first) * P, block.keys[n].k = key_row(0, in.k),
      block.keys[n].b = key_row(1, in.b);
      if (first_pass) {
        decays(w + (t - first) * P, key_row(2, in.w), P, in.decay);
      } else {
        block.dy[n] = value_row(2, g.dy);
        block.keys[n].r = key_row(3, in.r), block.keys[n].a = key_row(4, in.a);
      }
    }
  };
  // Of the rows that the first pass reads from token offset `next` on, a block's, the share of these kRows
  // rows of the state.
  const auto fetch_share = [&](int64_t next, int64_t row) {
    const int64_t share = kWkv7Block * N * kRows / J;
    for (int64_t i = row / kRows * share; i < (row / kRows + 1) * share; i += 64 / int64_t(sizeof(T))) {
      const int64_t piece = next + i / N * stride + i % N;
      for (const T* from : {in.w, in.k, in.v, in.b, g.read}) __builtin_prefetch(from + piece, 0, 2);
    }
  };
  const auto advance = [&]<bool kKeep>(T* to, const T* from, int begin, int end, int64_t next) {
    for_tiles<T>(P, [&]<int C>(int64_t key) {
      for (int64_t row = 0; row < J; row += kRows) {
        if (!kKeep && key == 0) fetch_share(next, row);
        advance_tile<T, C, kKeep>(to, state, from, block, begin, end, row, key, P);
      }
    });
  };

  // The state at the start of every block.
  const int64_t ahead = kWkv7Block * stride;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t begin = first + i * kWkv7Block, end = begin + kWkv7Block < last ? begin + kWkv7Block : last;
    load_block(begin, end, true);
    T* now = states + i * state;
    if (starts(begin)) fill(now, state, T(0));
    if (end == last) break;
    int64_t last_start = begin;  // what came before it in this block leaves no trace
    for (int64_t t = begin + 1; t < end; ++t) {
      if (starts(t)) last_start = t;
    }
    advance.template operator()<false>(now + state, last_start > begin ? zeros : now, int(last_start - begin),
                                       int(end - begin), x.row_at(in, end));
  }

  for (int64_t i = blocks - 1; i >= 0; --i) {
    const int64_t begin = first + i * kWkv7Block, end = begin + kWkv7Block < last ? begin + kWkv7Block : last;
    const int count = int(end - begin);
    load_block(begin, end, false);
    const T* dy_before =
        begin > 0 ? padded_row(dy_stage, J, g.dy + x.row_at(in, begin - 1) + x.first, x.columns) : zeros;
    // The states before and after each token.
    const T* before[kWkv7Block];
    for (int from = 0, to; from < count; from = to) {
      before[from] = from == 0 ? states + i * state : zeros;
      for (to = from + 1; to < count && !starts(begin + to); ++to) before[to] = after + (to - 1) * state;
      advance.template operator()<true>(after, before[from], from, to, 0);
    }
    const bool whole = N == P;
    for (int t = count - 1; t >= 0; --t) {
      const int64_t at = x.row_at(in, begin + t);
      const Keys<T>& keys = block.keys[t];
      // What is read and written a block later or, at the end of the segment, read first for the next head.
      const bool more = begin > first;
      const int64_t soon = more ? at - ahead : at + N, step = N * Simd<T>::kLanes / J;
      Ahead<T> inputs{{in.w + soon, in.k + soon, in.v + soon, in.b + soon, g.read + soon, in.r + soon,
                       in.a + soon, g.dy + soon},
                      more ? 8 : 5,
                      step};
      Ahead<T> outputs{
          {g.dr + soon, g.dw + soon, g.dk + soon, g.dv + soon, g.da + soon, g.db + soon}, more ? 6 : 0, step};
      // Where a gradient goes: to its place, or past it where rows are padded.
      const auto place = [&](T* to, int q) { return whole ? to : out + q * P; };
      const auto finish = [&](T* to, int q) {
        if (!whole) copy_row(to, out + q * P, N);
      };
      // The state after a token is the one before the next, but at the end of a document.
      if (begin + t + 1 == in.tokens || starts(begin + t + 1)) {
        T* dr = place(g.dr + at, 0);
        for_tiles<T>(P, [&]<int C>(int64_t key) {
          read_rows_tile<T, C>(dr + key, after + t * state + key, block.dy[t], J, P);
        });
        finish(g.dr + at, 0);
      }
      T *dw = place(g.dw + at, 1), *dk = place(g.dk + at, 2), *da = place(g.da + at, 3),
        *db = place(g.db + at, 4);
      for_tiles<T>(P, [&]<int C>(int64_t key) {
        const Keys<T> from{keys.r + key, keys.w + key, keys.k + key, keys.a + key, keys.b + key};
        put_tile<T, C>(dk + key, db + key, across, D + key, from, block.v[t], block.p[t], block.dy[t],
                       key == 0, J, P, inputs);
        inputs.tensors = 0;  // all fetched
      });
      const bool follows = begin + t > 0 && !starts(begin + t);  // a token of the same document
      const T* dy = !follows ? zeros : t > 0 ? block.dy[t - 1] : dy_before;
      T* dr = follows ? place(g.dr + at - stride, 0) : out;
      for_tiles<T>(P, [&]<int C>(int64_t key) {
        take_tile<T, C>(dw + key, da + key, dr + key, D + key, before[t] + key, keys.w + key, keys.a + key,
                        across, dy, J, P, outputs);
        outputs.tensors = 0;
      });
      const T* raw = padded_row(stage + t * 5 * P + 2 * P, P, in.w + at, N);
      decay_gradients(dw, keys.w, raw, P, in.decay);
      finish(g.dw + at, 1), finish(g.dk + at, 2), finish(g.da + at, 3), finish(g.db + at, 4);
      if (follows) finish(g.dr + at - stride, 0);
      T* dv = g.dv + at + x.first;
      for (int64_t j = 0; j < x.columns; ++j) dv[j] = across[2 * j];
      if (starts(begin + t)) fill(D, state, T(0));
    }
  }
  if (first == 0 && g.dstate0) {
    T* to = g.dstate0 + x.state_at(in);
    for (int64_t j = 0; j < x.columns; ++j) copy_row(to + j * N, D + j * P, N);
  }
}

template <class T>
RK_INLINE T* pointer(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}
template <class T, class Args>
RK_INLINE Inputs<T> inputs(const Args& a) {
  return {a.r.dim(0),
          a.r.dim(1),
          a.r.dim(2),
          a.r.dim(3),
          a.r.template data<T>(),
          a.w.template data<T>(),
          a.k.template data<T>(),
          a.v.template data<T>(),
          a.a.template data<T>(),
          a.b.template data<T>(),
          pointer<T>(a.state0),
          pointer<uint8_t>(a.doc_start),
          a.decay,
          a.strips};
}

template <class T>
RK_INLINE void forward(const Wkv7Args& a) {
  const Inputs<T> in = inputs<T>(a);
  const Outputs<T> out{a.y.data<T>(), a.state.data<T>(), pointer<T>(a.read), pointer<T>(a.saved)};
  T* scratch = a.scratch.data<T>();
  parallel_parts(a.r.device().pool(), in.B * in.H * in.strips, 1, [&](int64_t begin, int64_t end, int part) {
    T* memory = scratch + part * wkv7_forward_scratch(in.N);
    for_each_group(in, begin, end, [&](int64_t first, int64_t last) {
      for (int64_t t = 0; t < in.tokens; t += kWkv7Block) {
        const int64_t block_end = t + kWkv7Block < in.tokens ? t + kWkv7Block : in.tokens;
        for (int64_t item = first; item < last; ++item) {
          forward_block(in, out, strip_of(in, item), item - first, last - first, t, block_end, memory);
        }
      }
    });
  });
}

template <class T>
RK_INLINE void backward(const Wkv7Grad& a) {
  ThreadPool& pool = a.r.device().pool();
  const Inputs<T> in = inputs<T>(a);
  const int64_t numel = a.r.numel();
  const Gradients<T> whole{pointer<T>(a.read),   pointer<T>(a.saved),  pointer<T>(a.dy),
                           pointer<T>(a.dstate), a.dr.data<T>(),       a.dw.data<T>(),
                           a.dk.data<T>(),       a.dv.data<T>(),       a.da.data<T>(),
                           a.db.data<T>(),       pointer<T>(a.dstate0)};
  T *scratch = a.scratch.data<T>(), *parts = pointer<T>(a.parts);
  parallel_parts(pool, in.B * in.H * in.strips, 1, [&](int64_t begin, int64_t end, int part) {
    T* memory = scratch + part * wkv7_backward_scratch(in.tokens, in.N);
    const auto gradients_of = [&](int64_t item) {
      Gradients<T> own = whole;
      if (in.strips > 1) {
        T** shares[] = {&own.dr, &own.dw, &own.dk, &own.da, &own.db};
        for (int q = 0; q < 5; ++q) *shares[q] = parts + (item % in.strips * 5 + q) * numel;
      }
      return own;
    };
    for_each_group(in, begin, end, [&](int64_t first, int64_t last) {
      for (int64_t t = (in.tokens - 1) / kWkv7Segment * kWkv7Segment; t >= 0; t -= kWkv7Segment) {
        const int64_t segment_end = t + kWkv7Segment < in.tokens ? t + kWkv7Segment : in.tokens;
        for (int64_t item = first; item < last; ++item) {
          backward_segment(in, gradients_of(item), strip_of(in, item), item - first, t, segment_end, memory);
        }
      }
    });
  });
  if (in.strips == 1) return;
  parallel_for(pool, numel, 4096, [&](int64_t begin, int64_t end) {
    T* const results[] = {whole.dr, whole.dw, whole.dk, whole.da, whole.db};
    for (int q = 0; q < 5; ++q) {
      for (int64_t i = begin; i < end; ++i) {
        T sum = 0;
        for (int64_t s = 0; s < in.strips; ++s) sum += parts[(s * 5 + q) * numel + i];
        results[q][i] = sum;
      }
    }
  });
}

}  // namespace

void wkv7_forward(const Wkv7Args& a) {
  dispatch_float(a.r.dtype(), [&]<class T>() { forward<T>(a); });
}
void wkv7_backward(const Wkv7Grad& a) {
  dispatch_float(a.r.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
