// convert_test.cpp: weights of other programs as weights of our models: recognised by their shapes, converted
// through every form and back bit for bit, used by eval and generate, refused with all reasons listed, and
// never half written.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/base/rng.h"
#include "tests/data/support.h"
#include "tests/support/golden.h"
#include "tests/support/shared.h"
#include "tests/support/tiny_run.h"
#include "trainer/checkpoint/foreign/convert.h"
#include "trainer/checkpoint/foreign/layout.h"
#include "trainer/checkpoint/foreign/safetensors.h"
#include "trainer/checkpoint/foreign/torch_file.h"
#include "trainer/checkpoint/foreign/values.h"
#include "trainer/loop/session.h"
#include "trainer/models/registry.h"
#include "trainer/recipes/recipe.h"

namespace rookery::foreign {
namespace {

using nlohmann::json;
using test::expect_error;
using test::run_rookery;

using Contents = std::map<std::string, std::pair<TensorInfo, std::vector<std::byte>>>;

Contents contents_of(const TensorFile& file) {
  Contents all;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const TensorInfo& t = file.tensors()[i];
    std::vector<std::byte> bytes(t.bytes());
    file.read(i, 0, bytes);
    all[t.name] = {t, std::move(bytes)};
  }
  return all;
}

void write_all(TensorWriter& writer, const Contents& contents) {
  for (const TensorInfo& t : writer.tensors()) writer.write(contents.at(t.name).second);
  writer.finish();
}

std::vector<TensorInfo> infos_of(const Contents& contents) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, content] : contents) infos.push_back(content.first);
  return infos;
}

void expect_same(const Contents& a, const Contents& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, content] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    EXPECT_EQ(content.first.shape, b.at(name).first.shape) << name;
    EXPECT_EQ(content.first.type, b.at(name).first.type) << name;
    EXPECT_TRUE(content.second == b.at(name).second) << name;
  }
}

// A small model of each architecture, with values of its initialisation and nothing left at zero.
struct Sample {
  std::string arch;
  std::vector<std::string> keys;
};
const std::vector<Sample> kSamples = {
    {"rwkv6",
     {"num_layers=2", "hidden_size=32", "head_size=8", "vocab_size=17", "mix_rank=3", "decay_rank=5"}},
    {"rwkv5", {"num_layers=2", "hidden_size=32", "head_size=8", "vocab_size=17"}},
    {"rwkv7",
     {"num_layers=2", "hidden_size=64", "head_size=64", "vocab_size=17", "decay_rank=3", "iclr_rank=4",
      "value_rank=5", "gate_rank=6"}},
    {"llama",
     {"num_layers=2", "hidden_size=24", "num_heads=4", "num_kv_heads=2", "head_size=8", "ffn_size=40",
      "vocab_size=17", "rope_theta=500000"}},
    {"llama",
     {"num_layers=1", "hidden_size=16", "num_heads=2", "ffn_size=8", "vocab_size=5", "tie_embeddings=true"}},
    {"qwen2",
     {"num_layers=2", "hidden_size=16", "num_heads=4", "num_kv_heads=1", "ffn_size=24", "vocab_size=11"}},
    {"finch_c2", {"num_layers=2", "hidden_size=64", "head_size=32", "vocab_size=11"}},
    {"goldfinch", {"num_layers=3", "hidden_size=64", "head_size=32", "vocab_size=11"}},
    {"goldfinch",
     {"num_layers=2", "hidden_size=64", "head_size=32", "vocab_size=11", "upper_blocks=gptalpha",
      "rope_theta=10000"}},
    {"llama_paper", {"num_layers=2", "hidden_size=64", "head_size=64", "vocab_size=9"}},
};

Contents sample_of(const Sample& sample, Type type) {
  std::string yaml = str("model:\n  arch: ", sample.arch, "\n");
  for (const std::string& key : sample.keys) {
    const size_t cut = key.find('=');
    yaml += str("  ", key.substr(0, cut), ": ", key.substr(cut + 1), "\n");
  }
  const config::RunConfig config = config::parse_run(yaml, "sample");
  Contents contents;
  const auto model = make_model(*config.model);
  for (const Parameter* p : model->parameters.all()) {
    const TensorInfo info{p->name, type, Dims(p->global.begin(), p->global.end())};
    const Philox random(7, stream_of(p->name));
    std::vector<std::byte> bytes(info.bytes());
    for (size_t at = 0, i = 0; at < bytes.size(); at += size_of(type), ++i) {
      const float value = static_cast<float>(random.uniform(i) - 0.5);
      if (type == Type::kF64) {
        const double wide = value / 3.0;
        std::memcpy(bytes.data() + at, &wide, 8);
      } else {  // the upper half of an fp32 is a bf16
        const size_t size = size_of(type);
        std::memcpy(bytes.data() + at, reinterpret_cast<const std::byte*>(&value) + 4 - size, size);
      }
    }
    contents[p->name] = {info, std::move(bytes)};
  }
  return contents;
}

