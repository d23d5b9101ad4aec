// qwen2.h: Qwen2 and Qwen2.5 in the layout of Hugging Face.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/models/transformer.h"

namespace rookery {

// norm_eps is 1e-5 in some models of 14B and more; the head is not the embedding from 7B on.
struct Qwen2Config : config::ModelConfig, TransformerSizes {
  Qwen2Config() { rope_theta = 1e6, norm_eps = 1e-6, tie_embeddings = true; }
  std::string arch() const override { return "qwen2"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override { list_fields(v); }
  void check(std::vector<config::Finding>& findings) const override { check_sizes(findings); }
  std::vector<Shared> shared() const override { return shared_sizes(); }
};

std::unique_ptr<Model> make_qwen2(const Qwen2Config& config, const nn::Part& part = {});

}  // namespace rookery
