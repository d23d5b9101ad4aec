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

// to [D, kAttentionShort] = the `rows` rows of x [.., D], transposed.
template <class T>
RK_INLINE void transpose(const T* x, int64_t stride, int64_t rows, int64_t D, T* __restrict to) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < D; ++d) to[d * kAttentionShort + r] = x[r * stride + d];
}

// Scores s [keys, queries] of a piece to exp(scale (s - top)), 0 where a key is not seen, with new largest
// scores; `before`: what the earlier sums of each query are to be multiplied with; `sum` already is.
template <class T>
void weigh(T* __restrict s, const Sizes& n, const int32_t* first, int64_t begin, int64_t rows, int64_t key,
           int64_t keys, T scale, T* __restrict top, T* __restrict sum, T* __restrict before) {
  T largest[kAttentionShort];
  for (int64_t r = 0; r < rows; ++r) largest[r] = top[r];
  int64_t high = first ? 0 : rows;  // queries [low, high) see the key
  for (int64_t j = 0; j < keys; ++j) {
    T* __restrict row = s + j * kAttentionShort;
    while (first && high < rows && first[begin + high] <= key + j) ++high;
    fill(row, least(key + j - n.past - begin, rows), -T(__builtin_inff()));
    fill(row + high, rows - high, -T(__builtin_inff()));
#pragma omp simd
    for (int64_t r = 0; r < rows; ++r) largest[r] = row[r] > largest[r] ? row[r] : largest[r];
  }
#pragma omp simd
  for (int64_t r = 0; r < rows; ++r) {
    before[r] = vexp(scale * (top[r] - largest[r]));
    sum[r] *= before[r];
    top[r] = largest[r];
  }
  for (int64_t j = 0; j < keys; ++j) {
    T* __restrict row = s + j * kAttentionShort;
#pragma omp simd
    for (int64_t r = 0; r < rows; ++r) {
      row[r] = vexp(scale * (row[r] - top[r]));
      sum[r] += row[r];
    }
  }
}

// Nothing seen yet; and, when all is seen, sums to quotients.
template <class T>
RK_INLINE void start(T* y, int64_t D, T& top, T& sum) {
  fill(y, D, T(0));
  top = -__FLT_MAX__;
  sum = 0;
}
template <class T>
RK_INLINE void finish(T* y, int64_t D, T& weight) {
  weight = T(1) / weight;
  scale_by(y, D, weight);
}

// One query, as when text is generated: its products read every key and value once, which plain loops do at
// the rate of memory.
template <class T>
void forward_one(const AttentionArgs& a, const Sizes& n, int64_t b, int64_t h, int64_t t, T* __restrict s) {
  constexpr int64_t kPiece = kAttentionShort * kAttentionLong;
  const int64_t g = h * n.Hkv / n.Hq, row = n.row_at(b, h, t), to = least(n.past + t + 1, n.S),
                from = a.first.defined() ? most(0, a.first.data<int32_t>()[b * n.tokens + t]) : 0;
  const T* __restrict q = a.q.data<T>() + n.q_at(b, t, h);
  T* __restrict y = a.y.data<T>() + n.q_at(b, t, h);
  const T scale = static_cast<T>(a.scale);
  if (a.first_part) start(y, n.D, a.top.data<T>()[row], a.weight.data<T>()[row]);
  T top = a.top.data<T>()[row], sum = a.weight.data<T>()[row];
  for (int64_t key = from; key < to; key += kPiece) {
    const int64_t keys = least(kPiece, to - key), at = n.k_at(b, key, g);
    T largest = top;
    for (int64_t j = 0; j < keys; ++j) {
      const T* __restrict k = a.k.data<T>() + at + j * n.k_stride();
      T score = 0;
#pragma omp simd reduction(+ : score)
      for (int64_t d = 0; d < n.D; ++d) score += q[d] * k[d];
      s[j] = score;
      largest = score > largest ? score : largest;
    }
    const T before = vexp(scale * (top - largest));
    scale_by(y, n.D, before);
    sum *= before;
    top = largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < keys; ++j) {
      s[j] = vexp(scale * (s[j] - largest));
      sum += s[j];
    }
    for (int64_t j = 0; j < keys; ++j) {
      const T* __restrict v = a.v.data<T>() + at + j * n.k_stride();
#pragma omp simd
      for (int64_t d = 0; d < n.D; ++d) y[d] += s[j] * v[d];
    }
  }
  a.top.data<T>()[row] = top;
  a.weight.data<T>()[row] = sum;
  if (a.last_part) finish(y, n.D, a.weight.data<T>()[row]);
}