class Conversions : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    register_models();
    register_recipes();
  }
  test::TempDir dir_{test::TempDir::Place::kMemory};
  fs::path path(const std::string& name) const { return dir_.path() / name; }
  fs::path write_pth(const std::string& name, const Contents& contents) {
    fs::remove(path(name));
    write_all(*write_torch_file(path(name), infos_of(contents)), contents);
    return path(name);
  }
};

TEST_F(Conversions, PublishedFilesAreRecognisedByTheirShapes) {
  RK_NEEDS_SHARED(test::golden_folder() / "foreign/manifest.json");
  const json files = json::parse(test::read_text(test::golden_folder() / "foreign/manifest.json"))["files"];
  int found = 0;
  for (const json& entry : files) {
    if (!entry.contains("model") || entry["expect"] != "load" ||
        !find_architecture(entry["model"].get<std::string>()))
      continue;
    SCOPED_TRACE(entry["file"]);
    ++found;
    const ModelFile model =
        open_model_file(test::golden_folder() / "foreign" / entry["file"].get<std::string>());
    EXPECT_EQ(model.model.name(), entry["model"]);
    const auto keys = model_keys(model);
    const json& config = entry["config"];
    EXPECT_EQ(keys.at("num_layers"), config["n_layer"].dump());
    EXPECT_EQ(keys.at("hidden_size"), config["n_embd"].dump());
    EXPECT_EQ(keys.at("head_size"), config["head_size"].dump());
    EXPECT_EQ(keys.at("vocab_size"), config["vocab_size"].dump());
    if (config.contains("dim_ffn")) {
      EXPECT_EQ(keys.at("ffn_size"), config["dim_ffn"].dump());
    }
    EXPECT_EQ(model.tensors->tensors().size(), entry["tensors"].size());
  }
  EXPECT_GE(found, 6);
}

// How many blocks are of the upper kind, which kind, and how far keys are compressed.
TEST_F(Conversions, StacksOfGoldFinchAreReadFromTheirNames) {
  for (const auto& [layers, ratio, cache, kind] : {std::tuple{3, 3, 16, "gold"},
                                                   {6, 3, 16, "gold"},
                                                   {6, 2, 1, "gold"},
                                                   {6, 6, 8, "gold"},
                                                   {4, 2, 16, "gptalpha"},
                                                   {2, 1, 16, "gptalpha"}}) {
    SCOPED_TRACE(str(layers, " ", ratio, " ", cache, " ", kind));
    const Sample sample{"goldfinch",
                        {str("num_layers=", layers), "hidden_size=64", "head_size=64", "vocab_size=9",
                         str("inv_other_layer_ratio=", ratio), str("kv_cache_compression_ratio=", cache),
                         str("upper_blocks=", kind)}};
    const auto keys = model_keys(open_model_file(write_pth("in.pth", sample_of(sample, Type::kBf16))));
    EXPECT_EQ(keys.at("inv_other_layer_ratio"), str(ratio));
    EXPECT_EQ(keys.at("kv_cache_compression_ratio"), str(cache));
    EXPECT_EQ(keys.at("upper_blocks"), kind);
  }
}

// Logits that another program computed from the same file, in fp64.
TEST_F(Conversions, PublishedFilesGiveThePublishedLogits) {
  RK_NEEDS_SHARED(test::golden_folder() / "foreign/manifest.json");
  const json files = json::parse(test::read_text(test::golden_folder() / "foreign/manifest.json"))["files"];
  int found = 0;
  for (const json& entry : files) {
    if (!entry.contains("logits")) continue;
    SCOPED_TRACE(entry["file"]);
    ++found;
    const ModelFile file =
        open_model_file(test::golden_folder() / "foreign" / entry["file"].get<std::string>());
    config::RunConfig config = run_config_of(file.model);
    config.precision = "fp64";
    config.threads = 1;
    loop::Session session = loop::make_session(std::move(config));
    std::vector<std::span<std::byte>> into;
    for (const Parameter* p : session.store->parameters())
      into.push_back({p->master.raw(), p->master.bytes()});
    load_values(*file.tensors, Type::kF64, into);
    const auto rows = entry["idx"].get<std::vector<std::vector<int32_t>>>();
    nn::SeqContext seq;
    nn::Context cx{nullptr, seq};
    const Tensor x = tensor_from(std::span<const int32_t>(rows[0]), {1, int64_t(rows[0].size())}, DType::kI32,
                                 *session.device);
    const std::vector<double> logits = to_doubles(session.model->logits(cx, x).value());
    size_t i = 0;
    double difference = 0, norm = 0;
    for (const json& token : entry["logits"][0])
      for (const json& value : token) {
        const double expected = value.get<double>();
        difference += (logits.at(i) - expected) * (logits.at(i) - expected);
        norm += expected * expected;
        ++i;
      }
    EXPECT_EQ(i, logits.size());
    EXPECT_LE(std::sqrt(difference / norm), 1e-9);
  }
  EXPECT_EQ(found, 1);
}

