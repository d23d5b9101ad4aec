// layout.cpp: the tables, and tensors seen through them.
#include "trainer/checkpoint/foreign/layout.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <mutex>
#include <optional>

#include "kernels/base/error.h"

namespace rookery::foreign {
namespace {

// ---- keys and config.json

int64_t number(const Keys& keys, const std::string& key) {
  const auto it = keys.find(key);
  int64_t value = 0;
  RK_CHECK(
      it != keys.end() &&
          std::from_chars(it->second.data(), it->second.data() + it->second.size(), value).ec == std::errc(),
      "[layout] no number for ", key);
  return value;
}

// A key whose value would change the mathematics: it must have the one that we compute. Absent is fine.
void expect_value(const Json& config, const std::string& key, const Json& expected,
                  const std::string& place) {
  if (config.contains(key) && config[key] != expected)
    fail(ExitCode::kData, "WTS-08", place, ": ", key, " is ", config[key].dump(), ", expected ",
         expected.dump(), ": this model would compute something else");
}

Json rwkv6_hf_config(const Keys& k) {
  return {{"architectures", {"Rwkv6ForCausalLM"}},
          {"model_type", "rwkv6"},
          {"vocab_size", number(k, "vocab_size")},
          {"hidden_size", number(k, "hidden_size")},
          {"attention_hidden_size", number(k, "num_heads") * number(k, "head_size")},
          {"intermediate_size", number(k, "ffn_size")},
          {"num_hidden_layers", number(k, "num_layers")},
          {"num_attention_heads", number(k, "num_heads")},
          {"head_size", number(k, "head_size")},
          {"head_size_divisor", 8},
          {"layer_norm_epsilon", 1e-5},
          {"rescale_every", 6},
          {"tie_word_embeddings", false},
          {"bos_token_id", 0},
          {"eos_token_id", 0},
          {"use_cache", true}};
}

void check_rwkv6_hf(const Json& c, Keys&, const std::string& place) {
  expect_value(c, "head_size_divisor", 8, place);
  expect_value(c, "layer_norm_epsilon", 1e-5, place);
  expect_value(c, "tie_word_embeddings", false, place);
}

// What the RWKV models of flash-linear-attention have in common.
Json fla_config(const Keys& k, std::string_view model_type, std::string_view architecture) {
  return {{"architectures", {architecture}},
          {"model_type", model_type},
          {"attn_mode", "chunk"},
          {"vocab_size", number(k, "vocab_size")},
          {"hidden_size", number(k, "hidden_size")},
          {"hidden_ratio", double(number(k, "ffn_size")) / double(number(k, "hidden_size"))},
          {"intermediate_size", number(k, "ffn_size")},
          {"num_hidden_layers", number(k, "num_layers")},
          {"num_heads", number(k, "num_heads")},
          {"hidden_act", "sqrelu"},
          {"norm_first", true},
          {"norm_bias", true},
          {"norm_eps", 1e-5},
          {"attn", nullptr},
          {"fuse_norm", true},
          {"tie_word_embeddings", false},
          {"bos_token_id", 0},
          {"eos_token_id", 0},
          {"use_cache", true}};
}

void check_fla(const Json& c, Keys&, const std::string& place) {
  expect_value(c, "hidden_act", "sqrelu", place);
  expect_value(c, "norm_first", true, place);
  expect_value(c, "norm_bias", true, place);
  expect_value(c, "norm_eps", 1e-5, place);
  expect_value(c, "attn", nullptr, place);
  expect_value(c, "tie_word_embeddings", false, place);
}

Json rwkv6_fla_config(const Keys& k) {
  Json config = fla_config(k, "rwkv6", "RWKV6ForCausalLM");
  config["expand_k"] = config["expand_v"] =
      double(number(k, "num_heads") * number(k, "head_size")) / double(number(k, "hidden_size"));
  config["proj_low_rank_dim"] = number(k, "mix_rank");
  config["gate_low_rank_dim"] = number(k, "decay_rank");
  return config;
}

// The norm behind the recurrence: 64e-5 in the published models, norm_eps times the size of a head there.
void check_rwkv7_heads(const Keys& k, const std::string& place) {
  if (number(k, "head_size") != 64)
    fail(ExitCode::kData, "WTS-08", place, ": heads of ", number(k, "head_size"),
         " channels, expected 64: with others the fla form computes something else; mend it by a .pth or "
         ".safetensors file");
}

void check_rwkv7_fla(const Json& c, Keys& k, const std::string& place) {
  check_fla(c, k, place);
  check_rwkv7_heads(k, place);
}

Json rwkv7_fla_config(const Keys& k) {
  check_rwkv7_heads(k, "RWKV-7 in the fla form");
  Json config = fla_config(k, "rwkv7", "RWKV7ForCausalLM");
  config["head_dim"] = number(k, "head_size");
  config["value_dim"] =
      std::vector<int64_t>(size_t(number(k, "num_layers")), number(k, "num_heads") * number(k, "head_size"));
  config["decay_low_rank_dim"] = number(k, "decay_rank");
  config["gate_low_rank_dim"] = number(k, "gate_rank");
  config["a_low_rank_dim"] = number(k, "iclr_rank");
  config["v_low_rank_dim"] = number(k, "value_rank");
  return config;
}

double real(const Keys& keys, const std::string& key) { return std::stod(keys.at(key)); }

// What Llama and Qwen2 have in common.
Json transformer_config(const Keys& k, std::string_view model_type, std::string_view architecture) {
  const auto given_or = [&](const char* key, int64_t otherwise) {  // 0 stands for the default
    return number(k, key) > 0 ? number(k, key) : otherwise;
  };
  const int64_t heads = number(k, "num_heads");
  return {{"architectures", {architecture}},
          {"model_type", model_type},
          {"vocab_size", number(k, "vocab_size")},
          {"hidden_size", number(k, "hidden_size")},
          {"intermediate_size", number(k, "ffn_size")},
          {"num_hidden_layers", number(k, "num_layers")},
          {"num_attention_heads", heads},
          {"num_key_value_heads", given_or("num_kv_heads", heads)},
          {"head_dim", given_or("head_size", number(k, "hidden_size") / heads)},
          {"hidden_act", "silu"},
          {"max_position_embeddings", 131072},
          {"rms_norm_eps", real(k, "norm_eps")},
          {"rope_theta", real(k, "rope_theta")},
          {"rope_scaling", nullptr},
          {"tie_word_embeddings", k.at("tie_embeddings") == "true"},
          {"initializer_range", real(k, "init_std")},
          {"use_cache", true}};
}

Json llama_config(const Keys& k) {
  Json config = transformer_config(k, "llama", "LlamaForCausalLM");
  config["attention_bias"] = config["mlp_bias"] = false;
  const std::string& type = k.at("rope_scaling.type");
  if (type == "none") return config;
  Json scaling{{"rope_type", type}, {"factor", real(k, "rope_scaling.factor")}};
  if (type == "llama3") {
    scaling["low_freq_factor"] = real(k, "rope_scaling.low_freq_factor");
    scaling["high_freq_factor"] = real(k, "rope_scaling.high_freq_factor");
    scaling["original_max_position_embeddings"] = number(k, "rope_scaling.original_context");
  }
  config["rope_scaling"] = scaling;
  return config;
}

Json qwen2_config(const Keys& k) {
  Json config = transformer_config(k, "qwen2", "Qwen2ForCausalLM");
  config["use_sliding_window"] = false;
  return config;
}

// The number at `key`, as text of a configuration; `otherwise` where it is absent or null.
std::string number_at(const Json& config, const std::string& key, const std::string& otherwise,
                      const std::string& place) {
  if (!config.contains(key) || config[key].is_null()) return otherwise;
  if (!config[key].is_number())
    fail(ExitCode::kData, "WTS-08", place, ": ", key, " is ", config[key].dump(), ", expected a number");
  return config[key].dump();
}

std::string required_number_at(const Json& config, const std::string& key, const std::string& place) {
  const std::string text = number_at(config, key, "", place);
  if (text.empty()) fail(ExitCode::kData, "WTS-08", place, ": ", key, " is missing, expected a number");
  return text;
}

void transformer_keys(const Json& c, Keys& keys, const std::string& place, const std::string& eps,
                      const std::string& theta) {
  expect_value(c, "hidden_act", "silu", place);
  expect_value(c, "mlp_bias", false, place);
  expect_value(c, "partial_rotary_factor", 1.0, place);
  if (c.contains("layer_types") && c["layer_types"].is_array())
    for (const Json& type : c["layer_types"])
      if (type != "full_attention")
        fail(ExitCode::kData, "WTS-08", place, ": layer_types holds ", type.dump(),
             ", expected \"full_attention\" alone: this model would compute something else");
  keys["num_heads"] = required_number_at(c, "num_attention_heads", place);
  keys["num_kv_heads"] = number_at(c, "num_key_value_heads", keys["num_heads"], place);
  keys["head_size"] = number_at(c, "head_dim", "0", place);
  keys["norm_eps"] = number_at(c, "rms_norm_eps", eps, place);
  keys["init_std"] = number_at(c, "initializer_range", "0.02", place);
  // Newer files keep all that belongs to the positions in one object.
  const Json nested = c.contains("rope_parameters") && c["rope_parameters"].is_object() ? c["rope_parameters"]
                                                                                        : Json::object();
  keys["rope_theta"] = number_at(nested, "rope_theta", number_at(c, "rope_theta", theta, place), place);
  if (c.contains("tie_word_embeddings") && c["tie_word_embeddings"].is_boolean())
    keys["tie_embeddings"] = c["tie_word_embeddings"].get<bool>() ? "true" : "false";
}

// The scaling of rotary positions, in the old or the new spelling; an empty object: none.
Json rope_scaling_of(const Json& c) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!c.contains(key) || !c[key].is_object()) continue;
    Json scaling = c[key];
    if (!scaling.contains("rope_type")) scaling["rope_type"] = scaling.value("type", Json("default"));
    if (scaling["rope_type"] != "default") return scaling;
  }
  return Json::object();
}

