// llama.h: Llama-2 and Llama-3 in the layout of Hugging Face.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/models/transformer.h"

namespace rookery {

// Rotary positions for longer texts than the model was first trained on.
struct RopeScalingConfig {
  std::string type = "none";
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_context = 8192;
  void fields(config::Visitor& v);
};

struct LlamaConfig : config::ModelConfig, TransformerSizes {
  RopeScalingConfig rope_scaling;
  bool scale_residual_init = false;

  LlamaConfig() { rope_theta = 10000, norm_eps = 1e-5; }
  std::string arch() const override { return "llama"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  std::vector<Shared> shared() const override { return shared_sizes(); }
};

std::unique_ptr<Model> make_llama(const LlamaConfig& config, const nn::Part& part = {});

}  // namespace rookery