TEST_F(Conversions, EveryFormAndBackIsBitExact) {
  for (const Sample& sample : kSamples) {
    std::vector<std::pair<Target, std::string>> targets = {
        {Target::kCheckpoint, ""}, {Target::kTorch, ""}, {Target::kSafetensors, ""}};
    for (const Form& form : forms())
      if (form.arch == sample.arch) targets.push_back({Target::kFolder, std::string(form.name)});
    for (const Type type : {Type::kBf16, Type::kF32, Type::kF64}) {
      const Contents original = sample_of(sample, type);
      const fs::path in = write_pth("in.pth", original);
      for (const auto& [target, form] : targets) {
        SCOPED_TRACE(str(sample.arch, " ", int(target), " ", form, " ", to_string(type)));
        // Heads and positions of a transformer stand in no shape.
        std::vector<std::string> overrides;
        for (const std::string& key : sample.keys) overrides.push_back("model." + key);
        ConvertOptions there;
        there.target = target;
        there.form = form;
        there.replace = true;
        convert(open_weights(in, overrides), path("there"), there);
        ConvertOptions back;
        back.target = Target::kTorch;
        back.type = type;  // a checkpoint holds bf16 as fp32
        back.replace = true;
        const bool tells_all = target != Target::kTorch;
        convert(open_weights(path("there"), tells_all ? std::vector<std::string>{} : overrides),
                path("back.pth"), back);
        Contents again = contents_of(*open_tensor_file(path("back.pth")));
        const Architecture& architecture = *find_architecture(sample.arch);
        Contents expected = original;
        if (target == Target::kFolder)  // a form may leave out what has no effect
          for (const std::string_view name : architecture.unused) {
            expected.erase(std::string(name));
            again.erase(std::string(name));
          }
        expect_same(expected, again);
        fs::remove_all(path("there"));
      }
    }
  }
}

// The form of flash-linear-attention, by formats.md 7.5 in plain loops.
TEST_F(Conversions, FlaFormOfFinchFollowsItsTable) {
  const Contents ours = sample_of(kSamples[0], Type::kF32);
  ConvertOptions options;
  options.target = Target::kFolder;
  options.form = "fla";
  convert(open_weights(write_pth("in.pth", ours)), path("fla"), options);
  const Contents theirs = contents_of(*open_tensor_file(path("fla/model.safetensors")));
  const auto values = [](const Contents& c, const std::string& name) {
    const auto& bytes = c.at(name).second;
    std::vector<float> v(bytes.size() / 4);
    std::memcpy(v.data(), bytes.data(), bytes.size());
    return v;
  };
  const std::string att = "blocks.1.att.", attn = "model.layers.1.attn.";
  constexpr size_t C = 32, m = 3, d = 5;
  const std::vector<std::string> our_groups = {"w", "k", "v", "r", "g"},
                                 their_groups = {"r", "w", "k", "v", "g"};
  const auto w1 = values(ours, att + "time_maa_w1"), w2 = values(ours, att + "time_maa_w2");
  const auto linear = values(theirs, attn + "x_proj.0.linear.weight"),
             second = values(theirs, attn + "x_proj.2.weight"), bias = values(theirs, attn + "x_bias");
  EXPECT_EQ(theirs.at(attn + "x_proj.0.linear.weight").first.shape, (Dims{5 * m, C}));
  EXPECT_EQ(theirs.at(attn + "x_proj.2.weight").first.shape, (Dims{C, 5 * m}));
  EXPECT_EQ(theirs.at(attn + "x_bias").first.shape, (Dims{5, C}));
  for (size_t g = 0; g < 5; ++g) {
    const size_t t =
        size_t(std::find(their_groups.begin(), their_groups.end(), our_groups[g]) - their_groups.begin());
    const auto maa = values(ours, att + "time_maa_" + our_groups[g]);
    for (size_t c = 0; c < C; ++c) {
      EXPECT_EQ(bias[t * C + c], maa[c]);
      for (size_t k = 0; k < m; ++k) {
        EXPECT_EQ(linear[(t * m + k) * C + c], w1[c * 5 * m + g * m + k]);
        EXPECT_EQ(second[c * 5 * m + t * m + k], w2[(g * m + k) * C + c]);
      }
    }
  }
  const auto decay1 = values(ours, att + "time_decay_w1"),
             lora0 = values(theirs, attn + "w_proj.linear.lora.0.weight");
  for (size_t c = 0; c < C; ++c)
    for (size_t k = 0; k < d; ++k) EXPECT_EQ(lora0[k * C + c], decay1[c * d + k]);
  EXPECT_EQ(values(theirs, attn + "r_proj.linear.weight"), values(ours, att + "receptance.weight"));
  EXPECT_EQ(values(theirs, attn + "bonus"), values(ours, att + "time_faaaa"));
  EXPECT_EQ(values(theirs, "model.layers.0.pre_norm.weight"), values(ours, "blocks.0.ln0.weight"));
  EXPECT_EQ(values(theirs, "model.layers.1.ffn.receptance.mu"), values(ours, "blocks.1.ffn.time_maa_r"));
  EXPECT_EQ(theirs.at("model.layers.1.ffn.receptance.mu").first.shape, Dims{C});
  EXPECT_EQ(values(theirs, "lm_head.weight"), values(ours, "head.weight"));
  const json config = json::parse(test::read_text(path("fla/config.json")));
  EXPECT_EQ(config["model_type"], "rwkv6");
  EXPECT_EQ(config["num_heads"], 4);
  EXPECT_EQ(config["proj_low_rank_dim"], m);
  EXPECT_EQ(config["gate_low_rank_dim"], d);
  EXPECT_EQ(config["torch_dtype"], "float32");
}

