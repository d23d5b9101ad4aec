#include "trainer/models/registry.h"

#include <functional>
#include <map>

#include "trainer/models/finch_c2.h"
#include "trainer/models/goldfinch.h"
#include "trainer/models/llama.h"
#include "trainer/models/llama_paper.h"
#include "trainer/models/qwen2.h"
#include "trainer/models/rwkv5.h"
#include "trainer/models/rwkv6.h"
#include "trainer/models/rwkv7.h"

namespace rookery {
namespace {

using Maker = std::function<std::unique_ptr<Model>(const config::ModelConfig&, const nn::Part&)>;

std::map<std::string, Maker>& makers() {
  static std::map<std::string, Maker> by_arch;
  return by_arch;
}

template <class Config>
void add(std::unique_ptr<Model> (*make)(const Config&, const nn::Part&)) {
  const std::string arch = Config().arch();
  config::register_model_config(arch, [] { return std::make_unique<Config>(); });
  makers()[arch] = [make](const config::ModelConfig& c, const nn::Part& part) {
    return make(dynamic_cast<const Config&>(c), part);
  };
}

}  // namespace

void register_models() {
  add(make_rwkv5);
  add(make_rwkv6);
  add(make_rwkv7);
  add(make_llama);
  add(make_llama_paper);
  add(make_qwen2);
  add(make_finch_c2);
  add(make_goldfinch);
}

std::unique_ptr<Model> make_model(const config::ModelConfig& config, const nn::Part& part) {
  const auto maker = makers().find(config.arch());
  RK_CHECK(maker != makers().end(), "[make_model] no model for ", config.arch());
  return maker->second(config, part);
}

}  // namespace rookery
