// finch_c2.h: Finch-C2, the recurrent part of GoldFinch as a model of its own.
#pragma once

#include <memory>
#include <vector>

#include "trainer/models/goldfinch_parts.h"

namespace rookery {

struct FinchC2Config : config::ModelConfig, GoldFinchSizes {
  std::string arch() const override { return "finch_c2"; }
  int64_t num_blocks() const override { return num_layers; }
  void fields(config::Visitor& v) override { list_fields(v); }
  void check(std::vector<config::Finding>& findings) const override { check_sizes(findings); }
  std::vector<Shared> shared() const override { return shared_sizes(); }
};

std::unique_ptr<Model> make_finch_c2(const FinchC2Config& config, const nn::Part& part = {});

}  // namespace rookery
