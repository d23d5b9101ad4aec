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

void Recipe::prepare(const data::Batch& b, Device& device, DeviceBatch& on) const {
  const Shape shape{b.rows, b.seq_len};
  assign(on.x, std::span<const int32_t>(b.x), shape, device);
  assign(on.doc_start, std::span<const uint8_t>(b.doc_start), shape, device);
  if (!b.document.empty()) assign(on.document, std::span<const int32_t>(b.document), {b.rows}, device);
  assign(on.y, std::span<const int32_t>(b.y), shape, device);
}

}  // namespace rookery
