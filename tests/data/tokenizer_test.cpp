// tokenizer_test.cpp: the vocabulary file's grammar and its errors, the trie against a naive search, encode
// and decode, streaming. The published World vocabulary itself is checked where the shared data folder is
// present.
#include "data/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>

#include "data/tokenizer/stream_decoder.h"
#include "data/tokenizer/utf8.h"
#include "data/tokenizer/vocab_tokenizer.h"
#include "data/tokenizer/vocabulary.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"

namespace rookery::data {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

fs::path world_vocabulary() {
  const char* shared = std::getenv("ROOKERY_SHARED");
  return fs::path(shared ? shared : "../shared") / "data" / "rwkv_vocab_v20230424.txt";
}

// A vocabulary of all single bytes (id = byte value + 1) and `more`, with the ids that follow.
std::string vocabulary_text(const std::vector<std::string>& more) {
  std::vector<VocabEntry> entries;
  for (int byte = 0; byte < 256; ++byte)
    entries.push_back({byte + 1, std::string(1, static_cast<char>(byte))});
  for (const std::string& token : more) entries.push_back({static_cast<int32_t>(entries.size()) + 1, token});
  return format_vocabulary(entries);
}

// The error that `f` throws, as "ID message"; "none" if it throws nothing.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kData);
    return e.id() + " " + e.what();
  }
  return "none";
}

std::string parse_error(std::string_view text) {
  return error_of([&] { parse_vocabulary(text, "v.txt"); });
}

std::string token_of(std::string_view line) { return parse_vocabulary(line, "v.txt").at(0).bytes; }

TEST(Vocabulary, ReadsEachKindOfLiteral) {
  EXPECT_EQ(token_of("7 'ab' 2\n"), "ab");
  EXPECT_EQ(token_of("7 \"it's\" 4\n"), "it's");
  EXPECT_EQ(token_of("7 ' ' 1\n"), " ");
  EXPECT_EQ(token_of("7 ' a  b ' 6\n"), " a  b ");
  EXPECT_EQ(token_of(R"(7 '\n\t\r\\\'\"' 6)"), "\n\t\r\\'\"");
  EXPECT_EQ(token_of(R"(7 '\xa0' 2)"), "\xC2\xA0");
  EXPECT_EQ(token_of(R"(7 b'\xA0' 1)"), "\xA0");
  EXPECT_EQ(token_of(R"(7 b' \xe4a' 3)"),
            " \xE4"
            "a");
  EXPECT_EQ(token_of(R"(7 '\u3000' 3)"), "\xE3\x80\x80");
  EXPECT_EQ(token_of("7 '\u00e9' 2"), "\u00e9");
  EXPECT_EQ(token_of(R"(7 '\x00' 1)"), std::string(1, '\0'));
}

TEST(Vocabulary, AcceptsByteOrderMarkCrLfGapsAndAnyOrder) {
  const auto entries = parse_vocabulary(
      "\xEF\xBB\xBF"
      "9 'b' 1\r\n3 'a' 1\r\n65535 'c' 1",
      "v.txt");
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].id, 9);
  EXPECT_EQ(entries[1].bytes, "a");
  EXPECT_EQ(entries[2].id, 65535);
}