void llama_keys(const Json& c, Keys& keys, const std::string& place) {
  transformer_keys(c, keys, place, "1e-06", "10000");
  expect_value(c, "attention_bias", false, place);
  const Json scaling = rope_scaling_of(c);
  if (scaling.empty()) return;
  if (scaling["rope_type"] != "linear" && scaling["rope_type"] != "llama3")
    fail(ExitCode::kData, "WTS-08", place, ": rope_scaling is of type ", scaling["rope_type"].dump(),
         ", expected default, linear or llama3: this model would compute something else");
  keys["rope_scaling.type"] = scaling["rope_type"].get<std::string>();
  const std::string in_scaling = place + ": rope_scaling";
  keys["rope_scaling.factor"] = required_number_at(scaling, "factor", in_scaling);
  if (scaling["rope_type"] == "linear") return;
  keys["rope_scaling.low_freq_factor"] = required_number_at(scaling, "low_freq_factor", in_scaling);
  keys["rope_scaling.high_freq_factor"] = required_number_at(scaling, "high_freq_factor", in_scaling);
  keys["rope_scaling.original_context"] =
      required_number_at(scaling, "original_max_position_embeddings", in_scaling);
}

void qwen2_keys(const Json& c, Keys& keys, const std::string& place) {
  transformer_keys(c, keys, place, "1e-06", "10000");
  expect_value(c, "use_sliding_window", false, place);
  if (const Json scaling = rope_scaling_of(c); !scaling.empty())
    fail(ExitCode::kData, "WTS-08", place, ": rope_scaling is of type ", scaling["rope_type"].dump(),
         ", expected none: this model would compute something else");
}

