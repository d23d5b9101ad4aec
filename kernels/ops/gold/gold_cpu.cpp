// gold_cpu.cpp: keys and values of a GOLD block (goldfinch 3), kGoldRows tokens at a time all the way from
// the tables, so that what lies between stays in the cache. Products by BLAS on the calling thread.
#include <cstring>

#include "kernels/ops/gold/gold.h"
#include "kernels/ops/math/vmath.h"
#include "kernels/ops/matmul/gemm.h"

namespace rookery::RK_BACKEND {
namespace {

#define RK_INLINE static inline __attribute__((always_inline))

// x / (root mean square + 1e-8)
template <class T>
RK_INLINE void rms(T* __restrict x, int64_t D) {
  T square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < D; ++i) square += x[i] * x[i];
  const T factor = T(1) / (T(__builtin_sqrt(square / static_cast<T>(D))) + T(1e-8));
#pragma omp simd
  for (int64_t i = 0; i < D; ++i) x[i] *= factor;
}

template <class T>
RK_INLINE void layer_norm(T* __restrict x, const T* __restrict gamma, const T* __restrict beta, int64_t D) {
  T sum = 0, square = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < D; ++i) sum += x[i];
  const T mean = sum / static_cast<T>(D);
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < D; ++i) square += (x[i] - mean) * (x[i] - mean);
  const T rstd = T(1) / T(__builtin_sqrt(square / static_cast<T>(D) + T(1e-5)));
#pragma omp simd
  for (int64_t i = 0; i < D; ++i) x[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
}

template <class T>
RK_INLINE void tanh_all(T* __restrict x, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = vtanh(x[i]);
}

// out = x + (shift(x) - x) (mu + m), [rows, D]. x: [1 + rows, D], the token before each row in the row before
// it; it counts as zero where a text starts.
template <class T>
RK_INLINE void lerp(const T* x, const uint8_t* starts, const T* __restrict mu, const T* m, int64_t rows,
                    int64_t D, T* out) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* __restrict before = x + r * D;
    const T* __restrict now = before + D;
    const T* __restrict more = m + r * D;
    T* __restrict y = out + r * D;
    const T keep = starts[r] ? T(0) : T(1);
#pragma omp simd
    for (int64_t i = 0; i < D; ++i) y[i] = now[i] + (keep * before[i] - now[i]) * (mu[i] + more[i]);
  }
}

// LN(x + tanh(x w1) w2), [rows, D], in place; u: scratch [rows, P].
template <class T>
RK_INLINE void correct(T* x, const Tensor& w1, const Tensor& w2, const Tensor& gamma, const Tensor& beta,
                       int64_t rows, T* u) {
  const int64_t D = w1.dim(0), P = w1.dim(1);
  gemm(rows, P, D, Operand<T>{x, D}, Operand<T>{w1.data<T>(), P}, T(0), u, P);
  tanh_all(u, rows * P);
  gemm(rows, D, P, Operand<T>{u, P}, Operand<T>{w2.data<T>(), D}, T(1), x, D);
  for (int64_t r = 0; r < rows; ++r) layer_norm(x + r * D, gamma.data<T>(), beta.data<T>(), D);
}

// Tokens [at, at + rows) of sequence b.
template <class T>
void expand_rows(const GoldArgs& a, int64_t b, int64_t at, int64_t rows, T* scratch) {
  const ops::GoldTokens& t = a.tokens;
  const ops::GoldWeights& w = a.weights;
  const int64_t S = t.index.dim(1), R = t.cache.dim(2), D = a.k.dim(2), M = w.mix_w2.dim(1);
  T *e = scratch, *key = e + (kGoldRows + 1) * D, *m = key + (kGoldRows + 1) * D, *h = m + kGoldRows * D,
    *u = h + kGoldRows * 2 * M;
  // rms(x0) and the shared keys, from the token before on.
  const int64_t from = at > 0 ? at - 1 : 0, count = at + rows - from, skipped = 1 + rows - count;
  std::memset(e, 0, static_cast<size_t>(skipped * D) * sizeof(T));
  std::memset(key, 0, static_cast<size_t>(skipped * D) * sizeof(T));
  for (int64_t r = 0; r < count; ++r) {
    const int64_t row = t.index.data<int32_t>()[b * S + from + r], bytes = D * int64_t(sizeof(T));
    std::memcpy(e + (skipped + r) * D, t.values.data<T>() + row * D, static_cast<size_t>(bytes));
    std::memcpy(key + (skipped + r) * D, t.keys.data<T>() + row * D, static_cast<size_t>(bytes));
  }
  gemm(count, D, R, Operand<T>{t.cache.data<T>() + (b * t.cache.dim(1) + from) * R, R},
       Operand<T>{t.w.data<T>() + D, D + R, true}, T(1), key + skipped * D, D);
  for (int64_t r = skipped; r <= rows; ++r) rms(key + r * D, D);

  const uint8_t* starts = t.starts.data<uint8_t>() + b * S + at;
  T *k = a.k.data<T>() + (b * a.k.dim(1) + at - a.begin) * D, *v = a.v.data<T>() + (k - a.k.data<T>());
  std::memset(m, 0, static_cast<size_t>(rows * D) * sizeof(T));
  lerp(e, starts, w.mix_hidden.data<T>(), m, rows, D, v);
  gemm(rows, 2 * M, D, Operand<T>{v, D}, Operand<T>{w.mix_w1.data<T>(), 2 * M}, T(0), h, 2 * M);
  tanh_all(h, rows * 2 * M);
  const T* w2 = w.mix_w2.data<T>();
  gemm(rows, D, M, Operand<T>{h, 2 * M}, Operand<T>{w2, D}, T(0), m, D);
  lerp(key, starts, w.mix_k.data<T>(), m, rows, D, k);
  gemm(rows, D, M, Operand<T>{h + M, 2 * M}, Operand<T>{w2 + M * D, D}, T(0), m, D);
  lerp(e, starts, w.mix_v.data<T>(), m, rows, D, v);
  correct(k, w.key_w1, w.key_w2, w.ln_k_weight, w.ln_k_bias, rows, u);
  correct(v, w.value_w1, w.value_w2, w.ln_v_weight, w.ln_v_bias, rows, u);
}

template <class T>
void expand(const GoldArgs& a) {
  const int64_t B = a.k.dim(0), count = a.k.dim(1), blocks = (count + kGoldRows - 1) / kGoldRows;
  const int64_t size = a.scratch.dim(1);
  parallel_parts(a.k.device().pool(), B * blocks, 1, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i % blocks * kGoldRows, left = count - at;
      expand_rows(a, i / blocks, a.begin + at, left < kGoldRows ? left : kGoldRows,
                  a.scratch.data<T>() + part * size);
    }
  });
}

}  // namespace

void gold_expand(const GoldArgs& a) {
  dispatch_float(a.k.dtype(), [&]<class T>() { expand<T>(a); });
}

}  // namespace rookery::RK_BACKEND
