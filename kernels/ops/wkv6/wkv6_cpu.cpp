// wkv6_cpu.cpp: the recurrences of WKV6 and WKV5 on the CPU, forward and backward, for one (sequence, head,
// strip of value columns) at a time. Formulas of one token: tests/support/wkv6_ref.h. Arguments and scratch:
// wkv6.h.
//
// Tokens are taken in chunks of up to 4, cut at document starts and at multiples of 16. Inside a chunk, with
// w_t the decay of token t, S the state at entry and D the gradient of the state at exit,
//
//   y_t = (r_t . prod_{x<t} w_x) S + sum_{s<=t} A[t,s] v_s
//   A[t,s] = sum_i r_t k_s prod_{s<x<t} w_x for s < t,  A[t,t] = sum_i r_t u k_t
//   S <- (prod w) S + sum_s (k_s . prod_{x>s} w_x) v_s
//
// which needs 2.25 multiply-adds per state element and token where the plain recurrence needs 3. Every factor
// is a product of decays <= 1, so strong decay underflows to the right answer and nothing is ever divided.
//
// The forward pass keeps the state [key, value]: y is a sum over rows. The backward pass keeps S and D as
// [value, key]: gradients of r, k and w are then sums over rows, and only dv crosses the lanes of a vector.
//
// Backward, in multiply-adds per state element and token: the state at every 16th token 1.25, those between
// again 0.94, S dy 1, D v 1, write D 1, S . D 0.25, the step of D 1.25; together 6.69. (One token at a time,
// from stored states, it would be 6, and 8 with the states recomputed.)
#include <cstdint>
#include <utility>

#include "kernels/ops/math/lanes.h"
#include "kernels/ops/math/vmath.h"
#include "kernels/ops/wkv6/wkv6.h"

namespace rookery::RK_BACKEND {
namespace {

#define RK_INLINE static inline __attribute__((always_inline))

// Vectors of a state row that a tile keeps in registers: AVX-512 has twice as many.
constexpr int kForwardTile = kVectorBytes == 64 ? 2 : 1;
constexpr int kBackwardTile = kVectorBytes == 64 ? 2 : 1;
constexpr int L = 4;                   // tokens of a chunk
constexpr int kPrefetch = 8;           // tokens ahead, of the same head
constexpr int64_t kForwardBlock = 64;  // tokens of a head before the next head of its group has its turn

// The tensors of a call as pointers; null where undefined.
template <class T>
struct Inputs {
  int64_t B, tokens, H, N;
  const T *r, *k, *v, *w, *u, *state0;
  const uint8_t* doc_start;
  int64_t strips;
  bool fixed_decay;  // w is [H, N]
};

// One strip of value columns [first, first + J) of one head, rows padded to P keys, in the scratch of a
// thread.
template <class T>
struct Strip {
  int64_t b, h, first, J, P;
};
template <class T>
RK_INLINE Strip<T> strip_of(const Inputs<T>& in, int64_t item) {
  const int64_t units = wkv6_padded(in.N) / kWkv6Pad;
  const int64_t s = item % in.strips, head = item / in.strips;
  const int64_t first = units * s / in.strips * kWkv6Pad, last = units * (s + 1) / in.strips * kWkv6Pad;
  return {head / in.H, head % in.H, first, last - first, units * kWkv6Pad};
}

// The strips [begin, end) in groups of one sequence, as f(first, last). Rows of one head lie H * N elements
// apart in [B,T,H,N]: the heads of a group go through a piece of time one after another before any of them
// goes on, so that memory is read in long stretches, however long the sequence is.
template <class T, class F>
RK_INLINE void for_each_group(const Inputs<T>& in, int64_t begin, int64_t end, F&& f) {
  const int64_t sequence = in.H * in.strips;
  while (begin < end) {
    const int64_t next_sequence = (begin / sequence + 1) * sequence;
    int64_t last = begin + wkv6_group(in.N);
    if (last > end) last = end;
    if (last > next_sequence) last = next_sequence;
    f(begin, last);
    begin = last;
  }
}

// The tokens of a chunk that starts at t: up to 4, not past a multiple of 16, not into the next document.
RK_INLINE int chunk_tokens(const uint8_t* doc_start, int64_t t, int64_t T) {
  int64_t end = t / kWkv6Block * kWkv6Block + kWkv6Block;
  if (end > t + L) end = t + L;
  if (end > T) end = T;
  int n = 1;
  while (t + n < end && !(doc_start && doc_start[t + n])) ++n;
  return n;
}

// Where the L rows of a chunk are. Rows of one head lie H * N elements apart in [B,T,H,N]; each is read once
// per chunk, so they are copied (to `stage`, [L,P]) only where the padding asks for it. Missing tokens are
// rows of 0.
template <class T>
struct Rows {
  const T* row[L];
  const T* operator[](int t) const { return row[t]; }
};
template <class T>
RK_INLINE Rows<T> rows(T* stage, int64_t P, const T* from, int64_t stride, int tokens, int64_t count,
                       int64_t ahead) {
  Rows<T> out;
  for (int t = 0; t < L; ++t, stage += P, from += stride) {
    // Rows are too short for the processor to foresee which come `ahead` tokens later.
    for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T)))
      __builtin_prefetch(from + ahead * stride + i);
    if (t < tokens && count == P) {
      out.row[t] = from;
      continue;
    }
    fill(stage, P, T(0));
    if (t < tokens) copy_row(stage, from, count);
    out.row[t] = stage;
  }
  return out;
}