// ---- the forms (formats.md 7)

constexpr auto kSqueeze = Transform::kSqueeze, kTranspose = Transform::kTranspose, kRow = Transform::kRow;

std::vector<Rule> operator+(std::vector<Rule> a, const std::vector<Rule>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// What every model of flash-linear-attention calls the same.
const std::vector<Rule> kFlaFrame = {
    {"emb.weight", "model.embeddings.weight"},
    {"blocks.0.ln0.*", "model.layers.0.pre_norm.*"},
    {"blocks.#.ln1.*", "model.layers.#.attn_norm.*"},
    {"blocks.#.ln2.*", "model.layers.#.ffn_norm.*"},
    {"blocks.#.att.receptance.weight", "model.layers.#.attn.r_proj.weight"},
    {"blocks.#.att.key.weight", "model.layers.#.attn.k_proj.weight"},
    {"blocks.#.att.value.weight", "model.layers.#.attn.v_proj.weight"},
    {"blocks.#.att.output.weight", "model.layers.#.attn.o_proj.weight"},
    {"blocks.#.att.ln_x.*", "model.layers.#.attn.g_norm.*"},
    {"ln_out.*", "model.norm.*"},
    {"head.weight", "lm_head.weight"},
};

const std::vector<Form> kForms = {
    {"hf",
     "rwkv6",
     "rwkv.blocks.0.attention.time_maa_w1",
     {{"emb.weight", "rwkv.embeddings.weight"},
      {"blocks.0.ln0.*", "rwkv.blocks.0.pre_ln.*"},
      {"blocks.#.att.*", "rwkv.blocks.#.attention.*"},
      {"blocks.#.ffn.*", "rwkv.blocks.#.feed_forward.*"},
      {"blocks.#.*", "rwkv.blocks.#.*"},
      {"ln_out.*", "rwkv.ln_out.*"},
      {"head.weight", "head.weight"}},
     rwkv6_hf_config,
     check_rwkv6_hf},
    {"fla", "rwkv6", "model.layers.0.attn.x_proj.0.mu",
     std::vector<Rule>{
         {"blocks.#.att.time_maa_x", "model.layers.#.attn.x_proj.0.mu", kSqueeze},
         {"blocks.#.att.time_maa_w1", "model.layers.#.attn.x_proj.0.linear.weight", Transform::kMixOut},
         {"blocks.#.att.time_maa_w2", "model.layers.#.attn.x_proj.2.weight", Transform::kMixIn},
         {"blocks.#.att.time_maa_r", "model.layers.#.attn.x_bias", kRow, 0},
         {"blocks.#.att.time_maa_w", "model.layers.#.attn.x_bias", kRow, 1},
         {"blocks.#.att.time_maa_k", "model.layers.#.attn.x_bias", kRow, 2},
         {"blocks.#.att.time_maa_v", "model.layers.#.attn.x_bias", kRow, 3},
         {"blocks.#.att.time_maa_g", "model.layers.#.attn.x_bias", kRow, 4},
         {"blocks.#.att.receptance.weight", "model.layers.#.attn.r_proj.linear.weight"},
         {"blocks.#.att.key.weight", "model.layers.#.attn.k_proj.linear.weight"},
         {"blocks.#.att.value.weight", "model.layers.#.attn.v_proj.linear.weight"},
         {"blocks.#.att.gate.weight", "model.layers.#.attn.g_proj.linear.weight"},
         {"blocks.#.att.time_decay_w1", "model.layers.#.attn.w_proj.linear.lora.0.weight", kTranspose},
         {"blocks.#.att.time_decay_w2", "model.layers.#.attn.w_proj.linear.lora.2.weight", kTranspose},
         {"blocks.#.att.time_decay", "model.layers.#.attn.w_proj.linear.lora.2.bias", kSqueeze},
         {"blocks.#.att.time_faaaa", "model.layers.#.attn.bonus"},
         {"blocks.#.ffn.time_maa_k", "model.layers.#.ffn.key.mu", kSqueeze},
         {"blocks.#.ffn.time_maa_r", "model.layers.#.ffn.receptance.mu", kSqueeze},
         {"blocks.#.ffn.key.weight", "model.layers.#.ffn.key.linear.weight"},
         {"blocks.#.ffn.value.weight", "model.layers.#.ffn.value.weight"},
         {"blocks.#.ffn.receptance.weight", "model.layers.#.ffn.receptance.linear.weight"}} +
         kFlaFrame,
     rwkv6_fla_config, check_fla},
    {"fla", "rwkv7", "model.layers.0.attn.x_r",
     std::vector<Rule>{{"blocks.0.att.v0", ""},
                       {"blocks.0.att.v1", ""},
                       {"blocks.0.att.v2", ""},
                       {"blocks.#.att.w0", "model.layers.#.attn.w_lora.lora.2.bias", kSqueeze},
                       {"blocks.#.att.w1", "model.layers.#.attn.w_lora.lora.0.weight", kTranspose},
                       {"blocks.#.att.w2", "model.layers.#.attn.w_lora.lora.2.weight", kTranspose},
                       {"blocks.#.att.a0", "model.layers.#.attn.a_lora.lora.2.bias", kSqueeze},
                       {"blocks.#.att.a1", "model.layers.#.attn.a_lora.lora.0.weight", kTranspose},
                       {"blocks.#.att.a2", "model.layers.#.attn.a_lora.lora.2.weight", kTranspose},
                       {"blocks.#.att.v0", "model.layers.#.attn.v_lora.lora.2.bias", kSqueeze},
                       {"blocks.#.att.v1", "model.layers.#.attn.v_lora.lora.0.weight", kTranspose},
                       {"blocks.#.att.v2", "model.layers.#.attn.v_lora.lora.2.weight", kTranspose},
                       {"blocks.#.att.g1", "model.layers.#.attn.g_lora.lora.0.weight", kTranspose},
                       {"blocks.#.att.g2", "model.layers.#.attn.g_lora.lora.2.weight", kTranspose},
                       {"blocks.#.att.k_k", "model.layers.#.attn.k_k", kSqueeze},
                       {"blocks.#.att.k_a", "model.layers.#.attn.k_a", kSqueeze},
                       {"blocks.#.ffn.x_k", "model.layers.#.ffn.x_k", kSqueeze},
                       {"blocks.#.ffn.*", "model.layers.#.ffn.*"}} +
         kFlaFrame + std::vector<Rule>{{"blocks.#.att.*", "model.layers.#.attn.*"}},  // x_r ..., r_k
     rwkv7_fla_config, check_rwkv7_fla},
    // Qwen2 first: its mark is the more special one.
    {"hf", "qwen2", "model.layers.0.self_attn.q_proj.bias", {{"*", "*"}}, qwen2_config, qwen2_keys, true},
    {"hf", "llama", "model.layers.0.self_attn.q_proj.weight", {{"*", "*"}}, llama_config, llama_keys, true},
};

// ---- names

struct Match {
  std::string_view block, rest;
};

std::optional<Match> match(std::string_view pattern, std::string_view name) {
  Match m;
  if (const size_t at = pattern.find('#'); at != std::string_view::npos) {
    if (!name.starts_with(pattern.substr(0, at))) return std::nullopt;
    name.remove_prefix(at);
    pattern.remove_prefix(at + 1);
    m.block = name.substr(0, name.find_first_not_of("0123456789"));
    if (m.block.empty()) return std::nullopt;
    name.remove_prefix(m.block.size());
  }
  if (pattern.ends_with('*')) {
    pattern.remove_suffix(1);
    if (!name.starts_with(pattern)) return std::nullopt;
    m.rest = name.substr(pattern.size());
    return m;
  }
  return name == pattern ? std::optional(m) : std::nullopt;
}

std::string expand(std::string_view pattern, const Match& m) {
  std::string name;
  for (const char c : pattern) c == '#' ? name += m.block : c == '*' ? name += m.rest : name += c;
  return name;
}

// ---- the architectures (formats.md 8)

bool any_name(const Shapes& shapes, std::string_view pattern) {
  return std::ranges::any_of(shapes,
                             [&](const auto& entry) { return match(pattern, entry.first).has_value(); });
}

// Layer 0 has the matrices of the value residual without using them; a file may lack them.
void rwkv7_more(const Shapes& shapes, Keys& keys) {
  for (const char* name : {"blocks.1.att.v1", "blocks.0.att.v1"})
    if (const auto it = shapes.find(name); it != shapes.end() && it->second.size() == 2) {
      keys["value_rank"] = str(it->second[1]);
      return;
    }
  keys["value_rank"] = "32";
}

// Which blocks are of the upper kind, and the width of the cache that GOLD blocks share: the smallest ratios
// that give them.
void goldfinch_more(const Shapes& shapes, Keys& keys) {
  const int64_t layers = number(keys, "num_layers");
  int64_t lower = layers;
  for (int64_t i = layers; i-- > 0;)
    if (shapes.count(str("blocks.", i, ".att.query.weight"))) lower = i;
  for (int64_t ratio = 1; ratio <= layers + 1; ++ratio)
    if (layers * (ratio - 1) / ratio == lower) {
      keys["inv_other_layer_ratio"] = str(ratio);
      break;
    }
  const auto cache = shapes.find("w_kv_cache_a.weight");
  keys["upper_blocks"] = cache == shapes.end() ? "gptalpha" : "gold";
  if (cache != shapes.end() && cache->second.size() == 2 && cache->second[0] > 0)
    keys["kv_cache_compression_ratio"] = str(cache->second[1] / cache->second[0]);
}

void transformer_more(const Shapes& shapes, Keys& keys) {
  keys["tie_embeddings"] = shapes.count("lm_head.weight") ? "false" : "true";
}

const std::vector<Size> kTransformerSizes = {{"hidden_size", "model.embed_tokens.weight", 1},
                                             {"vocab_size", "model.embed_tokens.weight", 0},
                                             {"ffn_size", "model.layers.0.mlp.gate_proj.weight", 0}};
const std::vector<Size> kGoldFinchSizes = {{"hidden_size", "emb.weight", 1},
                                           {"vocab_size", "emb.weight", 0},
                                           {"head_size", "blocks.0.att.time_faaaa", 1},
                                           {"ffn_size", "blocks.0.ffn.key.weight", 0}};

const std::vector<Architecture> kArchitectures = {
    {"rwkv5",
     {"blocks.#.att.time_mix_g", "blocks.#.att.time_faaaa"},
     {},
     {{"hidden_size", "emb.weight", 1},
      {"vocab_size", "emb.weight", 0},
      {"num_heads", "blocks.0.att.time_faaaa", 0},
      {"head_size", "blocks.0.att.time_faaaa", 1},
      {"ffn_size", "blocks.0.ffn.key.weight", 0}}},
    {"rwkv6",
     {"blocks.#.att.time_maa_w1", "blocks.#.att.gate.weight"},
     {},
     {{"hidden_size", "emb.weight", 1},
      {"vocab_size", "emb.weight", 0},
      {"num_heads", "blocks.0.att.time_faaaa", 0},
      {"head_size", "blocks.0.att.time_faaaa", 1},
      {"ffn_size", "blocks.0.ffn.key.weight", 0},
      {"mix_rank", "blocks.0.att.time_maa_w1", 1, 5},
      {"decay_rank", "blocks.0.att.time_decay_w1", 1}}},
    {"rwkv7",
     {"blocks.#.att.r_k"},
     {},
     {{"hidden_size", "emb.weight", 1},
      {"vocab_size", "emb.weight", 0},
      {"num_heads", "blocks.0.att.r_k", 0},
      {"head_size", "blocks.0.att.r_k", 1},
      {"ffn_size", "blocks.0.ffn.key.weight", 0},
      {"decay_rank", "blocks.0.att.w1", 1},
      {"iclr_rank", "blocks.0.att.a1", 1},
      {"gate_rank", "blocks.0.att.g1", 1}},
     rwkv7_more,
     {"blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2"}},
    {"finch_c2",
     {"blocks.#.att.time_maa_v2"},
     {"blocks.#.att.query.weight"},
     kGoldFinchSizes,
     nullptr,
     {},
     {"use_v2", "use_one_minus_w"}},
    {"goldfinch",
     {"blocks.#.att.query.weight"},
     {},
     kGoldFinchSizes,
     goldfinch_more,
     {},
     {"head_size", "rope_theta", "rope_rescale", "use_v2", "use_one_minus_w"}},
    {"llama_paper",
     {"blocks.#.att.wq.weight"},
     {},
     {{"hidden_size", "emb.weight", 1},
      {"vocab_size", "emb.weight", 0},
      {"ffn_size", "blocks.0.ffn.w1.weight", 0}},
     nullptr,
     {},
     {"head_size", "rope_theta", "rope_rescale"}},
    {"qwen2", {"model.layers.#.self_attn.q_proj.bias"}, {}, kTransformerSizes, transformer_more},
    {"llama",
     {"model.layers.#.self_attn.q_proj.weight"},
     {"model.layers.#.self_attn.q_proj.bias"},
     kTransformerSizes,
     transformer_more},
};

// The first rule that fits: exact names stand before wildcards in the tables.
const Rule* find_rule(const Form& form, std::string_view Rule::*side, std::string_view name, Match& m) {
  for (const Rule& rule : form.rules)
    if (const auto found = match(rule.*side, name)) {
      m = *found;
      return &rule;
    }
  return nullptr;
}

// ---- tensors seen through rules

constexpr uint64_t kGroups = 5;
constexpr std::array<uint64_t, kGroups> kTheirPlace = {1, 2, 3, 0, 4};  // of our groups w k v r g

class Mapped : public TensorFile {
 public:
  struct Part {
    std::vector<size_t> sources;  // of kRow towards theirs: five, one after the other; else one
    Transform transform = Transform::kSame;
    uint64_t row = 0;
    bool to_ours = true;
  };

  explicit Mapped(std::shared_ptr<const TensorFile> source)
      : TensorFile(source->path()), source_(std::move(source)) {
    notes_ = source_->notes();
  }
  const std::vector<TensorInfo>& source() const { return source_->tensors(); }
  void add(TensorInfo info, Part part) {
    tensors_.push_back(std::move(info));
    parts_.push_back(std::move(part));
  }
  Part& part(size_t i) { return parts_[i]; }

  void verify() const override { source_->verify(); }

  void read(size_t i, uint64_t offset, std::span<std::byte> out) const override {
    const Part& part = parts_[i];
    if (out.empty()) return;
    switch (part.transform) {
      case Transform::kSame:
      case Transform::kSqueeze:
        return source_->read(part.sources[0], offset, out);
      case Transform::kRow:
        if (part.to_ours) return source_->read(part.sources[0], part.row * tensors_[i].bytes() + offset, out);
        return read_rows(part, offset, out);
      case Transform::kTranspose:
      case Transform::kMixOut:
      case Transform::kMixIn:
        return read_permuted(i, offset, out);
    }
  }

 private:
  void read_rows(const Part& part, uint64_t offset, std::span<std::byte> out) const {
    const uint64_t row_bytes = source()[part.sources[0]].bytes();
    while (!out.empty()) {
      const uint64_t row = offset / row_bytes, begin = offset % row_bytes;
      const uint64_t count = std::min<uint64_t>(out.size(), row_bytes - begin);
      source_->read(part.sources[row], begin, out.first(count));
      offset += count;
      out = out.subspan(count);
    }
  }

  // Permuted as a whole when it is first asked for (these are the low-rank matrices, which are small), and
  // kept for the next range.
  void read_permuted(size_t i, uint64_t offset, std::span<std::byte> out) const {
    std::scoped_lock lock(mutex_);
    if (kept_ != i) {
      std::vector<std::byte> from(tensors_[i].bytes());
      source_->read(parts_[i].sources[0], 0, from);
      kept_bytes_.resize(from.size());
      permute(i, from);
      kept_ = i;
    }
    std::memcpy(out.data(), kept_bytes_.data() + offset, out.size());
  }

  void permute(size_t i, std::span<const std::byte> from) const {
    const Part& part = parts_[i];
    const uint64_t item = size_of(tensors_[i].type);
    const Dims& ours = part.to_ours ? tensors_[i].shape : source()[part.sources[0]].shape;
    const auto put = [&](uint64_t our_place, uint64_t their_place) {
      const uint64_t to = part.to_ours ? our_place : their_place, at = part.to_ours ? their_place : our_place;
      std::memcpy(kept_bytes_.data() + to * item, from.data() + at * item, item);
    };
    if (part.transform == Transform::kTranspose) {
      for (uint64_t a = 0; a < ours[0]; ++a)
        for (uint64_t b = 0; b < ours[1]; ++b) put(a * ours[1] + b, b * ours[0] + a);
      return;
    }
    const bool out = part.transform == Transform::kMixOut;
    const uint64_t C = out ? ours[0] : ours[2], m = out ? ours[1] / kGroups : ours[1];
    for (uint64_t c = 0; c < C; ++c)
      for (uint64_t g = 0; g < kGroups; ++g)
        for (uint64_t k = 0; k < m; ++k) {
          const uint64_t theirs = kTheirPlace[g] * m + k;
          if (out) {
            put((c * kGroups + g) * m + k, theirs * C + c);
          } else {
            put((g * m + k) * C + c, c * kGroups * m + theirs);
          }
        }
  }

  std::shared_ptr<const TensorFile> source_;
  std::vector<Part> parts_;
  mutable std::mutex mutex_;
  mutable size_t kept_ = size_t(-1);
  mutable std::vector<std::byte> kept_bytes_;
};

// Our shape of a tensor of theirs; nothing where theirs does not fit the rule.
std::optional<Dims> our_shape(Transform transform, const Dims& theirs) {
  switch (transform) {
    case Transform::kSame:
      return theirs;
    case Transform::kSqueeze:
      return theirs.size() == 1 ? std::optional(Dims{1, 1, theirs[0]}) : std::nullopt;
    case Transform::kRow:
      return theirs.size() == 2 && theirs[0] == kGroups ? std::optional(Dims{1, 1, theirs[1]}) : std::nullopt;
    case Transform::kTranspose:
      return theirs.size() == 2 ? std::optional(Dims{theirs[1], theirs[0]}) : std::nullopt;
    case Transform::kMixOut:
      return theirs.size() == 2 && theirs[0] % kGroups == 0 ? std::optional(Dims{theirs[1], theirs[0]})
                                                            : std::nullopt;
    case Transform::kMixIn:
      return theirs.size() == 2 && theirs[1] % kGroups == 0
                 ? std::optional(Dims{kGroups, theirs[1] / kGroups, theirs[0]})
                 : std::nullopt;
  }
  return std::nullopt;
}

Dims their_shape(Transform transform, const Dims& ours) {
  switch (transform) {
    case Transform::kSame:
      return ours;
    case Transform::kSqueeze:
      return {ours.back()};
    case Transform::kRow:
      return {kGroups, ours.back()};
    case Transform::kTranspose:
    case Transform::kMixOut:
      return {ours[1], ours[0]};
    case Transform::kMixIn:
      return {ours[2], ours[0] * ours[1]};
  }
  return ours;
}

}  // namespace

