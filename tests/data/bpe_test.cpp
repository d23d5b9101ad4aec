// bpe_test.cpp: byte-level BPE: the split patterns against an interpreter of their text, merges against the
// plain definition, NFC, added tokens, and what a tokenizer.json may hold.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>

#include "data/tokenizer/bpe_tokenizer.h"
#include "data/tokenizer/stream_decoder.h"
#include "data/tokenizer/unicode.h"
#include "data/tokenizer/utf8.h"
#include "kernels/base/error.h"
#include "kernels/base/io.h"
#include "tests/support/tokenizer_json.h"

namespace rookery::data {
namespace {

using Ids = std::vector<int32_t>;
using Json = nlohmann::json;
using test::added_token;
using test::bpe_json;

// Matches a regular expression of the syntax that the published patterns use, by backtracking: alternatives,
// (?i:...), (?!...), classes, \p{L} \p{N} \s \S \r \n, ? * + {m,n}.
class NaiveRegex {
 public:
  explicit NaiveRegex(std::string_view pattern) : pattern_(pattern) {}

  // Length of the match at `at`; -1 for none.
  int64_t match(const std::vector<std::string>& chars, size_t at) const {
    chars_ = &chars;
    int64_t end = -1;
    alternatives(pattern_, at, false, [&](size_t stop) {
      end = static_cast<int64_t>(stop);
      return true;
    });
    return end < 0 ? -1 : end - static_cast<int64_t>(at);
  }

 private:
  using Then = std::function<bool(size_t)>;

  static CharClass class_of(const std::string& c) {
    const Utf8Char first = first_utf8_char(c);
    return first.kind == Utf8Char::Kind::kValid ? char_class(first.code) : CharClass::kOther;
  }

  bool alternatives(std::string_view p, size_t at, bool fold, const Then& then) const {
    size_t begin = 0;
    int depth = 0;
    for (size_t i = 0; i <= p.size(); ++i) {
      if (i < p.size() && p[i] == '\\') {
        ++i;
      } else if (i < p.size() && (p[i] == '(' || p[i] == '[')) {
        ++depth;
      } else if (i < p.size() && (p[i] == ')' || p[i] == ']')) {
        --depth;
      } else if (i == p.size() || (p[i] == '|' && depth == 0)) {
        if (sequence(p.substr(begin, i - begin), at, fold, then)) return true;
        begin = i + 1;
      }
    }
    return false;
  }

  bool sequence(std::string_view p, size_t at, bool fold, const Then& then) const {
    if (p.empty()) return then(at);
    if (p.starts_with("(?i:")) {
      const size_t close = p.find(')');
      return alternatives(p.substr(4, close - 4), at, true,
                          [&](size_t stop) { return sequence(p.substr(close + 1), stop, fold, then); });
    }
    if (p.starts_with("(?!")) {
      const size_t close = p.find(')');
      if (at < chars_->size() && in_atom(p.substr(3, close - 3), (*chars_)[at], fold)) return false;
      return sequence(p.substr(close + 1), at, fold, then);
    }
    size_t length = 1;
    if (p[0] == '[') {
      length = p.find(']') + 1;
    } else if (p[0] == '\\') {
      length = p[1] == 'p' ? p.find('}') + 1 : 2;
    }
    const std::string_view atom = p.substr(0, length);
    p.remove_prefix(length);
    size_t least = 1, most = 1;
    if (!p.empty() && (p[0] == '?' || p[0] == '*' || p[0] == '+')) {
      least = p[0] == '+';
      most = p[0] == '?' ? 1 : SIZE_MAX;
      p.remove_prefix(1);
    } else if (p.starts_with("{1,3}")) {
      most = 3;
      p.remove_prefix(5);
    }
    size_t count = 0;
    while (count < most && at + count < chars_->size() && in_atom(atom, (*chars_)[at + count], fold)) ++count;
    for (;; --count) {  // greedy
      if (count < least) return false;
      if (sequence(p, at + count, fold, then)) return true;
      if (count == 0) return false;
    }
  }

