#include "trainer/models/transformer.h"

#include <string>

#include "kernels/ops/activation/activation.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

struct TransformerBlock {
  nn::RmsNorm input_layernorm;
  nn::GroupedAttention self_attn;
  nn::RmsNorm post_attention_layernorm;
  nn::SwiGlu mlp;

  void operator()(Context& cx, Carry& carry) const {
    carry.x = ops::add(carry.x, self_attn(cx, input_layernorm(cx, carry.x)));
    carry.x = ops::add(carry.x, mlp(cx, post_attention_layernorm(cx, carry.x)));
  }
};

}  // namespace

Transformer::Transformer(const TransformerSizes& c, const RopeOptions& rope, const nn::Init& output,
                         nn::Bias qkv_bias, const nn::Part& part)
    : Stack(part), num_heads_(c.num_heads), head_size_(c.head_size) {
  const Scope top(parameters), model = top.child("model"), last = top.of_unit(c.num_layers + 1);
  const nn::Init init = nn::normal(c.init_std);
  emb_ = &model.param("embed_tokens.weight", {c.vocab_size, c.hidden_size}, init, 0);
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const Scope s = model.of_unit(i + 1).child("layers").child(std::to_string(i));
    blocks_.push_back(TransformerBlock{
        {s.child("input_layernorm"), c.hidden_size, c.norm_eps},
        {s.child("self_attn"),
         {c.hidden_size, c.num_heads, c.num_kv_heads, c.head_size},
         rope,
         init,
         output,
         qkv_bias},
        {s.child("post_attention_layernorm"), c.hidden_size, c.norm_eps},
        {s.child("mlp"), c.hidden_size, c.ffn_size, {"gate_proj", "up_proj", "down_proj"}, init, output}});
  }
  last_norm_ = nn::RmsNorm(last.child("model").child("norm"), c.hidden_size, c.norm_eps);
  emb_->tied = c.tie_embeddings;
  head_ = c.tie_embeddings ? emb_ : &last.param("lm_head.weight", {c.vocab_size, c.hidden_size}, init, 0);
}

double Transformer::mixer_flops_per_token(int64_t seq_len) const {
  return static_cast<double>(num_blocks()) * nn::attention_flops_per_token(num_heads_, head_size_, seq_len);
}

void TransformerSizes::list_fields(config::Visitor& v) {
  v("num_layers", num_layers, "blocks").between(1, 1024);
  v("hidden_size", hidden_size, "width of the residual stream").between(1, 1 << 17);
  v("num_heads", num_heads, "query heads").between(1, 1 << 14);
  v("num_kv_heads", num_kv_heads,
    "key and value heads, each for num_heads / num_kv_heads query heads; 0: num_heads")
      .between(0, 1 << 14);
  v("head_size", head_size, "channels of one head, even; 0: hidden_size / num_heads").between(0, 1 << 12);
  v("ffn_size", ffn_size, "width of the SwiGLU layers").between(1, 1 << 20).required();
  v("vocab_size", vocab_size, "rows of the embedding and the head; above every token id")
      .between(2, 1 << 24)
      .required();
  v("rope_theta", rope_theta, "base of the rotary positions").positive();
  v("norm_eps", norm_eps, "added to the mean square in the norms").positive();
  v("tie_embeddings", tie_embeddings, "the head is the embedding");
  v("init_std", init_std, "deviation of the initial values of all matrices").positive();
}

void TransformerSizes::check_sizes(std::vector<config::Finding>& findings) const {
  TransformerSizes c = *this;
  c.resolve();
  if (head_size == 0 && hidden_size % num_heads != 0)
    findings.push_back(
        {"model.hidden_size", str("hidden_size ", hidden_size, " is not a multiple of num_heads ", num_heads,
                                  "; choose one that is, or set head_size")});
  else if (c.head_size % 2 != 0)
    findings.push_back({"model.head_size", str("heads of ", c.head_size,
                                               " channels: rotary positions need an even "
                                               "number; set head_size or num_heads")});
  if (num_heads % c.num_kv_heads != 0)
    findings.push_back(
        {"model.num_kv_heads", str("num_heads ", num_heads, " is not a multiple of num_kv_heads ",
                                   num_kv_heads, "; choose one that divides it")});
}

std::vector<config::ModelConfig::Shared> TransformerSizes::shared_sizes() const {
  TransformerSizes c = *this;
  c.resolve();
  return {{"num_kv_heads", c.num_kv_heads}, {"ffn_size", c.ffn_size}, {"vocab_size", c.vocab_size}};
}

void TransformerSizes::resolve() {
  if (num_kv_heads == 0) num_kv_heads = num_heads;
  if (head_size == 0) head_size = hidden_size / num_heads;
}

}  // namespace rookery
