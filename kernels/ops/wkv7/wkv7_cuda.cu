// wkv7_cuda.cu: WKV7 on the GPU, by chunks of 16 tokens (wkv_chunk.h); arguments: wkv7.h. Formulas of one
// token: tests/kernels/wkv7_test.cpp.
//
// With S [key, value] the state at the chunk's entry, D the gradient of the state at its exit, p_t what token
// t reads of the state along a_t, and the scores of a or r with b or k (those of r decay by the reader's own
// token too),
//
//   p = (a . before) S + A_ab p + A_ak v                 S <- whole S + (b . after)^T p + (k . after)^T v
//   y = (r . before . decay) S + A_rb p + A_rk v
//   dp = A_rb^T dy + (b . after) D,  dx = dp + A_ab^T dx  dv = A_rk^T dy + A_ak^T dx + (k . after) D
//   dA_rk = dy v^T, dA_rb = dy p^T, dA_ak = dx v^T, dA_ab = dx p^T
//   D <- whole D + (r . before . decay)^T dy + (a . before)^T dx
//
// p and dx are found token by token, in f32: repeated keys, whose terms cancel, cost no precision. The
// gradient of the log decay of token x is a sum over all paths that cross x, as in wkv6_cuda.cu.
#include "kernels/ops/wkv6/wkv_chunk.h"
#include "kernels/ops/wkv7/wkv7.h"

