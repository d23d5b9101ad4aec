// attention.h: causal softmax attention over blocks of queries and keys; scores live block by block and are
// computed again in the backward pass, so memory is linear in T. Shapes, tape record: attention.cpp. Bodies:
// attention_cpu.cpp, attention_cuda.cu.
#pragma once

#include <functional>
#include <utility>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

struct AttentionOptions {
  double scale = 1;       // of the scores, > 0
  int64_t past = 0;       // keys of tokens before the first query
  Tensor doc_start = {};  // u8 [B, T], undefined: nowhere; where it is 1 that query and later ones see no key
                          // before its own
  Tensor document = {};   // i32 [B], undefined: 0; the first key that the queries up to the first start see
};

// y_t = sum_s p_ts v_s, p_t = softmax(scale q_t . k_s) over the keys 0 .. past + t. q, y: [B, T, Hq, D]; k,
// v: [B, S, Hkv, D] with S >= past + T (later rows are not read); query head h uses the key head h Hkv / Hq.
// D <= 128 on a GPU.
Var attention(const Var& q, const Var& k, const Var& v, const AttentionOptions& options);

// The same without gradients, for keys that are too many to lie in memory: `part(begin, count)` makes k and v
// [B, count, Hkv, D] of the keys begin .. begin + count - 1, count <= part_size. One part lives at a time. No
// query sees a key before first_key.
using AttentionPart = std::function<std::pair<Tensor, Tensor>(int64_t begin, int64_t count)>;
Tensor attention_in_parts(const Tensor& q, int64_t first_key, int64_t part_size, const AttentionPart& part,
                          const AttentionOptions& options);

}  // namespace rookery::ops

namespace rookery {
// Blocks of kAttentionShort queries by up to kAttentionLong keys forward, of as many keys by queries
// backward. The short side sets how much is computed in vain on the diagonal. Both are small enough that BLAS
// multiplies without packing its operands first (OpenBLAS: up to 10^6 multiply-adds, none of the operands
// K^T).
inline constexpr int64_t kAttentionShort = 32, kAttentionLong = 192;
// Elements of scratch per thread.
inline int64_t attention_forward_scratch(int64_t D) { return kAttentionShort * (kAttentionLong + D); }
inline int64_t attention_backward_scratch(int64_t D) { return kAttentionShort * 2 * (kAttentionLong + D); }

inline constexpr int64_t kAttentionGpuHead = 128;  // the largest head of a GPU's kernels

struct AttentionArgs {
  Tensor q, k, v, doc_start, document;  // the last two may be undefined
  double scale;
  int64_t past;
  Tensor y;
  // [B, Hq, T], f32 beside bf16: largest score of a query, 1 / sum of exp(scale (score - top)). For bf16 on a
  // GPU top is a whole number, the exponent of a power of two: attention_mma.h
  Tensor top, weight;
  Tensor first;    // i32 [B, T]: the first key that a query sees; undefined: all of its past
  Tensor scratch;  // [threads, attention_forward_scratch]; CPU only
  // k and v are the keys from this one on, and go on with the sums in y, top and weight unless they are the
  // first part; before the last part y and weight are sums, not yet quotients. On a GPU `sums`, f32 like y,
  // takes the place of y until then.
  int64_t key = 0;
  bool first_part = true, last_part = true;
  Tensor sums = {};
  // As large as y, which is bf16: 16 bits that rounding took from each element (attention_gpu.h). Undefined:
  // nobody asks.
  Tensor rest = {};
};
struct AttentionGrad {
  Tensor q, k, v;
  double scale;
  int64_t past;
  Tensor y, top, weight, first, dy;
  GradTarget dq, dk, dv;  // undefined tensors: not wanted
  int64_t splits;         // parts of the keys of one key head, for as many threads
  Tensor delta;           // [B, Hq, T]: y . dy, f32 beside bf16
  Tensor parts;           // with several splits: [splits, B, T, Hq, D], their shares of dq
  Tensor scratch;         // [threads, attention_backward_scratch]; CPU only
  Tensor rest = {};       // of y, for bf16 on a GPU
};
RK_BACKENDS_GPU(void attention_forward(const AttentionArgs&))
RK_BACKENDS_GPU(void attention_backward(const AttentionGrad&))
}  // namespace rookery
