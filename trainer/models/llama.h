// llama.h: Llama-2 and Llama-3 in the layout of Hugging Face.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

// Rotary positions for longer texts than the model was first trained on.
struct RopeScalingConfig {
  std::string type = "none";
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_context = 8192;
  void fields(config::Visitor& v);
};

struct LlamaConfig : config::ModelConfig {
  int64_t num_layers = 6, hidden_size = 256, num_heads = 4;
  int64_t num_kv_heads = 0;  // 0: num_heads
  int64_t head_size = 0;     // 0: hidden_size / num_heads
  int64_t ffn_size = 0, vocab_size = 0;
  double rope_theta = 10000, norm_eps = 1e-5;
  RopeScalingConfig rope_scaling;
  bool tie_embeddings = false;
  double init_std = 0.02;
  bool scale_residual_init = false;

  std::string arch() const override { return "llama"; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  LlamaConfig resolved() const;  // the zeros filled in
};

std::unique_ptr<Model> make_llama(const LlamaConfig& config);

}  // namespace rookery
