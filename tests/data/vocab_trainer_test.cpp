// vocab_trainer_test.cpp: learned vocabularies: their form, that they repeat, that selection beats plain
// frequency, the balance of languages, and what is refused.
#include "data/tokenizer/vocab_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <sstream>

#include "data/tokenizer/candidates.h"
#include "data/tokenizer/text_sample.h"
#include "data/tokenizer/utf8.h"
#include "data/tokenizer/vocab_tokenizer.h"
#include "kernels/base/error.h"
#include "tests/support/program.h"

namespace rookery::data {
namespace {

// Lines of words with Zipf's frequencies; the words are made of `syllables`.
std::string invented_text(const std::vector<std::string>& syllables, const std::string& separator,
                          size_t bytes, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<std::string> words(800);
  for (std::string& word : words) {
    for (size_t n = 1 + rng() % 4; n > 0; --n) word += syllables[rng() % syllables.size()];
  }
  std::string text;
  while (text.size() < bytes) {
    for (size_t n = 5 + rng() % 8; n > 0; --n) {
      const double uniform = static_cast<double>(rng()) / 4294967296.0;
      text += words[static_cast<size_t>(std::pow(static_cast<double>(words.size()), uniform)) - 1];
      text += n > 1 ? separator : std::string();
    }
    text += rng() % 4 == 0 ? " " + str(rng() % 100000) + ".\n\n" : ".\n";
  }
  return text;
}

std::string latin(size_t bytes) {
  return invented_text({"ka", "to", "mi", "ren", "sch", "ing", "a", "\u00e9l", "po"}, " ", bytes, 1);
}
std::string han(size_t bytes) {
  return invented_text({"\u7cfb", "\u7edf", "\u6587", "\u4ef6", "\u7684", "\u7528", "\u6237", "\u53ef"}, "",
                       bytes, 2);
}

LanguageSample sample(std::string name, std::string text) { return {std::move(name), std::move(text)}; }

std::string learn(const std::vector<LanguageSample>& samples, VocabTraining options, int threads) {
  ThreadPool pool(threads);
  return format_vocabulary(train_vocabulary(samples, options, pool));
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kData);
    return e.id() + " " + e.what();
  }
  return "none";
}

TEST(VocabTrainer, GivesTheWholeFormOfAVocabulary) {
  const std::vector<LanguageSample> samples = {sample("latin", latin(200'000)), sample("han", han(200'000))};
  const std::string file = learn(samples, {.vocab_size = 700}, 2);
  const auto entries = parse_vocabulary(file, "learned");
  ASSERT_EQ(entries.size(), 699u);
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string& bytes = entries[i].bytes;
    EXPECT_EQ(entries[i].id, static_cast<int32_t>(i) + 1);
    if (i < 256) {
      EXPECT_EQ(bytes, std::string(1, static_cast<char>(i)));
      continue;
    }
    const std::string& before = entries[i - 1].bytes;
    EXPECT_TRUE(before.size() < bytes.size() || (before.size() == bytes.size() && before < bytes)) << bytes;
    EXPECT_EQ(find_invalid_utf8(bytes), std::string_view::npos)
        << "a token cuts a character: " << token_literal(bytes);
    EXPECT_LE(std::count_if(bytes.begin(), bytes.end(), [](char c) { return c >= '0' && c <= '9'; }), 3);
    const size_t space = bytes.find_last_of(' ');
    EXPECT_TRUE(space == std::string::npos || bytes.find_first_not_of(" \n") >= space)
        << token_literal(bytes);
  }
  const VocabTokenizer tokenizer(file, "learned");
  EXPECT_TRUE(tokenizer.missing_bytes().empty());
  EXPECT_EQ(tokenizer.vocab_size(), 700);
  for (const LanguageSample& s : samples) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(s.text)), s.text);
    const TokenStatistics statistics = token_statistics(tokenizer, s.text);
    EXPECT_EQ(statistics.bytes, static_cast<int64_t>(s.text.size()));
    EXPECT_EQ(statistics.tokens, static_cast<int64_t>(tokenizer.encode(s.text).size()));
    EXPECT_GT(statistics.bytes_per_token(), 3.0) << s.name;
    EXPECT_EQ(statistics.coverage(), 1.0) << s.name;
  }
}

TEST(VocabTrainer, RepeatsWhateverTheNumberOfThreads) {
  const std::vector<LanguageSample> samples = {sample("latin", latin(300'000)), sample("han", han(150'000))};
  const std::string one = learn(samples, {.vocab_size = 900}, 1);
  EXPECT_TRUE(one == learn(samples, {.vocab_size = 900}, 3));
}

