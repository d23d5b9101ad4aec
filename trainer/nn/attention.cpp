#include "trainer/nn/attention.h"

#include <cmath>

#include "parallel/sequence/ring_attention.h"

namespace rookery::nn {

Var attend(Context& cx, const std::string& slot, const Var& q, const Var& k, const Var& v,
           std::optional<RopeOptions> rope) {
  const auto [B, T, H, N] = q.value().dims<4>("[attend] q");
  Communicator& ranks = cx.mesh.axis(Axis::kSeq);
  const int64_t past = cx.seq.length(slot + "k") + ranks.rank() * T;
  const Tensor document = cx.seq.document(slot + "k");
  Var queries = q, keys = k;
  if (rope) {
    rope->offset = past;
    queries = ops::rope(q, *rope);
    keys = ops::rope(k, *rope);
  }
  const ops::AttentionOptions options{1 / std::sqrt(static_cast<double>(N)), past, cx.seq.doc_start,
                                      document};
  if (ranks.size() > 1) return ring_attention(ranks, queries, keys, v, options).reshape({B, T, H * N});
  keys = cx.seq.append(slot + "k", keys);
  const Var values = cx.seq.append(slot + "v", v);
  return ops::attention(queries, keys, values, options).reshape({B, T, H * N});
}

GroupedAttention::GroupedAttention(Scope s, const Sizes& n, const RopeOptions& rope_options, const Init& init,
                                   const Init& init_output, Bias qkv_bias)
    : slot(s.prefix()),
      sizes(n),
      rope(rope_options),
      q_proj(s.child("q_proj"), n.channels, n.num_heads * n.head_dim, init, Split::kOut, qkv_bias),
      k_proj(s.child("k_proj"), n.channels, n.num_kv_heads * n.head_dim, init, Split::kOut, qkv_bias),
      v_proj(s.child("v_proj"), n.channels, n.num_kv_heads * n.head_dim, init, Split::kOut, qkv_bias),
      o_proj(s.child("o_proj"), n.num_heads * n.head_dim, n.channels, init_output, Split::kIn) {}

Var GroupedAttention::operator()(Context& cx, const Var& x) const {
  const int64_t N = sizes.head_dim;
  return o_proj(cx, attend(cx, slot, in_heads(q_proj(cx, x), N), in_heads(k_proj(cx, x), N),
                           in_heads(v_proj(cx, x), N), rope));
}

double attention_flops_per_token(int64_t num_heads, int64_t head_dim, int64_t seq_len) {
  return 2.0 * static_cast<double>(seq_len + 1) * static_cast<double>(num_heads * head_dim);
}

}  // namespace rookery::nn