// exp(-exp(w)) with two comparisons for the ends of the range; what falls below 2^-126 becomes 0.
RK_INLINE float decay(float w) {
  ScaledExp inner = scaled_exp(w);
  ScaledExp outer = scaled_exp(-(inner.mantissa * power_of_two(inner.power)));
  float d = outer.mantissa * power_of_two(outer.power);
  d = w > 4.4698f ? 0.f : d;  // exp(-exp(4.4698)) = 1.2e-38
  return w < -87.f ? 1.f : d;
}
RK_INLINE double decay(double w) { return vexp(-vexp(w)); }

// Decays of the tokens of a chunk, to rows of `out`.
template <class T>
RK_INLINE void decays(T* out, const Rows<T>& w, int64_t P, int tokens) {
  constexpr int W = Simd<T>::kLanes;
  for (int t = 0; t < tokens; ++t) {
    const T* from = w[t];
    for (int64_t i = 0; i < P; i += W) {
#pragma omp simd
      for (int l = 0; l < W; ++l) out[t * P + i + l] = decay(from[i + l]);
    }
  }
}

// Rows of decays, `stride` apart: 0 where all tokens have the same. Missing tokens decay by 1 and so change
// nothing.
template <class T>
RK_INLINE Rows<T> decay_rows(const T* packed, int64_t stride, const T* ones, int tokens) {
  Rows<T> out;
  for (int t = 0; t < L; ++t) out.row[t] = t < tokens ? packed + t * stride : ones;
  return out;
}

// The raw decays of a head that has one for all tokens, and the decays themselves.
template <class T>
RK_INLINE void fixed_decays(T* raw, T* out, const T* from, int64_t P, int64_t N) {
  fill(raw, P, T(0));
  copy_row(raw, from, N);
  decays(out, Rows<T>{{raw}}, P, 1);
}

// What a chunk does to the state, from r, k, w of its tokens, for each key:
//   read[t] = r_t prod_{x<t} w_x      write[s] = k_s prod_{x>s} w_x      keep = prod w
// as [P / lanes, 9, lanes], so that a tile finds all it needs at fixed distances from one address.
constexpr int kRead = 0, kWrite = L, kKeep = 2 * L, kCoefficients = 2 * L + 1;

template <class T>
RK_INLINE void make_coefficients(T* out, T* score_out, const Rows<T>& r, const Rows<T>& k, const Rows<T>& w,
                                 const T* u, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec score[L * L] = {};
  for (int64_t i = 0; i < P; i += W, out += kCoefficients * W) {
    Vec rr[L], ww[L];
#pragma GCC unroll 4
    for (int t = 0; t < L; ++t) rr[t] = load(r[t] + i), ww[t] = load(w[t] + i);
    Vec product = ww[0];
    store(out + kRead * W, rr[0]);
#pragma GCC unroll 4
    for (int t = 1; t < L; ++t) {
      store(out + (kRead + t) * W, rr[t] * product);
      product *= ww[t];
    }
    store(out + kKeep * W, product);
    const Vec uu = load(u + i);
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) {
      Vec kk = load(k[s] + i);
      score[s * L + s] += rr[s] * uu * kk;
#pragma GCC unroll 4
      for (int t = s + 1; t < L; ++t) {
        score[t * L + s] += rr[t] * kk;
        kk *= ww[t];
      }
      store(out + (kWrite + s) * W, kk);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < L * L; q += W) store(score_out + q, lane_sums<T>(score + q));
}

// C vectors of value columns, over all keys: y = read S + score v, then S <- keep S + write v.
template <class T, int C>
RK_INLINE void forward_tile(T* S, T* const* y, const Rows<T>& v, int64_t j, int64_t J, const T* c,
                            const T* score, int64_t P, Ahead<T>& ahead) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec vv[L][C], yy[L][C];
#pragma GCC unroll 4
  for (int t = 0; t < L; ++t) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) {
      vv[t][q] = load(v[t] + j + q * W);
      yy[t][q] = score[t * L] * vv[0][q];
#pragma GCC unroll 4
      for (int s = 1; s <= t; ++s) yy[t][q] += score[t * L + s] * vv[s][q];
    }
  }
  S += j;
  for (int64_t i = 0; i < P; i += W, c += (kCoefficients - 1) * W) {
    fetch(ahead);
    for (int l = 0; l < W; ++l, ++c, S += J) {
#pragma GCC unroll 4
      for (int q = 0; q < C; ++q) {
        Vec state = load(S + q * W);
#pragma GCC unroll 4
        for (int t = 0; t < L; ++t) yy[t][q] += c[(kRead + t) * W] * state;
        state *= c[kKeep * W];
#pragma GCC unroll 4
        for (int s = 0; s < L; ++s) state += c[(kWrite + s) * W] * vv[s][q];
        store(S + q * W, state);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < L; ++t) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) store(y[t] + j + q * W, yy[t][q]);
  }
}

