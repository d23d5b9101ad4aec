// mqar.h: associative recall (data/synthetic/mqar.h): each key that comes again must be answered with its
// value.
#pragma once

#include "trainer/recipes/recipe.h"

namespace rookery {

struct MqarConfig : config::RecipeConfig {
  std::string kind() const override { return "mqar"; }
};

std::unique_ptr<Recipe> make_mqar(const MqarConfig& config);

}  // namespace rookery
