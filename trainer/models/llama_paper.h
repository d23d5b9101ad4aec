// llama_paper.h: the "Llama" that the GoldFinch paper compares with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

struct LlamaPaperConfig : config::ModelConfig {
  int64_t num_layers = 6, hidden_size = 256, head_size = 64;
  int64_t ffn_size = 0;  // 0: 8/3 hidden_size, rounded down to a multiple of 32
  int64_t vocab_size = 65536;
  double rope_theta = 10000, rope_rescale = 1;

  std::string arch() const override { return "llama_paper"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  std::vector<Shared> shared() const override;
  LlamaPaperConfig resolved() const;  // the zeros filled in
};

std::unique_ptr<Model> make_llama_paper(const LlamaPaperConfig& config, const nn::Part& part = {});

}  // namespace rookery