template <class T>
struct Outputs {
  T *y, *state, *saved;
};

// The state of a head [N, N] at the start of a segment after the first, in `saved`.
template <class T>
RK_INLINE int64_t saved_at(const Inputs<T>& in, const Strip<T>& x, int64_t segment) {
  const int64_t later = (in.tokens - 1) / kWkv6Segment;
  return ((x.b * later + segment - 1) * in.H + x.h) * in.N * in.N;
}

// Tokens [begin, end) of strip `index` of `count` in a group. Its state S [P,J] stays in `memory` until its
// next turn.
template <class T>
void forward_block(const Inputs<T>& in, const Outputs<T>& a, const Strip<T>& x, int64_t index, int64_t count,
                   int64_t begin, int64_t end, T* memory) {
  constexpr int W = Simd<T>::kLanes, kTile = kForwardTile * W;
  const int64_t N = in.N, P = x.P, J = x.J, stride = in.H * N;
  const int64_t columns = N - x.first < J ? N - x.first : J;  // the rest of the strip is padding
  T* S = memory + index * P * P;
  Scratch<T> scratch{memory + wkv6_group(N) * P * P};
  T *u = scratch.take(P), *w = scratch.take(L * P), *stage = scratch.take(3 * L * P),
    *spare = scratch.take(2 * L * J), *ones = scratch.take(P);
  T *c = scratch.take(kCoefficients * P), score[L * L];

  const int64_t state_at = (x.b * in.H + x.h) * N * N + x.first;
  if (begin == 0) {
    fill(S, P * J, T(0));
    for (int64_t i = 0; in.state0 && i < N; ++i) copy_row(S + i * J, in.state0 + state_at + i * N, columns);
  }
  fill(ones, P, T(1));
  fill(u, P, T(0));
  copy_row(u, in.u + x.h * N, N);
  if (in.fixed_decay) fixed_decays(stage, w, in.w + x.h * N, P, N);

  const uint8_t* doc_start = in.doc_start ? in.doc_start + x.b * in.tokens : nullptr;
  int tokens;
  for (int64_t t = begin; t < end; t += tokens) {
    tokens = chunk_tokens(doc_start, t, in.tokens);
    if (doc_start && doc_start[t]) fill(S, P * J, T(0));
    const int64_t at = (x.b * in.tokens + t) * stride + x.h * N;
    const Rows<T> r = rows(stage, P, in.r + at, stride, tokens, N, kPrefetch);
    const Rows<T> k = rows(stage + L * P, P, in.k + at, stride, tokens, N, kPrefetch);
    const Rows<T> v = rows(spare, J, in.v + at + x.first, stride, tokens, columns, kPrefetch);
    if (!in.fixed_decay) {
      decays(w, rows(stage + 2 * L * P, P, in.w + at, stride, tokens, N, kPrefetch), P, tokens);
    }
    make_coefficients(c, score, r, k, decay_rows(w, in.fixed_decay ? 0 : P, ones, tokens), u, P);
    T *y = a.y + at + x.first, *to[L];
    for (int s = 0; s < L; ++s) {
      to[s] = s < tokens && columns == J ? y + s * stride : spare + (L + s) * J;
      for (int64_t j = 0; j < columns; j += 64 / int64_t(sizeof(T)))
        __builtin_prefetch(y + (s + kPrefetch) * stride + j, 1);
    }
    // Of the rows of the group in the next block, or of the next sequence, taken as they lie in memory, each
    // strip fetches its share.
    const int64_t row = index * (end - begin) + t - begin;
    const int64_t next =
        (x.b * in.tokens + end + row / count) * stride + (x.h - index / in.strips + row % count) * N;
    const bool last = end == in.tokens && x.b + 1 == in.B;
    const int tensors = in.fixed_decay ? 4 : 5;
    Ahead<T> ahead{{in.r + next, in.k + next, in.v + next, a.y + next, in.w + next},
                   last ? 0 : tensors,
                   L * N * kTile * W / (P * J)};
    for (int64_t j = 0; j < J; j += kTile) {
      forward_tile<T, kForwardTile>(S, to, v, j, J, c, score, P, ahead);
    }
    if (columns < J) {
      for (int s = 0; s < tokens; ++s) copy_row(y + s * stride, to[s], columns);
    }
  }
  if (end == in.tokens) {
    for (int64_t i = 0; i < N; ++i) copy_row(a.state + state_at + i * N, S + i * J, columns);
  } else if (a.saved && end % kWkv6Segment == 0) {
    T* saved = a.saved + saved_at(in, x, end / kWkv6Segment) + x.first;
    for (int64_t i = 0; i < N; ++i) copy_row(saved + i * N, S + i * J, columns);
  }
}

