#include "tests/golden/models.h"

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "trainer/models/finch_c2.h"
#include "trainer/models/goldfinch.h"
#include "trainer/models/llama.h"
#include "trainer/models/llama_paper.h"
#include "trainer/models/qwen2.h"
#include "trainer/models/rwkv5.h"
#include "trainer/models/rwkv6.h"
#include "trainer/models/rwkv7.h"

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

std::unique_ptr<Model> rwkv5(const json& c) {
  auto config = sizes<Rwkv5Config>(c);
  config.ffn_size = c.value("dim_ffn", 0);
  return make_rwkv5(config);
}

std::unique_ptr<Model> rwkv6(const json& c) {
  auto config = sizes<Rwkv6Config>(c);
  config.ffn_size = c.value("dim_ffn", 0);
  return make_rwkv6(config);
}

std::unique_ptr<Model> rwkv7(const json& c) {
  auto config = sizes<Rwkv7Config>(c);
  config.ffn_size = c.value("dim_ffn", 0);
  return make_rwkv7(config);
}

// The keys of Hugging Face's config.json.
template <class Config>
Config hf_sizes(const json& c) {
  Config config;
  config.num_layers = c.at("num_hidden_layers");
  config.hidden_size = c.at("hidden_size");
  config.num_heads = c.at("num_attention_heads");
  config.num_kv_heads = c.at("num_key_value_heads");
  config.head_size = c.at("head_dim");
  config.ffn_size = c.at("intermediate_size");
  config.vocab_size = c.at("vocab_size");
  config.norm_eps = c.at("rms_norm_eps");
  config.rope_theta = c.at("rope_theta");
  config.tie_embeddings = c.at("tie_word_embeddings");
  return config;
}

std::unique_ptr<Model> llama(const json& c) { return make_llama(hf_sizes<LlamaConfig>(c)); }
std::unique_ptr<Model> qwen2(const json& c) { return make_qwen2(hf_sizes<Qwen2Config>(c)); }
std::unique_ptr<Model> llama_paper(const json& c) { return make_llama_paper(sizes<LlamaPaperConfig>(c)); }
template <class Config>
Config goldfinch_sizes(const json& c) {
  auto config = sizes<Config>(c);
  config.ffn_size = c.value("dim_ffn", 0);
  config.use_v2 = c.value("use_v2", 1) != 0;
  config.use_one_minus_w = c.value("use_one_minus_w", 1) != 0;
  return config;
}

std::unique_ptr<Model> finch_c2(const json& c) { return make_finch_c2(goldfinch_sizes<FinchC2Config>(c)); }

std::unique_ptr<Model> goldfinch(const json& c) {
  auto config = goldfinch_sizes<GoldFinchConfig>(c);
  config.upper_blocks = c.value("tmix2", "gold");
  config.inv_other_layer_ratio = c.value("inv_other_layer_ratio", 3);
  config.kv_cache_compression_ratio = c.value("kv_cache_compression_ratio", 16);
  config.rotary.theta = c.value("rope", 0.0);
  return make_goldfinch(config);
}

const std::map<std::string, std::function<std::unique_ptr<Model>(const json&)>> kBuilders = {
    {"rwkv5", rwkv5},
    {"rwkv6", rwkv6},
    {"rwkv7", rwkv7},
    {"hfllama", llama},
    {"hfqwen2", qwen2},
    {"finchc2", finch_c2},
    {"finchc2_gptalpha", goldfinch},
    {"goldfinch", goldfinch},
    {"gfllama", llama_paper},
};

}  // namespace

std::unique_ptr<Model> build(const std::string& name, const json& config) {
  const auto builder = kBuilders.find(name);
  if (builder == kBuilders.end()) throw Pending("model " + name);
  return builder->second(config);
}

}  // namespace rookery::test