const std::vector<Form>& forms() { return kForms; }

const Form* find_form(std::string_view name, std::string_view arch) {
  for (const Form& form : kForms)
    if (form.name == name && form.arch == arch) return &form;
  return nullptr;
}

const Architecture* find_architecture(std::string_view arch) {
  for (const Architecture& a : kArchitectures)
    if (a.arch == arch) return &a;
  return nullptr;
}

const Form* recognise_form(const std::set<std::string, std::less<>>& names, const std::string& model_type) {
  for (const Form& form : kForms)
    if (names.count(form.mark) && (model_type.empty() || form.arch == model_type)) return &form;
  return nullptr;
}

const Architecture* recognise_architecture(const Shapes& shapes) {
  const auto there = [&](std::string_view pattern) { return any_name(shapes, pattern); };
  for (const Architecture& a : kArchitectures)
    if (std::ranges::all_of(a.has, there) && std::ranges::none_of(a.lacks, there)) return &a;
  return nullptr;
}

Keys keys_from_shapes(const Architecture& architecture, const Shapes& shapes) {
  Keys keys;
  for (const Size& size : architecture.sizes) {
    const auto it = shapes.find(std::string(size.tensor));
    // A tensor that is missing or odd is reported with all others, by name, once the model is known.
    if (it == shapes.end() || it->second.size() <= size.axis) continue;
    keys[std::string(size.key)] = str(it->second[size.axis] / size.divide);
  }
  uint64_t layers = 0;
  for (const auto& [name, shape] : shapes)
    for (const char* prefix : {"blocks.#.*", "model.layers.#.*"})
      if (const auto m = match(prefix, name)) {
        uint64_t block = 0;
        std::from_chars(m->block.data(), m->block.data() + m->block.size(), block);
        layers = std::max(layers, std::min<uint64_t>(block, shapes.size()) + 1);
      }
  keys["num_layers"] = str(layers);
  if (architecture.more) architecture.more(shapes, keys);
  return keys;
}

