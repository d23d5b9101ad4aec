// wkv6_cuda.cu: WKV6 and WKV5 on the GPU, by chunks of 16 tokens (wkv_chunk.h); arguments: wkv6.h. Formulas
// of one token: tests/support/wkv6_ref.h.
//
// With S the state at the chunk's entry, D the gradient of the state at its exit and A the scores of r and k,
//
//   y = (r . before) S + A v        S <- whole S + (k . after)^T v
//   dA = dy v^T                     dv = A^T dy + (k . after) D         D <- whole D + (r . before)^T dy
//   dr_t = before (S dy_t) + sum_{s<t} dA k_s prod d,  dk_s = after (D v_s) + sum_{t>s} dA r_t prod d
//
// and the terms of u. The gradient of the log decay of token x is the sum over all paths that cross x, from
// the entry or an earlier key to a later r or the exit: a sum of terms each of which is itself one of those
// products, so nothing cancels however strong the decay.
#include "kernels/ops/wkv6/wkv6.h"
#include "kernels/ops/wkv6/wkv_chunk.h"

namespace rookery::RK_BACKEND {
namespace {

template <class T>
struct Inputs {
  int64_t tokens, H, N;
  const T *r, *k, *v;
  Floats w, u;
  bool fixed_decay;  // w is [H, N]
  const float* state0;
  const uint8_t* doc_start;
  float* saved;  // [B, segments - 1, H, N, N] or null
};

// Where the state between segments before token t is saved.
template <class T>
RK_DEV float* saved_at(const Inputs<T>& in, int64_t t) {
  const int64_t segments = (in.tokens - 1) / kWkv6GpuSegment;
  return in.saved +
         ((blockIdx.x / in.H * segments + t / kWkv6GpuSegment - 1) * in.H + blockIdx.x % in.H) * in.N * in.N;
}

template <int P, class T>
RK_DEV float raw_decay(const Chunk<P>& c, const Inputs<T>& in, int64_t t) {
  return in.w[in.fixed_decay ? blockIdx.x % in.H * in.N + c.channel : c.at(t)];
}

template <int P, class T>
RK_DEV void load_decay(const Chunk<P>& c, Row<P>* to, const Inputs<T>& in, int64_t t0) {
  for (int m = 0; m < kOwn; ++m) {
    const int64_t t = t0 + c.own(m);
    float decay = 1;
    if (c.inside(t)) decay = c.starts(in.doc_start, t) ? 0.f : expf(-exp_rate(raw_decay(c, in, t)));
    to[c.own(m)][c.channel] = decay;
  }
}

template <int P>
using ForwardShared =
    rk::SharedLayout<Row<P>[P], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L], float[P],
                     float[P], float[L], float[L][L], typename Chunk<P>::template Scores<1>::Shares[1]>;

template <int P, class T>
__global__ void __launch_bounds__(Chunk<P>::kThreads) forward_kernel(Inputs<T> in, T* y, float* state) {
  using Scores = typename Chunk<P>::template Scores<1>;
  auto [S, r, k, v, decay, before, after, whole, u, keep, A, shares] = ForwardShared<P>::carve();
  const Chunk<P> c(in.tokens, in.H, in.N);
  const int64_t state_at = int64_t{blockIdx.x} * in.N * in.N;
  c.load_state(S, in.state0 ? in.state0 + state_at : nullptr, false);
  if (c.group == 0) u[c.channel] = c.channel < c.N ? in.u[blockIdx.x % in.H * in.N + c.channel] : 0.f;
  for (int64_t t0 = 0; t0 < in.tokens; t0 += L) {
    __syncthreads();
    if (in.saved && t0 > 0 && t0 % kWkv6GpuSegment == 0) c.store_state(saved_at(in, t0), S, false);
    c.load(r, in.r, t0), c.load(k, in.k, t0), c.load(v, in.v, t0);
    load_decay(c, decay, in, t0);
    c.load_starts(keep, in.doc_start, t0);
    __syncthreads();
    c.decay_products(before, after, whole, decay, keep);
    Scores::share(shares[0], r, k, false, u, decay, keep);
    __syncthreads();
    Scores::add_up(A, shares[0]);
    c.scale(r, before), c.scale(k, after);
    __syncthreads();
    float out[kOwn] = {};
    c.read_columns(out, Plain<P>{r}, S);
    c.read_earlier(out, A, v, true);
    for (int m = 0; m < kOwn; ++m) {
      if (c.inside(t0 + c.own(m))) y[c.at(t0 + c.own(m))] = T(out[m]);
    }
    __syncthreads();
    c.add_outer(S, whole, Plain<P>{k}, v);
  }
  __syncthreads();
  c.store_state(state + state_at, S, false);
}

template <class T>
struct Gradients {
  const T* dy;
  const float* dstate;
  T *dr, *dk, *dv, *dw;        // dw null where the decay is fixed
  float* dstate0;              // may be null
  float *du_parts, *dw_parts;  // [B, H, part_stride], the second where the decay is fixed
  int64_t part_stride;
  float* scratch;  // [B, H, kWkv6GpuSegment / L, P, P]
};

// Scores' shares, and when they are added up: dg [4][L][P], of each group of threads its share of the paths
// inside the chunk; r dr and k dk [L][P], of the paths to and from the state.
template <int P>
constexpr int kWork = sizeof(typename Chunk<P>::template Scores<1>::Shares) / 4 > 6 * L* P
                          ? sizeof(typename Chunk<P>::template Scores<1>::Shares) / 4
                          : 6 * L* P;
template <int P>
using BackwardShared = rk::SharedLayout<Row<P>[P], Row<P>[P], Row<P>[L], Row<P>[L], Row<P>[L], Row<P>[L],
                                        Row<P>[L], Row<P>[L], Row<P>[L], float[P], float[P], float[L],
                                        float[L][L], float[L][L], float[kGroups][P], float[kWork<P>]>;

template <int P, class T>
__global__ void __launch_bounds__(Chunk<P>::kThreads) backward_kernel(Inputs<T> in, Gradients<T> g) {
  using Scores = typename Chunk<P>::template Scores<1>;
  auto [S, D, r, k, v, dy, decay, before, after, whole, u, keep, A, dA, crossing, work] =
      BackwardShared<P>::carve();
  auto& shares = *reinterpret_cast<typename Scores::Shares*>(work);
  float(*inner)[L][P] = reinterpret_cast<float(*)[L][P]>(work);  // [4]
  float(*read)[P] = inner[kGroups];
  float(*written)[P] = read + L;

  const Chunk<P> c(in.tokens, in.H, in.N);
  const int i = c.channel;
  const int64_t state_at = int64_t{blockIdx.x} * in.N * in.N;
  float* entries = g.scratch + int64_t{blockIdx.x} * (kWkv6GpuSegment / L) * P * P;
  c.load_state(D, g.dstate ? g.dstate + state_at : nullptr, false);
  if (c.group == 0) u[i] = i < c.N ? in.u[blockIdx.x % in.H * in.N + i] : 0.f;
  float du = 0, dw = 0;

  for (int64_t begin = (in.tokens - 1) / kWkv6GpuSegment * kWkv6GpuSegment; begin >= 0;
       begin -= kWkv6GpuSegment) {
    // The states at the entries of the segment's chunks; the last stays in S.
    const int64_t end = begin + kWkv6GpuSegment < in.tokens ? begin + kWkv6GpuSegment : in.tokens;
    const float* entry = begin > 0 ? saved_at(in, begin) : in.state0 ? in.state0 + state_at : nullptr;
    c.load_state(S, entry, false);
    const int last = static_cast<int>((end - begin - 1) / L);
    for (int chunk = 0; chunk < last; ++chunk) {
      const int64_t t0 = begin + chunk * L;
      c.load(k, in.k, t0), c.load(v, in.v, t0);
      load_decay(c, decay, in, t0);
      c.load_starts(keep, in.doc_start, t0);
      __syncthreads();
      c.keep_state(entries + chunk * P * P, S);
      c.decay_products(before, after, whole, decay, keep);
      __syncthreads();
      c.scale(k, after);
      __syncthreads();
      c.add_outer(S, whole, Plain<P>{k}, v);
      __syncthreads();
    }

    for (int chunk = last; chunk >= 0; --chunk) {
      const int64_t t0 = begin + chunk * L;
      c.load(r, in.r, t0), c.load(k, in.k, t0), c.load(v, in.v, t0), c.load(dy, g.dy, t0);
      load_decay(c, decay, in, t0);
      c.load_starts(keep, in.doc_start, t0);
      __syncthreads();
      c.decay_products(before, after, whole, decay, keep);
      Scores::share(shares, r, k, false, u, decay, keep);
      c.dot_rows(dA, dy, v);
      __syncthreads();
      Scores::add_up(A, shares);
      float dr[kOwn] = {}, dk[kOwn] = {}, dv[kOwn] = {};
      c.read_rows(dr, dy, S);
      c.read_rows(dk, v, D);
      c.read_columns(dv, Scaled<P>{k, after}, D);
      crossing[c.group][i] = c.dot_states(S, D);
      __syncthreads();

      c.read_later(dv, A, dy, true);
      float dg[L] = {};
      for (int m = 0; m < kOwn; ++m) {
        const int t = c.own(m);
        dr[m] *= before[t][i], dk[m] *= after[t][i];
        read[t][i] = r[t][i] * dr[m], written[t][i] = k[t][i] * dk[m];
        // t as the reader of all tokens s before it; path_s = dr's share of s.
        float product = keep[t], path[L];
#pragma unroll
        for (int s = L - 1; s >= 0; --s) {
          path[s] = 0;
          if (s < t) {
            path[s] = dA[t][s] * (k[s][i] * product);
            dr[m] += path[s];
            product *= decay[s][i];
          }
        }
        float earlier = 0;
#pragma unroll
        for (int x = 0; x < L; ++x) {
          if (x < t) {
            dg[x] += r[t][i] * earlier;
            earlier += path[x];
          }
        }
        // t as the writer that all later tokens read.
        product = 1;
        for (int later = t + 1; later < L; ++later) {
          dk[m] += dA[later][t] * (r[later][i] * (product * keep[later]));
          product *= decay[later][i];
        }
        dr[m] += dA[t][t] * u[i] * k[t][i];
        dk[m] += dA[t][t] * u[i] * r[t][i];
        du += dA[t][t] * r[t][i] * k[t][i];
        if (!c.inside(t0 + t)) continue;
        g.dr[c.at(t0 + t)] = T(dr[m]), g.dk[c.at(t0 + t)] = T(dk[m]), g.dv[c.at(t0 + t)] = T(dv[m]);
      }
#pragma unroll
      for (int x = 0; x < L; ++x) inner[c.group][x][i] = dg[x];
      __syncthreads();

      for (int m = 0; m < kOwn; ++m) {
        const int x = c.own(m);
        if (!c.inside(t0 + x)) continue;
        float sum = 0, through = 0;
        for (int group = 0; group < kGroups; ++group) {
          sum += inner[group][x][i];
          through += crossing[group][i];
        }
        sum += whole[i] * through;
        for (int s = 0; s < x; ++s) sum += written[s][i];
        for (int t = x + 1; t < L; ++t) sum += read[t][i];
        sum *= -exp_rate_slope(raw_decay(c, in, t0 + x));
        if (in.fixed_decay) {
          dw += sum;
        } else {
          g.dw[c.at(t0 + x)] = T(sum);
        }
      }
      c.add_outer(D, whole, Scaled<P>{r, before}, dy);
      if (chunk > 0) c.restore_state(S, entries + (chunk - 1) * P * P);
      __syncthreads();
    }
  }
  if (g.dstate0) c.store_state(g.dstate0 + state_at, D, false);

  // The groups' shares of du and dw.
  inner[c.group][0][i] = du, inner[c.group][1][i] = dw;
  __syncthreads();
  if (c.group != 0) return;
  for (int group = 1; group < kGroups; ++group) du += inner[group][0][i], dw += inner[group][1][i];
  g.du_parts[blockIdx.x * g.part_stride + i] = du;
  if (in.fixed_decay) g.dw_parts[blockIdx.x * g.part_stride + i] = dw;
}

// The gradient of an [H, N] tensor from its parts [B, H, part_stride].
template <class T>
__global__ void sum_parts_kernel(T* out, bool accumulate, const float* parts, int64_t B, int64_t H, int64_t N,
                                 int64_t part_stride) {
  const int64_t e = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (e >= H * N) return;
  float sum = accumulate ? float(out[e]) : 0.f;
  for (int64_t b = 0; b < B; ++b) sum += parts[(b * H + e / N) * part_stride + e % N];
  out[e] = T(sum);
}

void sum_parts(const GradTarget& to, const Tensor& parts, int64_t B) {
  if (!to.tensor.defined()) return;
  const int64_t H = to.tensor.dim(0), N = to.tensor.dim(1);
  dispatch_gpu_float(to.tensor.dtype(), [&]<class T>() {
    rk::launch(to.tensor.device(), sum_parts_kernel<T>,
               {dim3(static_cast<unsigned>((H * N + 127) / 128)), 128}, to.tensor.data<T>(), to.accumulate,
               parts.data<float>(), B, H, N, parts.dim(-1));
  });
}

template <class T, class Args>
Inputs<T> inputs(const Args& a) {
  return {a.r.dim(1),
          a.r.dim(2),
          a.r.dim(3),
          pointer<T>(a.r),
          pointer<T>(a.k),
          pointer<T>(a.v),
          floats(a.w),
          floats(a.u),
          a.w.shape() != a.r.shape(),
          pointer<float>(a.state0),
          pointer<uint8_t>(a.doc_start),
          pointer<float>(a.saved)};
}

}  // namespace

