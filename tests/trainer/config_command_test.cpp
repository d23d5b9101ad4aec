// config_command_test.cpp: `rookery config` inside this process, with an architecture of the test's own.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/program.h"
#include "trainer/cli/commands.h"
#include "trainer/config/run_config.h"
#include "trainer/recipes/recipe.h"

namespace rookery::cli {
namespace {

struct ToyConfig : config::ModelConfig {
  int64_t num_layers = 2;
  std::string arch() const override { return "toy"; }
  void fields(config::Visitor& v) override { v("num_layers", num_layers, "blocks").between(1, 100); }
};

class ConfigCommand : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    config::register_model_config("toy", [] { return std::make_unique<ToyConfig>(); });
    register_recipes();
  }

  std::string good() const {
    return test::put(dir_, "good.yaml",
                     "model: {arch: toy}\ndata: {sources: [{path: a.h5}], tokenizer: v.txt}\nrecipe: "
                     "{max_steps: 100}\n")
        .string();
  }

  // Runs the command line in this process.
  test::ProgramResult run(std::vector<std::string> words) {
    test::ProgramResult r;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    r.code = run_program(rookery_command(), words);
    r.out = testing::internal::GetCapturedStdout();
    r.err = testing::internal::GetCapturedStderr();
    return r;
  }

  test::TempDir dir_;
};

TEST_F(ConfigCommand, ShowPrintsWhatReadsBackToTheSame) {
  test::ProgramResult r =
      run({"config", "show", good(), "optim.lr=1e-3", "--optim.beta1", "0.5", "--seed=7"});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("  lr: 0.001\n"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("  beta1: 0.5\n"), std::string::npos);
  EXPECT_NE(r.out.find("seed: 7\n"), std::string::npos);
  EXPECT_NE(r.out.find("run_dir: runs/good\n"), std::string::npos);
  std::string resolved = test::put(dir_, "resolved.yaml", r.out).string();
  EXPECT_EQ(run({"config", "show", resolved}).out, r.out);
  EXPECT_EQ(run({"config", "show", "-c", resolved}).out, r.out);
}

TEST_F(ConfigCommand, PathsThatCannotBeLookedInto) {
  const std::string endless(300, 'a');
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"config", "check", endless}, {"ckpt", "verify", endless}}) {
    const test::ProgramResult r = run(words);
    EXPECT_EQ(r.code, int(ExitCode::kNoInput)) << r.err;
    EXPECT_NE(r.err.find("too long"), std::string::npos) << r.err;
    EXPECT_NE(r.err.find(endless), std::string::npos) << r.err;
  }
}

TEST_F(ConfigCommand, AFileInTheHomeFolderIsNoDeletion) {
  const test::ProgramResult r = run({"config", "check", "~/no-such-file.yaml"});
  EXPECT_EQ(r.code, int(ExitCode::kNoInput));
  EXPECT_NE(r.err.find("no-such-file.yaml"), std::string::npos) << r.err;
}

TEST_F(ConfigCommand, ShowTellsOrigins) {
  test::ProgramResult r = run({"config", "show", good(), "optim.lr=1e-3", "--origin"});
  EXPECT_NE(r.out.find("good.yaml:3:10"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("# command line"), std::string::npos);
  EXPECT_NE(r.out.find("# default"), std::string::npos);
}

TEST_F(ConfigCommand, CheckShowsTheArithmetic) {
  test::ProgramResult r = run({"config", "check", good(), "recipe.global_batch_size=32", "--world", "2"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out,
            "good: 100 steps of 32 x 512 = 16384 tokens, 1638400 in all; micro_batch_size 8 x 2 accumulation "
            "steps x 2 ranks\n");
}

TEST_F(ConfigCommand, ExitCodesByKindOfMistake) {
  EXPECT_EQ(run({"config", "check", good(), "optim.lr=-1"}).code, 78);
  EXPECT_EQ(run({"config", "check", good(), "optim.lrr=1"}).code, 64);
  EXPECT_EQ(run({"config", "check", good(), "--world", "3"}).code, 78);
  EXPECT_EQ(run({"config", "check", good(), "--world", "0"}).code, 64);
  EXPECT_EQ(run({"config", "check", "nowhere.yaml"}).code, 66);
  EXPECT_EQ(run({"config", "check"}).code, 64);
  EXPECT_EQ(run({"config", "diff", good()}).code, 64);
}

TEST_F(ConfigCommand, ErrorsCannotSteerTheTerminal) {
  test::ProgramResult r = run({"config", "check", "no\033[2Jwhere.yaml"});
  EXPECT_EQ(r.code, 66);
  EXPECT_EQ(r.err.find('\033'), std::string::npos);
  EXPECT_NE(r.err.find("no\\x1b[2Jwhere.yaml"), std::string::npos);
}

TEST_F(ConfigCommand, DiffNamesTheKeysAndTheirMeaning) {
  std::string other =
      test::put(dir_, "good2.yaml", "include: good.yaml\nmodel: {num_layers: 3}\noptim: {lr: 1e-3}\n")
          .string();
  good();
  test::ProgramResult r = run({"config", "diff", good(), other});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out,
            "model.num_layers: 2 -> 3   (another run: a resume stops)\n"
            "optim.lr: 6e-04 -> 0.001\n"
            "name: good -> good2   (where and how often things are written)\n"
            "run_dir: runs/good -> runs/good2   (where and how often things are written)\n");
  EXPECT_EQ(run({"config", "diff", good(), good()}).out, "");
}

// The real architecture: a channel mixing that would come out without channels.
TEST_F(ConfigCommand, SizesThatLeaveNothingAreRefused) {
  const std::string tiny =
      test::put(dir_, "tiny.yaml",
                "model: {arch: rwkv6, hidden_size: 8, head_size: 8, vocab_size: 300}\n"
                "data: {sources: [{path: a.h5}], tokenizer: v.txt}\nrecipe: {max_steps: 100}\n")
          .string();
  const auto refused = test::run_rookery({"config", "check", tiny});
  EXPECT_EQ(refused.code, 78);
  EXPECT_NE(refused.err.find("model.ffn_size"), std::string::npos) << refused.err;
  EXPECT_EQ(test::run_rookery({"config", "check", tiny, "model.ffn_size=16"}).code, 0);
  const auto threads = test::run_rookery({"config", "check", tiny, "model.ffn_size=16", "threads=257"});
  EXPECT_EQ(threads.code, 78);
  EXPECT_NE(threads.err.find("at most 256"), std::string::npos) << threads.err;
}

TEST_F(ConfigCommand, SchemaIsJsonAndTheReferenceHoldsTheModel) {
  auto schema = nlohmann::json::parse(run({"config", "schema"}).out);
  EXPECT_EQ(schema["properties"]["model"]["anyOf"][0]["properties"]["arch"]["const"], "toy");
  EXPECT_NE(run({"config", "reference"}).out.find("`model` with `arch: toy`"), std::string::npos);
}

}  // namespace
}  // namespace rookery::cli
