// llama_paper.cpp: the transformer baseline of the GoldFinch paper, arXiv 2407.12077 (llama-baseline 1): the
// skeleton of the RWKV models with attention and SwiGLU in it; names, initial values and optimizer groups of
// the paper's trainer.
#include "trainer/models/llama_paper.h"

#include "kernels/ops/activation/activation.h"
#include "trainer/models/rwkv_parts.h"
#include "trainer/nn/attention.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

struct Attention {
  std::string slot;
  int64_t head_size;
  RopeOptions rope;
  nn::Linear wq, wk, wv, wo;

  Attention(Scope s, const LlamaPaperConfig& c)
      : slot(s.prefix()),
        head_size(c.head_size),
        rope{.pairs = RopePairs::kAdjacent,
             .theta = c.rope_theta,
             .scaling = {.kind = RopeScaling::Kind::kLinear, .factor = c.rope_rescale}},
        wq(s.child("wq"), c.hidden_size, c.hidden_size, nn::orthogonal(1.0), nn::Split::kOut),
        wk(s.child("wk"), c.hidden_size, c.hidden_size, nn::orthogonal(1.0), nn::Split::kOut),
        wv(s.child("wv"), c.hidden_size, c.hidden_size, nn::orthogonal(1.0), nn::Split::kOut),
        wo(s.child("wo"), c.hidden_size, c.hidden_size, nn::orthogonal(1.0), nn::Split::kIn) {}

  // Result: [B, T, C].
  Var operator()(Context& cx, const Entry& in, const Carry&) const {
    const Var x = in.norm(cx);
    const int64_t N = head_size;
    return wo(cx, nn::attend(cx, slot, nn::in_heads(wq(cx, x), N), nn::in_heads(wk(cx, x), N),
                             nn::in_heads(wv(cx, x), N), rope));
  }
};

struct FeedForward : nn::SwiGlu {
  using SwiGlu::SwiGlu;
  Var operator()(const Context& cx, const Entry& in) const { return SwiGlu::operator()(cx, in.norm(cx)); }
};

RwkvBlock<Attention, FeedForward> make_block(const Scope& s, const LlamaPaperConfig& c) {
  return {{s.child("ln1"), c.hidden_size},
          {s.child("ln2"), c.hidden_size},
          {s.child("att"), c},
          {s.child("ffn"), c.hidden_size, c.ffn_size, {"w1", "w3", "w2"}, nn::orthogonal(1.0)}};
}

class LlamaPaper : public RwkvStack {
 public:
  LlamaPaper(const LlamaPaperConfig& c, const nn::Part& part)
      : RwkvStack(part, c.num_layers, c.hidden_size, c.vocab_size,
                  [&](const Scope& s, const LayerInit&) { return make_block(s, c); }),
        num_heads_(c.hidden_size / c.head_size),
        head_size_(c.head_size) {}
  OptimGroup optim_group(const Parameter& p) const override { return {1, p.global.size() >= 2}; }
  double mixer_flops_per_token(int64_t seq_len) const override {
    return static_cast<double>(num_blocks()) * nn::attention_flops_per_token(num_heads_, head_size_, seq_len);
  }

 private:
  int64_t num_heads_, head_size_;
};

}  // namespace

void LlamaPaperConfig::fields(config::Visitor& v) {
  v("num_layers", num_layers, "blocks").between(1, 1024);
  v("hidden_size", hidden_size, "width of the residual stream and the attention").between(1, 1 << 17);
  v("head_size", head_size, "channels of one head, even; 64 in the paper").between(2, 1 << 12);
  v("ffn_size", ffn_size, "width of the SwiGLU layers; 0: 8/3 hidden_size, down to a multiple of 32")
      .between(0, 1 << 20);
  v("vocab_size", vocab_size, "rows of the embedding and the head; above every token id")
      .between(2, 1 << 24)
      .required();
  v("rope_theta", rope_theta, "base of the rotary positions").positive();
  v("rope_rescale", rope_rescale, "positions are divided by this (interpolation, for longer texts)")
      .at_least(1);
}

void LlamaPaperConfig::check(std::vector<config::Finding>& findings) const {
  if (hidden_size % head_size != 0)
    findings.push_back(
        {"model.hidden_size", str("hidden_size ", hidden_size, " is not a multiple of head_size ", head_size,
                                  "; choose one that is")});
  if (head_size % 2 != 0)
    findings.push_back(
        {"model.head_size", str("heads of ", head_size, " channels: rotary positions need an even number")});
  if (resolved().ffn_size == 0)
    findings.push_back({"model.ffn_size", str("8/3 hidden_size ", hidden_size,
                                              " is less than 32; set ffn_size, or a larger hidden_size")});
}

std::vector<config::ModelConfig::Shared> LlamaPaperConfig::shared() const {
  return {{"hidden_size / head_size", hidden_size / head_size},
          {"ffn_size", resolved().ffn_size},
          {"vocab_size", vocab_size}};
}

LlamaPaperConfig LlamaPaperConfig::resolved() const {
  LlamaPaperConfig c = *this;
  if (c.ffn_size == 0) c.ffn_size = c.hidden_size * 8 / 3 / 32 * 32;
  return c;
}

std::unique_ptr<Model> make_llama_paper(const LlamaPaperConfig& config, const nn::Part& part) {
  return std::make_unique<LlamaPaper>(config.resolved(), part);
}

}  // namespace rookery