TEST_F(Conversions, VectorsMayHaveOneAxisOrThree) {
  Contents flat = sample_of(kSamples[0], Type::kF32);
  const Contents original = flat;
  for (auto& [name, content] : flat)
    if (content.first.shape.size() == 3 && content.first.shape[0] == 1)
      content.first.shape = {content.first.shape[2]};
  expect_same(contents_of(*open_model_file(write_pth("flat.pth", flat)).tensors), original);
}

TEST_F(Conversions, PrefixesOfWrappersAreTakenOffAndReported) {
  const Contents original = sample_of(kSamples[0], Type::kF32);
  Contents wrapped;
  for (const auto& [name, content] : original) {
    wrapped["_forward_module._orig_mod." + name] = content;
    wrapped["_forward_module._orig_mod." + name].first.name = "_forward_module._orig_mod." + name;
  }
  const ModelFile model = open_model_file(write_pth("wrapped.pth", wrapped));
  expect_same(contents_of(*model.tensors), original);
  ASSERT_EQ(model.notes.size(), 2u);
  EXPECT_NE(model.notes[0].find("'_forward_module.'"), std::string::npos) << model.notes[0];
}

TEST_F(Conversions, AllThatDoesNotFitIsListedWithTheNearestNames) {
  Contents c = sample_of(kSamples[0], Type::kF32);
  const auto rename = [&](const std::string& from, const std::string& to) {
    c[to] = c[from];
    c[to].first.name = to;
    c.erase(from);
  };
  rename("blocks.1.att.output.weight", "blocks.1.att.ouput.weight");
  c["blocks.1.ffn.value.weight"].first.shape = {96 * 32};
  c.erase("ln_out.bias");
  expect_error([&] { open_model_file(write_pth("in.pth", c)); }, ExitCode::kData, "WTS-09",
               {"4 tensors differ", "blocks.1.att.output.weight: missing, expected [32, 32]",
                "did you mean 'blocks.1.att.ouput.weight'?", "blocks.1.att.ouput.weight: unexpected",
                "blocks.1.ffn.value.weight: found [3072], expected [32, 96]", "ln_out.bias: missing"});
}

TEST_F(Conversions, WeightsAreFloatingPointNumbers) {
  Contents c = sample_of(kSamples[0], Type::kF32);
  c["ln_out.bias"].first.type = Type::kI32;
  expect_error([&] { open_model_file(write_pth("in.pth", c)); }, ExitCode::kData, "WTS-09",
               {"ln_out.bias: found I32"});
}

TEST_F(Conversions, OtherModelsAreToldByName) {
  const auto one = [&](const std::string& name) {
    Contents c;
    c[name] = {{name, Type::kF32, {1}}, std::vector<std::byte>(4)};
    return write_pth("one.pth", c);
  };
  const auto refused = [&](const std::string& name, const std::vector<std::string>& words) {
    expect_error([&] { open_model_file(one(name)); }, ExitCode::kData, "WTS-08", words);
  };
  refused("blocks.0.att.time_first", {"RWKV-4"});
  refused("blocks.0.att.time_state", {"state tuning"});
  refused("blocks.0.att.key.lora_A", {"LoRA"});
  refused("conv1.weight", {"no architecture that is known", "conv1.weight"});
  const fs::path sound = write_pth("in.pth", sample_of(kSamples[0], Type::kF32));
  expect_error([&] { open_model_file(sound, {"model.mix_rnk=3"}); }, ExitCode::kData, "WTS-08", {"mix_rank"});
  expect_error([&] { open_model_file(sound, {"optim.lr=3"}); }, ExitCode::kUsage, "WTS-08", {"model.KEY"});
  expect_error([&] { open_model_file(sound, {"model.vocab_size=18"}); }, ExitCode::kData, "WTS-09",
               {"emb.weight"});
}

