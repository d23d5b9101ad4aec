// attention_cpu.cpp: attention on the CPU; products of blocks by BLAS on the calling thread, everything
// between them here. Arguments and scratch: attention.h.
//
// Forward, for a block of queries (softmax over keys in pieces, arXiv 2112.05682): with m the largest score
// so far, l = sum exp(s - m) and y = sum exp(s - m) v, a further piece with maximum m' scales l and y by
// exp(m - max(m, m')). Backward, for a block of keys (arXiv 2205.14135, algorithm 4): p = exp(s - m) / l
// again, dv = p^T dy, dp = dy v^T, ds = p (dp - y . dy), dq = ds k, dk = ds^T q.
#include <cstdint>

#include "kernels/ops/attention/attention.h"
#include "kernels/ops/math/vmath.h"
#include "kernels/ops/matmul/gemm.h"

namespace rookery::RK_BACKEND {
namespace {

#define RK_INLINE static inline __attribute__((always_inline))

RK_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
RK_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// The i-th of n blocks in the order 0, n - 1, 1, n - 2, ...: later queries see more keys, and so contiguous
// parts of the order are about equal work.
RK_INLINE int64_t alternating(int64_t i, int64_t n) { return i % 2 ? n - 1 - i / 2 : i / 2; }

struct Sizes {
  int64_t B, tokens, S, Hq, Hkv, D, past;
  int64_t q_at(int64_t b, int64_t t, int64_t h) const { return ((b * tokens + t) * Hq + h) * D; }
  int64_t k_at(int64_t b, int64_t s, int64_t h) const { return ((b * S + s) * Hkv + h) * D; }
  int64_t row_at(int64_t b, int64_t h, int64_t t) const { return (b * Hq + h) * tokens + t; }
  int64_t q_stride() const { return Hq * D; }
  int64_t k_stride() const { return Hkv * D; }
};
template <class Args>
RK_INLINE Sizes sizes(const Args& a) {
  return {a.q.dim(0), a.q.dim(1), a.k.dim(1), a.q.dim(2), a.k.dim(2), a.q.dim(3), a.past};
}

// Which keys of a block a query sees: [low, high) relative to the block's first.
struct Visible {
  int64_t low, high;
};
RK_INLINE Visible visible(const Sizes& n, const int32_t* first, int64_t b, int64_t t, int64_t key,
                          int64_t keys) {
  const int64_t low = first ? most(first[b * n.tokens + t] - key, 0) : 0;
  return {low, most(low, least(n.past + t + 1 - key, keys))};
}

template <class T>
RK_INLINE T* pointer(const Tensor& t) {
  return t.defined() ? t.data<T>() : nullptr;
}

template <class T>
RK_INLINE void fill(T* x, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) x[i] = value;
}
template <class T>
RK_INLINE void scale_by(T* x, int64_t n, T factor) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

// Scores of one query to exp(scale (s - top)), with a new largest score. Returns what the earlier sums are to
// be multiplied with; `sum` already is.
template <class T>
RK_INLINE T weigh(T* __restrict s, Visible see, int64_t keys, T scale, T& top, T& sum) {
  T largest = top;
#pragma omp simd reduction(max : largest)
  for (int64_t i = see.low; i < see.high; ++i) largest = s[i] > largest ? s[i] : largest;
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = see.low; i < see.high; ++i) {
    s[i] = vexp(scale * (s[i] - largest));
    total += s[i];
  }
  fill(s, least(see.low, keys), T(0));
  fill(s + see.high, keys - see.high, T(0));
  const T before = see.low < see.high ? vexp(scale * (top - largest)) : T(1);
  top = largest;
  sum = sum * before + total;
  return before;
}

