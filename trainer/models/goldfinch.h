// goldfinch.h: GoldFinch and its relatives: Finch-C2 blocks below, attention of one kind above.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/models/goldfinch_parts.h"

namespace rookery {

struct GoldFinchConfig : config::ModelConfig, GoldFinchSizes {
  std::string upper_blocks = "gold";
  int64_t inv_other_layer_ratio = 3;        // the upper blocks are one part in so many
  int64_t kv_cache_compression_ratio = 16;  // of the keys that GOLD blocks share
  Rotary rotary;

  std::string arch() const override { return "goldfinch"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override;
  void check(std::vector<config::Finding>& findings) const override;
  std::vector<Shared> shared() const override { return shared_sizes(); }
  int64_t num_lower() const {  // Finch-C2 blocks
    return num_layers * (inv_other_layer_ratio - 1) / inv_other_layer_ratio;
  }
  int64_t cache_width() const { return hidden_size / kv_cache_compression_ratio; }  // numbers per token
};

std::unique_ptr<Model> make_goldfinch(const GoldFinchConfig& config, const nn::Part& part = {});

}  // namespace rookery
