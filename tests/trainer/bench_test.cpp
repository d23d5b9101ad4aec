// bench_test.cpp: `rookery bench` at small sizes: every operation appears with its floor, every kernel of the
// GPU is run by one of them, predictions stand in the documentation, and mistakes are refused by name.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <set>

#include "tests/support/program.h"

namespace rookery::test {
namespace {

std::vector<std::string> small(std::vector<std::string> more) {
  std::vector<std::string> words = {
      "bench", "op", "--batch", "1",  "--seq-len", "8", "--hidden", "32", "--head-size", "16",
      "--ffn", "48", "--vocab", "64", "--rank",    "4", "--repeat", "3",  "--threads",   "1"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(BenchOp, EveryPassHasTimeAndFloor) {
  const ProgramResult result = run_rookery(small({"--json"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  for (const char* rate : {"copy_bytes_per_s", "product_flops_per_s", "multiply_adds_per_s"})
    EXPECT_GT(json["rates"][rate].get<double>(), 0) << rate;
  std::set<std::string> seen;
  for (const auto& pass : json["passes"]) {
    seen.insert(pass["op"].get<std::string>() + " " + pass["pass"].get<std::string>());
    const double seconds = pass["seconds"], floor = pass["floor_seconds"];
    EXPECT_GT(seconds, 0);
    EXPECT_GT(floor, 0);
    EXPECT_NEAR(pass["ratio"].get<double>(), seconds / floor, 1e-9 * seconds / floor);
    EXPECT_LE(pass["min_seconds"].get<double>(), seconds);
  }
  for (const char* expected :
       {"wkv6 forward", "wkv6 backward", "wkv5 forward", "wkv5 backward", "linear backward",
        "cross_entropy forward", "ddlerp backward", "embedding backward", "adamw forward"})
    EXPECT_TRUE(seen.count(expected)) << expected;
  EXPECT_EQ(json["sizes"]["H"], 2);
}

TEST(BenchOp, NamesChoose) {
  const ProgramResult result = run_rookery(small({"tanh", "add"}));
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(result.out.find("tanh"), std::string::npos) << result.out;
  EXPECT_EQ(result.out.find("linear"), std::string::npos) << result.out;
}

// The kernels that the sources declare for the GPU.
std::set<std::string> declared_kernels() {
  std::set<std::string> names;
  const std::regex declaration(R"(\nRK_BACKENDS_GPU\(void (\w+)\()");
  for (const auto& entry : fs::recursive_directory_iterator("kernels/ops")) {
    if (entry.path().extension() != ".h") continue;
    const std::string text = slurp(entry.path());
    for (std::sregex_iterator it(text.begin(), text.end(), declaration), end; it != end; ++it)
      names.insert((*it)[1]);
  }
  return names;
}

TEST(BenchOp, EveryKernelOfTheGpuIsInOne) {
#ifndef ROOKERY_HAVE_EMUL
  GTEST_SKIP() << "this build has no emulation";
#endif
  std::set<std::string> run;
  for (const char* precision : {"bf16", "fp32"}) {
    const ProgramResult result =
        run_rookery({"bench", "op", "--device", "emul", "--repeat", "1", "--precision", precision, "--json"});
    ASSERT_EQ(result.code, 0) << result.err;
    const auto json = nlohmann::json::parse(result.out);
    EXPECT_EQ(json["device"], "emul");
    for (const auto& pass : json["passes"]) {
      EXPECT_GT(pass["seconds"].get<double>(), 0);
      EXPECT_FALSE(pass.contains("floor_seconds")) << pass;
      for (const auto& kernel : pass["kernels"]) run.insert(kernel.get<std::string>());
    }
  }
  const std::set<std::string> declared = declared_kernels();
  EXPECT_GT(declared.size(), 20u);
  for (const std::string& kernel : declared) EXPECT_TRUE(run.count(kernel)) << kernel;
}

TEST(BenchOp, PredictionsAreThoseOfTheDocumentation) {
  std::vector<std::string> words = {"bench", "op", "--predict"};
  if (fs::exists("docs/gpu-check.json")) words.insert(words.end(), {"--from", "docs/gpu-check.json"});
  const ProgramResult result = run_rookery(words);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_NE(slurp("docs/performance.md").find(result.out), std::string::npos)
      << "put this into docs/performance.md:\n"
      << result.out;
}

// An H200 by hand: layer norm of [8, 4096, 2048] reads and writes 134 MB each; the products of the loss are 3
// times 2 x 32768 x 2048 x 65536 operations.
TEST(BenchOp, PredictionsFollowFromBytesAndOperations) {
  const ProgramResult result =
      run_rookery({"bench", "op", "--predict", "--json", "layer_norm", "cross_entropy"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto rows = nlohmann::json::parse(result.out);
  EXPECT_EQ(rows[0]["op"], "layer_norm");
  EXPECT_EQ(rows[0]["bytes"], 2.0 * 2 * 8 * 4096 * 2048);
  EXPECT_NEAR(rows[0]["floor_seconds"].get<double>(), 62.4e-6, 1e-7);
  EXPECT_EQ(rows[2]["flops"], 6.0 * 32768 * 2048 * 65536);
  EXPECT_NEAR(rows[2]["floor_seconds"].get<double>(), 33.4e-3, 1e-4);
  EXPECT_EQ(rows[2]["floor_by"], "products");
}

TEST(BenchOp, WithoutFloorsNothingIsMeasuredBeside) {
  const ProgramResult result = run_rookery(small({"--no-floors", "--json", "tanh"}));
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  EXPECT_FALSE(json.contains("rates"));
  EXPECT_GT(json["passes"][0]["seconds"].get<double>(), 0);
  EXPECT_FALSE(json["passes"][0].contains("ratio"));
}

TEST(BenchOp, MistakesAreRefused) {
  ProgramResult result = run_rookery({"bench", "op", "layer_nrom"});
  EXPECT_EQ(result.code, 64);
  EXPECT_NE(result.err.find("layer_norm"), std::string::npos) << result.err;
  result = run_rookery({"bench", "op", "--hidden", "100", "--head-size", "64"});
  EXPECT_EQ(result.code, 64);
  EXPECT_NE(result.err.find("--head-size"), std::string::npos) << result.err;
  result = run_rookery({"bench", "op", "--precision", "bf16"});
  EXPECT_EQ(result.code, 64);
  EXPECT_NE(result.err.find("BENCH-03"), std::string::npos) << result.err;
}

// Operations are 6 for each parameter in a product and the recurrence three times: R, K, V, G, O, the channel
// mix, both low-rank parts and the head.
TEST(BenchStep, CountsOperationsOfTheStep) {
  const ProgramResult result =
      run_rookery({"bench", "step", "--layers", "1", "--hidden", "64", "--vocab", "100", "--batch", "1",
                   "--seq-len", "16", "--repeat", "1", "--threads", "1", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto json = nlohmann::json::parse(result.out);
  const double C = 64, parameters = 13 * C * C + 2 * C * (5 * 32 + 64) + 100 * C, mixer = 7 * 64 * C;
  // The channel mix of 3.5 C is 224.
  EXPECT_EQ(json["flops"].get<double>(), 16 * (6 * parameters + 3 * mixer));
  const double rate = json["flops"].get<double>() / json["step_s"].get<double>();
  EXPECT_NEAR(json["share_of_products_rate"].get<double>(),
              rate / (1e9 * json["products_gflops"].get<double>()), 1e-9);
}

TEST(BenchStep, RunsTheTrainersStepOnEmulatedKernels) {
#ifndef ROOKERY_HAVE_EMUL
  GTEST_SKIP() << "this build has no emulation";
#endif
  for (const char* arch : {"rwkv6", "rwkv7", "goldfinch", "llama"}) {
    const ProgramResult result =
        run_rookery({"bench", "step", "--device", "emul", "--arch", arch, "--repeat", "1", "--json"});
    ASSERT_EQ(result.code, 0) << arch << ": " << result.err;
    const auto json = nlohmann::json::parse(result.out);
    EXPECT_EQ(json["model"], arch);
    EXPECT_EQ(json["graph"], "replayed");
    EXPECT_GT(json["tokens_per_s"].get<double>(), 0);
    EXPECT_FALSE(json.contains("mfu"));
  }
  EXPECT_EQ(run_rookery({"bench", "step", "--arch", "llama"}).code, 64);
}

// The state of GoldFinch grows by 8 numbers and an id per token, with room for up to as many again.
TEST(BenchPrompt, TimesAndStatesByLength) {
  const ProgramResult result =
      run_rookery({"bench", "prompt", "configs/small/goldfinch-quickstart.yaml", "model.vocab_size=50",
                   "--from", "16", "--to", "70", "--threads", "1", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto rows = nlohmann::json::parse(result.out);
  ASSERT_EQ(rows.size(), 3u);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]["tokens"], 16 << i);
    EXPECT_GT(rows[i]["seconds"].get<double>(), 0);
    EXPECT_GT(rows[i]["next_token_ms"].get<double>(), 0);
  }
  const int64_t growth = rows[2]["state_bytes"].get<int64_t>() - rows[1]["state_bytes"].get<int64_t>();
  EXPECT_GE(growth, 36 * 31);
  EXPECT_LE(growth, 2 * 36 * 65);
  EXPECT_EQ(run_rookery({"bench", "prompt"}).code, 64);
}

}  // namespace
}  // namespace rookery::test