  static bool in_atom(std::string_view atom, const std::string& c, bool fold) {
    if (atom[0] == '[') {
      const bool negated = atom[1] == '^';
      atom = atom.substr(negated ? 2 : 1, atom.size() - (negated ? 3 : 2));
      bool found = false;
      while (!atom.empty()) {
        const size_t n = atom[0] != '\\' ? 1 : atom[1] == 'p' ? 5 : 2;
        found = found || in_atom(atom.substr(0, n), c, fold);
        atom.remove_prefix(n);
      }
      return found != negated;
    }
    if (atom == "\\p{L}") return class_of(c) == CharClass::kLetter;
    if (atom == "\\p{N}") return class_of(c) == CharClass::kNumber;
    if (atom == "\\s") return class_of(c) == CharClass::kSpace;
    if (atom == "\\S") return class_of(c) != CharClass::kSpace;
    if (atom == "\\r") return c == "\r";
    if (atom == "\\n") return c == "\n";
    if (!fold) return c == atom;
    return c == "\u017F" ? atom == "s" : c.size() == 1 && std::tolower(c[0]) == std::tolower(atom[0]);
  }

  std::string_view pattern_;
  mutable const std::vector<std::string>* chars_ = nullptr;
};

TEST(Split, AgreesWithTheTextOfThePattern) {
  const std::string kinds[] = {"'",      "s",      "S",          "\u017F",  "t",      "l",      "L",
                               "e",      "R",      "v",          "\u00e9",  "\u4e2d", "1",      "2",
                               "\u0663", "\u00bd", " ",          " ",       "\t",     "\n",     "\r",
                               "\u00a0", ".",      "?",          "\u3000",  "\u0085", "\u0301", "\u2167",
                               "\x1c",   "\xFF",   "\U0001F642", "\xE4\xBD"};
  std::mt19937 rng(1);
  for (const SplitPattern pattern : {SplitPattern::kGpt2, SplitPattern::kLlama3, SplitPattern::kQwen2}) {
    const NaiveRegex regex(regex_of(pattern));
    for (int round = 0; round < 20000; ++round) {
      std::vector<std::string> chars(1 + rng() % 12);
      std::string text;
      for (std::string& c : chars) {
        // Every fourth text of spaces and line ends mostly: there the patterns look ahead.
        c = kinds[round % 4 == 0 && rng() % 4 ? 16 + rng() % 5 : rng() % std::size(kinds)];
        text += c;
      }
      for (size_t at = 0, byte = 0; at < chars.size();) {
        const int64_t n = regex.match(chars, at);
        ASSERT_GT(n, 0);
        size_t bytes = 0;
        for (int64_t i = 0; i < n; ++i) bytes += chars[at++].size();
        ASSERT_EQ(piece_length(pattern, std::string_view(text).substr(byte)), bytes)
            << regex_of(pattern) << " at byte " << byte << " of "
            << Json(text).dump(-1, ' ', true, Json::error_handler_t::replace);
        byte += bytes;
      }
    }
  }
}

std::vector<std::string> pieces(SplitPattern pattern, std::string_view text) {
  std::vector<std::string> out;
  for (; !text.empty(); text.remove_prefix(out.back().size()))
    out.emplace_back(text.substr(0, piece_length(pattern, text)));
  return out;
}

TEST(Split, PublishedPatternsDifferInNumbersAndCase) {
  using V = std::vector<std::string>;
  EXPECT_EQ(pieces(SplitPattern::kGpt2, "It'S 12345\n\n x"), (V{"It", "'", "S", " 12345", "\n\n", " x"}));
  EXPECT_EQ(pieces(SplitPattern::kLlama3, "It'S 12345\n\n x"),
            (V{"It", "'S", " ", "123", "45", "\n\n", " x"}));
  EXPECT_EQ(pieces(SplitPattern::kQwen2, "It'S 123  x"), (V{"It", "'S", " ", "1", "2", "3", " ", " x"}));
  EXPECT_EQ(pieces(SplitPattern::kQwen2, "a.b!!\n  c \n"), (V{"a", ".b", "!!\n", " ", " c", " \n"}));
}

TEST(Unicode, Classes) {
  const std::pair<char32_t, CharClass> cases[] = {
      {U'a', CharClass::kLetter},        {U'\u00aa', CharClass::kLetter}, {U'\u02b0', CharClass::kLetter},
      {U'\u01c5', CharClass::kLetter},   {U'\u4e2d', CharClass::kLetter}, {U'\U0001E922', CharClass::kLetter},
      {U'7', CharClass::kNumber},        {U'\u00b2', CharClass::kNumber}, {U'\u2160', CharClass::kNumber},
      {U'\u0967', CharClass::kNumber},   {U'\u0085', CharClass::kSpace},  {U'\u2028', CharClass::kSpace},
      {U'\u1680', CharClass::kSpace},    {U'\u0301', CharClass::kOther},  {U'\u200b', CharClass::kOther},
      {U'\u001c', CharClass::kOther},    {U'_', CharClass::kOther},       {U'\ue000', CharClass::kOther},
      {U'\U000e0001', CharClass::kOther}};
  for (const auto& [code, kind] : cases) EXPECT_EQ(char_class(code), kind) << static_cast<uint32_t>(code);
  int spaces = 0;
  for (char32_t c = 0; c < 0x110000; ++c) spaces += char_class(c) == CharClass::kSpace;
  EXPECT_EQ(spaces, 25);  // of the property White_Space
}

TEST(Unicode, NormalFormC) {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {"plain \u00e9 \u4f60\u597d", "plain \u00e9 \u4f60\u597d"},
      {"e\u0301", "\u00e9"},
      {"\u212B", "\u00c5"},              // a singleton
      {"a\u0323\u0302", "\u1ead"},       // two marks, in order
      {"a\u0302\u0323", "\u1ead"},       // and out of order
      {"\u1112\u1161\u11ab", "\ud55c"},  // Hangul
      {"\ud558\u11ab", "\ud55c"},
      {"\u0915\u093c", "\u0915\u093c"},  // excluded from composition
      {"\u0958", "\u0915\u093c"},
      {"\u0344", "\u0308\u0301"},
      {"\xFF"
       "e\u0301\xE4\xBD",
       "\xFF\u00e9\xE4\xBD"},  // ill-formed bytes stay
      {">\u0338", "\u226f"},
  };
  for (const auto& [text, wanted] : cases) EXPECT_EQ(to_nfc(text), wanted) << text;
  // A run of marks out of order: sorted by class, stable, and in less than quadratic time.
  std::string marks = "x", sorted = "x";
  for (int i = 0; i < 300000; ++i) marks += "\u0348\u0316\u0334";  // classes 220, 220, 1
  for (int i = 0; i < 300000; ++i) sorted += "\u0334";
  for (int i = 0; i < 300000; ++i) sorted += "\u0348\u0316";
  EXPECT_TRUE(to_nfc(marks) == sorted);
}

// The definition: the pair of lowest rank, the leftmost of them, until there is none.
std::vector<std::string> merge_naively(const std::string& word, const test::Merges& merges) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best = merges.size(), place = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank)
        if (merges[rank].first == parts[i] && merges[rank].second == parts[i + 1]) best = rank, place = i;
    }
    if (best == merges.size()) return parts;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST(Bpe, MergesAsTheDefinitionSays) {
  std::mt19937 rng(3);
  for (int round = 0; round < 40; ++round) {
    test::Merges merges;
    std::vector<std::string> known{"a", "b", "c"};
    while (merges.size() < 25) {
      const std::pair<std::string, std::string> pair{known[rng() % known.size()],
                                                     known[rng() % known.size()]};
      if (std::find(merges.begin(), merges.end(), pair) != merges.end()) continue;
      merges.push_back(pair);
      known.push_back(pair.first + pair.second);
    }
    std::shuffle(merges.begin(), merges.end(), rng);  // so that some tokens are never reached
    Json json = bpe_json(SplitPattern::kGpt2, merges);
    const BpeTokenizer bpe(json.dump(), "t.json");
    json["model"]["ignore_merges"] = true;
    const BpeTokenizer whole(json.dump(), "t.json");
    for (int i = 0; i < 100; ++i) {
      std::string word(1 + rng() % 12, 'a');
      for (char& c : word) c = static_cast<char>('a' + rng() % 3);
      const std::vector<std::string> wanted = merge_naively(word, merges);
      for (int again = 0; again < 2; ++again) {  // the second time from what it remembers
        std::vector<std::string> found;
        for (const int32_t id : bpe.encode(word)) found.emplace_back(bpe.token(id));
        ASSERT_EQ(found, wanted) << word;
      }
      const bool is_token = std::find(known.begin(), known.end(), word) != known.end();
      EXPECT_EQ(whole.encode(word).size(), is_token ? 1 : wanted.size()) << word;
    }
  }
}