// write and keep alone, the same bits as above: all that carries the state over a chunk.
template <class T>
RK_INLINE void make_write(T* out, const Rows<T>& k, const Rows<T>& w, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  for (int64_t i = 0; i < P; i += W, out += kCoefficients * W) {
    Vec product = load(w[0] + i);
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) {
      Vec kk = load(k[s] + i);
#pragma GCC unroll 4
      for (int t = s + 1; t < L; ++t) kk *= load(w[t] + i);
      store(out + (kWrite + s) * W, kk);
      if (s > 0) product *= load(w[s] + i);
    }
    store(out + kKeep * W, product);
  }
}

// x[0] y[0] x[1] y[1] ..: the first and the second half of it; and back.
template <class Vec, int... l>
RK_INLINE Vec zip_low(Vec x, Vec y, std::integer_sequence<int, l...>) {
  return __builtin_shufflevector(x, y, (l % 2 * int(sizeof...(l)) + l / 2)...);
}
template <class Vec, int... l>
RK_INLINE Vec zip_high(Vec x, Vec y, std::integer_sequence<int, l...>) {
  constexpr int n = int(sizeof...(l));
  return __builtin_shufflevector(x, y, (l % 2 * n + n / 2 + l / 2)...);
}
template <int First, class Vec, int... l>
RK_INLINE Vec every_second(Vec x, Vec y, std::integer_sequence<int, l...>) {
  return __builtin_shufflevector(x, y, (2 * l + First)...);
}

// The value columns of a chunk's rows as [J, L].
template <class T>
RK_INLINE void interleave(T* out, const Rows<T>& rows, int64_t J) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  constexpr auto all = std::make_integer_sequence<int, W>();
  for (int64_t j = 0; j < J; j += W, out += L * W) {
    const Vec a = load(rows[0] + j), b = load(rows[1] + j), c = load(rows[2] + j), d = load(rows[3] + j);
    const Vec ac = zip_low(a, c, all), ac2 = zip_high(a, c, all), bd = zip_low(b, d, all),
              bd2 = zip_high(b, d, all);
    store(out, zip_low(ac, bd, all)), store(out + W, zip_high(ac, bd, all));
    store(out + 2 * W, zip_low(ac2, bd2, all)), store(out + 3 * W, zip_high(ac2, bd2, all));
  }
}

// dv_s = lanes[.,s] + sum_{t>=s} score[t,s] dy_t, lanes as [J, L].
template <class T>
RK_INLINE void value_gradients(T* const* dv, const T* lanes, const T* score, const Rows<T>& dy, int64_t J) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  constexpr auto all = std::make_integer_sequence<int, W>();
  for (int64_t j = 0; j < J; j += W, lanes += L * W) {
    const Vec a = load(lanes), b = load(lanes + W), c = load(lanes + 2 * W), d = load(lanes + 3 * W);
    const Vec even = every_second<0>(a, b, all), odd = every_second<1>(a, b, all),
              even2 = every_second<0>(c, d, all), odd2 = every_second<1>(c, d, all);
    Vec sum[L] = {every_second<0>(even, even2, all), every_second<0>(odd, odd2, all),
                  every_second<1>(even, even2, all), every_second<1>(odd, odd2, all)};
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) {
#pragma GCC unroll 4
      for (int t = s; t < L; ++t) sum[s] += score[t * L + s] * load(dy[t] + j);
      store(dv[s] + j, sum[s]);
    }
  }
}

// C vectors of keys, over the value rows of a strip: to = keep from + write v.
template <class T, int C>
RK_INLINE void advance_tile(T* to, const T* from, const T* v, int64_t J, const T* c, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec write[L][C], keep[C];
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q, c += kCoefficients * W) {
    keep[q] = load(c + kKeep * W);
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) write[s][q] = load(c + (kWrite + s) * W);
  }
  for (int64_t j = 0; j < J; ++j, from += P, to += P, v += L) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) {
      Vec state = load(from + q * W) * keep[q];
#pragma GCC unroll 4
      for (int s = 0; s < L; ++s) state += v[s] * write[s][q];
      store(to + q * W, state);
    }
  }
}

// Sums over the value rows: dread[t] = S dy_t and dkeep = S . D.
template <class T, int C>
RK_INLINE void read_tile(T* dread, T* dkeep, const T* S, const T* D, const T* dy, int64_t J, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec read[L][C] = {}, keep[C] = {};
  for (int64_t j = 0; j < J; ++j, S += P, D += P, dy += L) {
#pragma GCC unroll 4
    for (int q = 0; q < C; ++q) {
      const Vec state = load(S + q * W);
      keep[q] += state * load(D + q * W);
#pragma GCC unroll 4
      for (int t = 0; t < L; ++t) read[t][q] += dy[t] * state;
    }
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) {
    store(dkeep + q * W, keep[q]);
#pragma GCC unroll 4
    for (int t = 0; t < L; ++t) store(dread + t * P + q * W, read[t][q]);
  }
}

