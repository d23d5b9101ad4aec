// llama.cpp: Llama-2 and Llama-3 (llama-baseline 2): RMS norm, rotary positions, grouped heads, SwiGLU; names
// as in Hugging Face's checkpoints.
#include "trainer/models/llama.h"

#include <cmath>

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/embedding/embedding.h"
#include "trainer/nn/attention.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

RopeOptions rope_of(const LlamaConfig& c) {
  const RopeScalingConfig& s = c.rope_scaling;
  RopeOptions rope{.pairs = RopePairs::kHalves, .theta = c.rope_theta, .scaling = {}};
  if (s.type == "linear") rope.scaling.kind = RopeScaling::Kind::kLinear;
  if (s.type == "llama3") rope.scaling.kind = RopeScaling::Kind::kLlama3;
  rope.scaling.factor = s.factor;
  rope.scaling.low_frequency = s.low_freq_factor;
  rope.scaling.high_frequency = s.high_freq_factor;
  rope.scaling.original_context = static_cast<double>(s.original_context);
  return rope;
}

struct Block {
  nn::RmsNorm input_layernorm;
  nn::GroupedAttention self_attn;
  nn::RmsNorm post_attention_layernorm;
  nn::SwiGlu mlp;

  // output: initial values of the two matrices that write to the residual stream.
  Block(Scope s, const LlamaConfig& c, const nn::Init& init, const nn::Init& output)
      : input_layernorm(s.child("input_layernorm"), c.hidden_size, c.norm_eps),
        self_attn(s.child("self_attn"), {c.hidden_size, c.num_heads, c.num_kv_heads, c.head_size}, rope_of(c),
                  init, output),
        post_attention_layernorm(s.child("post_attention_layernorm"), c.hidden_size, c.norm_eps),
        mlp(s.child("mlp"), c.hidden_size, c.ffn_size, {"gate_proj", "up_proj", "down_proj"}, init, output) {}
};

class Llama : public Model {
 public:
  explicit Llama(const LlamaConfig& config)
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
    const double depth = std::sqrt(2.0 * static_cast<double>(c_.num_layers));
    const nn::Init init = nn::normal(c_.init_std);
    const nn::Init output = c_.scale_residual_init ? nn::normal(c_.init_std / depth) : init;
    std::vector<std::unique_ptr<Block>> blocks;
    for (int64_t i = 0; i < c_.num_layers; ++i)
      blocks.push_back(std::make_unique<Block>(
          Scope(parameters).child("model").child("layers").child(std::to_string(i)), c_, init, output));
    return blocks;
  }

  LlamaConfig c_;
  Parameter& embed_tokens_;
  std::vector<std::unique_ptr<Block>> blocks_;
  nn::RmsNorm norm_;
  Parameter& lm_head_;
};

}  // namespace

void RopeScalingConfig::fields(config::Visitor& v) {
  v("type", type, "none; linear: every angle divided by factor; llama3: only those of long waves (Llama 3.1)")
      .one_of({"none", "linear", "llama3"});
  v("factor", factor, "how many times longer the texts become").at_least(1);
  v("low_freq_factor", low_freq_factor, "llama3: waves longer than original_context / this are divided")
      .positive();
  v("high_freq_factor", high_freq_factor, "llama3: waves shorter than original_context / this are kept")
      .positive();
  v("original_context", original_context, "llama3: tokens of the texts that the model was first trained on")
      .positive();
}

void LlamaConfig::fields(config::Visitor& v) {
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
  v("rope_scaling", rope_scaling, "rotary positions of models for longer texts");
  v("norm_eps", norm_eps, "added to the mean square in the norms").positive();
  v("tie_embeddings", tie_embeddings, "the head is the embedding");
  v("init_std", init_std, "deviation of the initial values of all matrices").positive();
  v("scale_residual_init", scale_residual_init,
    "initial values of o_proj and down_proj divided by sqrt(2 num_layers)");
}

void LlamaConfig::check(std::vector<config::Finding>& findings) const {
  const LlamaConfig c = resolved();
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
  if (rope_scaling.type == "llama3" && rope_scaling.high_freq_factor <= rope_scaling.low_freq_factor)
    findings.push_back(
        {"model.rope_scaling.high_freq_factor",
         str("high_freq_factor ", rope_scaling.high_freq_factor, " is not above low_freq_factor ",
             rope_scaling.low_freq_factor, "; the models of Llama 3 have 4 and 1")});
}

LlamaConfig LlamaConfig::resolved() const {
  LlamaConfig c = *this;
  if (c.num_kv_heads == 0) c.num_kv_heads = c.num_heads;
  if (c.head_size == 0) c.head_size = c.hidden_size / c.num_heads;
  return c;
}

std::unique_ptr<Model> make_llama(const LlamaConfig& config) { return std::make_unique<Llama>(config); }

}  // namespace rookery