std::unique_ptr<TensorFile> to_ours(std::shared_ptr<const TensorFile> file, const Form& form) {
  auto mapped = std::make_unique<Mapped>(std::move(file));
  for (size_t i = 0; i < mapped->source().size(); ++i) {
    const TensorInfo& t = mapped->source()[i];
    bool known = false;
    for (const Rule& rule : form.rules) {
      const auto m = match(rule.theirs, t.name);
      if (!m) continue;
      known = true;
      const auto shape = our_shape(rule.transform, t.shape);
      if (!shape)
        fail(ExitCode::kData, "WTS-09", mapped->path(), ": tensor ", t.name, " has shape ",
             to_string(t.shape), ", which is none of ", expand(rule.ours, *m));
      mapped->add({expand(rule.ours, *m), t.type, *shape}, {{i}, rule.transform, rule.row, true});
      if (rule.transform != Transform::kRow) break;  // one tensor of theirs, five of ours
    }
    if (!known) mapped->add(t, {{i}});
  }
  return mapped;
}

std::unique_ptr<TensorFile> to_theirs(std::shared_ptr<const TensorFile> file, const Form& form) {
  auto mapped = std::make_unique<Mapped>(std::move(file));
  std::map<std::string, size_t> places;
  for (size_t i = 0; i < mapped->source().size(); ++i) {
    const TensorInfo& t = mapped->source()[i];
    Match m;
    const Rule* rule = find_rule(form, &Rule::ours, t.name, m);
    if (!rule || rule->theirs.empty()) continue;
    const std::string name = expand(rule->theirs, m);
    const auto [at, is_new] = places.emplace(name, mapped->tensors().size());
    if (is_new)
      mapped->add({name, t.type, their_shape(rule->transform, t.shape)}, {{}, rule->transform, 0, false});
    if (mapped->tensors()[at->second].type != t.type)
      fail(ExitCode::kData, "WTS-09", mapped->path(), ": tensor ", t.name, " is ", to_string(t.type),
           " and goes into ", name, ", whose other parts are ", to_string(mapped->tensors()[at->second].type),
           "; mend it by converting to a checkpoint first");
    std::vector<size_t>& sources = mapped->part(at->second).sources;
    sources.resize(std::max<size_t>(sources.size(), rule->row + 1));
    sources[rule->row] = i;
  }
  return mapped;
}

}  // namespace rookery::foreign
