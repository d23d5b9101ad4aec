// registry.cpp: the list of recipes, and what most of them do.
#include <functional>
#include <map>

#include "trainer/recipes/mqar.h"
#include "trainer/recipes/pretrain.h"

namespace rookery {
namespace {

using Maker = std::function<std::unique_ptr<Recipe>(const config::RecipeConfig&)>;

std::map<std::string, Maker>& makers() {
  static std::map<std::string, Maker> by_kind;
  return by_kind;
}

template <class Config>
void add(std::unique_ptr<Recipe> (*make)(const Config&)) {
  const std::string kind = Config().kind();
  config::register_recipe_config(kind, [] { return std::make_unique<Config>(); });
  makers()[kind] = [make](const config::RecipeConfig& c) { return make(dynamic_cast<const Config&>(c)); };
}

}  // namespace

void register_recipes() {
  add(make_pretrain);
  add(make_mqar);
}

std::unique_ptr<Recipe> make_recipe(const config::RecipeConfig& config) {
  const auto maker = makers().find(config.kind());
  RK_CHECK(maker != makers().end(), "[make_recipe] nothing trains by ", config.kind());
  return maker->second(config);
}

DeviceBatch Recipe::prepare(const data::Batch& b, Device& device) const {
  const Shape shape{b.rows, b.seq_len};
  return {tensor_from(std::span<const int32_t>(b.x), shape, DType::kI32, device),
          tensor_from(std::span<const uint8_t>(b.doc_start), shape, DType::kU8, device),
          {},
          tensor_from(std::span<const int32_t>(b.y), shape, DType::kI32, device)};
}

}  // namespace rookery
