// wkv_chunk.h: what the GPU kernels of WKV6 (and 5) and WKV7 share: a chunk of 16 tokens of one head, as rows
// of shared memory, and the products that a block makes of them. Used by wkv6_cuda.cu and wkv7_cuda.cu.
//
// A block owns one head of one sequence and walks along it. State [key, value], rows and sums are f32. With
// d_x the decay of token x, 0 where x starts a document, all that decays is a running product of d's <= 1: it
// underflows to the right answer at any decay, and nothing is divided or subtracted. What couples tokens s <
// t of a chunk,
//
//   sum_i x_t y_s prod_{s<x<t} d_x      (0 if t starts a document)
//
// is summed pair by pair, one running product per (t, channel): with 16 tokens that is an eighth of the
// arithmetic of the products with the state.
//
// A block has 4 P threads, P >= N the head size that the kernel is compiled for: thread (channel, group) has
// the tokens group, group + 4, group + 8 and group + 12. Rows have 4 floats more than P: 16 bytes of
// neighbouring rows lie in other banks.
#pragma once

#include "kernels/cuda/portable.h"
#include "kernels/tensor/tensor.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int L = 16;       // tokens of a chunk
constexpr int kGroups = 4;  // of threads with the same channels
constexpr int kOwn = L / kGroups;
// A log decay below -60 counts as -60, whose gradient is 0: nobody sees what exp(-60) leaves.
constexpr float kLargestRate = 60, kLogOfLargestRate = 4.0943446f;

// exp(w), the negative log decay. NaN stays NaN.
RK_DEV float exp_rate(float w) { return w > kLogOfLargestRate ? kLargestRate : expf(w); }
RK_DEV float exp_rate_slope(float w) { return w > kLogOfLargestRate ? 0.f : expf(w); }

// Numbers whose type is known at run time: parameters are f32 or have the type of the activations.
struct Floats {
  const void* data;
  bool is_bf16;
  RK_DEV float operator[](int64_t i) const {
    return is_bf16 ? float(static_cast<const bf16*>(data)[i]) : static_cast<const float*>(data)[i];
  }
};

template <class T>
T* pointer(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}
inline Floats floats(const Tensor& t) { return {t.raw(), t.dtype() == DType::kBF16}; }

// body.operator()<P, T>(grid) for r [B, T, H, N]: the P and type of the kernels, a block per head of a
// sequence.
template <class F>
void dispatch_heads(const Tensor& r, F&& body) {
  const dim3 grid(static_cast<unsigned>(r.dim(0) * r.dim(2)));
  const int64_t N = r.dim(3);
  dispatch_gpu_float(r.dtype(), [&]<class T>() {
    if (N <= 16) {
      body.template operator()<16, T>(grid);
    } else if (N <= 32) {
      body.template operator()<32, T>(grid);
    } else {
      body.template operator()<64, T>(grid);
    }
  });
}

template <int P>
using Row = float[P + 4];

// Rows x_s, as quads of channels; with factors.
template <int P>
struct Plain {
  const Row<P>* x;
  RK_DEV rk::Vec16<float> operator()(int s, int i) const { return rk::load16(&x[s][i]); }
};
template <int P>
struct Scaled {
  const Row<P>*x, *factor;
  RK_DEV rk::Vec16<float> operator()(int s, int i) const {
    rk::Vec16<float> out = rk::load16(&x[s][i]);
    const rk::Vec16<float> f = rk::load16(&factor[s][i]);
    for (int e = 0; e < 4; ++e) out[e] *= f[e];
    return out;
  }
};
template <int P>
struct ScaledTwice {
  Scaled<P> x;
  const Row<P>* factor;
  RK_DEV rk::Vec16<float> operator()(int s, int i) const {
    rk::Vec16<float> out = x(s, i);
    const rk::Vec16<float> f = rk::load16(&factor[s][i]);
    for (int e = 0; e < 4; ++e) out[e] *= f[e];
    return out;
  }
};

template <int P>
struct Chunk {
  static constexpr int kThreads = kGroups * P;

  int channel, group;      // of this thread
  int64_t tokens, stride;  // of the sequence; elements between two rows of the head in [B, T, H, N]
  int N;
  int64_t first;  // element of row 0

  RK_DEV Chunk(int64_t tokens_, int64_t H, int64_t N_)
      : channel(static_cast<int>(threadIdx.x) % P),
        group(static_cast<int>(threadIdx.x) / P),
        tokens(tokens_),
        stride(H * N_),
        N(static_cast<int>(N_)),
        first((blockIdx.x / H * tokens_ * H + blockIdx.x % H) * N_) {}

  RK_DEV int own(int m) const { return group + kGroups * m; }  // the thread's m-th token
  RK_DEV bool inside(int64_t t) const { return t < tokens && channel < N; }
  RK_DEV int64_t at(int64_t t) const { return first + t * stride + channel; }

