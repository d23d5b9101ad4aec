// tokenizer_command_test.cpp: `rookery tokenizer` through the real program.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "data/tokenizer/vocabulary.h"
#include "kernels/base/str.h"
#include "tests/support/program.h"
#include "tests/support/tokenizer_json.h"

namespace rookery {
namespace {

using test::put;
using test::run_rookery;
using Json = nlohmann::json;

class TokenizerCommand : public testing::Test {
 protected:
  // All single bytes (id = byte value + 1), then "ab", "abc", and a token that is no UTF-8.
  std::string vocabulary() const {
    std::vector<data::VocabEntry> entries;
    for (int byte = 0; byte < 256; ++byte)
      entries.push_back({byte + 1, std::string(1, static_cast<char>(byte))});
    entries.push_back({257, "ab"});
    entries.push_back({258, "abc"});
    entries.push_back({259, "\xE4\xBD"});
    return put(dir_, "vocab.txt", data::format_vocabulary(entries)).string();
  }

  // Lines of words that repeat, in letters from `first` on.
  static std::string prose(char first, size_t lines) {
    std::mt19937 rng(static_cast<unsigned>(first));
    std::string text;
    for (size_t i = 0; i < lines; ++i) {
      for (int word = 0; word < 6; ++word) {
        unsigned kind = rng() % 60;
        for (int letter = 0; letter < 5; ++letter, kind = kind * 7 + 3)
          text += static_cast<char>(first + kind % 9);
        text += word < 5 ? " " : ".\n";
      }
    }
    return text;
  }

  std::string path(const std::string& name) const { return (dir_.path() / name).string(); }