template <class T>
void forward_block(const AttentionArgs& a, const Sizes& n, int64_t b, int64_t h, int64_t begin, T* s) {
  const int64_t rows = least(kAttentionShort, n.tokens - begin), g = h * n.Hkv / n.Hq;
  const int32_t* first = a.first.defined() ? a.first.data<int32_t>() + b * n.tokens : nullptr;
  T *y = a.y.data<T>() + n.q_at(b, begin, h), *top = a.top.data<T>() + n.row_at(b, h, begin),
    *weight = a.weight.data<T>() + n.row_at(b, h, begin), *q = s + kAttentionShort * kAttentionLong;
  T before[kAttentionShort];
  transpose(a.q.data<T>() + n.q_at(b, begin, h), n.q_stride(), rows, n.D, q);
  for (int64_t r = 0; r < rows && a.first_part; ++r) start(y + r * n.q_stride(), n.D, top[r], weight[r]);
  const int64_t from = first ? most(0, first[begin]) : 0, to = least(n.past + begin + rows, n.S);
  for (int64_t key = from; key < to; key += kAttentionLong) {
    const int64_t keys = least(kAttentionLong, to - key), at = n.k_at(b, key, g);
    gemm(keys, rows, n.D, Operand<T>{a.k.data<T>() + at, n.k_stride()}, Operand<T>{q, kAttentionShort}, T(0),
         s, kAttentionShort);
    weigh(s, n, first, begin, rows, key, keys, static_cast<T>(a.scale), top, weight, before);
    for (int64_t r = 0; r < rows; ++r) scale_by(y + r * n.q_stride(), n.D, before[r]);
    gemm(rows, n.D, keys, Operand<T>{s, kAttentionShort, true}, Operand<T>{a.v.data<T>() + at, n.k_stride()},
         T(1), y, n.q_stride());
  }
  for (int64_t r = 0; r < rows && a.last_part; ++r) finish(y + r * n.q_stride(), n.D, weight[r]);
}