TEST(Bpe, LongRunsTakeNoSquares) {
  const BpeTokenizer bpe(
      bpe_json(SplitPattern::kQwen2, {{"a", "a"}, {"aa", "aa"}, {" ", " "}, {"a", "b"}}).dump(), "t.json");
  const size_t n = 1 << 20;
  EXPECT_EQ(bpe.encode(std::string(n, 'a')).size(), n / 4);
  EXPECT_EQ(bpe.encode(std::string(n, ' ')).size(), n / 2);
  EXPECT_EQ(bpe.encode("\n" + std::string(n, ' ') + "a").size(), 1 + (n - 2) / 2 + 1 + 2);
  std::string text;
  for (size_t i = 0; i < n; ++i) text += "ab";
  EXPECT_EQ(bpe.encode(text).size(), n);
  EXPECT_EQ(bpe.encode(std::string(n, '1')).size(), n);
  EXPECT_EQ(bpe.encode(std::string(n, '\n')).size(), n);
}

TEST(Bpe, EveryByteStringComesBack) {
  const BpeTokenizer bpe(
      bpe_json(SplitPattern::kLlama3, {{"\xE4", "\xBD"}, {"\xE4\xBD", "\xA0"}, {" ", "a"}, {"\xFF", "\xFE"}})
          .dump(),
      "t.json");
  std::mt19937 rng(2);
  for (int i = 0; i < 2000; ++i) {
    std::string text(rng() % 60, '\0');
    for (char& c : text) c = static_cast<char>(rng());
    EXPECT_EQ(bpe.decode(bpe.encode(text)), bpe.normalise(text));
  }
  EXPECT_EQ(bpe.decode(bpe.encode("e\u0301 \u4f60a\xFF")), "\u00e9 \u4f60a\xFF");
  const Ids ids = bpe.encode("a\u4f60 \U0001F642");
  StreamDecoder stream(bpe);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    EXPECT_EQ(find_invalid_utf8(piece), std::string_view::npos);
    streamed += piece;
  }
  EXPECT_EQ(streamed + stream.finish(), "a\u4f60 \U0001F642");
}