TEST(VocabTrainer, BeatsTheMostFrequentStrings) {
  const std::string text = latin(300'000);
  const int32_t size = 600;
  const VocabTokenizer learned(learn({sample("latin", text)}, {.vocab_size = size}, 1), "learned");
  std::vector<VocabEntry> frequent;
  for (int byte = 0; byte < 256; ++byte)
    frequent.push_back({byte + 1, std::string(1, static_cast<char>(byte))});
  for (const std::string& bytes : find_candidates({{text, kUnitWeight}}, 2, size - 257)) {
    frequent.push_back({static_cast<int32_t>(frequent.size()) + 1, bytes});
  }
  const VocabTokenizer naive(format_vocabulary(frequent), "naive");
  ASSERT_EQ(naive.vocab_size(), learned.vocab_size());
  const auto learned_tokens = static_cast<double>(learned.encode(text).size());
  EXPECT_LT(learned_tokens, 0.95 * static_cast<double>(naive.encode(text).size()));
}

TEST(VocabTrainer, ASmallLanguageWeighsMoreWhenLanguagesAreEqual) {
  const std::vector<LanguageSample> samples = {sample("latin", latin(400'000)), sample("han", han(40'000))};
  const VocabTokenizer equal(learn(samples, {.vocab_size = 500}, 1), "equal");
  const VocabTokenizer natural(learn(samples, {.vocab_size = 500, .equal_languages = false}, 1), "natural");
  EXPECT_LT(equal.encode(samples[1].text).size(), natural.encode(samples[1].text).size());
  EXPECT_GT(equal.encode(samples[0].text).size(), natural.encode(samples[0].text).size());
}

TEST(VocabTrainer, SurvivesInvalidTextAndRefusesTooLittle) {
  std::string broken = latin(100'000);
  for (size_t i = 0; i < broken.size(); i += 97) broken[i] = '\xFF';
  const VocabTokenizer tokenizer(learn({sample("broken", broken)}, {.vocab_size = 400}, 1), "learned");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(broken)), broken);
  const std::string error =
      error_of([] { learn({sample("tiny", "a small text\n")}, {.vocab_size = 4096}, 1); });
  EXPECT_TRUE(error.starts_with("VOCAB-11 the text holds only ")) << error;
}

TEST(Candidates, KeepWordsApartAndDropFragments) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "the installation, 12345!\n\n";
  const auto found = find_candidates({{text, kUnitWeight}}, 10, 1000);
  const auto has = [&](const std::string& s) {
    return std::find(found.begin(), found.end(), s) != found.end();
  };
  EXPECT_TRUE(has(" installation"));
  EXPECT_TRUE(has("the"));
  EXPECT_TRUE(has("!\n\n"));
  EXPECT_TRUE(has("345"));
  EXPECT_FALSE(has("nstallatio")) << "a fragment that only occurs inside a longer candidate";
  EXPECT_FALSE(has("the installation"));
  EXPECT_FALSE(has("2345"));
}

TEST(TokenStatistics, CountsCharactersThatAreCut) {
  std::string file;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string token(1, static_cast<char>(byte));
    file += str(byte + 1, ' ', token_literal(token), " 1\n");
  }
  const VocabTokenizer tokenizer(file + "257 '\u4f60' 3\n258 b'\\xe5\\xa5' 2\n", "v");
  const TokenStatistics s = token_statistics(tokenizer, "a\u4f60\u597d\u00e9");
  EXPECT_EQ(s.characters, 4);
  EXPECT_EQ(s.whole_characters, 2);
  EXPECT_EQ(s.tokens, 6);
  EXPECT_EQ(s.bytes, 9);
}

TEST(TextSample, TakesEvenlySpreadLinesOrEverything) {
  const test::TempDir dir;
  std::string first, second;
  for (int i = 0; i < 20000; ++i) first += str("first ", i, "\n");
  for (int i = 0; i < 20000; ++i) second += str("second ", i, "\n");
  second.pop_back();  // no line end at the end of the file
  const TextInputs inputs =
      collect_inputs({test::put(dir, "a.txt", first).string(), test::put(dir, "b.txt", second).string()});
  EXPECT_EQ(sample_language("x", inputs.files, {}, 1 << 30).text, first + second + "\n");

  const std::string text = sample_language("x", inputs.files, {}, 100'000).text;
  EXPECT_NEAR(static_cast<double>(text.size()), 100'000, 20'000);
  EXPECT_NE(text.find("first 3"), std::string::npos);
  EXPECT_NE(text.find("second 19"), std::string::npos) << "the end of the last file is in reach";
  std::set<std::string> lines;
  std::istringstream all(first + second);
  for (std::string line; std::getline(all, line);) lines.insert(line);
  std::istringstream sampled(text);
  for (std::string line; std::getline(sampled, line);)
    ASSERT_TRUE(lines.count(line)) << "a piece of a line: " << line;
}

TEST(TextSample, CutsALongLineBetweenCharacters) {
  const test::TempDir dir;
  std::string line;
  for (int i = 0; i < 60'000; ++i) line += "\u4f60";
  const TextInputs inputs = collect_inputs({test::put(dir, "a.txt", line).string()});
  const std::string text = sample_language("x", inputs.files, {}, 50'000).text;
  EXPECT_GT(text.size(), 40'000u);
  EXPECT_EQ(find_invalid_utf8(text), std::string_view::npos);
}

TEST(TextSample, NamesInvalidBytesAndRefusesEmptiness) {
  const test::TempDir dir;
  const TextInputs bad = collect_inputs({test::put(dir, "bad.txt", "good\n\xC3(\n").string()});
  EXPECT_NE(
      error_of([&] { sample_language("x", bad.files, {}, 1000); }).find("bad.txt: byte 5 is not valid UTF-8"),
      std::string::npos);
  TextOptions skip;
  skip.on_bad_text = OnBad::kSkip;
  EXPECT_EQ(sample_language("x", bad.files, skip, 1000).text, "good\n\xC3(\n");
  const TextInputs empty = collect_inputs({test::put(dir, "empty.txt", "\n\n").string()});
  EXPECT_TRUE(
      error_of([&] { sample_language("x", empty.files, {}, 1000); }).starts_with("VOCAB-10 language x"));
}

}  // namespace
}  // namespace rookery::data
