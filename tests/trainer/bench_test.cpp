// bench_test.cpp: `rookery bench op` at small sizes: every operation appears with its floor, and mistakes are
// refused by name.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
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
  for (const char* rate : {"copy_bytes_per_s", "blas_flops_per_s", "multiply_adds_per_s"})
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

TEST(BenchOp, MistakesAreRefused) {
  ProgramResult result = run_rookery({"bench", "op", "layer_nrom"});
  EXPECT_EQ(result.code, 64);
  EXPECT_NE(result.err.find("layer_norm"), std::string::npos) << result.err;
  result = run_rookery({"bench", "op", "--hidden", "100", "--head-size", "64"});
  EXPECT_EQ(result.code, 64);
  EXPECT_NE(result.err.find("--head-size"), std::string::npos) << result.err;
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
