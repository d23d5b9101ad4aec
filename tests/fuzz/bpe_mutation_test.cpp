// bpe_mutation_test.cpp: fixed mutations of a small tokenizer.json, of its bytes and of its values: each is
// read or refused, none crashes.
#include <gtest/gtest.h>

#include <random>

#include "tests/fuzz/bpe_case.h"
#include "tests/support/tokenizer_json.h"

namespace rookery::data {
namespace {

using Json = nlohmann::json;

Json sample() {
  Json json = test::bpe_json(
      SplitPattern::kQwen2,
      {{"h", "i"}, {"hi", "hi"}, {" ", "h"}, {"\xE4", "\xBD"}, {"\xE4\xBD", "\xA0"}, {"1", "2"}});
  json["added_tokens"].push_back(test::added_token(300, "e\u0301", false, true));
  json["added_tokens"].push_back(test::added_token(301, "<tool>", false, false));
  return json;
}

// One change: a byte, a removed or repeated stretch, or a piece of the grammar put in.
std::string mutate_bytes(std::string file, std::mt19937& rng) {
  static const std::string kPieces[] = {
      "\"",   "{",   "}",     "[",          "]",       ",",       ":",       "null",
      "true", "-1",  "1e999", "4294967296", "\\u0000", "\\ud800", "\"h i\"", "[[[[[[[[[[[[[[[[",
      "\xFF", "NFC", "false"};
  // Where the vocabulary lies, hardly anything is interesting: mostly elsewhere.
  const size_t vocab = file.find("\"vocab\"");
  size_t at = rng() % (file.size() + 1);
  if (vocab != std::string::npos && at > vocab + 200 && rng() % 8) at = rng() % vocab;
  switch (rng() % 4) {
    case 0:
      if (at < file.size()) file[at] = static_cast<char>(rng());
      return file;
    case 1:
      return file.erase(at, rng() % 12);
    case 2:
      return file.insert(at, file.substr(rng() % file.size(), rng() % 40));
    default:
      return file.insert(at, kPieces[rng() % std::size(kPieces)]);
  }
}

// Another value at a place of the tree, removed or repeated.
void mutate_value(Json& json, std::mt19937& rng) {
  Json* node = &json;
  while (node->is_structured() && !node->empty() && rng() % 5) {
    auto it = node->begin();
    std::advance(it, static_cast<std::ptrdiff_t>(rng() % node->size()));
    node = &*it;
  }
  static const Json kValues[] = {nullptr,     true,          false,          0,          1,     255,
                                 256,         4194303,       4194304,        -1,         0.5,   "",
                                 "h",         "h i",         "\u0120",       "Sequence", "NFC", "Split",
                                 "ByteLevel", Json::array(), Json::object(), {"h", "i"}};
  if (node->is_array() && !node->empty() && rng() % 2) {
    const Json copy = node->at(rng() % node->size());
    node->push_back(copy);
  } else {
    *node = kValues[rng() % std::size(kValues)];
  }
}

TEST(TokenizerJsonFuzz, MutationsAreReadOrRefused) {
  const Json good = sample();
  const std::string text = good.dump();
  ASSERT_TRUE(tokenizer_json_case(text));
  std::mt19937 rng(7);
  int read = 0, refused = 0;
  for (int i = 0; i < 6000; ++i) {
    std::string file = text;
    if (i % 2 == 0) {
      for (size_t n = 1 + rng() % 3; n > 0; --n) file = mutate_bytes(std::move(file), rng);
    } else {
      Json json = good;
      for (size_t n = 1 + rng() % 2; n > 0; --n) mutate_value(json, rng);
      file = json.dump();
    }
    (tokenizer_json_case(file) ? read : refused) += 1;
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 3000);
}

}  // namespace
}  // namespace rookery::data