// dwrite[s] = D v_s; dv += write D, as [j, s]; then D <- keep D + read dy.
template <class T, int C>
RK_INLINE void write_tile(T* dwrite, T* dv, T* D, const T* v, const T* dy, int64_t J, const T* c, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  constexpr int R = W > L ? W / L : 1;  // rows whose lane sums fill whole vectors
  Vec write[L][C] = {};
  for (int64_t j = 0; j < J; j += R, dv += R * L) {
    Vec across[R * L] = {};
#pragma GCC unroll 4
    for (int row = 0; row < R; ++row, D += P, v += L, dy += L) {
#pragma GCC unroll 4
      for (int q = 0; q < C; ++q) {
        const T* cc = c + q * kCoefficients * W;
        Vec d = load(D + q * W);
#pragma GCC unroll 4
        for (int s = 0; s < L; ++s) {
          write[s][q] += v[s] * d;
          across[row * L + s] += load(cc + (kWrite + s) * W) * d;
        }
        d *= load(cc + kKeep * W);
#pragma GCC unroll 4
        for (int t = 0; t < L; ++t) d += dy[t] * load(cc + (kRead + t) * W);
        store(D + q * W, d);
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < R * L; g += W) store(dv + g, load(dv + g) + lane_sums<T>(across + g));
  }
#pragma GCC unroll 4
  for (int q = 0; q < C; ++q) {
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) store(dwrite + s * P + q * W, write[s][q]);
  }
}

// dscore[t,s] = dy_t . v_s over the columns of a strip.
template <class T>
RK_INLINE void score_gradient(T* dscore, const Rows<T>& dy, const Rows<T>& v, int64_t J) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  Vec sum[L * L] = {};
  for (int64_t j = 0; j < J; j += W) {
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) {
      const Vec vv = load(v[s] + j);
#pragma GCC unroll 4
      for (int t = s; t < L; ++t) sum[t * L + s] += load(dy[t] + j) * vv;
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < L * L; q += W) store(dscore + q, lane_sums<T>(sum + q));
}

// Gradients of a chunk's r, k and log decays, and its part of du, from those of its coefficients. The
// gradient of a log decay is the sum over the paths that cross the token, each added once: nothing cancels,
// whatever the decay.
//   from the entry state to the exit: dkeep . keep      from the entry to a later r_t: r_t . dr_t through the
//   state from an earlier k_s to the exit: k_s . dk_s through the state      from an earlier k_s to a later
//   r_t: score
template <class T>
RK_INLINE void chunk_gradients(T* const* dr, T* const* dk, T* const* dg, T* du, const Rows<T>& r,
                               const Rows<T>& k, const Rows<T>& w, const T* u, const T* dread,
                               const T* dwrite, const T* dkeep, const T* dscore, int64_t P) {
  using Vec = typename Simd<T>::Vec;
  constexpr int W = Simd<T>::kLanes;
  for (int64_t i = 0; i < P; i += W) {
    Vec rr[L], kk[L], ww[L], grad_r[L], grad_k[L], grad_g[L];
    const Vec uu = load(u + i);
    Vec before = {}, after = {}, grad_u = load(du + i);
    before += T(1), after += T(1);
#pragma GCC unroll 4
    for (int t = 0; t < L; ++t) {
      rr[t] = load(r[t] + i), kk[t] = load(k[t] + i), ww[t] = load(w[t] + i);
      grad_r[t] = load(dread + t * P + i) * before;
      before *= ww[t];
      grad_u += dscore[t * L + t] * (rr[t] * kk[t]);
    }
    const Vec through = load(dkeep + i) * before;
#pragma GCC unroll 4
    for (int s = L - 1; s >= 0; --s) {
      grad_k[s] = load(dwrite + s * P + i) * after;
      after *= ww[s];
    }
    Vec read_later = {}, written_before = {};
#pragma GCC unroll 4
    for (int t = L - 1; t >= 0; --t) {
      grad_g[t] = through + read_later;
      read_later += rr[t] * grad_r[t];
    }
#pragma GCC unroll 4
    for (int t = 0; t < L; ++t) {
      grad_g[t] += written_before;
      written_before += kk[t] * grad_k[t];
    }
#pragma GCC unroll 4
    for (int s = 0; s < L; ++s) {
      const Vec own = dscore[s * L + s] * uu;
      Vec kept = kk[s], path = {};
      path += T(1);
      grad_r[s] += own * kk[s];
      grad_k[s] += own * rr[s];
#pragma GCC unroll 4
      for (int t = s + 1; t < L; ++t) {
        const Vec into_r = dscore[t * L + s] * kept;
        grad_r[t] += into_r;
        grad_k[s] += dscore[t * L + s] * (rr[t] * path);
        const Vec crossing = rr[t] * into_r;
#pragma GCC unroll 4
        for (int x = s + 1; x < t; ++x) grad_g[x] += crossing;
        kept *= ww[t];
        path *= ww[t];
      }
    }
    store(du + i, grad_u);
#pragma GCC unroll 4
    for (int t = 0; t < L; ++t) {
      store(dr[t] + i, grad_r[t]);
      store(dk[t] + i, grad_k[t]);
      store(dg[t] + i, grad_g[t]);
    }
  }
}