TEST(Bpe, AddedTokensAreCutOutFirst) {
  Json json = bpe_json(SplitPattern::kQwen2, {{"h", "i"}});  // "hi" is 256, <|endoftext|> 257
  json["added_tokens"].push_back(added_token(258, "<|im|>", true, false));
  json["added_tokens"].push_back(added_token(259, "<tool>", false, false));
  json["added_tokens"].push_back(added_token(260, "<tool>!", false, false));
  json["added_tokens"].push_back(added_token(261, "e\u0301", false, true));  // looked for as U+00E9
  const BpeTokenizer bpe(json.dump(), "t.json");
  EXPECT_EQ(bpe.vocab_size(), 262);
  EXPECT_EQ(bpe.eot_id(), 257);
  EXPECT_EQ(bpe.bos_id(), 257);
  EXPECT_EQ(bpe.sha256(), io::sha256(json.dump()));
  EXPECT_EQ(bpe.encode("hi<tool>!hi<tool>"), (Ids{256, 260, 256, 259}));
  EXPECT_EQ(bpe.encode("hi\u00e9hi"), (Ids{256, 261, 256}));
  EXPECT_EQ(bpe.encode("e\u0301"), (Ids{261}));
  // Special tokens are text, except in prompts.
  EXPECT_EQ(bpe.encode("<|im|>"), (Ids{'<', '|', 'i', 'm', '|', '>'}));
  EXPECT_EQ(bpe.encode_prompt("<|im|>hi<|endoftext|><|im|"), (Ids{258, 256, 257, '<', '|', 'i', 'm', '|'}));
  // Found before the text is normalised: ">" does not become part of another character.
  EXPECT_EQ(bpe.encode("<tool>\u0338"), (Ids{259, 0xCC, 0xB8}));
  EXPECT_EQ(bpe.decode(Ids{258, 256, 260, 257}), "<|im|>hi<tool>!<|endoftext|>");
  EXPECT_EQ(bpe.token(257), "<|endoftext|>");
  EXPECT_EQ(bpe.token(-1), "");
  EXPECT_EQ(bpe.token(262), "");

  json["added_tokens"].push_back(added_token(300, "<|begin_of_text|>", true, false));
  const BpeTokenizer llama(json.dump(), "t.json");
  EXPECT_EQ(llama.bos_id(), 300);
  EXPECT_EQ(llama.eot_id(), 257);
  EXPECT_THROW(llama.decode(Ids{299}), Error);  // ids may have gaps
}