namespace rookery::RK_BACKEND {
namespace {

enum { kAb, kAk, kRb, kRk, kScores };

template <class T>
struct Inputs {
  int64_t tokens, H, N;
  const T *r, *w, *k, *v, *a, *b;
  Wkv7Decay decay;
  const float* state0;  // [value, key], as all states in memory
  const uint8_t* doc_start;
  float *read, *saved;  // [B, T, H, N]; [B, segments - 1, H, N, N]; may be null
};

// The negative log decay, and its derivative by w.
RK_DEV float rate(Wkv7Decay kind, float w) {
  return kind == Wkv7Decay::kSigmoid ? 0.60653066f / (1 + expf(-w)) : exp_rate(w);
}
RK_DEV float rate_slope(Wkv7Decay kind, float w) {
  return kind == Wkv7Decay::kSigmoid ? rate(kind, w) / (1 + expf(w)) : exp_rate_slope(w);
}

template <class T>
RK_DEV float* saved_at(const Inputs<T>& in, int64_t t) {
  const int64_t segments = (in.tokens - 1) / kWkv7GpuSegment;
  return in.saved +
         ((blockIdx.x / in.H * segments + t / kWkv7GpuSegment - 1) * in.H + blockIdx.x % in.H) * in.N * in.N;
}

template <int P, class T>
RK_DEV void load_decay(const Chunk<P>& c, Row<P>* to, const Inputs<T>& in, int64_t t0) {
  for (int m = 0; m < kOwn; ++m) {
    const int64_t t = t0 + c.own(m);
    float decay = 1;
    if (c.inside(t)) decay = c.starts(in.doc_start, t) ? 0.f : expf(-rate(in.decay, float(in.w[c.at(t)])));
    to[c.own(m)][c.channel] = decay;
  }
}

template <int P>
using Shares = typename Chunk<P>::template Scores<kScores>::Shares;

// All scores at once, the threads of a quarter of the block one of them.
template <int P>
RK_DEV void share_scores(Shares<P>* shares, const Row<P>* a, const Row<P>* r, const Row<P>* b,
                         const Row<P>* k, const Row<P>* decay, const float* keep) {
  using Scores = typename Chunk<P>::template Scores<kScores>;
  const int which = Scores::matrix();
  const bool through = which == kRb || which == kRk;
  Scores::share(shares[which], through ? r : a, which == kAb || which == kRb ? b : k, through, nullptr, decay,
                keep);
}
template <int P>
RK_DEV void add_up_scores(float (*A)[L][L], const Shares<P>* shares) {
  for (int which = 0; which < kScores; ++which)
    Chunk<P>::template Scores<kScores>::add_up(A[which], shares[which]);
}

template <int P>
using ForwardShared =
    rk::SharedLayout<Row<P>[P], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L],
                     Row<P>[L], Row<P>[L], float[P], float[L], float[kScores][L][L], Shares<P>[kScores]>;

template <int P, class T>
__global__ void __launch_bounds__(Chunk<P>::kThreads) forward_kernel(Inputs<T> in, T* y, float* state) {
  auto [S, r, k, v, a, b, p, decay, before, after, whole, keep, A, shares] = ForwardShared<P>::carve();
  const Chunk<P> c(in.tokens, in.H, in.N);
  const int64_t state_at = int64_t{blockIdx.x} * in.N * in.N;
  c.load_state(S, in.state0 ? in.state0 + state_at : nullptr, true);
  for (int64_t t0 = 0; t0 < in.tokens; t0 += L) {
    __syncthreads();
    if (in.saved && t0 > 0 && t0 % kWkv7GpuSegment == 0) c.store_state(saved_at(in, t0), S, true);
    c.load(r, in.r, t0), c.load(k, in.k, t0), c.load(v, in.v, t0);
    c.load(a, in.a, t0), c.load(b, in.b, t0);
    load_decay(c, decay, in, t0);
    c.load_starts(keep, in.doc_start, t0);
    __syncthreads();
    c.decay_products(before, after, whole, decay, keep);
    share_scores<P>(shares, a, r, b, k, decay, keep);
    __syncthreads();
    add_up_scores<P>(A, shares);
    c.scale(r, before), c.scale(r, decay), c.scale(a, before), c.scale(b, after), c.scale(k, after);
    __syncthreads();
    float out[kOwn] = {}, found[kOwn] = {};
    c.read_columns(out, Plain<P>{r}, S);
    c.read_columns(found, Plain<P>{a}, S);
    for (int m = 0; m < kOwn; ++m) p[c.own(m)][c.channel] = found[m];
    __syncthreads();
    c.read_earlier(out, A[kRk], v, true);
    if (c.group == 0) {
      float x[L];
#pragma unroll
      for (int t = 0; t < L; ++t) x[t] = p[t][c.channel];
#pragma unroll
      for (int s = 0; s < L; ++s) {
        const float value = v[s][c.channel];
#pragma unroll
        for (int t = s + 1; t < L; ++t) x[t] += A[kAk][t][s] * value + A[kAb][t][s] * x[s];
      }
#pragma unroll
      for (int t = 0; t < L; ++t) p[t][c.channel] = x[t];
    }
    __syncthreads();
    c.read_earlier(out, A[kRb], p, true);
    for (int m = 0; m < kOwn; ++m) {
      const int64_t t = t0 + c.own(m);
      if (!c.inside(t)) continue;
      y[c.at(t)] = T(out[m]);
      if (in.read) in.read[c.at(t)] = p[c.own(m)][c.channel];
    }
    c.add_outer(S, whole, Plain<P>{b}, p);
    c.add_outer(S, nullptr, Plain<P>{k}, v);
  }
  __syncthreads();
  c.store_state(state + state_at, S, true);
}

template <class T>
struct Gradients {
  const T* dy;
  const float* dstate;
  T *dr, *dw, *dk, *dv, *da, *db;
  float* dstate0;  // may be null
  float* scratch;  // [B, H, kWkv7GpuSegment / L, P, P]
};

// The scores' shares, and when they are added up: dg [4][L - 1][P], of each group of threads its share of the
// paths inside the chunk (none crosses the first token); r dr + a da and k dk + b db [L][P], of the paths to
// and from the state.
template <int P>
constexpr int kWalks = (kGroups * (L - 1) + 2 * L) * P;
template <int P>
constexpr int kWork = kScores * sizeof(Shares<P>) / 4 > kWalks<P> ? kScores * sizeof(Shares<P>) / 4
                                                                  : kWalks<P>;
template <int P>
using BackwardShared =
    rk::SharedLayout<Row<P>[P], Row<P>[P], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L],
                     Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], float[P], float[L],
                     float[kScores][L][L], float[kScores][L][L], float[kWork<P>]>;