  // Rows [t0, t0 + 16) of x [B, T, H, N]; 0 beyond the sequence and the head.
  template <class T>
  RK_DEV void load(Row<P>* to, const T* x, int64_t t0) const {
    for (int m = 0; m < kOwn; ++m) {
      const int64_t t = t0 + own(m);
      to[own(m)][channel] = inside(t) ? float(x[at(t)]) : 0.f;
    }
  }
  // keep[t]: 0 where t starts a document, else 1.
  RK_DEV void load_starts(float* keep, const uint8_t* doc_start, int64_t t0) const {
    if (threadIdx.x >= L) return;
    const int64_t t = t0 + threadIdx.x;
    const bool starts = doc_start && t < tokens && doc_start[blockIdx.x / (stride / N) * tokens + t];
    keep[threadIdx.x] = starts ? 0.f : 1.f;
  }
  RK_DEV bool starts(const uint8_t* doc_start, int64_t t) const {
    return doc_start && doc_start[blockIdx.x / (stride / N) * tokens + t];
  }

  // A state [N, N] to rows of keys and back; `turned`: [value, key] in memory. Null is 0.
  RK_DEV void load_state(Row<P>* state, const float* from, bool turned) const {
    for (int e = threadIdx.x; e < P * P; e += kThreads) {
      const int i = e / P, j = e % P;
      (turned ? state[j][i] : state[i][j]) = from && i < N && j < N ? from[i * N + j] : 0.f;
    }
  }
  RK_DEV void store_state(float* to, const Row<P>* state, bool turned) const {
    for (int e = threadIdx.x; e < P * P; e += kThreads) {
      const int i = e / P, j = e % P;
      if (i < N && j < N) to[i * N + j] = turned ? state[j][i] : state[i][j];
    }
  }
  // The same for scratch [P, P]. Each thread reads what it wrote.
  RK_DEV void keep_state(float* to, const Row<P>* state) const {
    for (int e = threadIdx.x; e < P * P; e += kThreads) to[e] = state[e / P][e % P];
  }
  RK_DEV void restore_state(Row<P>* state, const float* from) const {
    for (int e = threadIdx.x; e < P * P; e += kThreads) state[e / P][e % P] = from[e];
  }

  // before[t]: what token t finds of the state at the chunk's entry; after[s]: what is left of token s at its
  // exit; whole: what is left of the entry's state. decay: 0 where a document starts, 1 beyond the sequence.
  RK_DEV void decay_products(Row<P>* before, Row<P>* after, float* whole, const Row<P>* decay,
                             const float* keep) const {
    float product = 1;
    if (group == 0) {
      for (int t = 0; t < L; ++t) {
        before[t][channel] = keep[t] * product;
        product *= decay[t][channel];
      }
      whole[channel] = product;
    } else if (group == 1) {
      for (int s = L - 1; s >= 0; --s) {
        after[s][channel] = product;
        product *= decay[s][channel];
      }
    }
  }

  // x <- x . factor, the thread's own rows.
  RK_DEV void scale(Row<P>* x, const Row<P>* factor) const {
    for (int m = 0; m < kOwn; ++m) x[own(m)][channel] *= factor[own(m)][channel];
  }

  // A chunk's scores of x and y: score[t][s] = sum_i x_t y_s prod_{s<x<t} d_x, s < t; score[t][t] = sum_i
  // x_t y_t diagonal. First the shares of a slice of the channels (`Matrices` of them made at the same time
  // by a block), then, behind a barrier, their sum.
  template <int Matrices>
  struct Scores {
    static constexpr int kSlices = P / 4 / Matrices;
    using Shares = float[L][L][kSlices + 1];

    RK_DEV static int matrix() { return static_cast<int>(threadIdx.x) / (L * kSlices); }

    // x decays by its own token too where `through`.
    RK_DEV static void share(Shares& out, const Row<P>* x, const Row<P>* y, bool through,
                             const float* diagonal, const Row<P>* decay, const float* keep) {
      const int t = static_cast<int>(threadIdx.x) / kSlices % L, slice = threadIdx.x % kSlices;
      constexpr int kQuads = P / 4 / kSlices;
      rk::Vec16<float> path[kQuads];
      float sum = 0;
      for (int q = 0; q < kQuads; ++q) {
        const int i = 4 * (q * kSlices + slice);
        path[q] = rk::load16(&x[t][i]);
        const auto column = rk::load16(&y[t][i]), own_decay = rk::load16(&decay[t][i]);
        for (int e = 0; e < 4; ++e) {
          sum += path[q][e] * column[e] * (diagonal ? diagonal[i + e] : 1.f);
          path[q][e] *= through ? own_decay[e] : 1.f;
          path[q][e] *= keep[t];
        }
      }
      out[t][t][slice] = sum;
      for (int s = t - 1; s >= 0; --s) {
        sum = 0;
        for (int q = 0; q < kQuads; ++q) {
          const int i = 4 * (q * kSlices + slice);
          const auto column = rk::load16(&y[s][i]), d = rk::load16(&decay[s][i]);
          for (int e = 0; e < 4; ++e) {
            sum += path[q][e] * column[e];
            path[q][e] *= d[e];
          }
        }
        out[t][s][slice] = sum;
      }
    }
    RK_DEV static void add_up(float (*score)[L], const Shares& shares) {
      for (int e = threadIdx.x; e < L * L; e += kThreads) {
        const int t = e / L, s = e % L;
        if (s > t) continue;
        float sum = 0;
        for (int slice = 0; slice < kSlices; ++slice) sum += shares[t][s][slice];
        score[t][s] = sum;
      }
    }
  };

