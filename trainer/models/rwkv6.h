// rwkv6.h: Finch (RWKV-6, x060).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

struct Rwkv6Config : config::ModelConfig {
  int64_t num_layers = 6, hidden_size = 256, head_size = 64;
  int64_t num_heads = 0;  // 0: hidden_size / head_size. The width of time mixing is num_heads * head_size.
  int64_t ffn_size = 0;   // 0: 3.5 hidden_size, rounded down to a multiple of 32
  int64_t vocab_size = 65536;
  int64_t mix_rank = 0,
          decay_rank = 0;     // of the low-rank matrices; 0: 32 and 64, twice that for hidden_size >= 4096
  int64_t ffn_mix_power = 3;  // 3: current trainer; 1: Finch and GoldFinch papers

  std::string arch() const override { return "rwkv6"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  std::vector<Shared> shared() const override;
  Rwkv6Config resolved() const;  // the zeros filled in
};

std::unique_ptr<Model> make_rwkv6(const Rwkv6Config& config, const nn::Part& part = {});

}  // namespace rookery