  test::TempDir dir_;
};

TEST_F(TokenizerCommand, EncodesAndDecodes) {
  const std::string vocab = vocabulary();
  auto r = run_rookery({"tokenizer", "encode", "--vocab", vocab, "abcab"});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_EQ(r.out, "258 257\n");
  EXPECT_EQ(run_rookery({"tokenizer", "encode", "--vocab", vocab, "--pieces", "ab\n"}).out,
            "257 'ab'\n11 '\\n'\n");
  EXPECT_EQ(run_rookery({"tokenizer", "encode", "--vocab", vocab}).out, "") << "standard input is empty";
  const std::string text = put(dir_, "text.txt", "abc\xFF\n").string();
  r = run_rookery({"tokenizer", "encode", "--vocab", vocab, "--file", text, "--json"});
  EXPECT_EQ(Json::parse(r.out).at("ids"), Json({258, 256, 11}));

  EXPECT_EQ(run_rookery({"tokenizer", "decode", "--vocab", vocab, "258", "0", "257"}).out, "abcab");
  const std::string ids = put(dir_, "ids.txt", "[258]\n").string();
  EXPECT_EQ(run_rookery({"tokenizer", "decode", "--vocab", vocab, "--file", ids}).code, 65);
  put(dir_, "ids.txt", "258, 256\n11");
  EXPECT_EQ(run_rookery({"tokenizer", "decode", "--vocab", vocab, "--file", ids}).out, "abc\xFF\n");
  const Json decoded =
      Json::parse(run_rookery({"tokenizer", "decode", "--vocab", vocab, "--json", "259"}).out);
  EXPECT_EQ(decoded.at("valid_utf8"), false);
  EXPECT_EQ(decoded.at("text"), "\uFFFD");
}

TEST_F(TokenizerCommand, ExplainsBadInput) {
  const std::string vocab = vocabulary();
  auto r = run_rookery({"tokenizer", "decode", "--vocab", vocab, "400"});
  EXPECT_EQ(r.code, 65);
  EXPECT_NE(r.err.find("error[VOCAB-09]"), std::string::npos) << r.err;
  EXPECT_EQ(run_rookery({"tokenizer", "encode", "--vocab", path("none.txt"), "a"}).code, 66);
  const std::string bad = put(dir_, "bad.txt", "1 'a' 1\n2 'bc' 1\n").string();
  r = run_rookery({"tokenizer", "check", "--vocab", bad});
  EXPECT_EQ(r.code, 65);
  EXPECT_NE(r.err.find("error[VOCAB-04]: bad.txt:2: the token has 2 bytes, but the line says 1"),
            std::string::npos)
      << r.err;
  EXPECT_EQ(run_rookery({"tokenizer", "encode", "--vocab", vocab, "--file", bad, "text"}).code, 64);
}

TEST_F(TokenizerCommand, ChecksAVocabularyAndTexts) {
  const std::string text = put(dir_, "text.txt", "abcabc\u4f60").string();
  auto r = run_rookery({"tokenizer", "check", "--vocab", vocabulary(), text, "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  Json j = Json::parse(r.out);
  EXPECT_EQ(j.at("tokens"), 259);
  EXPECT_EQ(j.at("vocab_size"), 260);
  EXPECT_EQ(j.at("tokens_not_utf8"), 129);
  EXPECT_EQ(j.at("missing_bytes").size(), 0u);
  EXPECT_EQ(j.at("texts").at(0).at("tokens"), 4);
  EXPECT_NEAR(j.at("texts").at(0).at("coverage").get<double>(), 6.0 / 7, 1e-12);
  const std::string gaps = put(dir_, "gaps.txt", "1 'a' 1\n9 'b' 1\n").string();
  r = run_rookery({"tokenizer", "check", "--vocab", gaps});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("7 ids unused"), std::string::npos) << r.out;
  EXPECT_NE(r.out.find("254 of 256 are missing, so some texts cannot be encoded"), std::string::npos)
      << r.out;
}

TEST_F(TokenizerCommand, WorksWithByteLevelBpe) {
  const std::string vocab =
      put(dir_, "tokenizer.json",
          test::bpe_json(data::SplitPattern::kQwen2, {{"h", "i"}, {"\xC3", "\xA9"}}).dump())
          .string();
  const auto encode = [&](std::vector<std::string> more) {
    std::vector<std::string> words{"tokenizer", "encode", "--vocab", vocab};
    words.insert(words.end(), more.begin(), more.end());
    return run_rookery(words).out;
  };
  EXPECT_EQ(encode({"hie\u0301!"}), "256 257 33\n");
  EXPECT_EQ(encode({"--pieces", "hi!"}), "256 'hi'\n33 '!'\n");
  EXPECT_EQ(encode({"--special", "hi<|endoftext|>"}), "256 258\n");
  EXPECT_EQ(encode({"<|e"}), "60 124 101\n");
  EXPECT_EQ(run_rookery({"tokenizer", "decode", "--vocab", vocab, "256", "258"}).out, "hi<|endoftext|>");
  auto r = run_rookery({"tokenizer", "decode", "--vocab", vocab, "259"});
  EXPECT_EQ(r.code, 65);
  EXPECT_NE(r.err.find("error[BPE-08]"), std::string::npos) << r.err;

  const std::string text = put(dir_, "text.txt", "hi e\u0301").string();
  r = run_rookery({"tokenizer", "check", "--vocab", vocab, text, "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json j = Json::parse(r.out);
  EXPECT_EQ(j.at("tokens"), 259);
  EXPECT_EQ(j.at("unused_ids"), 0);
  EXPECT_EQ(j.at("end_of_text"), 258);
  EXPECT_EQ(j.at("missing_bytes").size(), 0u);
  EXPECT_EQ(j.at("texts").at(0).at("tokens"), 3);
  EXPECT_EQ(j.at("texts").at(0).at("changed_by_nfc"), true);
  put(dir_, "tokenizer.json", "{\"model\": {\"type\": \"WordPiece\"}}");
  r = run_rookery({"tokenizer", "check", "--vocab", vocab});
  EXPECT_EQ(r.code, 65);
  EXPECT_NE(r.err.find("error[BPE-02]: tokenizer.json: model.type = \"WordPiece\" is not supported"),
            std::string::npos)
      << r.err;
}

TEST_F(TokenizerCommand, LearnsFromTextAndJsonLinesByLanguage) {
  const std::string plain = put(dir_, "corpus/xx/a.txt", prose('a', 300)).string();
  std::string lines;
  for (int i = 0; i < 30; ++i) lines += Json{{"text", prose('m', 10)}, {"source", "QQQQQQQQ"}}.dump() + "\n";
  const std::string json = put(dir_, "corpus/yy/b.jsonl", lines).string();
  const std::string out = path("learned.txt");
  auto r = run_rookery({"tokenizer", "train", "--size", "320", "--out", out, "--lang", "xx=" + plain,
                        "--lang", "yy=" + json, "--json"});
  ASSERT_EQ(r.code, 0) << r.err;
  const Json j = Json::parse(r.out);
  EXPECT_EQ(j.at("vocab_size"), 320);
  for (const Json& language : j.at("languages")) EXPECT_GT(language.at("bytes_per_token"), 3.0) << language;
  const std::string learned = test::slurp(out);
  EXPECT_EQ(learned.find("QQ"), std::string::npos) << "learned from other fields of the JSON";

  // The same from a folder of folders, with another number of threads.
  r = run_rookery(
      {"tokenizer", "train", "--size", "320", "--out", path("again.txt"), "--threads", "3", path("corpus")});
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.out.find("\nyy "), std::string::npos) << r.out;
  EXPECT_TRUE(test::slurp(path("again.txt")) == learned);
}

TEST_F(TokenizerCommand, TrainKeepsWhatIsThereAndLeavesNothingBehind) {
  const std::string text = put(dir_, "a.txt", prose('a', 200)).string();
  const std::string out = put(dir_, "out.txt", "precious").string();
  auto r = run_rookery({"tokenizer", "train", "--size", "300", "--out", out, text});
  EXPECT_EQ(r.code, 73);
  EXPECT_NE(r.err.find("--force"), std::string::npos) << r.err;
  EXPECT_EQ(run_rookery({"tokenizer", "train", "--size", "300", "--force", "--out", text, text}).code, 64);
  EXPECT_EQ(run_rookery({"tokenizer", "train", "--size", "300", "--out", path("none/out.txt"), text}).code,
            73);
  EXPECT_EQ(run_rookery({"tokenizer", "train", "--size", "20000", "--force", "--out", out, text}).code, 65);
  EXPECT_EQ(run_rookery({"tokenizer", "train", "--size", "300", "--out", path("new.txt")}).code, 64);
  EXPECT_EQ(run_rookery({"tokenizer", "train", "--size", "257", "--out", path("new.txt"), text}).code, 64);
  EXPECT_EQ(run_rookery({"tokenizer", "train", "--out", path("new.txt"), path("no*.txt")}).code, 66);
  const std::string broken = put(dir_, "broken.txt", prose('a', 200) + "\xFF").string();
  r = run_rookery({"tokenizer", "train", "--size", "300", "--out", path("new.txt"), broken});
  EXPECT_EQ(r.code, 65);
  EXPECT_NE(r.err.find("error[DATA-14]"), std::string::npos) << r.err;
  EXPECT_FALSE(std::filesystem::exists(path("new.txt")));
  EXPECT_EQ(test::slurp(out), "precious");
  for (const char* fault : {"tokenizer.vocab.write@1:enospc", "tokenizer.vocab.rename@1:kill"}) {
    r = run_rookery({"tokenizer", "train", "--size", "300", "--force", "--out", out, text},
                    {{"ROOKERY_FAULT", fault}});
    EXPECT_NE(r.code, 0) << fault;
    EXPECT_EQ(test::slurp(out), "precious") << fault;
  }
  r = run_rookery({"tokenizer", "train", "--size", "300", "--force", "--out", out, text, "--on-bad-text",
                   "skip", broken});
  EXPECT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(test::slurp(out).starts_with("1 '\\x00' 1\n"));
}

}  // namespace
}  // namespace rookery
