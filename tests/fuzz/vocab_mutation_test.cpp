// vocab_mutation_test.cpp: ten thousand fixed mutations of a small vocabulary file: each is read or refused,
// none crashes.
#include <gtest/gtest.h>

#include <random>

#include "kernels/base/str.h"
#include "tests/fuzz/vocab_case.h"

namespace rookery::data {
namespace {

// One change: a byte, a removed or repeated stretch, or a piece of the grammar put in.
std::string mutate(std::string file, std::mt19937& rng) {
  static const std::string kPieces[] = {"'",  "\"",   "b'", "\\", "\\x",   "\\u", "\\ud800",
                                        "\n", "\r\n", " ",  "0",  "65535", "\xFF"};
  const size_t at = rng() % (file.size() + 1);
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

TEST(VocabularyFuzz, TenThousandMutationsAreReadOrRefused) {
  std::vector<VocabEntry> entries;
  for (int byte = 0; byte < 256; ++byte)
    entries.push_back({byte + 1, std::string(1, static_cast<char>(byte))});
  const std::string bytes_only = format_vocabulary(entries);
  const std::string tokens =
      "257 '  ' 2\n300 \"it's\" 4\n301 '\\n\\t' 2\r\n302 '\\xa0' 2\n303 '\\u3000' 3\n304 b'\\xe4 ' 2\n305 "
      "'\u4f60\u597d' 6\n";
  std::mt19937 rng(7);
  int read = 0, refused = 0;
  for (int i = 0; i < 10000; ++i) {
    // Mostly the short file, where each mutation hits something; every tenth time a complete vocabulary.
    std::string file = i % 10 == 0 ? bytes_only + tokens : tokens;
    for (size_t n = 1 + rng() % 3; n > 0 && !file.empty(); --n) file = mutate(std::move(file), rng);
    (vocabulary_case(file) ? read : refused) += 1;
  }
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 5000);
}

}  // namespace
}  // namespace rookery::data
