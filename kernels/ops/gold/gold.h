// gold.h: keys and values of GOLD attention (goldfinch 1, 3): those that all blocks share, from the
// compressed cache, with gradients; and a block's own, for some of the tokens read so far. Products, tape
// record, tables: gold.cpp; the way from tables to keys and values: gold_cpu.cpp.
#pragma once

#include <utility>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

// keys = rms(concat(x0, c) w^T), rms(z) = z / (root mean square of z + 1e-8). x0, keys: [B, T, D], embeddings
// after ln0; c: [B, T, R], the cache; w: [D, D + R]. The concatenation is never made.
Var gold_keys(const Var& x0, const Var& c, const Var& w);

// The distinct ones among ids, i32 [B, capacity], the first `length` of each row: [1, U], ascending, and
// where each token's is in it: i32 [B, length]. On kMeta, where no id can be read, as many as there may be.
struct DistinctIds {
  Tensor ids, index;
};
DistinctIds distinct_ids(const Tensor& ids, int64_t length, int64_t vocab_size);

// What the keys and values of S tokens are made of. All that depends on a token's id alone is there once for
// each of the U distinct ones, so that a token costs no product of width D by D.
struct GoldTokens {
  Tensor index;   // i32 [B, S]: rows of the next two
  Tensor values;  // [U, D]: rms(x0), in sum_dtype as keys
  Tensor keys;    // [U, D]: x0 w_x^T, for w = [w_x, w_c]
  Tensor cache;   // [B, capacity >= S, R]
  Tensor w;       // [D, D + R]
  Tensor starts;  // u8 [B, S]: 1 where nothing stands before the token
  int64_t first;  // the texts that go on, or start, in the last pass have no token before this one
};
// x0: [1, U, D], of the distinct ids; doc_start: u8 [B, T], of the last T tokens, or undefined; document: i32
// [B], where the text before these begins; undefined: at 0.
GoldTokens gold_tokens(const Tensor& index, const Tensor& x0, const Tensor& cache, const Tensor& w,
                       const Tensor& doc_start, const Tensor& document);

// The parameters of a block that its keys and values depend on.
struct GoldWeights {
  Tensor mix_hidden, mix_k, mix_v;                        // D elements each
  Tensor mix_w1, mix_w2;                                  // [D, 2 M], [2, M, D]
  Tensor key_w1, key_w2, value_w1, value_w2;              // [D, P], [P, D]
  Tensor ln_k_weight, ln_k_bias, ln_v_weight, ln_v_bias;  // [D]
};
// Keys and values [B, count, D] of the tokens begin .. begin + count - 1, before positions. Without
// gradients.
std::pair<Tensor, Tensor> gold_expand(const GoldTokens& tokens, const GoldWeights& weights, int64_t begin,
                                      int64_t count);

}  // namespace rookery::ops

namespace rookery {
struct GoldArgs {
  ops::GoldTokens tokens;
  ops::GoldWeights weights;
  int64_t begin;
  Tensor k, v;     // [B, count, D]
  Tensor scratch;  // [threads, gold_scratch]
};
inline constexpr int64_t kGoldRows = 64;  // tokens at a time: what lies between them fits the caches
inline int64_t gold_scratch(int64_t D, int64_t M, int64_t P) {
  return (kGoldRows + 1) * 2 * D + kGoldRows * (D + 2 * M + P);
}
RK_BACKENDS(void gold_expand(const GoldArgs&))
}  // namespace rookery