TEST(Vocabulary, NamesLineAndFaultOfBadInput) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "VOCAB-01 v.txt: holds no token"},
      {"1 'a' 1\n\n2 'b' 1\n", "VOCAB-02 v.txt:2: expected ID"},
      {"1 'a'", "VOCAB-02 v.txt:1: expected ID"},
      {"+1 'a' 1", "VOCAB-02 v.txt:1: the line must begin with a decimal id"},
      {"01 'a' 1", "VOCAB-02 v.txt:1: the line must begin with a decimal id"},
      {"99999999999999999999 'a' 1", "VOCAB-02 v.txt:1: the line must begin with a decimal id"},
      {" 1 'a' 1", "VOCAB-02 v.txt:1: the line must begin with a decimal id"},
      {"1 'a' 1 ", "VOCAB-02 v.txt:1: the line must end with the token's length"},
      {"1 'a' -1", "VOCAB-02 v.txt:1: the line must end with the token's length"},
      {"1 a 1", "VOCAB-02 v.txt:1: expected a token as"},
      {"1 ' 1", "VOCAB-02 v.txt:1: expected"},
      {"1 'a\" 1", "VOCAB-02 v.txt:1: expected a token as"},
      {"1 b\"a\" 1", "VOCAB-02 v.txt:1: expected a token as"},
      {"1 '' 0", "VOCAB-02 v.txt:1: the token is empty"},
      {"1 'a'b' 3", "VOCAB-02 v.txt:1: unescaped '"},
      {"1 'a\tb' 3", "VOCAB-02 v.txt:1: raw byte 0x09"},
      {"1 'a\rb' 3", "VOCAB-02 v.txt:1: raw byte 0x0d"},
      {"1 b'\u00e9' 2", "VOCAB-02 v.txt:1: raw byte 0xc3"},
      {"1 '\xFF' 1", "VOCAB-02 v.txt:1: byte 0 of the token is not valid UTF-8"},
      {"1 '\xED\xA0\x80' 3", "VOCAB-02 v.txt:1: byte 0 of the token is not valid UTF-8"},
      {R"(1 '\q' 1)", "VOCAB-03 v.txt:1: unknown escape \\q in a text token"},
      {R"(1 '\0' 1)", "VOCAB-03 v.txt:1: unknown escape \\0"},
      {R"(1 '\U0001F600' 4)", "VOCAB-03 v.txt:1: unknown escape \\U"},
      {R"(1 b'\n' 1)", "VOCAB-03 v.txt:1: unknown escape \\n in a bytes token"},
      {R"(1 b'\u00e9' 2)", "VOCAB-03 v.txt:1: unknown escape \\u in a bytes token"},
      {R"(1 '\xg0' 1)", "VOCAB-03 v.txt:1: \\x must be followed by 2 hexadecimal digits"},
      {R"(1 '\x1' 1)", "VOCAB-03 v.txt:1: \\x must be followed by 2 hexadecimal digits"},
      {R"(1 '\u12' 1)", "VOCAB-03 v.txt:1: \\u must be followed by 4 hexadecimal digits"},
      {R"(1 '\ud800' 3)", "VOCAB-03 v.txt:1: a \\u escape names half of a surrogate pair"},
      {R"(1 'a\' 1)", "VOCAB-03 v.txt:1: unknown escape"},
      {"1 'ab' 3", "VOCAB-04 v.txt:1: the token has 2 bytes, but the line says 3"},
      {R"(1 '\xa0' 1)", "VOCAB-04 v.txt:1: the token has 2 bytes, but the line says 1"},
      {"0 'a' 1", "VOCAB-05 v.txt:1: id 0 is out of range"},
      {"65536 'a' 1", "VOCAB-05 v.txt:1: id 65536 is out of range"},
      {"1 'a' 1\n2 'b' 1\n1 'c' 1\n", "VOCAB-06 v.txt:3: id 1 stands already in line 1"},
      {"1 'a' 1\n2 'b' 1\n3 b'\\x61' 1\n", "VOCAB-07 v.txt:3: the same token stands already in line 1"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_TRUE(parse_error(text).starts_with(expected)) << text << "\n  gave: " << parse_error(text);
  }
  EXPECT_TRUE(
      parse_error("1 '" + std::string(1025, 'a') + "' 1025").starts_with("VOCAB-02 v.txt:1: the token has"));
}

TEST(Vocabulary, RefusesMoreLinesThanIds) {
  std::string text;
  for (int i = 1; i <= 70000; ++i) text += str(i, " 't", i, "' ", str(i).size() + 1, "\n");
  EXPECT_TRUE(parse_error(text).starts_with("VOCAB-05 v.txt:65536: id 65536 is out of range"));
}

TEST(Vocabulary, ShowsHostileLinesSafely) {
  const std::string error = parse_error("1 '\x1b[2J" + std::string(100000, 'x'));
  EXPECT_EQ(error.find('\x1b'), std::string::npos);
  EXPECT_LT(error.size(), 400u);
}

TEST(Vocabulary, WritesWhatItReads) {
  const std::vector<VocabEntry> entries = {{1, "a"},
                                           {2, "it's"},
                                           {3, "say \"it's\""},
                                           {4, "\xFF' \\"},
                                           {5, "\n\r\t\\"},
                                           {6, "\xC2\xA0"},
                                           {7, "\xE3\x80\x80"},
                                           {8, "\xF0\x9F\x99\x82"},
                                           {9, "\xC3\xA9"},
                                           {10, std::string(1, '\0')}};
  const std::string text = format_vocabulary(entries);
  EXPECT_NE(text.find("2 \"it's\" 4\n"), std::string::npos) << text;
  EXPECT_NE(text.find("4 b'\\xff\\x27 \\x5c' 4\n"), std::string::npos) << text;
  EXPECT_NE(text.find("6 '\\xa0' 2\n7 '\\u3000' 3\n"), std::string::npos) << text;
  const auto back = parse_vocabulary(text, "v.txt");
  ASSERT_EQ(back.size(), entries.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(back[i].id, entries[i].id);
    EXPECT_EQ(back[i].bytes, entries[i].bytes);
  }
}

