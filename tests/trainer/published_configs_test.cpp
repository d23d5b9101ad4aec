// published_configs_test.cpp: every configuration of the project is valid, and
// those of published models have the parameters, batches, lengths and orders of
// the data that their sources tell. Only shapes are made.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "data/sampler/sampler.h"
#include "tests/support/program.h"
#include "trainer/loop/trainer.h"
#include "trainer/models/registry.h"
#include "trainer/plan/count.h"
#include "trainer/recipes/recipe.h"

namespace rookery {
namespace {

namespace fs = std::filesystem;

struct Published {
  const char* file;    // below configs/published, without .yaml
  int64_t parameters;  // as published; by the published formula where the run has no figure of its own
  int64_t tokens_per_step = 0, steps = 0, prime = 0;  // 0: none is published
};
const Published kPublished[] = {
    {"eagle/eagle-0.19b-minipile", 192'807'936, 8192, 0, 2926181},
    {"eagle/eagle-0.4b-world", 461'721'600, 786'432},
    {"eagle/eagle-1.5b-world", 1'577'754'624, 1'572'864},
    {"eagle/eagle-3b-world", 3'062'999'040, 786'432},
    {"eagle/eagle-7b-world", 7'518'044'160, 2'359'296},
    {"finch/finch-0.17b-pile", 173'517'312},
    {"finch/finch-0.2b-minipile", 196'955'136, 8192, 0, 2926181},
    {"finch/finch-1.6b-world", 1'599'873'024, 1'572'864},
    {"finch/finch-3b-world", 3'099'863'040, 786'432},
    {"finch/finch-7b-world", 7'635'746'816},
    {"finch/finch-14b-world", 14'069'088'256},
    {"goldfinch/1.5b-finch", 1'599'873'024, 262'144, 5715, 731531},
    {"goldfinch/1.5b-goldfinch", 1'445'257'216, 262'144, 5715, 731531},
    {"goldfinch/1.5b-goldfinch-1to1", 1'453'121'536, 262'144, 5715, 731531},
    {"goldfinch/1.5b-goldfinch-4096", 1'445'257'216, 524'288, 0, 365759},
    {"goldfinch/1.5b-llama", 1'473'454'080, 262'144, 5715, 731531},
    {"goldfinch/small-finch", 196'955'136, 65'536, 22861, 1463027},
    {"goldfinch/small-finch-c2", 191'056'896, 65'536, 22861, 1463027},
    {"goldfinch/small-finch-c2-gptalpha", 189'883'392, 65'536, 22861, 1463027},
    {"goldfinch/small-finch-c2-no-one-minus-w", 191'056'896, 65'536, 22861, 1463027},
    {"goldfinch/small-finch-c2-no-v2", 191'056'896, 65'536, 22861, 1463027},
    {"goldfinch/small-goldfinch", 186'617'856, 65'536, 22861, 1463027},
    {"goldfinch/small-goldfinch-6-blocks", 143'973'888, 32'768, 0, 2926181},
    {"goldfinch/small-goldfinch-half", 184'066'560, 65'536, 22861, 1463027},
    {"goldfinch/small-goldfinch-rope", 186'617'856, 65'536, 22861, 1463027},
    {"goldfinch/small-goldfinch-sixth", 189'169'152, 65'536, 22861, 1463027},
    {"goldfinch/small-gptalpha-rope", 187'536'384, 65'536, 22861, 1463027},
    {"goldfinch/small-llama", 185'637'888, 65'536, 22861, 1463027},
    {"goose/goose-0.17b-pile", 167'638'272, 983'040, 0, 81082817},
    {"goose/goose-0.19b-minipile", 191'034'624, 8192, 0, 2926181},
    {"goose/goose-0.1b-world", 191'034'624},
    {"goose/goose-0.42b-pile", 421'080'064},
    {"goose/goose-0.4b-world", 450'767'872},
    {"goose/goose-1.47b-pile", 1'465'014'272},
    {"goose/goose-1.5b-world", 1'527'404'544},
    {"goose/goose-2.9b-world", 2'947'735'040},
    {"goose/goose-7.2b-g1", 7'199'141'888},
    {"goose/goose-13.3b-g1", 13'269'245'952},
    {"llama/llama-2-7b", 6'738'415'616},
    {"llama/llama-3-8b", 8'030'261'248},
    {"llama/llama-3.2-1b", 1'235'814'400},
    {"llama/llama-3.2-3b", 3'212'749'824},
    {"qwen2.5/qwen2.5-0.5b", 494'032'768},
    {"qwen2.5/qwen2.5-1.5b", 1'543'714'304},
    {"qwen2.5/qwen2.5-3b", 3'085'938'688},
    {"qwen2.5/qwen2.5-7b", 7'615'616'512},
    {"qwen2.5/qwen2.5-14b", 14'770'033'664},
    {"qwen2.5/qwen2.5-32b", 32'763'876'352},
    {"qwen2.5/qwen2.5-72b", 72'706'203'648},
};

std::string path_of(const Published& p) { return str("configs/published/", p.file, ".yaml"); }

std::set<std::string> yaml_files(const fs::path& folder) {
  std::set<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().extension() == ".yaml") files.insert(entry.path().generic_string());
  return files;
}

// As `rookery config check`.
config::LoadedRun load(const std::string& file, const std::vector<std::string>& overrides = {}) {
  static const bool registered = (register_models(), register_recipes(), true);
  EXPECT_TRUE(registered);
  return config::load_run({file}, overrides);
}

// "1,234,567"
std::string grouped(int64_t number) {
  std::string text = std::to_string(number);
  for (int64_t i = static_cast<int64_t>(text.size()) - 3; i > 0; i -= 3) text.insert(i, ",");
  return text;
}

TEST(Configs, AllAreValidAndUseAllParts) {
  const std::set<std::string> parts = yaml_files("configs/parts");
  std::set<std::string> unused = parts;
  std::map<std::string, std::string> names;
  for (const std::string& file : yaml_files("configs")) {
    if (parts.contains(file)) continue;
    SCOPED_TRACE(file);
    try {
      const config::LoadedRun run = load(file);
      for (const fs::path& read : run.files) unused.erase(read.lexically_normal().generic_string());
      const auto [other, is_new] = names.emplace(run.config.run_dir, file);
      EXPECT_TRUE(is_new) << "writes to the same folder as " << other->second;
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
  for (const std::string& file : unused) ADD_FAILURE() << file << " is included nowhere";
}

TEST(PublishedConfigs, AllAreInTheTable) {
  std::set<std::string> listed;
  for (const Published& p : kPublished) listed.insert(path_of(p));
  EXPECT_EQ(yaml_files("configs/published"), listed);
}

TEST(PublishedConfigs, SizesBatchesAndDataArePublishedOnes) {
  for (const Published& p : kPublished) {
    SCOPED_TRACE(p.file);
    const config::RunConfig c = load(path_of(p)).config;
    EXPECT_EQ(plan::num_parameters(*make_model(*c.model)), p.parameters);
    if (p.tokens_per_step) {
      EXPECT_EQ(c.tokens_per_step(), p.tokens_per_step);
    }
    if (p.steps) {
      EXPECT_EQ(c.total_steps(), p.steps);
    }
    if (p.prime) {
      EXPECT_EQ(data::magic::prime_for(c.recipe->max_tokens.value(), c.data.seq_len), p.prime);
    }
    EXPECT_EQ(c.data.sampling == "magic_prime", c.recipe->max_tokens.has_value());
    if (c.data.sampling == "magic_prime") data::magic::check_global_batch(c.recipe->global_batch_size);
  }
}

// The head of each file names its source and what to expect, and
// docs/published.md has a row for it.
TEST(PublishedConfigs, TellTheirFigures) {
  const std::string page = test::slurp("docs/published.md");
  for (const Published& p : kPublished) {
    SCOPED_TRACE(p.file);
    const std::string text = test::slurp(path_of(p)), head = text.substr(0, text.find("\ninclude:"));
    EXPECT_NE(head.find("\n# Source: "), std::string::npos);
    EXPECT_NE(head.find(str("\n# Expected: ", grouped(p.parameters), " parameters")), std::string::npos);
    EXPECT_NE(page.find(str("| `", p.file, "` | ", grouped(p.parameters), " |")), std::string::npos);
  }
}

// Parameters in matrix products and operations per token and training step, by
// the table of gpu-step 1: 24 blocks of 2048 channels, 65536 tokens.
TEST(PublishedConfigs, TrainingFlopsPerToken) {
  struct Expected {
    const char* file;
    std::vector<std::string> overrides;
    double parameters, flops;  // 1e9, to the digits that the table has; 0: not told
  };
  const std::vector<Expected> table = {
      {"eagle/eagle-1.5b-world", {}, 1.44, 0},
      {"finch/finch-1.6b-world", {}, 1.465, 8.86},
      // The table gives the first block a value residual, 2 x 2048 x 64, which it does not have.
      {"goose/goose-1.5b-world", {}, 1.393 - 262144e-9, 8.44},
      {"llama/llama-2-7b",
       {"model.num_layers=24", "model.hidden_size=2048", "model.num_heads=16", "model.num_kv_heads=16",
        "model.head_size=128", "model.ffn_size=5504", "model.vocab_size=65536", "data.seq_len=4096"},
       1.348,
       9.30}};
  for (const Expected& e : table) {
    SCOPED_TRACE(e.file);
    config::RunConfig config = load(str("configs/published/", e.file, ".yaml"), e.overrides).config;
    const int64_t T = config.data.seq_len;
    const loop::Session session = loop::make_session(std::move(config), DeviceType::kMeta);
    const double flops = loop::train_flops_per_token(*session.model, T),
                 mixer = 3 * session.model->mixer_flops_per_token(T);
    EXPECT_NEAR((flops - mixer) / 6e9, e.parameters, e.flops > 0 ? 5e-4 : 5e-3);
    if (e.flops > 0) {
      EXPECT_NEAR(flops / 1e9, e.flops, 5e-3);
    }
  }
}

// The learning rates that the trainer of the acceptance run printed at the ends
// of its mini-epochs.
TEST(PublishedConfigs, RatesOfTheAcceptanceRun) {
  const Schedule schedule =
      loop::make_schedule(load("configs/published/goose/goose-0.19b-minipile.yaml").config);
  const double printed[] = {0.00059975, 0.00059899, 0.00059773, 0.00059597, 0.00059371, 0.00059096,
                            0.00058771, 0.00058399, 0.00057978, 0.00057511, 0.00056999, 0.00056441};
  for (int64_t k = 0; k < std::ssize(printed); ++k)
    EXPECT_NEAR(schedule.at(2520 * (k + 1) - 1), printed[k], 0.501e-8) << "mini-epoch " << k;
}

}  // namespace
}  // namespace rookery
