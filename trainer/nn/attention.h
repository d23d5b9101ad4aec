// attention.h: softmax attention with its past: what models with a cache of keys and values share.
#pragma once

#include <optional>
#include <string>

#include "kernels/ops/rope/rope.h"
#include "trainer/nn/layers.h"

namespace rookery::nn {

// Causal attention of q [B, T, Hq, N] on k, v [B, T, Hkv, N] and on those of earlier passes, which cx.seq
// keeps under slot + "k" and slot + "v", or of ranks to the left; scores are scaled by 1 / sqrt(N). Queries
// and keys are turned to their positions first where `rope` is given (its offset is set here). Result: [B, T,
// Hq N].
Var attend(Context& cx, const std::string& slot, const Var& q, const Var& k, const Var& v,
           std::optional<RopeOptions> rope);

// [B, T, C] to [B, T, C / N, N].
inline Var in_heads(const Var& x, int64_t N) {
  const Shape& s = x.shape();
  return x.reshape({s[0], s[1], s[2] / N, N});
}

// The attention layer of Llama and Qwen2 in Hugging Face's names: num_kv_heads key heads, each for
// num_heads / num_kv_heads query heads.
struct GroupedAttention {
  struct Sizes {
    int64_t channels, num_heads, num_kv_heads, head_dim;
  };
  std::string slot;
  Sizes sizes;
  RopeOptions rope;
  Linear q_proj, k_proj, v_proj, o_proj;

  // qkv_bias: of the first three projections.
  GroupedAttention(Scope s, const Sizes& sizes, const RopeOptions& rope, const Init& init,
                   const Init& init_output, Bias qkv_bias = Bias::kNone);
  Var operator()(Context& cx, const Var& x) const;  // x, result: [B, T, C]
};

// FLOPs per token of the two products of causal attention, on average over the tokens of a sequence: token t
// meets t + 1 keys.
double attention_flops_per_token(int64_t num_heads, int64_t head_dim, int64_t seq_len);

}  // namespace rookery::nn
