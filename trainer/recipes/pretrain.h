// pretrain.h: the next token of plain text.
#pragma once

#include "trainer/recipes/recipe.h"

namespace rookery {

struct PretrainConfig : config::RecipeConfig {
  double l2wrap = 1e-4;
  bool l2wrap_legacy = false;
  bool reset_at_documents = false;
  std::string kind() const override { return "pretrain"; }
  void fields(config::Visitor& v) override;
};

std::unique_ptr<Recipe> make_pretrain(const PretrainConfig& config);

}  // namespace rookery