template <class T>
void forward_block(const AttentionArgs& a, const Sizes& n, int64_t b, int64_t h, int64_t begin, T* s) {
  const int64_t rows = least(kAttentionShort, n.tokens - begin), g = h * n.Hkv / n.Hq;
  const int32_t* first = pointer<int32_t>(a.first);
  const T* q = a.q.data<T>() + n.q_at(b, begin, h);
  T *y = a.y.data<T>() + n.q_at(b, begin, h), *top = a.top.data<T>() + n.row_at(b, h, begin),
    *weight = a.weight.data<T>() + n.row_at(b, h, begin);
  fill(top, rows, -T(__builtin_inff()));
  fill(weight, rows, T(0));
  const int64_t from = first ? first[b * n.tokens + begin] : 0, to = n.past + begin + rows;
  for (int64_t key = from; key < to; key += kAttentionLong) {
    const int64_t keys = least(kAttentionLong, to - key);
    gemm(rows, keys, n.D, Operand<T>{q, n.q_stride()},
         Operand<T>{a.k.data<T>() + n.k_at(b, key, g), n.k_stride(), true}, T(0), s, kAttentionLong);
    for (int64_t r = 0; r < rows; ++r) {
      const T before = weigh(s + r * kAttentionLong, visible(n, first, b, begin + r, key, keys), keys,
                             static_cast<T>(a.scale), top[r], weight[r]);
      if (key > from) scale_by(y + r * n.q_stride(), n.D, before);
    }
    gemm(rows, n.D, keys, Operand<T>{s, kAttentionLong},
         Operand<T>{a.v.data<T>() + n.k_at(b, key, g), n.k_stride()}, key > from ? T(1) : T(0), y,
         n.q_stride());
  }
  for (int64_t r = 0; r < rows; ++r) {
    weight[r] = T(1) / weight[r];
    scale_by(y + r * n.q_stride(), n.D, weight[r]);
  }
}

template <class T>
void forward(const AttentionArgs& a) {
  const Sizes n = sizes(a);
  if (a.doc_start.defined()) {
    const uint8_t* starts = a.doc_start.data<uint8_t>();
    int32_t* first = a.first.data<int32_t>();
    for (int64_t i = 0; i < n.B * n.tokens; ++i) {
      const int64_t t = i % n.tokens;
      first[i] = starts[i] ? static_cast<int32_t>(n.past + t) : t > 0 ? first[i - 1] : 0;
    }
  }
  const int64_t blocks = (n.tokens + kAttentionShort - 1) / kAttentionShort;
  T* scratch = a.scratch.data<T>();
  parallel_parts(a.q.device().pool(), n.B * n.Hq * blocks, 1, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / blocks, block = alternating(i % blocks, blocks);
      forward_block(a, n, head / n.Hq, head % n.Hq, block * kAttentionShort,
                    scratch + part * kAttentionForwardScratch);
    }
  });
}

// Where the gradients of one call go; null where not wanted.
template <class T>
struct Gradients {
  T *dq, *dk, *dv;
};

template <class T>
void backward_block(const AttentionGrad& a, const Sizes& n, const Gradients<T>& to, int64_t b, int64_t g,
                    int64_t key, int64_t keys, T* p) {
  T* ds = p + kAttentionShort * kAttentionLong;
  const int32_t* first = pointer<int32_t>(a.first);
  const int64_t group = n.Hq / n.Hkv, at = n.k_at(b, key, g), stride = kAttentionShort;
  const T *k = a.k.data<T>() + at, *v = a.v.data<T>() + at, scale = static_cast<T>(a.scale);
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    for (int64_t t = most(0, key - n.past); t < n.tokens; t += kAttentionLong) {
      if (first && first[b * n.tokens + t] >= key + keys) break;
      const int64_t rows = least(kAttentionLong, n.tokens - t);
      const int64_t q_at = n.q_at(b, t, h), row_at = n.row_at(b, h, t);
      const Operand<T> q{a.q.data<T>() + q_at, n.q_stride()}, dy{a.dy.data<T>() + q_at, n.q_stride()};
      gemm(rows, keys, n.D, q, Operand<T>{k, n.k_stride(), true}, T(0), p, stride);
      gemm(rows, keys, n.D, dy, Operand<T>{v, n.k_stride(), true}, T(0), ds, stride);
      for (int64_t r = 0; r < rows; ++r) {
        const Visible see = visible(n, first, b, t + r, key, keys);
        const T top = a.top.data<T>()[row_at + r], weight = a.weight.data<T>()[row_at + r],
                delta = a.delta.data<T>()[row_at + r];
        T* __restrict p_row = p + r * stride;
        T* __restrict ds_row = ds + r * stride;
        fill(p_row, least(see.low, keys), T(0));
        fill(ds_row, least(see.low, keys), T(0));
#pragma omp simd
        for (int64_t i = see.low; i < see.high; ++i) {
          p_row[i] = vexp(scale * (p_row[i] - top)) * weight;
          ds_row[i] = scale * p_row[i] * (ds_row[i] - delta);
        }
        fill(p_row + see.high, keys - see.high, T(0));
        fill(ds_row + see.high, keys - see.high, T(0));
      }
      const Operand<T> p_transposed{p, stride, true}, ds_transposed{ds, stride, true};
      if (to.dv) gemm(keys, n.D, rows, p_transposed, dy, T(1), to.dv + at, n.k_stride());
      if (to.dk) gemm(keys, n.D, rows, ds_transposed, q, T(1), to.dk + at, n.k_stride());
      if (to.dq)
        gemm(rows, n.D, keys, Operand<T>{ds, stride}, Operand<T>{k, n.k_stride()}, T(1), to.dq + q_at,
             n.q_stride());
    }
  }
}