template <int P, class T>
__global__ void __launch_bounds__(Chunk<P>::kThreads, 2) backward_kernel(Inputs<T> in, Gradients<T> g) {
  auto [S, D, r, k, v, a, b, p, dy, dx, decay, before, after, whole, keep, A, dA, work] =
      BackwardShared<P>::carve();
  auto* shares = reinterpret_cast<Shares<P>*>(work);
  float(*inner)[L - 1][P] = reinterpret_cast<float(*)[L - 1][P]>(work);  // [4]
  float(*read)[P] = inner[kGroups];
  float(*written)[P] = read + L;
  // Of each group its share of sum_j S D; the scores are done with by then.
  float(*crossing)[P] = reinterpret_cast<float(*)[P]>(&A[0][0][0]);  // [4]
  static_assert(kGroups * P <= kScores * L * L);

  const Chunk<P> c(in.tokens, in.H, in.N);
  const int i = c.channel;
  const int64_t state_at = int64_t{blockIdx.x} * in.N * in.N;
  float* entries = g.scratch + int64_t{blockIdx.x} * (kWkv7GpuSegment / L) * P * P;
  c.load_state(D, g.dstate ? g.dstate + state_at : nullptr, true);

  for (int64_t begin = (in.tokens - 1) / kWkv7GpuSegment * kWkv7GpuSegment; begin >= 0;
       begin -= kWkv7GpuSegment) {
    // The states at the entries of the segment's chunks; the last stays in S.
    const int64_t end = begin + kWkv7GpuSegment < in.tokens ? begin + kWkv7GpuSegment : in.tokens;
    const float* entry = begin > 0 ? saved_at(in, begin) : in.state0 ? in.state0 + state_at : nullptr;
    c.load_state(S, entry, true);
    const int last = static_cast<int>((end - begin - 1) / L);
    for (int chunk = 0; chunk < last; ++chunk) {
      const int64_t t0 = begin + chunk * L;
      c.load(k, in.k, t0), c.load(v, in.v, t0), c.load(b, in.b, t0), c.load(p, in.read, t0);
      load_decay(c, decay, in, t0);
      c.load_starts(keep, in.doc_start, t0);
      __syncthreads();
      c.keep_state(entries + chunk * P * P, S);
      c.decay_products(before, after, whole, decay, keep);
      __syncthreads();
      c.scale(b, after), c.scale(k, after);
      __syncthreads();
      c.add_outer(S, whole, Plain<P>{b}, p);
      c.add_outer(S, nullptr, Plain<P>{k}, v);
      __syncthreads();
    }

    for (int chunk = last; chunk >= 0; --chunk) {
      const int64_t t0 = begin + chunk * L;
      c.load(r, in.r, t0), c.load(k, in.k, t0), c.load(v, in.v, t0), c.load(a, in.a, t0);
      c.load(b, in.b, t0), c.load(p, in.read, t0), c.load(dy, g.dy, t0);
      load_decay(c, decay, in, t0);
      c.load_starts(keep, in.doc_start, t0);
      __syncthreads();
      c.decay_products(before, after, whole, decay, keep);
      share_scores<P>(shares, a, r, b, k, decay, keep);
      __syncthreads();
      add_up_scores<P>(A, shares);
      c.dot_rows(dA[kRb], dy, p);
      c.dot_rows(dA[kRk], dy, v);
      float dr[kOwn] = {}, dk[kOwn] = {}, dv[kOwn] = {}, da[kOwn] = {}, db[kOwn] = {};
      c.read_rows(dr, dy, S);
      c.read_rows(dk, v, D);
      c.read_rows(db, p, D);
      c.read_columns(dv, Scaled<P>{k, after}, D);
      __syncthreads();

      c.read_later(dv, A[kRk], dy, true);
      float dp[kOwn] = {};
      c.read_columns(dp, Scaled<P>{b, after}, D);
      c.read_later(dp, A[kRb], dy, true);
      for (int m = 0; m < kOwn; ++m) dx[c.own(m)][i] = dp[m];
      __syncthreads();

      if (c.group == 0) {
        float x[L];
#pragma unroll
        for (int t = 0; t < L; ++t) x[t] = dx[t][i];
#pragma unroll
        for (int t = L - 1; t > 0; --t) {
#pragma unroll
          for (int s = 0; s < t; ++s) x[s] += A[kAb][t][s] * x[t];
        }
#pragma unroll
        for (int t = 0; t < L; ++t) dx[t][i] = x[t];
      }
      __syncthreads();

      c.read_later(dv, A[kAk], dx, false);
      c.read_rows(da, dx, S);
      c.dot_rows(dA[kAb], dx, p);
      c.dot_rows(dA[kAk], dx, v);
      __syncthreads();

      crossing[c.group][i] = c.dot_states(S, D);
      float dg[L] = {}, own_read[kOwn];
      for (int m = 0; m < kOwn; ++m) {
        const int t = c.own(m);
        const float through = decay[t][i], a_t = a[t][i], r_t = r[t][i] * through;
        dr[m] *= before[t][i] * through, da[m] *= before[t][i];
        dk[m] *= after[t][i], db[m] *= after[t][i];
        own_read[m] = r[t][i] * dr[m];
        read[t][i] = own_read[m] + a_t * da[m];
        written[t][i] = k[t][i] * dk[m] + b[t][i] * db[m];
        // t as the reader of all tokens s before it; path_s: by a, which does not cross t, and r, which does.
        float product = keep[t], path[L], into_r = 0;
#pragma unroll
        for (int s = L - 1; s >= 0; --s) {
          path[s] = 0;
          if (s < t) {
            const float k_s = k[s][i] * product, b_s = b[s][i] * product;
            const float to_a = dA[kAk][t][s] * k_s + dA[kAb][t][s] * b_s;
            const float to_r = dA[kRk][t][s] * k_s + dA[kRb][t][s] * b_s;
            da[m] += to_a;
            into_r += to_r;
            path[s] = a_t * to_a + r_t * to_r;
            product *= decay[s][i];
          }
        }
        dr[m] += through * into_r;
        float earlier = 0;
#pragma unroll
        for (int x = 0; x < L; ++x) {
          if (x < t) {
            dg[x] += earlier;
            earlier += path[x];
          } else if (x == t) {
            dg[x] += r_t * into_r;
          }
        }
        // t as the writer that all later tokens read.
        product = 1;
        for (int later = t + 1; later < L; ++later) {
          const float to_later = product * keep[later];
          const float a_later = a[later][i] * to_later, r_later = r[later][i] * decay[later][i] * to_later;
          dk[m] += dA[kAk][later][t] * a_later + dA[kRk][later][t] * r_later;
          db[m] += dA[kAb][later][t] * a_later + dA[kRb][later][t] * r_later;
          product *= decay[later][i];
        }
        dr[m] += dA[kRk][t][t] * k[t][i] + dA[kRb][t][t] * b[t][i];
        dk[m] += dA[kRk][t][t] * r[t][i];
        db[m] += dA[kRb][t][t] * r[t][i];
        if (!c.inside(t0 + t)) continue;
        const int64_t at = c.at(t0 + t);
        g.dr[at] = T(dr[m]), g.dk[at] = T(dk[m]), g.dv[at] = T(dv[m]);
        g.da[at] = T(da[m]), g.db[at] = T(db[m]);
      }
#pragma unroll
      for (int x = 1; x < L; ++x) inner[c.group][x - 1][i] = dg[x];
      __syncthreads();

      for (int m = 0; m < kOwn; ++m) {
        const int x = c.own(m);
        if (!c.inside(t0 + x)) continue;
        float sum = own_read[m], crossed = 0;
        for (int group = 0; group < kGroups; ++group) {
          if (x > 0) sum += inner[group][x - 1][i];
          crossed += crossing[group][i];
        }
        sum += whole[i] * crossed;
        for (int s = 0; s < x; ++s) sum += written[s][i];
        for (int t = x + 1; t < L; ++t) sum += read[t][i];
        g.dw[c.at(t0 + x)] = T(-sum * rate_slope(in.decay, float(in.w[c.at(t0 + x)])));
      }
      c.add_outer(D, whole, ScaledTwice<P>{{r, before}, decay}, dy);
      c.add_outer(D, nullptr, Scaled<P>{a, before}, dx);
      if (chunk > 0) c.restore_state(S, entries + (chunk - 1) * P * P);
      __syncthreads();
    }
  }
  if (g.dstate0) c.store_state(g.dstate0 + state_at, D, true);
}

