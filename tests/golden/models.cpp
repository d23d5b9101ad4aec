#include "tests/golden/models.h"

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "trainer/models/rwkv6.h"

namespace rookery::test {
namespace {

using nlohmann::json;

// The keys that the files of RWKV models share.
template <class Config>
Config sizes(const json& c) {
  Config config;
  config.num_layers = c.at("n_layer");
  config.hidden_size = c.at("n_embd");
  config.head_size = c.at("head_size");
  config.vocab_size = c.at("vocab_size");
  return config;
}

std::unique_ptr<Model> rwkv6(const json& c) {
  auto config = sizes<Rwkv6Config>(c);
  config.ffn_size = c.value("dim_ffn", 0);
  return make_rwkv6(config);
}

const std::map<std::string, std::function<std::unique_ptr<Model>(const json&)>> kBuilders = {
    {"rwkv6", rwkv6},
};

}  // namespace

std::unique_ptr<Model> build(const std::string& name, const json& config) {
  const auto builder = kBuilders.find(name);
  if (builder == kBuilders.end()) throw Pending("model " + name);
  return builder->second(config);
}

}  // namespace rookery::test
