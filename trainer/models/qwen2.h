// qwen2.h: Qwen2 and Qwen2.5 in the layout of Hugging Face.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

struct Qwen2Config : config::ModelConfig {
  int64_t num_layers = 6, hidden_size = 256, num_heads = 4;
  int64_t num_kv_heads = 0;  // 0: num_heads
  int64_t head_size = 0;     // 0: hidden_size / num_heads
  int64_t ffn_size = 0, vocab_size = 0;
  double rope_theta = 1e6, norm_eps = 1e-6;
  bool tie_embeddings = true;
  double init_std = 0.02;

  std::string arch() const override { return "qwen2"; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  Qwen2Config resolved() const;  // the zeros filled in
};

std::unique_ptr<Model> make_qwen2(const Qwen2Config& config);

}  // namespace rookery