TEST(Bpe, MergesAsPairsGptNeoxStyleAndKeysInAnyOrder) {
  Json json = bpe_json(SplitPattern::kGpt2, {{"h", "i"}, {"hi", "hi"}});
  const Ids wanted = BpeTokenizer(json.dump(), "t").encode("hihi 1x");
  json["model"]["merges"] = Json::array({Json::array({"h", "i"}), Json::array({"hi", "hi"})});
  EXPECT_EQ(BpeTokenizer(json.dump(), "t").encode("hihi 1x"), wanted);
  json["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  EXPECT_EQ(BpeTokenizer(json.dump(), "t").encode("hihi 1x"), wanted);
  json["normalizer"] = nullptr;
  EXPECT_EQ(BpeTokenizer(json.dump(), "t").encode("e\u0301"), (Ids{'e', 0xCC, 0x81}));
  json["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
  EXPECT_EQ(BpeTokenizer(json.dump(), "t").encode("e\u0301"), (Ids{0xC3, 0xA9}));
  // A special token may stand in the vocabulary, too.
  json["model"]["vocab"]["<|endoftext|>"] = 258;
  EXPECT_EQ(BpeTokenizer(json.dump(), "t").eot_id(), 258);
  nlohmann::ordered_json turned;
  for (const char* key : {"model", "pre_tokenizer", "normalizer", "version", "added_tokens"})
    turned[key] = json[key];
  EXPECT_EQ(BpeTokenizer(turned.dump(), "t").encode("hihi"), Ids{257});
}

std::string error_of(const std::string& file) {
  try {
    BpeTokenizer(file, "t.json");
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::kData);
    return e.id() + " " + e.what();
  }
  return "none";
}

TEST(TokenizerJson, RefusesByNameWhatItDoesNotKnow) {
  struct Case {
    std::function<void(Json&)> change;
    std::string error;
  };
  const auto set = [](const char* pointer, Json value) {
    return [=](Json& j) { j[Json::json_pointer(pointer)] = value; };
  };
  const Case cases[] = {
      {set("/model/type", "Unigram"), "BPE-02 t.json: model.type = \"Unigram\" is not supported"},
      {set("/model/byte_fallback", true), "BPE-02 t.json: model.byte_fallback = true"},
      {set("/model/dropout", 0.1), "BPE-02 t.json: model.dropout = 0.1"},
      {set("/model/continuing_subword_prefix", "##"), "BPE-02 t.json: model.continuing_subword_prefix"},
      {set("/model/end_of_word_suffix", "</w>"), "BPE-02 t.json: model.end_of_word_suffix"},
      {set("/model/new", 1), "BPE-02 t.json: the key model.\"new\""},
      {set("/new", 1), "BPE-02 t.json: the key \"new\""},
      {set("/version", "2.0"), "BPE-02 t.json: version = \"2.0\""},
      {set("/truncation", Json::object()), "BPE-02 t.json: truncation = {}"},
      {set("/normalizer/type", "NFKC"), "BPE-02 t.json: normalizer \"NFKC\""},
      {set("/normalizer", "NFC"), "BPE-01 t.json: has no key normalizer.type"},
      {set("/decoder/type", "Metaspace"), "BPE-02 t.json: decoder \"Metaspace\""},
      {set("/pre_tokenizer", nullptr), "BPE-02 t.json: a pre_tokenizer that does not split"},
      {set("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\s+"), "BPE-02 t.json: pre_tokenizer.pattern"},
      {set("/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}),
       "BPE-02 t.json: the key pre_tokenizer.pattern.\"String\""},
      {set("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), "BPE-02 t.json: pre_tokenizer.behavior"},
      {set("/pre_tokenizer/pretokenizers/0/invert", true), "BPE-02 t.json: pre_tokenizer.invert"},
      {set("/pre_tokenizer/pretokenizers/1/add_prefix_space", true),
       "BPE-02 t.json: pre_tokenizer.add_prefix_space = true"},
      {set("/pre_tokenizer/pretokenizers/1/use_regex", true), "BPE-02 t.json: pre_tokenizer.use_regex"},
      {set("/pre_tokenizer/pretokenizers/0/type", "Digits"), "BPE-02 t.json: pre_tokenizer.type \"Digits\""},
      {set("/model/vocab", 3), "BPE-03 t.json: model.vocab is missing"},
      {set("/model/vocab/hi", -1), "BPE-03 t.json: the id of token \"hi\" is -1"},
      {set("/model/vocab/hi", 1.5), "BPE-03 t.json: the id of token \"hi\" is 1.5"},
      {set("/model/vocab/hi", 4194304), "BPE-03 t.json: the id of token \"hi\" is 4194304"},
      {set("/model/vocab/hi", Json::array()), "BPE-03 t.json: the id of token \"hi\" is no number"},
      {set("/model/vocab/hi", 3), "BPE-03 t.json: id 3 belongs to "},
      {set("/model/vocab/a b", 900), "BPE-03 t.json: token \"a b\", id 900, is no string"},
      {set("/model/vocab/\u4f60", 900), "BPE-03 t.json: token \"\\u4f60\", id 900, is no string"},
      {[](Json& j) { j["model"]["vocab"].erase("!"); }, "BPE-03 t.json: has no token for the byte 33"},
      {set("/model/merges", "h i"), "BPE-04 t.json: model.merges is missing or no list"},
      {set("/model/merges/0", 5), "BPE-04 t.json: merge 0 is 5"},
      {set("/model/merges/0", "hi"), "BPE-04 t.json: merge 0 is \"hi\", expected two tokens"},
      {set("/model/merges/0", "h i j"), "BPE-04 t.json: merge 0 is \"h i j\""},
      {set("/model/merges/0", {"h"}), "BPE-04 t.json: merge 0 is no pair"},
      {set("/model/merges/0", {"h", "i", "j"}), "BPE-04 t.json: merge 0 is no pair"},
      {set("/model/merges/0", {"h", {"i"}}), "BPE-04 t.json: merge "},
      {set("/model/merges/0", "h zz"), "BPE-04 t.json: merge 0: the right part, \"zz\", is not in"},
      {set("/model/merges/0", "i h"), "BPE-04 t.json: merge 0: the result, \"ih\", is not in"},
      {set("/model/merges/1", "h i"), "BPE-04 t.json: merge 1, \"h\" and \"i\", stands there before"},
      {set("/added_tokens", 1), "BPE-05 t.json: added_tokens is 1"},
      {set("/added_tokens/0/lstrip", true), "BPE-02 t.json: added_tokens[0].lstrip = true"},
      {set("/added_tokens/0/id", "x"), "BPE-05 t.json: added_tokens[0].id is \"x\""},
      {set("/added_tokens/0/id", 256), "BPE-05 t.json: id 256 is \"<|endoftext|>\" among the added tokens"},
      {set("/added_tokens/0/content", ""), "BPE-05 t.json: added_tokens[0].content is \"\""},
      {set("/added_tokens/1", added_token(257, "x", true, false)),
       "BPE-05 t.json: added_tokens[1].id 257 stands"},
      {set("/added_tokens/1", added_token(300, "<|endoftext|>", true, false)),
       "BPE-05 t.json: added_tokens[1].content \"<|endoftext|>\" stands"},
      {set("/added_tokens/1", added_token(300, "hi", true, false)), "BPE-05 t.json: \"hi\" has id 300"},
      {set("/added_tokens/0/content", "<end>"), "BPE-06 t.json: no added token ends a text"},
  };
  for (const Case& c : cases) {
    Json json = bpe_json(SplitPattern::kQwen2, {{"h", "i"}});
    c.change(json);
    EXPECT_TRUE(error_of(json.dump()).starts_with(c.error))
        << c.error << "\n  gave: " << error_of(json.dump());
  }
}

TEST(TokenizerJson, RefusesWhatIsNoJsonOfThisForm) {
  const std::string good = bpe_json(SplitPattern::kQwen2, {{"h", "i"}}).dump();
  EXPECT_EQ(error_of(good), "none");
  const std::pair<std::string, std::string> cases[] = {
      {"", "BPE-01 t.json: no JSON at byte 0"},
      {"[]", "BPE-01 t.json: is no JSON object"},
      {"7", "BPE-01 t.json: is no JSON object"},
      {"{}", "BPE-01 t.json: has no key model"},
      {good.substr(0, good.size() - 1), str("BPE-01 t.json: no JSON at byte ", good.size() - 1)},
      {good + "x", str("BPE-01 t.json: no JSON at byte ", good.size())},
      {"{\"model\": {\"vocab\": {\"a\": 1, \"a\": 2}}}", "BPE-01 t.json: the key \"a\" stands twice"},
      {"{\"version\": \"1.0\", \"version\": \"1.0\"}", "BPE-01 t.json: the key \"version\" stands twice"},
      {"{\"a\": " + std::string(100000, '['), "BPE-01 t.json: is nested deeper than"},
      {"{\"a\": \"\xFF\"}", "BPE-01 t.json: no JSON at byte 7"},
      {"{\"a\": \"\\ud800\"}", "BPE-01 t.json: no JSON at byte"},
      {"{\"a\": [" +
           [] {
             std::string zeros;
             for (int i = 0; i < 300000; ++i) zeros += "0,";
             return zeros;
           }() +
           "0]}",
       "BPE-01 t.json: more than"},
  };
  for (const auto& [file, error] : cases)
    EXPECT_TRUE(error_of(file).starts_with(error)) << error << "\n  gave: " << error_of(file);
}

}  // namespace
}  // namespace rookery::data