TEST_F(Conversions, ConfigsThatMeanAnotherModelAreRefused) {
  ConvertOptions options;
  options.target = Target::kFolder;
  for (const char* form : {"hf", "fla"}) {
    options.form = form;
    convert(open_weights(write_pth("in.pth", sample_of(kSamples[0], Type::kF32))), path(form), options);
    const fs::path file = path(form) / "config.json";
    const json sound = json::parse(test::read_text(file));
    json bad = sound;
    bad["tie_word_embeddings"] = true;
    test::write_text(file, bad.dump());
    expect_error([&] { open_weights(path(form)); }, ExitCode::kData, "WTS-08",
                 {"config.json", "tie_word_embeddings"});
    for (const char* size : {"num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size"}) {
      bad = sound;
      bad[size] = 48;
      test::write_text(file, bad.dump());
      expect_error([&] { open_weights(path(form)); }, ExitCode::kData, "WTS-08", {"config.json", size, "48"});
    }
    bad = sound;
    bad.erase("model_type");
    test::write_text(file, bad.dump());
    expect_error([&] { open_weights(path(form)); }, ExitCode::kData, "WTS-08", {"config.json", "model_type"});
    // What is not known, or says nothing about the computation, goes on into a folder of the same form.
    bad = sound;
    bad["something_new"] = {1, 2};
    bad["eos_token_id"] = 5;
    bad["dtype"] = "bfloat16";
    bad["intermediate_size"] = nullptr;
    test::write_text(file, bad.dump());
    options.replace = true;
    convert(open_weights(path(form)), path("again"), options);
    const json again = json::parse(test::read_text(path("again") / "config.json"));
    EXPECT_EQ(again["something_new"], bad["something_new"]);
    EXPECT_EQ(again["eos_token_id"], 5);
    EXPECT_EQ(again["intermediate_size"], 96);
    EXPECT_FALSE(again.contains("dtype"));
    EXPECT_EQ(again["torch_dtype"], "float32");
  }
}

// Their norm behind the recurrence has another constant for other heads.
TEST_F(Conversions, FlaFormOfGooseHasHeadsOf64Alone) {
  const Sample other{"rwkv7", {"num_layers=1", "hidden_size=32", "head_size=8", "vocab_size=9"}};
  ConvertOptions options;
  options.target = Target::kFolder;
  const auto refused = [&] {
    convert(open_weights(write_pth("in.pth", sample_of(other, Type::kF32))), path("x"), options);
  };
  expect_error(refused, ExitCode::kData, "WTS-08", {"heads of 8", "64"});
  EXPECT_FALSE(fs::exists(path("x")));
}

TEST_F(Conversions, WhatNoShapeTellsIsReported) {
  const auto notes = [&](const std::string& arch, const std::vector<std::string>& overrides) {
    const Sample& sample = *std::ranges::find(kSamples, arch, &Sample::arch);
    std::string all;
    for (const std::string& note :
         open_model_file(write_pth("in.pth", sample_of(sample, Type::kF32)), overrides).notes)
      all += note;
    return all;
  };
  const auto expect_note = [](const std::string& note, const std::string& text) {
    EXPECT_NE(note.find(text), std::string::npos) << note;
  };
  expect_note(notes("llama_paper", {}), "taken are head_size 64, rope_theta 10000, rope_rescale 1;");
  expect_note(notes("llama_paper", {"model.head_size=32"}), "taken are rope_theta 10000, rope_rescale 1;");
  expect_note(notes("goldfinch", {}),
              "taken are use_v2 true, use_one_minus_w true, rope_theta 0, rope_rescale 1;");
  expect_note(notes("finch_c2", {"model.use_v2=true"}), "taken are use_one_minus_w true;");
  EXPECT_EQ(notes("rwkv7", {}), "");
}

TEST_F(Conversions, ATensorUnderTheNamesOfTwoFormsIsRefused) {
  ConvertOptions options;
  options.target = Target::kFolder;
  options.form = "hf";
  convert(open_weights(write_pth("in.pth", sample_of(kSamples[0], Type::kF32))), path("hf"), options);
  Contents both = contents_of(*open_tensor_file(path("hf/model.safetensors")));
  both["ln_out.bias"] = both["rwkv.ln_out.bias"];
  both["ln_out.bias"].first.name = "ln_out.bias";
  fs::remove(path("hf/model.safetensors"));
  write_all(*write_safetensors(path("hf/model.safetensors"), infos_of(both), {}), both);
  expect_error([&] { open_weights(path("hf")); }, ExitCode::kData, "WTS-09", {"ln_out.bias: twice"});
}