template <class T>
void backward(const AttentionGrad& a) {
  const Sizes n = sizes(a);
  ThreadPool& pool = a.q.device().pool();
  T* delta = a.delta.data<T>();
  parallel_for(pool, n.B * n.tokens, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t h = 0; h < n.Hq; ++h) {
        const T *y = a.y.data<T>() + (i * n.Hq + h) * n.D, *dy = a.dy.data<T>() + (i * n.Hq + h) * n.D;
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < n.D; ++d) sum += y[d] * dy[d];
        delta[n.row_at(i / n.tokens, h, i % n.tokens)] = sum;
      }
    }
  });

  const Gradients<T> whole{pointer<T>(a.dq.tensor), pointer<T>(a.dk.tensor), pointer<T>(a.dv.tensor)};
  T *parts = pointer<T>(a.parts), *scratch = a.scratch.data<T>();
  const int64_t blocks = (n.past + n.tokens + kAttentionShort - 1) / kAttentionShort, group = n.Hq / n.Hkv;
  parallel_parts(pool, n.B * n.Hkv * a.splits, 1, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t split = i % a.splits, b = i / a.splits / n.Hkv, g = i / a.splits % n.Hkv;
      Gradients<T> to = whole;
      if (parts) to.dq = parts + split * a.q.numel();
      if (to.dq && (parts || !a.dq.accumulate))
        for (int64_t t = 0; t < n.tokens; ++t) fill(to.dq + n.q_at(b, t, g * group), group * n.D, T(0));
      for (int64_t block = blocks * split / a.splits; block < blocks * (split + 1) / a.splits; ++block) {
        const int64_t key = alternating(block, blocks) * kAttentionShort;
        const int64_t keys = least(kAttentionShort, n.past + n.tokens - key);
        for (const GradTarget* target : {&a.dk, &a.dv})
          if (target->tensor.defined() && !target->accumulate)
            for (int64_t s = 0; s < keys; ++s)
              fill(target->tensor.data<T>() + n.k_at(b, key + s, g), n.D, T(0));
        backward_block(a, n, to, b, g, key, keys, scratch + part * kAttentionBackwardScratch);
      }
    }
  });

  for (const GradTarget* target : {&a.dk, &a.dv})
    if (target->tensor.defined() && !target->accumulate)
      for (int64_t b = 0; b < n.B; ++b)
        fill(target->tensor.data<T>() + n.k_at(b, n.past + n.tokens, 0),
             (n.S - n.past - n.tokens) * n.k_stride(), T(0));
  if (!parts) return;
  parallel_for(pool, a.q.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T sum = a.dq.accumulate ? whole.dq[i] : T(0);
      for (int64_t split = 0; split < a.splits; ++split) sum += parts[split * a.q.numel() + i];
      whole.dq[i] = sum;
    }
  });
}

}  // namespace

void attention_forward(const AttentionArgs& a) {
  dispatch_float(a.q.dtype(), [&]<class T>() { forward<T>(a); });
}
void attention_backward(const AttentionGrad& a) {
  dispatch_float(a.q.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
