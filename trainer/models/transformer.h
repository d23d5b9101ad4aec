// transformer.h: what Llama and Qwen2 have in common, in the layout of Hugging Face: sizes, blocks, and the
// model around them (llama-baseline 2). What they do not: llama.cpp, qwen2.cpp.
#pragma once

#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/stack.h"
#include "trainer/nn/attention.h"

namespace rookery {

// The keys of both architectures.
struct TransformerSizes {
  int64_t num_layers = 6, hidden_size = 256, num_heads = 4;
  int64_t num_kv_heads = 0;  // 0: num_heads
  int64_t head_size = 0;     // 0: hidden_size / num_heads
  int64_t ffn_size = 0, vocab_size = 0;
  double rope_theta = 0, norm_eps = 0;
  bool tie_embeddings = false;
  double init_std = 0.02;

  void list_fields(config::Visitor& v);
  void check_sizes(std::vector<config::Finding>& findings) const;
  std::vector<config::ModelConfig::Shared> shared_sizes() const;
  void resolve();  // fills in the zeros
};

class Transformer : public Stack {
 public:
  // c: resolved. output: initial values of the two matrices of a block that write to the residual stream.
  Transformer(const TransformerSizes& c, const RopeOptions& rope, const nn::Init& output, nn::Bias qkv_bias,
              const nn::Part& part);
  OptimGroup optim_group(const Parameter& p) const override { return {1, p.global.size() >= 2}; }
  bool uses_l2wrap() const override { return false; }
  double mixer_flops_per_token(int64_t seq_len) const override;

 private:
  int64_t num_heads_, head_size_;
};

}  // namespace rookery