template <class T>
void forward(const AttentionArgs& a) {
  const Sizes n = sizes(a);
  if (int32_t* first = pointer<int32_t>(a.first)) {
    const uint8_t* starts = pointer<uint8_t>(a.doc_start);
    const int32_t* document = pointer<int32_t>(a.document);
    for (int64_t i = 0; i < n.B * n.tokens; ++i) {
      const int64_t b = i / n.tokens, t = i % n.tokens;
      const int64_t before = t > 0 ? first[i - 1] : (document ? document[b] : 0) - a.key;
      first[i] = static_cast<int32_t>(starts && starts[i] ? n.past + t : before);
    }
  }
  const int64_t blocks = (n.tokens + kAttentionShort - 1) / kAttentionShort;
  T* scratch = a.scratch.data<T>();
  parallel_parts(a.q.device().pool(), n.B * n.Hq * blocks, 1, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / blocks / n.Hq, h = i / blocks % n.Hq;
      const int64_t query = alternating(i % blocks, blocks) * kAttentionShort;
      T* s = scratch + part * attention_forward_scratch(n.D);
      query + 1 == n.tokens ? forward_one(a, n, b, h, query, s) : forward_block(a, n, b, h, query, s);
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
  constexpr int64_t kStride = kAttentionShort;
  T *ds = p + kStride * kAttentionLong, *k_turned = ds + kStride * kAttentionLong,
    *v_turned = k_turned + kStride * n.D;
  const int32_t* first = a.first.defined() ? a.first.data<int32_t>() + b * n.tokens : nullptr;
  const int64_t group = n.Hq / n.Hkv, at = n.k_at(b, key, g);
  const T scale = static_cast<T>(a.scale);
  transpose(a.k.data<T>() + at, n.k_stride(), keys, n.D, k_turned);
  transpose(a.v.data<T>() + at, n.k_stride(), keys, n.D, v_turned);
  for (int64_t h = g * group; h < (g + 1) * group; ++h) {
    for (int64_t t = most(0, key - n.past); t < n.tokens; t += kAttentionLong) {
      if (first && first[t] >= key + keys) break;
      const int64_t rows = least(kAttentionLong, n.tokens - t);
      const int64_t q_at = n.q_at(b, t, h), row_at = n.row_at(b, h, t);
      const Operand<T> q{a.q.data<T>() + q_at, n.q_stride()}, dy{a.dy.data<T>() + q_at, n.q_stride()};
      gemm(rows, keys, n.D, q, Operand<T>{k_turned, kStride}, T(0), p, kStride);
      gemm(rows, keys, n.D, dy, Operand<T>{v_turned, kStride}, T(0), ds, kStride);
      for (int64_t r = 0; r < rows; ++r) {
        const T top = a.top.data<T>()[row_at + r], weight = a.weight.data<T>()[row_at + r],
                delta = a.delta.data<T>()[row_at + r];
        T* __restrict p_row = p + r * kStride;
        T* __restrict ds_row = ds + r * kStride;
#pragma omp simd
        for (int64_t i = 0; i < keys; ++i) {
          p_row[i] = vexp(scale * (p_row[i] - top)) * weight;
          ds_row[i] = scale * p_row[i] * (ds_row[i] - delta);
        }
        // The query sees the keys [low, high) of the block.
        const int64_t low = first ? least(first[t + r] - key, keys) : 0;
        const int64_t high = least(n.past + t + r + 1 - key, keys);
        for (T* row : {p_row, ds_row}) {
          fill(row, low, T(0));
          fill(row + high, keys - high, T(0));
        }
      }
      const Operand<T> p_turned{p, kStride, true}, ds_turned{ds, kStride, true};
      if (to.dv) gemm(keys, n.D, rows, p_turned, dy, T(1), to.dv + at, n.k_stride());
      if (to.dk) gemm(keys, n.D, rows, ds_turned, q, T(1), to.dk + at, n.k_stride());
      if (to.dq)
        gemm(rows, n.D, keys, Operand<T>{ds, kStride}, Operand<T>{a.k.data<T>() + at, n.k_stride()}, T(1),
             to.dq + q_at, n.q_stride());
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
  const int64_t seen = least(n.past + n.tokens, n.S);  // keys that anybody sees
  const int64_t blocks = (seen + kAttentionShort - 1) / kAttentionShort, group = n.Hq / n.Hkv;
  parallel_parts(pool, n.B * n.Hkv * a.splits, 1, [&](int64_t begin, int64_t end, int part) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t split = i % a.splits, b = i / a.splits / n.Hkv, g = i / a.splits % n.Hkv;
      Gradients<T> to = whole;
      if (parts) to.dq = parts + split * a.q.numel();
      if (to.dq && (parts || !a.dq.accumulate))
        for (int64_t t = 0; t < n.tokens; ++t) fill(to.dq + n.q_at(b, t, g * group), group * n.D, T(0));
      for (int64_t block = blocks * split / a.splits; block < blocks * (split + 1) / a.splits; ++block) {
        const int64_t key = alternating(block, blocks) * kAttentionShort;
        const int64_t keys = least(kAttentionShort, seen - key);
        for (const GradTarget* target : {&a.dk, &a.dv})
          if (target->tensor.defined() && !target->accumulate)
            for (int64_t s = 0; s < keys; ++s)
              fill(target->tensor.data<T>() + n.k_at(b, key + s, g), n.D, T(0));
        backward_block(a, n, to, b, g, key, keys, scratch + part * attention_backward_scratch(n.D));
      }
    }
  });

  for (const GradTarget* target : {&a.dk, &a.dv})
    if (target->tensor.defined() && !target->accumulate)
      for (int64_t b = 0; b < n.B; ++b)
        fill(target->tensor.data<T>() + n.k_at(b, seen, 0), (n.S - seen) * n.k_stride(), T(0));
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