template <class T, class Args>
Inputs<T> inputs(const Args& x) {
  return {x.r.dim(1),
          x.r.dim(2),
          x.r.dim(3),
          pointer<T>(x.r),
          pointer<T>(x.w),
          pointer<T>(x.k),
          pointer<T>(x.v),
          pointer<T>(x.a),
          pointer<T>(x.b),
          x.decay,
          pointer<float>(x.state0),
          pointer<uint8_t>(x.doc_start),
          pointer<float>(x.read),
          pointer<float>(x.saved)};
}

}  // namespace

void wkv7_forward(const Wkv7Args& x) {
  dispatch_heads(x.r, [&]<int P, class T>(dim3 grid) {
    rk::launch(x.r.device(), forward_kernel<P, T>, {grid, Chunk<P>::kThreads, ForwardShared<P>::kBytes},
               inputs<T>(x), x.y.data<T>(), x.state.data<float>());
  });
}

void wkv7_backward(const Wkv7Grad& x) {
  dispatch_heads(x.r, [&]<int P, class T>(dim3 grid) {
    const Gradients<T> g{pointer<T>(x.dy),         pointer<float>(x.dstate), pointer<T>(x.dr),
                         pointer<T>(x.dw),         pointer<T>(x.dk),         pointer<T>(x.dv),
                         pointer<T>(x.da),         pointer<T>(x.db),         pointer<float>(x.dstate0),
                         pointer<float>(x.scratch)};
    rk::launch(x.r.device(), backward_kernel<P, T>, {grid, Chunk<P>::kThreads, BackwardShared<P>::kBytes},
               inputs<T>(x), g);
  });
}

}  // namespace rookery::RK_BACKEND
