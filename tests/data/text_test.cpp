// text_test.cpp: JSON Lines and plain text as documents: what is read, what is refused with which place, in
// chunks of any size.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <nlohmann/json.hpp>
#include <random>

#include "data/text/documents.h"
#include "tests/data/support.h"
#include "tests/support/process.h"

namespace rookery::data {
namespace {

using test::expect_error;
using test::write_text;

class Text : public testing::Test {
 protected:
  fs::path put(const std::string& name, const std::string& content) {
    write_text(folder_.path() / name, content);
    return folder_.path() / name;
  }
  // All documents of a file, and the counts.
  std::vector<std::string> read(const fs::path& path, const TextOptions& options = {}) {
    auto inputs = collect_inputs({path.native()});
    TextChunkReader reader(inputs.files, options, {});
    std::vector<std::string> documents;
    counts_ = {};
    for (TextChunk chunk; reader.next(chunk);)
      parse_documents(inputs.files, options, chunk, counts_,
                      [&](std::string_view text) { documents.emplace_back(text); });
    return documents;
  }
  std::vector<std::string> read_jsonl(const std::string& content, const TextOptions& options = {}) {
    return read(put("in.jsonl", content), options);
  }
  void refused(const std::string& content, const char* id, std::vector<std::string> words) {
    auto path = put("in.jsonl", content);
    expect_error([&] { read(path); }, ExitCode::kData, id, words);
  }
  test::TempDir folder_;
  TextCounts counts_;
};

using Texts = std::vector<std::string>;

TEST_F(Text, JsonLinesAreReadAsWritten) {
  EXPECT_EQ(read_jsonl("\xEF\xBB\xBF{\"text\":\"a\"}\r\n\n  \t\n{\"id\": 1, \"text\": \"b \\n c\", \"x\": "
                       "[1,{\"text\":\"no\"}]}"),
            (Texts{"a", "b \n c"}));
  EXPECT_EQ(read_jsonl(R"({"text":"\u0041\u00e9\u65e5\ud83d\ude42\u0000\"\\\/\b\f\n\r\t"})"),
            (Texts{std::string("Aé日🙂\0\"\\/\b\f\n\r\t", 19)}));
  EXPECT_EQ(read_jsonl("{\"te\\u0078t\":\"escaped key\"}\n"), (Texts{"escaped key"}));
  EXPECT_EQ(read_jsonl("{\"text\":\"\"}\n{\"text\":\" \"}\n"), (Texts{" "}));  // nothing is trimmed
  EXPECT_EQ(counts_.empty, 1);
  TextOptions content;
  content.field = "content";
  EXPECT_EQ(read_jsonl("{\"text\":1,\"content\":\"code\"}", content), (Texts{"code"}));
}

TEST_F(Text, BadRecordsAreRefusedWithTheirPlace) {  // D12
  const std::string good = "{\"text\":\"ok\"}\n";   // 14 bytes
  refused(good + "{\"text\":\"a\",}\n", "DATA-12", {"in.jsonl:2: byte 26", "bad JSON", "--on-bad-record"});
  refused(good + "{\"text\":\"a\"", "DATA-12", {":2: byte 25", "bad JSON"});
  refused(good + "{\"txt\":\"a\"}", "DATA-12", {":2: byte 14", "missing field 'text'", "{\"txt\":\"a\"}"});
  refused(good + "{\"text\":null}", "DATA-12", {":2: byte 22", "not text"});
  refused(good + "{\"text\":3}", "DATA-12", {"not text"});
  refused(good + "\"text\"", "DATA-12", {"not an object"});
  refused(good + "[1]", "DATA-12", {"not an object"});
  refused("[{\"text\":\"a\"}]", "DATA-12", {":1: byte 0", "array", "jq"});
  refused("{\"text\":\"a\"}{\"text\":\"b\"}", "DATA-12", {":1: byte 12", "bad JSON"});
  refused("{\"text\":\"a\",\"text\":\"b\"}", "DATA-12", {"twice"});
  refused("{\"text\":\"a\tb\"}", "DATA-12", {"bad JSON", "a\\x09b"});  // a raw control character
  refused("{\"text\":\"a\",\"x\":" + std::string(600, '[') + std::string(600, ']') + "}", "DATA-12",
          {"deeper than 512"});
  EXPECT_EQ(read_jsonl("{\"text\":\"a\",\"x\":" + std::string(500, '[') + std::string(500, ']') + "}"),
            (Texts{"a"}));
  for (const char* number : {"01", "1.", ".5", "+1", "1e", "0x1", "NaN", "-"})
    refused(str("{\"text\":\"a\",\"x\":", number, "}"), "DATA-12", {"bad JSON"});
}

TEST_F(Text, BadRecordsCanBeSkippedAndAreCounted) {
  TextOptions skip;
  skip.on_bad_record = OnBad::kSkip;
  std::string content;
  for (int i = 0; i < 15; ++i) content += "{\"text\":\"ok\"}\nnonsense\n{\"text\":null}\n";
  EXPECT_EQ(read_jsonl(content, skip).size(), 15u);
  EXPECT_EQ(counts_.bad[static_cast<size_t>(RecordFault::kBadJson)], 15);
  EXPECT_EQ(counts_.bad[static_cast<size_t>(RecordFault::kNotText)], 15);
  EXPECT_EQ(counts_.bad_records(), 30);
  ASSERT_EQ(counts_.locations.size(), 10u);
  EXPECT_NE(counts_.locations[1].find("in.jsonl:3: byte 31: field is not text"), std::string::npos)
      << counts_.locations[1];
}

TEST_F(Text, BadTextFollowsItsPolicy) {  // D14
  const std::string lone = "{\"text\":\"a\\ud83dz\"}\n", overlong = "{\"text\":\"a\xC0\xAFz\"}\n",
                    invalid = "{\"text\":\"a\xFFz\"}\n", surrogate = "{\"text\":\"a\xED\xA0\x80z\"}\n",
                    reversed = "{\"text\":\"a\xEF\xBF\xBEz\"}\n";
  for (const auto& line : {lone, overlong, invalid, surrogate, reversed})
    refused(line, "DATA-14", {":1: byte 10", "--on-bad-text"});
  refused(std::string("{\"text\":\"a\0z\"}\n", 15), "DATA-14", {"byte 10", "\\x00"});
  TextOptions policy;
  policy.on_bad_text = OnBad::kSkip;
  EXPECT_EQ(read_jsonl(lone + overlong + "{\"text\":\"b\"}", policy), (Texts{"b"}));
  EXPECT_EQ(counts_.bad[static_cast<size_t>(RecordFault::kBadText)], 2);
  policy.on_bad_text = OnBad::kReplace;
  EXPECT_EQ(read_jsonl(lone + invalid + reversed, policy), (Texts{"a\uFFFDz", "a\uFFFDz", "a\uFFFDz"}));
  EXPECT_EQ(counts_.replaced, 3);
  EXPECT_EQ(read_jsonl("{\"text\":\"\\ud83d\\u0041\"}", policy), (Texts{"\uFFFDA"}));
  EXPECT_EQ(read_jsonl("{\"x\":\"\\ud83d\",\"text\":\"a\"}"), (Texts{"a"}));  // not in what is read
  auto plain = put("in.txt", "line\nab\xFF\n");
  expect_error([&] { read(plain); }, ExitCode::kData, "DATA-14", {"in.txt:2: byte 7"});
  EXPECT_EQ(read(plain, policy), (Texts{"line\nab\uFFFD\n"}));
}

TEST_F(Text, PlainTextIsOneDocumentOrSeparated) {
  const std::string text = "\xEF\xBB\xBFone\n\ntwo\r\n<|endoftext|>\r\n<|endoftext|>\nthree <|endoftext|>\n";
  EXPECT_EQ(read(put("a.txt", text)), (Texts{text.substr(3)}));
  TextOptions options;
  options.separated = true;
  options.separator = "<|endoftext|>";
  EXPECT_EQ(read(put("a.txt", text), options), (Texts{"one\n\ntwo\r\n", "three <|endoftext|>\n"}));
  EXPECT_EQ(counts_.empty, 1);
  options.separator = "";
  EXPECT_EQ(read(put("a.txt", "a\nb\n\nc\n"), options), (Texts{"a\nb\n", "c\n"}));
  options.separator = "\f";
  EXPECT_EQ(read(put("a.txt", "a\n\f\nb"), options), (Texts{"a\n", "b"}));
  EXPECT_EQ(read(put("a.txt", "")), Texts{});
  EXPECT_EQ(read(put("a.txt", "\n \t\r\n\n")), Texts{});  // blank lines alone are no text
  EXPECT_EQ(counts_.empty, 1);
  EXPECT_EQ(read(put("a.txt", "\n a\n\n")), (Texts{"\n a\n\n"}));
}

// Wherever chunks end, the documents, places and counts are the same.
TEST_F(Text, ChunksOfAnySizeGiveTheSameDocuments) {
  std::mt19937 random(2);
  std::string jsonl, plain;
  for (int i = 0; i < 200; ++i) {
    const std::string word(random() % 40, static_cast<char>('a' + i % 26));
    jsonl += i % 17 == 3 ? "broken\n" : "{\"text\":\"" + word + "\"}" + (i % 5 ? "\n" : "\r\n\n");
    plain += word + (i % 3 ? "\n" : i % 2 ? "\n\n" : "\r\n\r\n");
  }
  auto a = put("a.jsonl", jsonl), b = put("b.txt", plain);
  TextOptions options;
  options.on_bad_record = OnBad::kSkip;
  options.separated = true;
  for (const auto& path : {a, b}) {
    options.chunk_bytes = 1 << 20;
    const auto expected = read(path, options);
    const TextCounts counts = counts_;
    EXPECT_GT(expected.size(), 60u);
    for (uint64_t size : {1, 2, 3, 7, 16, 64, 1000}) {
      options.chunk_bytes = size;
      EXPECT_EQ(read(path, options), expected) << size;
      EXPECT_EQ(counts_.locations, counts.locations);
      EXPECT_EQ(counts_.bad, counts.bad);
      EXPECT_EQ(counts_.empty, counts.empty);
    }
  }
}

TEST_F(Text, ReaderGoesOnFromAnyChunk) {
  std::string content;
  for (int i = 0; i < 50; ++i) content += str("{\"text\":\"", i, "\"}\n");
  put("a.jsonl", content);
  put("b.jsonl", content);
  auto inputs = collect_inputs({folder_.path().native()});
  TextOptions options;
  options.chunk_bytes = 100;
  std::vector<TextChunk> chunks;
  TextChunkReader reader(inputs.files, options, {});
  for (TextChunk chunk; reader.next(chunk);) chunks.push_back(chunk);
  for (size_t i = 0; i + 1 < chunks.size(); ++i) {
    TextChunkReader later(inputs.files, options, chunks[i].end);
    TextChunk chunk;
    ASSERT_TRUE(later.next(chunk));
    EXPECT_EQ(chunk.bytes, chunks[i + 1].bytes);
    EXPECT_EQ(chunk.begin.line, chunks[i + 1].begin.line);
  }
}

TEST_F(Text,
       HugeRecordsMeetTheCap) {  // D13, in a sparse file: without a newline, far larger than memory may grow
  auto path = put("a.jsonl", "{\"text\":\"ok\"}\n");
  fs::resize_file(path, uint64_t{6} << 30);
  TextOptions options;
  options.max_record_bytes = 4 << 20;
  options.on_bad_text = options.on_bad_record = OnBad::kSkip;
  expect_error([&] { read(path, options); }, ExitCode::kData, "DATA-13",
               {"a.jsonl:2: byte 14", "4194304", "--max-record-bytes"});
  auto plain = put("b.txt", "x");
  fs::resize_file(plain, 5 << 20);
  expect_error([&] { read(plain, options); }, ExitCode::kData, "DATA-13", {"--separator"});
  // Not only when the reader runs into it.
  options.max_record_bytes = 100;
  auto small = put("c.jsonl", "{\"text\":\"" + std::string(200, 'a') + "\"}\n");
  expect_error([&] { read(small, options); }, ExitCode::kData, "DATA-13", {"c.jsonl:1"});
}

TEST_F(Text, InputsAreFoundSortedAndRegular) {  // D21, D22
  for (const char* name : {"b.txt", "a.txt", "c.jsonl", "x.csv", "A.ndjson"}) put(name, "");
  fs::create_directories(folder_.path() / "sub.jsonl");
  put("sub.jsonl/d.txt", "");
  fs::create_symlink(folder_.path() / "a.txt", folder_.path() / "link.txt");
  fs::create_directory_symlink(folder_.path(), folder_.path() / "sub.jsonl/loop");
  auto names = [&](const TextInputs& inputs) {
    Texts result;
    for (const auto& file : inputs.files)
      result.push_back(file.path.lexically_relative(folder_.path()).native());
    return result;
  };
  const std::string base = folder_.path().native();
  auto whole = collect_inputs({base});
  EXPECT_EQ(names(whole), (Texts{"A.ndjson", "a.txt", "b.txt", "c.jsonl", "sub.jsonl/d.txt"}));
  EXPECT_EQ(whole.warnings.size(), 1u);
  EXPECT_EQ(names(collect_inputs({base + "/[ab].txt"})), (Texts{"a.txt", "b.txt"}));
  auto twice = collect_inputs({base + "/b.txt", base + "/?.txt", base + "/link.txt"});
  EXPECT_EQ(names(twice), (Texts{"b.txt", "a.txt"}));
  EXPECT_EQ(twice.warnings.size(), 2u);
  expect_error([&] { collect_inputs({base + "/*.none"}); }, ExitCode::kNoInput, "DATA-21",
               {"*.none", fs::current_path().native(), "mend the path"});
  expect_error([&] { collect_inputs({base + "/none.txt"}); }, ExitCode::kNoInput, "DATA-21",
               {"none.txt", fs::current_path().native(), "mend the path"});
  expect_error([&] { collect_inputs({base + "/*.jsonl"}); }, ExitCode::kNoInput, "DATA-22",
               {"sub.jsonl", "regular"});
  expect_error([&] { collect_inputs({"/dev/zero"}); }, ExitCode::kNoInput, "DATA-22", {"/dev/zero"});
  ASSERT_EQ(::mkfifo((base + "/pipe.txt").c_str(), 0600), 0);
  expect_error([&] { collect_inputs({base + "/pipe.txt"}); }, ExitCode::kNoInput, "DATA-22", {"pipe.txt"});
  put("a.jsonl.gz", "");
  expect_error([&] { collect_inputs({base + "/a.jsonl.gz"}); }, ExitCode::kData, "", {"gzip -d"});
}

TEST_F(Text, ChangedInputIsNoticed) {
  auto path = put("a.txt", "old");
  auto inputs = collect_inputs({path.native()});
  put("a.txt", "newer");
  TextChunkReader reader(inputs.files, {}, {});
  TextChunk chunk;
  expect_error([&] { reader.next(chunk); }, ExitCode::kData, "DATA-04", {"a.txt"});
}

// Against another parser: the same lines are sound, and give the same text.
TEST_F(Text, MutatedLinesAgreeWithAnotherParser) {
  std::mt19937 random(4);
  const Texts seeds = {R"({"text":"a\u00e9\n","n":[1,-2.5e+3,true,false,null,{"k":"v"}]})",
                       R"({ "x" : {} , "text" : "日本 \ud83d\ude42" })",
                       R"({"a":[],"text":"","b":"\\\"\/"})"};
  const std::string alphabet = "{}[]\",:\\u0123456789abcdefntrue.-+ \x01\x7f\xe6\x97\xa5";
  int accepted = 0, refused_lines = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string line = seeds[random() % seeds.size()];
    for (uint32_t n = 1 + random() % 3; n > 0; --n) {
      const size_t at = random() % line.size();
      const char c = alphabet[random() % alphabet.size()];
      if (random() % 3 == 0)
        line.erase(at, 1);
      else if (random() % 2 == 0)
        line.insert(at, 1, c);
      else
        line[at] = c;
    }
    std::string text;
    const bool sound_text = find_bad_text(line) == std::string_view::npos;
    const JsonText ours = json_text(line, "text", false, text);
    const auto theirs = nlohmann::json::parse(line, nullptr, false);
    if (ours.fault == RecordFault::kDuplicateField) continue;  // the other takes the last one
    if (sound_text && ours.fault == RecordFault::kNone) {
      // A lone surrogate in a part that is not read is no fault for us.
      if (theirs.is_discarded() && line.find("\\u") != std::string::npos) continue;
      ASSERT_TRUE(theirs.is_object() && theirs.contains("text") && theirs["text"].is_string()) << line;
      ASSERT_EQ(theirs["text"].get<std::string>(), text) << line;
      ++accepted;
    } else {
      ASSERT_FALSE(theirs.is_object() && theirs.contains("text") && theirs["text"].is_string()) << line;
      ++refused_lines;
    }
  }
  EXPECT_GT(accepted, 500);
  EXPECT_GT(refused_lines, 5000);
}

}  // namespace
}  // namespace rookery::data
