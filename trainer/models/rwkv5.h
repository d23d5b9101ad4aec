// rwkv5.h: Eagle (RWKV-5.2, x052).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

struct Rwkv5Config : config::ModelConfig {
  int64_t num_layers = 6, hidden_size = 256, head_size = 64;
  int64_t num_heads = 0;  // 0: hidden_size / head_size. The width of time mixing is num_heads * head_size.
  int64_t ffn_size = 0;   // 0: 3.5 hidden_size, rounded down to a multiple of 32
  int64_t vocab_size = 65536;

  std::string arch() const override { return "rwkv5"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  std::vector<Shared> shared() const override;
  Rwkv5Config resolved() const;  // the zeros filled in
};

std::unique_ptr<Model> make_rwkv5(const Rwkv5Config& config, const nn::Part& part = {});

}  // namespace rookery
