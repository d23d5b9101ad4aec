// plan_test.cpp: parameter counts of every published model to the last digit, sizes of caches by running and
// by formula, and `rookery plan`.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "parallel/shard/param_store.h"
#include "tests/support/program.h"
#include "trainer/models/registry.h"
#include "trainer/plan/cache.h"
#include "trainer/plan/count.h"
#include "trainer/recipes/recipe.h"

namespace rookery::test {
namespace {

// keys: "num_layers: 24, hidden_size: 2048".
std::unique_ptr<Model> model_of(const std::string& arch, const std::string& keys) {
  static const bool registered = (register_models(), register_recipes(), true);
  EXPECT_TRUE(registered);
  const config::RunConfig config = config::parse_run(
      "model: {arch: " + arch + ", " + keys + "}\n" +
          "data: {tokenizer: v.txt, sources: [{path: a.h5}]}\nrecipe: {kind: pretrain, max_steps: 1}\n",
      "test");
  return make_model(*config.model);
}

struct Published {
  const char *arch, *keys;
  int64_t parameters;
};
// Tables of the papers and of the published weights (recipes 2 to 6, llama-baseline 1 to 3).
const Published kPublished[] = {
    {"rwkv5", "num_layers: 24, hidden_size: 1024, vocab_size: 65536", 461'721'600},
    {"rwkv5", "num_layers: 24, hidden_size: 2048, vocab_size: 65536", 1'577'754'624},
    {"rwkv5", "num_layers: 32, hidden_size: 2560, vocab_size: 65536", 3'062'999'040},
    {"rwkv5", "num_layers: 32, hidden_size: 4096, vocab_size: 65536", 7'518'044'160},
    {"rwkv5", "num_layers: 12, hidden_size: 768, vocab_size: 65536", 192'807'936},
    {"rwkv6", "num_layers: 24, hidden_size: 2048, vocab_size: 65536", 1'599'873'024},
    {"rwkv6", "num_layers: 32, hidden_size: 2560, vocab_size: 65536", 3'099'863'040},
    {"rwkv6", "num_layers: 32, hidden_size: 4096, vocab_size: 65536", 7'635'746'816},
    {"rwkv6", "num_layers: 61, hidden_size: 4096, vocab_size: 65536", 14'069'088'256},
    {"rwkv6", "num_layers: 12, hidden_size: 768, vocab_size: 65536", 196'955'136},
    {"rwkv6", "num_layers: 24, hidden_size: 1024, vocab_size: 65536", 472'780'800},
    {"finch_c2", "num_layers: 24, hidden_size: 2048, vocab_size: 65536", 1'505'501'184},
    {"finch_c2", "num_layers: 12, hidden_size: 768, vocab_size: 65536", 191'056'896},
    {"finch_c2", "num_layers: 12, hidden_size: 768, vocab_size: 65536, use_v2: false", 191'056'896},
    {"finch_c2", "num_layers: 12, hidden_size: 768, vocab_size: 65536, use_one_minus_w: false", 191'056'896},
    {"goldfinch", "num_layers: 24, hidden_size: 2048, vocab_size: 65536", 1'445'257'216},
    {"goldfinch", "num_layers: 24, hidden_size: 2048, vocab_size: 65536, inv_other_layer_ratio: 2",
     1'412'775'936},
    {"goldfinch", "num_layers: 24, hidden_size: 2048, vocab_size: 65536, inv_other_layer_ratio: 6",
     1'477'738'496},
    {"goldfinch", "num_layers: 24, hidden_size: 2048, vocab_size: 65536, kv_cache_compression_ratio: 1",
     1'453'121'536},
    {"goldfinch", "num_layers: 12, hidden_size: 768, vocab_size: 65536", 186'617'856},
    {"goldfinch", "num_layers: 12, hidden_size: 768, vocab_size: 65536, rope_theta: 10000", 186'617'856},
    {"goldfinch", "num_layers: 12, hidden_size: 768, vocab_size: 65536, inv_other_layer_ratio: 2",
     184'066'560},
    {"goldfinch", "num_layers: 12, hidden_size: 768, vocab_size: 65536, inv_other_layer_ratio: 6",
     189'169'152},
    {"goldfinch", "num_layers: 12, hidden_size: 768, vocab_size: 65536, upper_blocks: gptalpha", 189'883'392},
    {"goldfinch",
     "num_layers: 12, hidden_size: 768, vocab_size: 65536, upper_blocks: gptalpha, inv_other_layer_ratio: 1",
     187'536'384},
    {"rwkv7", "num_layers: 12, hidden_size: 768, vocab_size: 65536", 191'034'624},
    {"rwkv7", "num_layers: 24, hidden_size: 1024, vocab_size: 65536, rank_rule: A, gate_rank: 128",
     450'767'872},
    {"rwkv7", "num_layers: 24, hidden_size: 2048, vocab_size: 65536, rank_rule: A", 1'527'404'544},
    {"rwkv7", "num_layers: 32, hidden_size: 2560, vocab_size: 65536, rank_rule: A", 2'947'735'040},
    {"rwkv7", "num_layers: 32, hidden_size: 4096, vocab_size: 65536, rank_rule: A", 7'199'141'888},
    {"rwkv7",
     "num_layers: 61, hidden_size: 4096, vocab_size: 65536, decay_rank: 192, iclr_rank: 192, value_rank: "
     "128, "
     "gate_rank: 384",
     13'269'245'952},
    {"rwkv7", "num_layers: 12, hidden_size: 768, vocab_size: 50304", 167'638'272},
    {"rwkv7",
     "num_layers: 24, hidden_size: 1024, vocab_size: 50304, rank_rule: A, value_rank: 64, gate_rank: 128",
     421'080'064},
    {"rwkv7", "num_layers: 24, hidden_size: 2048, vocab_size: 50304, rank_rule: A", 1'465'014'272},
    {"llama_paper", "num_layers: 24, hidden_size: 2048, vocab_size: 65536", 1'473'454'080},
    {"llama_paper", "num_layers: 12, hidden_size: 768, vocab_size: 65536", 185'637'888},
    {"llama", "num_layers: 32, hidden_size: 4096, num_heads: 32, ffn_size: 11008, vocab_size: 32000",
     6'738'415'616},
    {"llama",
     "num_layers: 32, hidden_size: 4096, num_heads: 32, num_kv_heads: 8, ffn_size: 14336, vocab_size: 128256",
     8'030'261'248},
    {"llama",
     "num_layers: 16, hidden_size: 2048, num_heads: 32, num_kv_heads: 8, ffn_size: 8192, vocab_size: 128256, "
     "tie_embeddings: true",
     1'235'814'400},
    {"llama",
     "num_layers: 28, hidden_size: 3072, num_heads: 24, num_kv_heads: 8, ffn_size: 8192, vocab_size: 128256, "
     "tie_embeddings: true",
     3'212'749'824},
    {"qwen2",
     "num_layers: 24, hidden_size: 896, num_heads: 14, num_kv_heads: 2, ffn_size: 4864, vocab_size: 151936",
     494'032'768},
    {"qwen2",
     "num_layers: 28, hidden_size: 1536, num_heads: 12, num_kv_heads: 2, ffn_size: 8960, vocab_size: 151936",
     1'543'714'304},
    {"qwen2",
     "num_layers: 36, hidden_size: 2048, num_heads: 16, num_kv_heads: 2, ffn_size: 11008, vocab_size: 151936",
     3'085'938'688},
    {"qwen2",
     "num_layers: 28, hidden_size: 3584, num_heads: 28, num_kv_heads: 4, ffn_size: 18944, vocab_size: "
     "152064, "
     "tie_embeddings: false",
     7'615'616'512},
    {"qwen2",
     "num_layers: 48, hidden_size: 5120, num_heads: 40, num_kv_heads: 8, ffn_size: 13824, vocab_size: "
     "152064, "
     "tie_embeddings: false",
     14'770'033'664},
    {"qwen2",
     "num_layers: 64, hidden_size: 5120, num_heads: 40, num_kv_heads: 8, ffn_size: 27648, vocab_size: "
     "152064, "
     "tie_embeddings: false",
     32'763'876'352},
    {"qwen2",
     "num_layers: 80, hidden_size: 8192, num_heads: 64, num_kv_heads: 8, ffn_size: 29568, vocab_size: "
     "152064, "
     "tie_embeddings: false",
     72'706'203'648},
};

TEST(Plan, CountsEqualThePublishedOnes) {
  for (const Published& p : kPublished)
    EXPECT_EQ(plan::num_parameters(*model_of(p.arch, p.keys)), p.parameters) << p.arch << " " << p.keys;
}

TEST(Plan, RatiosOfThePaper) {
  auto ratio = [](int64_t L, int64_t D, int64_t id_bytes) {
    return plan::transformer_entries(L, D) / plan::goldfinch_entries(D, id_bytes);
  };
  EXPECT_NEAR(ratio(24, 2048, 4), 756.18, 0.005);
  EXPECT_NEAR(ratio(80, 8192, 4), 2550.04, 0.005);
  EXPECT_NEAR(ratio(24, 2048, 2), 762.05, 0.005);
  EXPECT_NEAR(ratio(80, 8192, 2), 2555.01, 0.005);
}

// The recomputed column of goldfinch 10, in GiB of 2-byte entries.
TEST(Plan, TableOfThePaper) {
  const double expected[] = {128, 16, 9, 18.29, 2.29, 4, 0.125};
  const auto table = plan::paper_table();
  ASSERT_EQ(table.size(), std::size(expected));
  for (size_t i = 0; i < table.size(); ++i)
    EXPECT_NEAR(table[i].entries * 2 * static_cast<double>(plan::kPaperTokens) / (1 << 30), expected[i],
                0.005 + 0.001 * expected[i])
        << table[i].architecture;
}

// Memory that fp32 generation really takes is what the meta device tells, and what the formulas say.
TEST(Plan, CachesInMemory) {
  struct Case {
    const char *arch, *keys;
    int64_t per_token;  // bytes
  };
  for (const Case& c : {
           Case{"rwkv6", "num_layers: 2, hidden_size: 64, vocab_size: 40", 0},
           Case{"finch_c2", "num_layers: 2, hidden_size: 64, vocab_size: 40", 0},
           Case{"goldfinch", "num_layers: 3, hidden_size: 64, vocab_size: 40", 4 * (64 / 16) + 4},
           Case{"goldfinch", "num_layers: 3, hidden_size: 64, vocab_size: 40, kv_cache_compression_ratio: 1",
                4 * 64 + 4},
           Case{"goldfinch", "num_layers: 3, hidden_size: 64, vocab_size: 40, upper_blocks: gptalpha",
                4 * 2 * 64},
       }) {
    SCOPED_TRACE(str(c.arch, " ", c.keys));
    const auto on_cpu = model_of(c.arch, c.keys), on_meta = model_of(c.arch, c.keys);
    Device cpu(DeviceType::kCpu, 1), meta(DeviceType::kMeta, 1);
    const ParamStore cpu_store(on_cpu->parameters.all(), DType::kF32, cpu);
    const ParamStore meta_store(on_meta->parameters.all(), DType::kF32, meta);
    const auto few = plan::measure_cache(*on_cpu, cpu, 100), many = plan::measure_cache(*on_cpu, cpu, 350);
    EXPECT_EQ(many.used - few.used, 250 * c.per_token);
    EXPECT_EQ(plan::measure_cache(*on_meta, meta, 350).used, many.used);
    EXPECT_GE(many.taken, many.used);
    EXPECT_LE(many.taken, 2 * many.used + (1 << 16));  // room to grow, blocks rounded up
    EXPECT_EQ(cpu.arena().persistent_bytes(), cpu_store.masters().bytes() + cpu_store.grads().bytes());
  }
}

TEST(Plan, Command) {
  const std::string file = "configs/small/goldfinch-quickstart.yaml";
  const auto counted = run_rookery(
      {"plan", "--json", file, "model.num_layers=24", "model.hidden_size=2048", "model.vocab_size=65536"});
  ASSERT_EQ(counted.code, 0) << counted.err;
  const auto run = nlohmann::json::parse(counted.out)["runs"][0];
  EXPECT_EQ(run["parameters"], 1'445'257'216);
  EXPECT_EQ(run["modules"]["emb"], 65536 * 2048);

  const auto cached = run_rookery(
      {"plan", "--cache", "--json", file, "--tokens", "1Ki", "--tokens", "64Ki", "--tokens", "1Gi"});
  ASSERT_EQ(cached.code, 0) << cached.err;
  const auto all = nlohmann::json::parse(cached.out);
  const auto& cache = all["runs"][0];
  EXPECT_EQ(cache["bytes_per_token"], 4 * (128 / 16) + 4);
  EXPECT_EQ(cache["lengths"][1]["bytes"].get<int64_t>() - cache["lengths"][0]["bytes"].get<int64_t>(),
            (64 - 1) * 1024 * 36);
  EXPECT_EQ(cache["lengths"][2]["bytes"].get<int64_t>() - cache["lengths"][0]["bytes"].get<int64_t>(),
            ((int64_t{1} << 30) - 1024) * 36);
  EXPECT_EQ(cache["measured"]["used_bytes"], cache["lengths"][0]["bytes"]);
  EXPECT_NEAR(all["paper"]["ratios"][0]["ratio"].get<double>(), 756.18, 0.005);

  EXPECT_EQ(run_rookery({"plan"}).code, 64);
  EXPECT_EQ(run_rookery({"plan", "--cache", file, "--tokens", "0"}).code, 64);
  const auto readable = run_rookery({"plan", "--cache", file});
  EXPECT_NE(readable.out.find("2550.04"), std::string::npos) << readable.out;
}

// Of another block only its input stays with `block`; the FLOPs are those of a second forward pass.
TEST(Plan, StepByRecompute) {
  std::vector cases = {std::tuple("cpu", "fp32", 4), {"cpu", "fp64", 8}, {"cuda", "bf16", 2}};
#ifdef ROOKERY_HAVE_EMUL
  cases.push_back({"emul", "bf16", 2});
#endif
  for (const char* model : {"goose-1m", "finch-10m", "llama-quickstart"}) {
    SCOPED_TRACE(model);
    for (const auto& [device, precision, bytes] : cases) {
      const auto planned = run_rookery({"plan", "--step", "--json", str("configs/small/", model, ".yaml"),
                                        str("device=", device), str("precision=", precision),
                                        "data.seq_len=128", "recipe.micro_batch_size=4"});
      ASSERT_EQ(planned.code, 0) << planned.err;
      const auto run = nlohmann::json::parse(planned.out)["runs"][0];
      const auto &none = run["recompute"][0], &selective = run["recompute"][1], &block = run["recompute"][2];
      EXPECT_EQ(run["device"], device);
      const double D = run["hidden_size"].get<double>();
      EXPECT_EQ(block["bytes_per_block_and_token"].get<double>(), bytes * D);
      for (const char* key : {"bytes", "bytes_at_once", "bytes_per_block_and_token"}) {
        EXPECT_LT(block[key], selective[key]) << key;
        EXPECT_LT(selective[key], none[key]) << key;
      }
      const double trained = none["flops_per_token"].get<double>();
      const double head = run["head_elements"].get<double>();
      EXPECT_EQ(selective["flops_per_token"], trained);
      EXPECT_NEAR(block["flops_per_token"].get<double>(), trained + (trained - 6 * head) / 3, 1e-9 * trained);
    }
  }
  const auto readable = run_rookery({"plan", "--step", "configs/small/goose-1m.yaml"});
  EXPECT_NE(readable.out.find("selective"), std::string::npos) << readable.out << readable.err;
}

}  // namespace
}  // namespace rookery::test