void wkv6_forward(const Wkv6Args& a) {
  dispatch_heads(a.r, [&]<int P, class T>(dim3 grid) {
    rk::launch(a.r.device(), forward_kernel<P, T>, {grid, Chunk<P>::kThreads, ForwardShared<P>::kBytes},
               inputs<T>(a), a.y.data<T>(), a.state.data<float>());
  });
}

void wkv6_backward(const Wkv6Grad& a) {
  dispatch_heads(a.r, [&]<int P, class T>(dim3 grid) {
    const Inputs<T> in = inputs<T>(a);
    const Gradients<T> g{pointer<T>(a.dy),           pointer<float>(a.dstate),
                         pointer<T>(a.dr),           pointer<T>(a.dk),
                         pointer<T>(a.dv),           in.fixed_decay ? nullptr : pointer<T>(a.dw.tensor),
                         pointer<float>(a.dstate0),  pointer<float>(a.du_parts),
                         pointer<float>(a.dw_parts), a.du_parts.dim(-1),
                         pointer<float>(a.scratch)};
    rk::launch(a.r.device(), backward_kernel<P, T>, {grid, Chunk<P>::kThreads, BackwardShared<P>::kBytes}, in,
               g);
  });
  sum_parts(a.du, a.du_parts, a.r.dim(0));
  if (a.dw_parts.defined()) sum_parts(a.dw, a.dw_parts, a.r.dim(0));
}

}  // namespace rookery::RK_BACKEND