TEST(ByteTrie, AgreesWithANaiveSearchOnRandomTokens) {
  std::mt19937 rng(1);
  for (int round = 0; round < 20; ++round) {
    const int letters = round % 2 ? 3 : 256;
    const auto random_bytes = [&](size_t most) {
      std::string out(1 + rng() % most, '\0');
      for (char& c : out) c = static_cast<char>(rng() % letters);
      return out;
    };
    std::map<std::string, int32_t> tokens;
    for (int i = 0; i < 500; ++i) tokens.try_emplace(random_bytes(7), i);
    std::vector<VocabEntry> entries;
    for (const auto& [bytes, id] : tokens) entries.push_back({id, bytes});
    const ByteTrie trie(entries);
    for (int i = 0; i < 300; ++i) {
      const std::string text = random_bytes(10);
      int32_t best = -1;
      for (size_t n = 1; n <= text.size(); ++n) {
        if (auto it = tokens.find(text.substr(0, n)); it != tokens.end()) best = it->second;
      }
      EXPECT_EQ(trie.longest(text).id, best);
    }
  }
}

TEST(VocabTokenizer, TakesTheLongestMatchAndIsNotConcatenationSafe) {
  const VocabTokenizer t(vocabulary_text({"ab", "abcd", "bc"}), "v.txt");
  EXPECT_EQ(t.encode("abc"), (Ids{257, 100}));
  EXPECT_EQ(t.encode("abcd"), (Ids{258}));
  EXPECT_EQ(t.encode("bcab"), (Ids{259, 257}));
  EXPECT_EQ(t.encode(""), Ids{});
  EXPECT_EQ(t.vocab_size(), 260);
  EXPECT_EQ(t.num_tokens(), 259);
  EXPECT_EQ(t.longest_token(), 4u);
  EXPECT_TRUE(t.missing_bytes().empty());
  EXPECT_EQ(t.decode(Ids{258, 0, 98}), "abcda");
  EXPECT_EQ(t.sha256(), io::sha256(vocabulary_text({"ab", "abcd", "bc"})));
}

TEST(VocabTokenizer, EveryByteStringComesBack) {
  const VocabTokenizer t(vocabulary_text({"\xE4\xBD", "\xE4\xBD\xA0", "  ", "\xFF\xFE"}), "v.txt");
  std::mt19937 rng(2);
  for (int i = 0; i < 200; ++i) {
    std::string text(rng() % 100, '\0');
    for (char& c : text) c = static_cast<char>(rng());
    EXPECT_EQ(t.decode(t.encode(text)), text);
  }
}

TEST(VocabTokenizer, SaysWhatItCannotEncodeOrDecode) {
  const VocabTokenizer t("1 'a' 1\n5 'bc' 2\n", "v.txt");
  EXPECT_EQ(t.missing_bytes().size(), 255u);
  EXPECT_TRUE(error_of([&] {
                t.encode("abcb");
              }).starts_with("VOCAB-08 v.txt: has no token for the byte 98 at offset 3"));
  EXPECT_TRUE(error_of([&] { t.decode(Ids{1, 3}); }).starts_with("VOCAB-09 v.txt: id 3 at position 1"));
  EXPECT_TRUE(error_of([&] { t.decode(Ids{-1}); }).starts_with("VOCAB-09 v.txt: id -1"));
  EXPECT_TRUE(error_of([&] { t.decode(Ids{6}); }).starts_with("VOCAB-09 v.txt: id 6"));
}

TEST(VocabTokenizer, LoadRefusesWhatIsNoFile) {
  for (const char* path : {"no/such/vocabulary.txt", "."}) {
    try {
      load_tokenizer(path);
      FAIL() << "expected an error for " << path;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kNoInput);
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos);
    }
  }
}

TEST(Utf8, FindsIllFormedSequences) {
  EXPECT_EQ(find_invalid_utf8("a\u00e9\u4f60\U0001F642\U0010FFFF"), std::string_view::npos);
  const std::string_view bad[] = {"\x80",
                                  "\xC0\x80",
                                  "\xC1\xBF",
                                  "\xE0\x9F\xBF",
                                  "\xED\xA0\x80",
                                  "\xF0\x8F\x80\x80",
                                  "\xF4\x90\x80\x80",
                                  "\xF5\x80\x80\x80",
                                  "\xE4\xBD",
                                  "\xFF"};
  for (std::string_view sequence : bad)
    EXPECT_EQ(find_invalid_utf8("ok" + std::string(sequence)), 2u) << sequence;
}

