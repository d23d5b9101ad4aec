// qwen2.cpp: Qwen2 and Qwen2.5 (llama-baseline 3): the layers of Llama with biases of queries, keys and
// values; names as in Hugging Face's checkpoints.
#include "trainer/models/qwen2.h"

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/embedding/embedding.h"
#include "trainer/nn/attention.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

struct Block {
  nn::RmsNorm input_layernorm;
  nn::GroupedAttention self_attn;
  nn::RmsNorm post_attention_layernorm;
  nn::SwiGlu mlp;

  Block(Scope s, const Qwen2Config& c)
      : input_layernorm(s.child("input_layernorm"), c.hidden_size, c.norm_eps),
        self_attn(s.child("self_attn"), {c.hidden_size, c.num_heads, c.num_kv_heads, c.head_size},
                  {.pairs = RopePairs::kHalves, .theta = c.rope_theta, .scaling = {}}, nn::normal(c.init_std),
                  nn::normal(c.init_std), nn::Bias::kZero),
        post_attention_layernorm(s.child("post_attention_layernorm"), c.hidden_size, c.norm_eps),
        mlp(s.child("mlp"), c.hidden_size, c.ffn_size, {"gate_proj", "up_proj", "down_proj"},
            nn::normal(c.init_std)) {}
};

class Qwen2 : public Model {
 public:
  explicit Qwen2(const Qwen2Config& config)
      : c_(config.resolved()),
        embed_tokens_(
            Scope(parameters)
                .child("model")
                .param("embed_tokens.weight", {c_.vocab_size, c_.hidden_size}, nn::normal(c_.init_std))),
        blocks_(make_blocks()),
        norm_(Scope(parameters).child("model").child("norm"), c_.hidden_size, c_.norm_eps),
        lm_head_(c_.tie_embeddings ? embed_tokens_
                                   : Scope(parameters)
                                         .param("lm_head.weight", {c_.vocab_size, c_.hidden_size},
                                                nn::normal(c_.init_std))) {}

  Carry embed(Context& cx, const Tensor& ids) override { return {ops::embedding(ids, cx(embed_tokens_))}; }
  int64_t num_blocks() const override { return c_.num_layers; }
  void block(int64_t i, Context& cx, Carry& carry) override {
    const Block& b = *blocks_[i];
    carry.x = ops::add(carry.x, b.self_attn(cx, b.input_layernorm(cx, carry.x)));
    carry.x = ops::add(carry.x, b.mlp(cx, b.post_attention_layernorm(cx, carry.x)));
  }
  Var final_norm(Context& cx, const Carry& carry) override { return norm_(cx, carry.x); }
  Parameter& embedding() override { return embed_tokens_; }
  Parameter& head() override { return lm_head_; }
  OptimGroup optim_group(const Parameter& p) const override { return {1, p.global.size() >= 2}; }
  bool uses_l2wrap() const override { return false; }
  double mixer_flops_per_token(int64_t seq_len) const override {
    return static_cast<double>(c_.num_layers) *
           nn::attention_flops_per_token(c_.num_heads, c_.head_size, seq_len);
  }

 private:
  std::vector<std::unique_ptr<Block>> make_blocks() {
    std::vector<std::unique_ptr<Block>> blocks;
    for (int64_t i = 0; i < c_.num_layers; ++i)
      blocks.push_back(std::make_unique<Block>(
          Scope(parameters).child("model").child("layers").child(std::to_string(i)), c_));
    return blocks;
  }

  Qwen2Config c_;
  Parameter& embed_tokens_;
  std::vector<std::unique_ptr<Block>> blocks_;
  nn::RmsNorm norm_;
  Parameter& lm_head_;
};

}  // namespace

void Qwen2Config::fields(config::Visitor& v) {
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
  v("norm_eps", norm_eps, "added to the mean square in the norms; 1e-5 in some models of 14B and more")
      .positive();
  v("tie_embeddings", tie_embeddings, "the head is the embedding; false from 7B on");
  v("init_std", init_std, "deviation of the initial values of all matrices").positive();
}

void Qwen2Config::check(std::vector<config::Finding>& findings) const {
  const Qwen2Config c = resolved();
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

Qwen2Config Qwen2Config::resolved() const {
  Qwen2Config c = *this;
  if (c.num_kv_heads == 0) c.num_kv_heads = c.num_heads;
  if (c.head_size == 0) c.head_size = c.hidden_size / c.num_heads;
  return c;
}

std::unique_ptr<Model> make_qwen2(const Qwen2Config& config) { return std::make_unique<Qwen2>(config); }

}  // namespace rookery
