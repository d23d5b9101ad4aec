// tokenizer_golden_test.cpp: every line of tokenizer_cases.jsonl and bpe_qwen_cases.jsonl in the golden
// folder (ROOKERY_GOLDEN).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/tokenizer/bpe_tokenizer.h"
#include "tests/support/shared.h"
#include "tests/support/tokenizer_json.h"

namespace rookery::data {
namespace {

namespace fs = std::filesystem;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

fs::path golden_file(const char* name) {
  const char* folder = std::getenv("ROOKERY_GOLDEN");
  return folder ? fs::path(folder) / name : test::shared_path("golden") / name;
}

void check_cases(const Tokenizer& tokenizer, const fs::path& cases) {
  std::ifstream in(cases);
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const auto json = nlohmann::json::parse(line);
    const std::string text = json.contains("text") ? json.at("text").get<std::string>()
                                                   : from_hex(json.at("bytes_hex").get<std::string>());
    const auto ids = json.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text), ids) << cases << ":" << number;
    EXPECT_EQ(tokenizer.decode(ids), tokenizer.normalise(text)) << cases << ":" << number;
  }
  EXPECT_GT(number, 0) << cases << " holds no case";
}

// Made with the original Python tokenizer on the World vocabulary.
TEST(Golden, TokenizerCases) {
  const fs::path cases = golden_file("tokenizer_cases.jsonl"),
                 vocabulary = test::shared_path("data/rwkv_vocab_v20230424.txt");
  RK_NEEDS_SHARED(cases);
  RK_NEEDS_SHARED(vocabulary);
  check_cases(*load_tokenizer(vocabulary), cases);
}

// Made with the Qwen vocabulary, here as a tokenizer.json with Qwen2's pattern and NFC.
TEST(Golden, BpeQwenCases) {
  const fs::path cases = golden_file("bpe_qwen_cases.jsonl"), ranks = test::shared_path("data/qwen.tiktoken");
  RK_NEEDS_SHARED(cases);
  RK_NEEDS_SHARED(ranks);
  const BpeTokenizer qwen(test::tokenizer_json_of_tiktoken(ranks, SplitPattern::kQwen2), "qwen");
  EXPECT_EQ(qwen.eot_id(), 151643);
  EXPECT_EQ(
      qwen.encode("Hello world! \u4eca\u5929\u5929\u6c14\u4e0d\u9519\u3002 it's 123"),
      (std::vector<int32_t>{9707, 1879, 0, 220, 100644, 104307, 100832, 1773, 432, 594, 220, 16, 17, 18}));
  check_cases(qwen, cases);
}

}  // namespace
}  // namespace rookery::data