// What Llama's and Qwen2's configurations may hold, in both spellings, and what would be half understood.
TEST_F(Conversions, TransformerConfigsAreReadOrRefusedByKey) {
  const auto folder_of = [&](const std::string& arch) {
    const Sample& sample = *std::ranges::find(kSamples, arch, &Sample::arch);
    std::vector<std::string> overrides;
    for (const std::string& key : sample.keys) overrides.push_back("model." + key);
    ConvertOptions options;
    options.target = Target::kFolder;
    options.form = "hf";
    options.replace = true;
    convert(open_weights(write_pth("in.pth", sample_of(sample, Type::kF32)), overrides), path(arch), options);
    return path(arch) / "config.json";
  };
  const fs::path llama = folder_of("llama"), qwen = folder_of("qwen2");
  const auto with = [&](const fs::path& file, const json& changes) {
    json config = json::parse(test::read_text(file));
    const std::string kept = config.dump();
    config.merge_patch(changes);
    test::write_text(file, config.dump());
    std::map<std::string, std::string> keys;
    try {
      keys = model_keys(open_weights(file.parent_path()));
    } catch (const Error& e) {
      keys = {{"error", e.what()}, {"id", e.id()}};
    }
    test::write_text(file, kept);
    return keys;
  };
  auto keys = with(llama, json::object());
  EXPECT_EQ(keys["num_heads"] + keys["num_kv_heads"] + keys["head_size"] + keys["rope_theta"], "4285e+05");
  EXPECT_EQ(keys["rope_scaling.type"], "none");
  keys = with(
      llama, {{"rope_theta", nullptr}, {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e4}}}});
  EXPECT_EQ(keys["rope_theta"], "10000") << keys["error"];
  keys = with(llama, {{"rope_scaling",
                       {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 8192}}}});
  EXPECT_EQ(keys["rope_scaling.type"] + keys["rope_scaling.factor"], "llama38") << keys["error"];
  keys = with(llama, {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}});
  EXPECT_EQ(keys["rope_scaling.type"], "linear") << keys["error"];
  const auto refused = [&](const fs::path& file, const json& changes, const std::string& word) {
    auto found = with(file, changes);
    EXPECT_EQ(found["id"], "WTS-08") << changes;
    EXPECT_NE(found["error"].find(word), std::string::npos) << found["error"];
  };
  for (const fs::path& file : {llama, qwen}) {
    refused(file, {{"hidden_act", "gelu"}}, "hidden_act");
    refused(file, {{"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}}}}, "yarn");
    refused(file, {{"model_type", "mistral"}}, "mistral");
    refused(file, {{"model_type", "qwen2_moe"}}, "qwen2_moe");
    refused(file, {{"num_attention_heads", nullptr}}, "num_attention_heads");
    refused(file, {{"num_attention_heads", "4"}}, "num_attention_heads");
    refused(file, {{"mlp_bias", true}}, "mlp_bias");
    refused(file, {{"partial_rotary_factor", 0.5}}, "partial_rotary_factor");
    refused(file, {{"layer_types", {"full_attention", "sliding_attention"}}}, "sliding_attention");
  }
  refused(llama, {{"attention_bias", true}}, "attention_bias");
  refused(llama, {{"rope_scaling", {{"rope_type", "linear"}}}}, "factor is missing");
  refused(llama, {{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8}, {"low_freq_factor", 1}}}},
          "high_freq_factor is missing");
  refused(llama, {{"rope_scaling", {{"rope_type", "linear"}, {"factor", "8"}}}}, "factor is \"8\"");
  refused(qwen, {{"use_sliding_window", true}}, "use_sliding_window");
  refused(llama, {{"tie_word_embeddings", true}}, "lm_head.weight differs");
  EXPECT_EQ(with(llama, {{"num_key_value_heads", 4}})["id"], "WTS-09");
}

TEST_F(Conversions, ATiedHeadThatIsThereAllTheSameIsPassedOver) {
  const Sample& sample = *std::ranges::find_if(kSamples, [](const Sample& x) {
    return x.arch == "llama" && std::ranges::count(x.keys, "tie_embeddings=true") > 0;
  });
  Contents c = sample_of(sample, Type::kF32);
  c["lm_head.weight"] = c["model.embed_tokens.weight"];
  c["lm_head.weight"].first.name = "lm_head.weight";
  std::vector<std::string> overrides;
  for (const std::string& key : sample.keys) overrides.push_back("model." + key);
  const ModelFile model = open_model_file(write_pth("in.pth", c), overrides);
  ASSERT_EQ(model.notes.size(), 1u);
  EXPECT_NE(model.notes[0].find("passed over"), std::string::npos);
  for (const float other : {7.f, NAN}) {
    Contents different = c;
    std::memcpy(different["lm_head.weight"].second.data() + 40, &other, 4);
    expect_error([&] { open_model_file(write_pth("other.pth", different), overrides); }, ExitCode::kData,
                 "WTS-08", {"lm_head.weight differs"});
  }
  expect_error([&] { open_model_file(path("in.pth")); }, ExitCode::kData, "WTS-08", {"config.json"});
}

