// finch_c2.cpp: Finch-C2 (arXiv 2407.12077): all blocks recurrent. Its time mixing: goldfinch_parts.cpp.
#include "trainer/models/finch_c2.h"

#include "kernels/ops/embedding/embedding.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

class FinchC2 : public Model {
 public:
  explicit FinchC2(GoldFinchSizes c)
      : emb_(Scope(parameters).param("emb.weight", {c.vocab_size, c.hidden_size}, embedding_init())),
        ln0_(Scope(parameters).child("blocks").child("0").child("ln0"), c.hidden_size),
        blocks_(make_blocks(c)),
        ln_out_(Scope(parameters).child("ln_out"), c.hidden_size),
        head_(Scope(parameters)
                  .param("head.weight", {c.vocab_size, c.hidden_size},
                         head_init(c.vocab_size, c.hidden_size))) {}

  Carry embed(Context& cx, const Tensor& ids) override { return {ln0_(cx, ops::embedding(ids, cx(emb_)))}; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  void block(int64_t i, Context& cx, Carry& carry) override { (*blocks_[i])(cx, carry); }
  Var final_norm(Context& cx, const Carry& carry) override { return ln_out_(cx, carry.x); }
  Parameter& embedding() override { return emb_; }
  Parameter& head() override { return head_; }
  OptimGroup optim_group(const Parameter& p) const override { return goldfinch_group(p); }
  double mixer_flops_per_token(int64_t seq_len) const override {
    return blocks_[0]->att.flops_per_token(seq_len) * static_cast<double>(blocks_.size());
  }

 private:
  using Block = GoldFinchBlock<FinchC2TimeMix>;
  std::vector<std::unique_ptr<Block>> make_blocks(const GoldFinchSizes& c) {
    std::vector<std::unique_ptr<Block>> blocks;
    for (int64_t i = 0; i < c.num_layers; ++i)
      blocks.push_back(std::make_unique<Block>(Scope(parameters).child("blocks").child(std::to_string(i)), c,
                                               LayerInit(i, c.num_layers, c.hidden_size)));
    return blocks;
  }

  Parameter& emb_;
  nn::LayerNorm ln0_;
  std::vector<std::unique_ptr<Block>> blocks_;
  nn::LayerNorm ln_out_;
  Parameter& head_;
};

}  // namespace

std::unique_ptr<Model> make_finch_c2(const FinchC2Config& config) {
  GoldFinchSizes c = config;
  c.resolve();
  return std::make_unique<FinchC2>(c);
}

}  // namespace rookery