  // out[t][s] = x_t . y_s for s <= t.
  RK_DEV static void dot_rows(float (*out)[L], const Row<P>* x, const Row<P>* y) {
    for (int e = threadIdx.x; e < L * L; e += kThreads) {
      const int t = e / L, s = e % L;
      if (s > t) continue;
      float sum = 0;
      for (int i = 0; i < P; i += 4) {
        const auto a = rk::load16(&x[t][i]), b = rk::load16(&y[s][i]);
        for (int c = 0; c < 4; ++c) sum += a[c] * b[c];
      }
      out[t][s] = sum;
    }
  }

  // out[m] += sum_i x_t[i] state[i][channel], t = own(m): the thread's channel is a value.
  template <class X>
  RK_DEV void read_columns(float (&out)[kOwn], const X& x, const Row<P>* state) const {
    for (int i = 0; i < P; i += 4) {
      float column[4];
      for (int e = 0; e < 4; ++e) column[e] = state[i + e][channel];
      for (int m = 0; m < kOwn; ++m) {
        const auto row = x(own(m), i);
        for (int e = 0; e < 4; ++e) out[m] += row[e] * column[e];
      }
    }
  }
  // out[m] += sum_j x_t[j] state[channel][j]: the thread's channel is a key.
  RK_DEV void read_rows(float (&out)[kOwn], const Row<P>* x, const Row<P>* state) const {
    for (int j = 0; j < P; j += 4) {
      const auto column = rk::load16(&state[channel][j]);
      for (int m = 0; m < kOwn; ++m) {
        const auto row = rk::load16(&x[own(m)][j]);
        for (int e = 0; e < 4; ++e) out[m] += row[e] * column[e];
      }
    }
  }
  // out[m] += sum_s score[t][s] x_s[channel] over s <= t, or s < t.
  RK_DEV void read_earlier(float (&out)[kOwn], const float (*score)[L], const Row<P>* x, bool same) const {
    for (int m = 0; m < kOwn; ++m) {
      for (int s = 0; s < own(m) + same; ++s) out[m] += score[own(m)][s] * x[s][channel];
    }
  }
  // out[m] += sum_t score[t][s] x_t[channel] over t >= s, or t > s, s = own(m).
  RK_DEV void read_later(float (&out)[kOwn], const float (*score)[L], const Row<P>* x, bool same) const {
    for (int m = 0; m < kOwn; ++m) {
      for (int t = own(m) + !same; t < L; ++t) out[m] += score[t][own(m)] * x[t][channel];
    }
  }

  // state[i][j] = whole[i] state[i][j] + sum_s x_s[i] y_s[j]; without `whole`: added only.
  template <class X>
  RK_DEV void add_outer(Row<P>* state, const float* whole, const X& x, const Row<P>* y) const {
    float value[L];
    for (int s = 0; s < L; ++s) value[s] = y[s][channel];
    for (int i = group * (P / kGroups); i < (group + 1) * (P / kGroups); i += 4) {
      float sum[4];
      for (int e = 0; e < 4; ++e) sum[e] = (whole ? whole[i + e] : 1.f) * state[i + e][channel];
      for (int s = 0; s < L; ++s) {
        const auto key = x(s, i);
        for (int e = 0; e < 4; ++e) sum[e] += key[e] * value[s];
      }
      for (int e = 0; e < 4; ++e) state[i + e][channel] = sum[e];
    }
  }

  // The thread's share of sum_j a[channel][j] b[channel][j].
  RK_DEV float dot_states(const Row<P>* a, const Row<P>* b) const {
    float sum = 0;
    for (int j = group * (P / kGroups); j < (group + 1) * (P / kGroups); j += 4) {
      const auto x = rk::load16(&a[channel][j]), y = rk::load16(&b[channel][j]);
      for (int e = 0; e < 4; ++e) sum += x[e] * y[e];
    }
    return sum;
  }
};

}  // namespace
}  // namespace rookery::RK_BACKEND
