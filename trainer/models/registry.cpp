#include "trainer/models/registry.h"

#include "trainer/models/rwkv6.h"

namespace rookery {

void register_models() {
  config::register_model_config("rwkv6", [] { return std::make_unique<Rwkv6Config>(); });
}

std::unique_ptr<Model> make_model(const config::ModelConfig& config) {
  if (const auto* c = dynamic_cast<const Rwkv6Config*>(&config)) return make_rwkv6(*c);
  RK_CHECK(false, "[make_model] no model for ", config.arch());
  return nullptr;
}

}  // namespace rookery