// From the gradient of a log decay to that of the raw w, in place: dw = -exp(w) dg. Where the decay is 0 no
// path crosses, and exp(w) may be infinite.
template <class T>
RK_INLINE void raw_decay_gradient(T* g, const T* decay, const T* raw, int64_t P) {
  constexpr int W = Simd<T>::kLanes;
  for (int64_t i = 0; i < P; i += W, g += W, decay += W, raw += W) {
#pragma omp simd
    for (int l = 0; l < W; ++l)
      g[l] = decay[l] > T(0) ? -vexp(raw[l]) * g[l] : (decay[l] == T(0) ? T(0) : decay[l]);
  }
}

// Where the rows of a chunk's output go: to their place, or to `stage` where rows are padded or tokens
// missing.
template <class T>
struct OutRows {
  T* row[L];
};
template <class T>
RK_INLINE OutRows<T> out_rows(T* stage, int64_t P, T* to, int64_t stride, int tokens, int64_t count) {
  OutRows<T> out;
  for (int t = 0; t < L; ++t) {
    out.row[t] = t < tokens && count == P ? to + t * stride : stage + t * P;
    for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T)))
      __builtin_prefetch(to + (t - kPrefetch) * stride + i, 1);
  }
  return out;
}
template <class T>
RK_INLINE void finish_rows(const OutRows<T>& out, int64_t P, T* to, int64_t stride, int tokens,
                           int64_t count) {
  if (count == P) return;
  for (int t = 0; t < tokens; ++t) copy_row(to + t * stride, out.row[t], count);
}

// Gradients of one strip: dr, dk, dw and du are its share of them; du, and dw of a fixed decay, one row.
template <class T>
struct Gradients {
  const T *dy, *dstate, *saved;
  T *dr, *dk, *dv, *dw, *du, *dstate0;
};