TEST(StreamDecoder, HoldsBackIncompleteCharacters) {
  const VocabTokenizer t(vocabulary_text({}), "v.txt");
  StreamDecoder d(t);
  EXPECT_EQ(d.push('h' + 1), "h");
  EXPECT_EQ(d.push(0xE4 + 1), "");
  EXPECT_EQ(d.push(0xBD + 1), "");
  EXPECT_EQ(d.push(0xA0 + 1), "\u4f60");
  EXPECT_EQ(d.push(0xE4 + 1), "");
  EXPECT_EQ(d.push('x' + 1), "\uFFFDx");
  EXPECT_EQ(d.push(0xFF + 1), "\uFFFD");
  EXPECT_EQ(d.push(kEndOfText), "");
  EXPECT_EQ(d.push(0xF0 + 1), "");
  EXPECT_EQ(d.push(9999), "\uFFFD\uFFFD");
  EXPECT_EQ(d.push(0xF0 + 1), "");
  EXPECT_EQ(d.finish(), "\uFFFD");
  EXPECT_EQ(d.finish(), "");
}

TEST(StreamDecoder, GivesTheSameTextAsOneDecode) {
  const VocabTokenizer t(vocabulary_text({"\x9F\x99", "\xE4\xBD", "a\xE4"}), "v.txt");
  const std::string text = "a\u4f60\U0001F642 \u00e9a\u4f60";
  StreamDecoder d(t);
  std::string streamed;
  for (int32_t id : t.encode(text)) {
    const std::string piece = d.push(id);
    EXPECT_EQ(find_invalid_utf8(piece), std::string_view::npos);
    streamed += piece;
  }
  EXPECT_EQ(streamed + d.finish(), text);
}

TEST(WorldVocabulary, FactsVectorsAndRewriting) {
  const fs::path path = world_vocabulary();
  if (!fs::exists(path)) GTEST_SKIP() << path << " is not here (ROOKERY_SHARED names the shared data folder)";
  const std::string file = io::read_file(path, kMaxVocabularyFile);
  EXPECT_EQ(io::sha256(file), "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89");
  const VocabTokenizer t(file, "world");
  EXPECT_EQ(t.num_tokens(), 65529);
  EXPECT_EQ(t.vocab_size(), 65530);
  EXPECT_EQ(t.longest_token(), 128u);
  EXPECT_TRUE(t.missing_bytes().empty());
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(t.encode(std::string(1, static_cast<char>(byte))), Ids{byte + 1});
  EXPECT_TRUE(format_vocabulary(parse_vocabulary(file, "world")) == file)
      << "the writer must give the published bytes back";

  std::string crlf;
  for (char c : file) crlf += c == '\n' ? "\r\n" : std::string(1, c);
  EXPECT_EQ(io::sha256(crlf), "8324476023347dec2964625ccb2075c864d250a9c6d9a74f36daba628de8c008");
  EXPECT_TRUE(format_vocabulary(parse_vocabulary(crlf, "world")) == file);

  const std::pair<std::string, Ids> vectors[] = {
      {"Hello world!", {33155, 40213, 34}},
      {"The Eiffel tower is in the city of", {6699, 304, 25740, 109, 39990, 4600, 4596, 22590, 30449, 4706}},
      {"\n\n", {261}},
      {"  indented\tcode\r\n", {267, 41621, 1843, 10, 25036, 263}},
      {"User: hi\n\nAssistant:", {24281, 59, 4571, 261, 5585, 41693, 59}},
      {"\u4f60\u597d\uff0c\u4e16\u754c", {10464, 11685, 19137, 10267, 14610}},
      {"\U0001F642\U0001F680", {3319, 2417, 3319, 155, 129}},
      {"na\u00efve caf\u00e9", {2059, 27698, 37946}},
      {"0123456789", {621, 643, 665, 687, 709}},
      {"\xC2\x85\u00a0\u2028x", {195, 134, 2430, 3006, 169, 121}},
      {std::string(20, 'a'), {53739, 53739, 24364}},
      {std::string(200, ' '), {65529, 65522}},
      {"\xFF\xFE\x41", {256, 255, 66}},
      {"\xC3", {196}},
      {std::string(1, '\0'), {1}},
  };
  for (const auto& [text, ids] : vectors) {
    EXPECT_EQ(t.encode(text), ids) << text;
    EXPECT_EQ(t.decode(ids), text);
  }
}

}  // namespace
}  // namespace rookery::data
