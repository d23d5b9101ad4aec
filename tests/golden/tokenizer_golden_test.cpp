// tokenizer_golden_test.cpp: every line of tokenizer_cases.jsonl in the golden folder (ROOKERY_GOLDEN), made
// with the original Python tokenizer on the World vocabulary.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/tokenizer/tokenizer.h"

namespace rookery::data {
namespace {

namespace fs = std::filesystem;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(Golden, TokenizerCases) {
  const char* shared_env = std::getenv("ROOKERY_SHARED");
  const char* golden_env = std::getenv("ROOKERY_GOLDEN");
  const fs::path shared = shared_env ? shared_env : "../shared";
  const fs::path cases = (golden_env ? fs::path(golden_env) : shared / "golden") / "tokenizer_cases.jsonl";
  const fs::path vocabulary = shared / "data" / "rwkv_vocab_v20230424.txt";
  if (!fs::exists(cases))
    GTEST_SKIP() << cases << " is not here (ROOKERY_GOLDEN names the folder of golden files)";
  if (!fs::exists(vocabulary))
    GTEST_SKIP() << vocabulary << " is not here (ROOKERY_SHARED names the shared data folder)";
  const auto tokenizer = load_tokenizer(vocabulary);
  std::ifstream in(cases);
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const auto json = nlohmann::json::parse(line);
    const std::string text = json.contains("text") ? json.at("text").get<std::string>()
                                                   : from_hex(json.at("bytes_hex").get<std::string>());
    const auto ids = json.at("ids").get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer->encode(text), ids) << cases << ":" << number;
    EXPECT_EQ(tokenizer->decode(ids), text) << cases << ":" << number;
  }
  EXPECT_GT(number, 0) << cases << " holds no case";
}

}  // namespace
}  // namespace rookery::data
