// rwkv7.h: Goose (RWKV-7, x070).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

struct Rwkv7Config : config::ModelConfig {
  int64_t num_layers = 6, hidden_size = 256, head_size = 64;
  int64_t num_heads = 0;  // 0: hidden_size / head_size. The width of time mixing is num_heads * head_size.
  int64_t ffn_size = 0;   // 0: 4 hidden_size
  int64_t vocab_size = 65536;
  std::string rank_rule = "B";  // A: released weights; B: current trainer
  int64_t decay_rank = 0, iclr_rank = 0, value_rank = 0, gate_rank = 0;  // 0: by the rule

  std::string arch() const override { return "rwkv7"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  std::vector<Shared> shared() const override;
  Rwkv7Config resolved() const;  // the zeros filled in
};

std::unique_ptr<Model> make_rwkv7(const Rwkv7Config& config, const nn::Part& part = {});

}  // namespace rookery