// Tokens [begin, end), a segment, of strip `index` of a group. The gradient D of its state, at exit of the
// segment and then at entry, stays in `memory` until its next turn.
template <class T>
void backward_segment(const Inputs<T>& in, const Gradients<T>& a, const Strip<T>& x, int64_t index,
                      int64_t begin, int64_t end, T* memory) {
  constexpr int kTile = kBackwardTile * Simd<T>::kLanes;
  const int64_t N = in.N, P = x.P, J = x.J, stride = in.H * N;
  const int64_t columns = N - x.first < J ? N - x.first : J;
  const int64_t blocks = (end - begin + kWkv6Block - 1) / kWkv6Block, state = J * P;
  T* D = memory + index * P * P;
  Scratch<T> scratch{memory + wkv6_group(N) * P * P};
  T *states = scratch.take(blocks * state), *entries = scratch.take(kWkv6Block * state),
    *w = scratch.take((end - begin) * P), *ones = scratch.take(P), *u = scratch.take(P),
    *raw_fixed = scratch.take(P), *stage = scratch.take(3 * L * P), *v_stage = scratch.take(2 * L * J),
    *dread = scratch.take(L * P), *dwrite = scratch.take(L * P), *dkeep = scratch.take(P),
    *dv_lanes = scratch.take(L * J), *v_lanes = scratch.take(L * J), *dy_lanes = scratch.take(L * J),
    *out = scratch.take(3 * L * P), *dv_out = scratch.take(L * J);
  T *c = scratch.take(kCoefficients * P), score[L * L];
  T dscore[L * L];
  fill(ones, P, T(1));
  fill(u, P, T(0));
  copy_row(u, in.u + x.h * N, N);
  if (in.fixed_decay) fixed_decays(raw_fixed, w, in.w + x.h * N, P, N);
  const auto decays_of = [&](int64_t t, int n) {
    return in.fixed_decay ? decay_rows(w, 0, ones, n) : decay_rows(w + (t - begin) * P, P, ones, n);
  };

  const int64_t state_at = (x.b * in.H + x.h) * N * N + x.first;
  const auto transposed_in = [&](T* to, const T* from) {
    fill(to, state, T(0));
    for (int64_t i = 0; from && i < N; ++i) {
      for (int64_t j = 0; j < columns; ++j) to[j * P + i] = from[i * N + j];
    }
  };
  const T* entry_state = in.state0 ? in.state0 + state_at : nullptr;
  if (begin > 0) entry_state = a.saved + saved_at(in, x, begin / kWkv6Segment) + x.first;
  transposed_in(states, entry_state);
  if (end == in.tokens) {
    transposed_in(D, a.dstate ? a.dstate + state_at : nullptr);
    fill(a.du, P, T(0));
    if (in.fixed_decay) fill(a.dw, P, T(0));
  }

  const uint8_t* doc_start = in.doc_start ? in.doc_start + x.b * in.tokens : nullptr;
  const auto row_at = [&](int64_t t) { return (x.b * in.tokens + t) * stride + x.h * N; };
  const auto advance = [&](T* to, const T* from, int64_t t, int n, int64_t ahead) {
    const Rows<T> k = rows(stage, P, in.k + row_at(t), stride, n, N, ahead);
    const Rows<T> v = rows(v_stage, J, in.v + row_at(t) + x.first, stride, n, columns, ahead);
    interleave(v_lanes, v, J);
    make_write(c, k, decays_of(t, n), P);
    for (int64_t i = 0; i < P; i += kTile)
      advance_tile<T, kBackwardTile>(to + i, from + i, v_lanes, J, c + i * kCoefficients, P);
  };

  // The state at the start of every block.
  int tokens;
  T* now = states;
  for (int64_t t = begin; t < end; t += tokens) {
    tokens = chunk_tokens(doc_start, t, in.tokens);
    if (doc_start && doc_start[t]) fill(now, state, T(0));
    if (!in.fixed_decay) {
      decays(w + (t - begin) * P, rows(stage, P, in.w + row_at(t), stride, tokens, N, kPrefetch), P, tokens);
    }
    const int64_t next_t = t + tokens;
    if (next_t == end) break;
    T* next = next_t % kWkv6Block ? entries : states + (next_t - begin) / kWkv6Block * state;
    advance(next, now, t, tokens, kPrefetch);
    now = next;
  }

  for (int64_t block = blocks - 1; block >= 0; --block) {
    // The chunks of the block, with their entry states.
    int64_t start[kWkv6Block + 1];
    T* entry[kWkv6Block];
    int chunks = 0;
    start[0] = begin + block * kWkv6Block;
    entry[0] = states + block * state;
    const int64_t block_end = start[0] + kWkv6Block < end ? start[0] + kWkv6Block : end;
    for (;;) {
      const int64_t t = start[chunks];
      const int n = chunk_tokens(doc_start, t, in.tokens);
      start[++chunks] = t + n;
      if (t + n == block_end) break;
      entry[chunks] = entries + chunks * state;
      if (doc_start && doc_start[t + n]) {
        fill(entry[chunks], state, T(0));
      } else {
        advance(entry[chunks], entry[chunks - 1], t, n, -kWkv6Block);
      }
    }
    for (int chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t t = start[chunk], at = row_at(t);
      tokens = int(start[chunk + 1] - t);
      const Rows<T> r = rows(stage, P, in.r + at, stride, tokens, N, -kWkv6Block);
      const Rows<T> k = rows(stage + L * P, P, in.k + at, stride, tokens, N, -kWkv6Block);
      const Rows<T> v = rows(v_stage, J, in.v + at + x.first, stride, tokens, columns, -kWkv6Block);
      const Rows<T> dy = rows(v_stage + L * J, J, a.dy + at + x.first, stride, tokens, columns, -kWkv6Block);
      const Rows<T> ww = decays_of(t, tokens);
      make_coefficients(c, score, r, k, ww, u, P);
      interleave(v_lanes, v, J);
      interleave(dy_lanes, dy, J);
      score_gradient(dscore, dy, v, J);
      fill(dv_lanes, L * J, T(0));
      for (int64_t i = 0; i < P; i += kTile) {
        read_tile<T, kBackwardTile>(dread + i, dkeep + i, entry[chunk] + i, D + i, dy_lanes, J, P);
        write_tile<T, kBackwardTile>(dwrite + i, dv_lanes, D + i, v_lanes, dy_lanes, J, c + i * kCoefficients,
                                     P);
      }
      const OutRows<T> to_r = out_rows(out, P, a.dr + at, stride, tokens, N);
      const OutRows<T> to_k = out_rows(out + L * P, P, a.dk + at, stride, tokens, N);
      const OutRows<T> to_v = out_rows(dv_out, J, a.dv + at + x.first, stride, tokens, columns);
      T* dg[L] = {out + 2 * L * P, out + (2 * L + 1) * P, out + (2 * L + 2) * P, out + (2 * L + 3) * P};
      chunk_gradients(to_r.row, to_k.row, dg, a.du, r, k, ww, u, dread, dwrite, dkeep, dscore, P);
      value_gradients(to_v.row, dv_lanes, score, dy, J);
      finish_rows(to_r, P, a.dr + at, stride, tokens, N);
      finish_rows(to_k, P, a.dk + at, stride, tokens, N);
      finish_rows(to_v, J, a.dv + at + x.first, stride, tokens, columns);
      if (in.fixed_decay) {
        for (int s = 0; s < tokens; ++s) add_row(a.dw, dg[s], P);
      } else {
        const Rows<T> raw = rows(stage, P, in.w + at, stride, tokens, N, -kWkv6Block);
        for (int s = 0; s < tokens; ++s) {
          raw_decay_gradient(dg[s], ww[s], raw[s], P);
          copy_row(a.dw + at + s * stride, dg[s], N);
        }
      }
      if (doc_start && doc_start[t]) fill(D, state, T(0));
    }
  }
  if (begin > 0) return;
  if (in.fixed_decay) raw_decay_gradient(a.dw, w, raw_fixed, P);
  if (a.dstate0) {
    for (int64_t i = 0; i < N; ++i) {
      for (int64_t j = 0; j < columns; ++j) a.dstate0[state_at + i * N + j] = D[j * P + i];
    }
  }
}

