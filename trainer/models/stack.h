// stack.h: the shape of all our models: embedding, perhaps a norm, blocks, a norm, head. Who fills it in, in
// the order in which the parameters of the published model stand: rwkv_parts.h and transformer.h.
#pragma once

#include <functional>
#include <vector>

#include "trainer/models/model.h"

namespace rookery {

class Stack : public Model {
 public:
  using Model::Model;
  using Norm = std::function<Var(nn::Context&, const Var&)>;  // x, result: [B, T, C]
  using Block = std::function<void(nn::Context&, Carry&)>;

  Carry embed(nn::Context& cx, const Tensor& ids) override;
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  void run_block(int64_t i, nn::Context& cx, Carry& carry) override;
  Var final_norm(nn::Context& cx, const Carry& carry) override { return last_norm_(cx, carry.x); }
  Parameter& embedding() override { return *emb_; }
  Parameter& head() override { return *head_; }

 protected:
  Parameter *emb_ = nullptr, *head_ = nullptr;
  Norm first_norm_, last_norm_;  // the first may be empty
  std::vector<Block> blocks_;
};

}  // namespace rookery