TEST_F(Conversions, NanOverflowAndOutputsThatAreThereAreRefused) {
  Contents c = sample_of(kSamples[0], Type::kF32);
  const fs::path sound = write_pth("in.pth", c);
  const float large = 70000, nan = NAN;
  std::memcpy(c["head.weight"].second.data() + 8, &large, 4);
  std::memcpy(c["ln_out.bias"].second.data(), &large, 4);
  const fs::path overflows = write_pth("large.pth", c);
  ConvertOptions options;
  options.target = Target::kTorch;
  options.type = Type::kF16;
  expect_error([&] { convert(open_weights(overflows), path("out.pth"), options); }, ExitCode::kData, "WTS-11",
               {"2 elements", "head.weight (1)", "ln_out.bias (1)", "--saturate"});
  EXPECT_FALSE(fs::exists(path("out.pth")));
  options.saturate = true;
  EXPECT_EQ(convert(open_weights(overflows), path("out.pth"), options).saturated, 2u);
  std::memcpy(c["head.weight"].second.data() + 8, &nan, 4);
  const fs::path with_nan = write_pth("nan.pth", c);
  for (const Target target : {Target::kCheckpoint, Target::kSafetensors}) {
    options = {};
    options.target = target;
    expect_error([&] { convert(open_weights(with_nan), path("nan"), options); }, ExitCode::kData, "WTS-10",
                 {"1 elements", "head.weight (1)"});
    EXPECT_FALSE(fs::exists(path("nan")));
  }
  options.allow_nan = true;
  EXPECT_EQ(convert(open_weights(with_nan), path("nan"), options).not_finite, 1u);

  options = {};
  options.target = Target::kTorch;
  const std::string before = test::read_text(path("out.pth"));
  expect_error([&] { convert(open_weights(sound), path("out.pth"), options); }, ExitCode::kCannotCreate,
               "WTS-12", {"out.pth", "--force"});
  EXPECT_EQ(test::read_text(path("out.pth")), before);
  options.replace = true;
  convert(open_weights(sound), path("out.pth"), options);
  EXPECT_NE(test::read_text(path("out.pth")), before);
  expect_error([&] { convert(open_weights(sound), sound, options); }, ExitCode::kCannotCreate, "WTS-12",
               {"is the input"});
  expect_error([&] { convert(open_weights(sound), dir_.path(), options); }, ExitCode::kCannotCreate, "WTS-12",
               {"holds it"});
  fs::create_directory(path("precious"));
  expect_error([&] { convert(open_weights(sound), path("precious"), options); }, ExitCode::kCannotCreate,
               "WTS-12", {"does not replace"});
}

TEST_F(Conversions, LargeFoldersAreCutIntoShardsWithAnIndex) {
  const Contents original = sample_of(kSamples[0], Type::kF32);
  ConvertOptions options;
  options.target = Target::kFolder;
  options.form = "hf";
  options.shard_bytes = 20'000;
  convert(open_weights(write_pth("in.pth", original)), path("hf"), options);
  const json index = json::parse(test::read_text(path("hf/model.safetensors.index.json")));
  uint64_t total = 0;
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(path("hf"))) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    const auto shard = open_tensor_file(entry.path());
    uint64_t bytes = 0;
    for (const TensorInfo& t : shard->tensors()) {
      bytes += t.bytes();
      EXPECT_EQ(index["weight_map"][t.name], entry.path().filename().string());
    }
    EXPECT_LE(bytes, 20'000u);
    total += bytes;
  }
  EXPECT_GT(files, 3u);
  EXPECT_EQ(index["metadata"]["total_size"], total);
  expect_same(contents_of(*open_weights(path("hf")).tensors), original);
}

// ---- through the program

class ConvertCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    runs_ = std::make_unique<test::TinyRuns>();
    const auto trained = runs_->train("run");
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  static void TearDownTestSuite() { runs_.reset(); }
  static std::string path(const std::string& name) { return runs_->path(name); }
  static test::ProgramResult convert(std::vector<std::string> more, const std::string& fault = "") {
    more.insert(more.begin(), {"ckpt", "convert"});
    more.insert(more.end(), {"--threads", "1"});
    return run_rookery(more, {{"ROOKERY_FAULT", fault}});
  }
  static json evaluated(const std::string& option, const std::string& weights) {
    const auto r = run_rookery({"eval", option, weights, "--text", path("tokens.txt"), "--vocab",
                                path("vocab.txt"), "--threads", "1", "--json"});
    EXPECT_EQ(r.code, 0) << r.err;
    return r.code == 0 ? json::parse(r.out)["results"] : json();
  }
  static std::vector<std::string> leftovers() {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(runs_->folder().path()))
      if (entry.path().extension() == ".tmp") found.push_back(entry.path().string());
    return found;
  }
  static std::unique_ptr<test::TinyRuns> runs_;
};
std::unique_ptr<test::TinyRuns> ConvertCommand::runs_;