template <class T>
RK_INLINE T* pointer(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}
template <class T, class Args>
RK_INLINE Inputs<T> inputs(const Args& a) {
  const int64_t B = a.r.dim(0), tokens = a.r.dim(1), H = a.r.dim(2), N = a.r.dim(3);
  return {B,
          tokens,
          H,
          N,
          pointer<T>(a.r),
          pointer<T>(a.k),
          pointer<T>(a.v),
          pointer<T>(a.w),
          pointer<T>(a.u),
          pointer<T>(a.state0),
          pointer<uint8_t>(a.doc_start),
          a.strips,
          a.w.shape() != a.r.shape()};
}

// The gradient of an [H, N] tensor from its parts [B, H, strips, P].
template <class T>
RK_INLINE void sum_parts(const GradTarget& to, const T* parts, const Inputs<T>& in) {
  if (!to.tensor.defined()) return;
  T* out = to.tensor.data<T>();
  const int64_t P = wkv6_padded(in.N);
  for (int64_t h = 0; h < in.H; ++h) {
    for (int64_t i = 0; i < in.N; ++i) {
      T sum = to.accumulate ? out[h * in.N + i] : T(0);
      for (int64_t b = 0; b < in.B; ++b) {
        for (int64_t s = 0; s < in.strips; ++s) sum += parts[((b * in.H + h) * in.strips + s) * P + i];
      }
      out[h * in.N + i] = sum;
    }
  }
}

template <class T>
RK_INLINE void forward(const Wkv6Args& a) {
  const Inputs<T> in = inputs<T>(a);
  const Outputs<T> out{pointer<T>(a.y), pointer<T>(a.state), pointer<T>(a.saved)};
  T* scratch = a.scratch.data<T>();
  parallel_parts(a.r.device().pool(), in.B * in.H * in.strips, 1, [&](int64_t begin, int64_t end, int part) {
    T* memory = scratch + part * wkv6_forward_scratch(in.N);
    for_each_group(in, begin, end, [&](int64_t first, int64_t last) {
      for (int64_t t = 0; t < in.tokens; t += kForwardBlock) {
        const int64_t block_end = t + kForwardBlock < in.tokens ? t + kForwardBlock : in.tokens;
        for (int64_t item = first; item < last; ++item) {
          forward_block(in, out, strip_of(in, item), item - first, last - first, t, block_end, memory);
        }
      }
    });
  });
}

template <class T>
RK_INLINE void backward(const Wkv6Grad& a) {
  ThreadPool& pool = a.r.device().pool();
  const Inputs<T> in = inputs<T>(a);
  const int64_t P = wkv6_padded(in.N), numel = a.r.numel();
  const Gradients<T> whole{pointer<T>(a.dy),
                           pointer<T>(a.dstate),
                           pointer<T>(a.saved),
                           pointer<T>(a.dr),
                           pointer<T>(a.dk),
                           pointer<T>(a.dv),
                           pointer<T>(in.fixed_decay ? a.dw_parts : a.dw.tensor),
                           pointer<T>(a.du_parts),
                           pointer<T>(a.dstate0)};
  T *scratch = a.scratch.data<T>(), *parts = pointer<T>(a.parts);
  parallel_parts(pool, in.B * in.H * in.strips, 1, [&](int64_t begin, int64_t end, int part) {
    T* memory = scratch + part * wkv6_backward_scratch(in.tokens, in.N);
    const auto gradients_of = [&](int64_t item) {
      Gradients<T> own = whole;
      own.du += item * P;
      if (in.strips > 1) {
        own.dr = parts + item % in.strips * 3 * numel;
        own.dk = own.dr + numel;
        own.dw = own.dk + numel;
      }
      if (in.fixed_decay) own.dw = whole.dw + item * P;
      return own;
    };
    for_each_group(in, begin, end, [&](int64_t first, int64_t last) {
      for (int64_t t = (in.tokens - 1) / kWkv6Segment * kWkv6Segment; t >= 0; t -= kWkv6Segment) {
        const int64_t segment_end = t + kWkv6Segment < in.tokens ? t + kWkv6Segment : in.tokens;
        for (int64_t item = first; item < last; ++item) {
          backward_segment(in, gradients_of(item), strip_of(in, item), item - first, t, segment_end, memory);
        }
      }
    });
  });
  if (in.strips > 1) {
    parallel_for(pool, numel, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t x = begin; x < end; ++x) {
        T dr = 0, dk = 0, dw = 0;
        for (int64_t s = 0; s < in.strips; ++s) {
          const T* p = parts + s * 3 * numel + x;
          dr += p[0], dk += p[numel], dw += p[2 * numel];
        }
        whole.dr[x] = dr, whole.dk[x] = dk;
        if (!in.fixed_decay) whole.dw[x] = dw;
      }
    });
  }
  sum_parts(a.du, whole.du, in);
  if (in.fixed_decay) sum_parts(a.dw, whole.dw, in);
}

}  // namespace

void wkv6_forward(const Wkv6Args& a) {
  dispatch_float(a.r.dtype(), [&]<class T>() { forward<T>(a); });
}
void wkv6_backward(const Wkv6Grad& a) {
  dispatch_float(a.r.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