TEST_F(ConvertCommand, EveryFormEvaluatesToTheSameFigures) {
  const json expected = evaluated("--run", path("run"));
  const std::vector<std::vector<std::string>> forms = {
      {"a.pth"}, {"a.safetensors"}, {"a-hf", "--to", "hf"}, {"a-fla", "--to", "fla"}, {"a-run"}};
  for (const auto& form : forms) {
    SCOPED_TRACE(form[0]);
    std::vector<std::string> words{path("run"), "--out", path(form[0])};
    words.insert(words.end(), form.begin() + 1, form.end());
    const auto done = convert(words);
    ASSERT_EQ(done.code, 0) << done.err;
    EXPECT_NE(done.out.find("logits equal"), std::string::npos) << done.out;
    EXPECT_EQ(evaluated(form[0] == "a-run" ? "--run" : "--weights", path(form[0])), expected);
  }
  EXPECT_EQ(test::slurp(path("a-hf/vocab.txt")), test::slurp(path("vocab.txt")));
  const auto narrow = convert({path("run"), "--out", path("b.pth"), "--dtype", "bf16"});
  EXPECT_EQ(narrow.code, 0) << narrow.err;
  EXPECT_NE(narrow.out.find("from the rounding"), std::string::npos) << narrow.out;
  // Training starts from a converted file as from a checkpoint.
  const auto train = runs_->train("again", {"init.from=" + path("a.pth"), "recipe.max_steps=3"});
  EXPECT_EQ(train.code, 0) << train.err;
  // Of a model of another width: not one value is taken over, whatever fits where.
  for (const char* change : {"model.hidden_size=16", "model.hidden_size=64"}) {
    const auto other = runs_->train("other", {"init.from=" + path("a.pth"), change});
    EXPECT_EQ(other.code, 65) << other.err;
    EXPECT_NE(other.err.find("emb.weight: found [257, 32], expected [257, "), std::string::npos) << other.err;
  }
  const auto deeper = runs_->train("other", {"init.from=" + path("a.pth"), "model.num_layers=2"});
  EXPECT_EQ(deeper.code, 65) << deeper.err;
  EXPECT_NE(deeper.err.find("blocks.1.att.key.weight: missing"), std::string::npos) << deeper.err;
  // There is nothing to go on with in a converted run.
  const auto resumed = runs_->train("a-run");
  EXPECT_EQ(resumed.code, 65) << resumed.err;
  EXPECT_NE(resumed.err.find("error[CKPT-121]"), std::string::npos) << resumed.err;
  EXPECT_NE(resumed.err.find("init.from="), std::string::npos) << resumed.err;
  const auto text = run_rookery({"generate", "--weights", path("a.pth"), "--vocab", path("vocab.txt"),
                                 "--max-tokens", "4", "--threads", "1"});
  EXPECT_EQ(text.code, 0) << text.err;
}

// The same shapes, but other angles of the positions.
TEST_F(ConvertCommand, WeightsThatWereMadeForOtherPositionsAreToldOf) {
  const std::vector<std::string> llama = {"model.arch=llama", "model.num_heads=2", "model.ffn_size=32",
                                          "recipe.max_steps=3"};
  const auto first = runs_->train("llama", llama);
  ASSERT_EQ(first.code, 0) << first.err;
  auto more = llama;
  more.insert(more.end(), {"model.rope_theta=500", "init.from=" + path("llama")});
  const auto second = runs_->train("llama-500", more);
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_NE(second.err.find("has model.rope_theta 10000, this run 500"), std::string::npos) << second.err;
}

TEST_F(ConvertCommand, MistakesHaveTheirExitCodes) {
  EXPECT_EQ(convert({path("absent"), "--out", path("x.pth")}).code, 66);
  EXPECT_EQ(convert({path("run"), "--out", path("x"), "--to", "hff"}).code, 64);
  EXPECT_EQ(convert({path("run"), "--out", path("x.pth"), "--dtype", "int8"}).code, 64);
  test::write_text(path("page.pth"), "<!DOCTYPE html>");
  const auto page = convert({path("page.pth"), "--out", path("x.pth")});
  EXPECT_EQ(page.code, 65);
  EXPECT_NE(page.err.find("error[WTS-01]"), std::string::npos) << page.err;
  EXPECT_EQ(convert({path("run"), "--out", path("x.pth"), "model.head_size=8"}).code, 64);
  EXPECT_EQ(run_rookery({"eval", "--text", "LICENSE"}).code, 64);
  EXPECT_EQ(run_rookery({"eval", "--run", path("run"), "--weights", path("run"), "--text", "LICENSE"}).code,
            64);
}

// A disk that fails and a process that is killed at any step: the old output stays whole, or the new one is.
TEST_F(ConvertCommand, NothingIsEverHalfWritten) {
  const std::string out = path("kept.pth");
  ASSERT_EQ(convert({path("run"), "--out", out, "--no-check"}).code, 0);
  const std::string before = test::slurp(out);
  for (const char* point : {"weights.file.open", "weights.file.write@3", "weights.file.fsync",
                            "weights.file.close", "weights.exchange"}) {
    SCOPED_TRACE(point);
    const auto full = convert({path("run"), "--out", out, "--force", "--dtype", "bf16", "--no-check"},
                              str(point, ":enospc"));
    EXPECT_EQ(full.code, 74) << full.err;
    EXPECT_TRUE(leftovers().empty());
    EXPECT_TRUE(test::slurp(out) == before);
    EXPECT_EQ(
        convert({path("run"), "--out", out, "--force", "--dtype", "bf16", "--no-check"}, str(point, ":kill"))
            .code,
        -1);
    EXPECT_TRUE(test::slurp(out) == before);
    for (const std::string& name : leftovers()) fs::remove_all(name);
  }
  for (const char* target : {"checkpoint", "hf"}) {
    const std::string folder = path(str("fresh-", target));
    EXPECT_EQ(
        convert({path("run"), "--out", folder, "--to", target, "--no-check"}, "weights.rename:kill").code,
        -1);
    EXPECT_FALSE(fs::exists(folder));
    for (const std::string& name : leftovers()) fs::remove_all(name);
    EXPECT_EQ(convert({path("run"), "--out", folder, "--to", target}).code, 0);
  }
}

}  // namespace
}  // namespace rookery::foreign
