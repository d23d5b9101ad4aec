// prepare_test.cpp: text into token sets and back, in both formats; the same bytes whatever the workers;
// damaged sets are found.
#include "data/prepare/prepare.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "data/dataset/inspect.h"
#include "data/hdf5/hdf5.h"
#include "kernels/base/io.h"
#include "tests/data/support.h"
#include "tests/support/process.h"

namespace rookery::data {
namespace {

using test::expect_error;
using test::read_text;
using test::write_text;
using Texts = std::vector<std::string>;

// Every byte is a token: id = byte + base.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(int32_t base = 1, int32_t eot = 0, int32_t bos = 0)
      : base_(base), eot_(eot), bos_(bos) {
    for (int i = 0; i < 256; ++i) bytes_ += static_cast<char>(i);
  }
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(static_cast<uint8_t>(c) + base_);
    return ids;
  }
  std::string decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (int32_t id : ids)
      if (id != 0) text += static_cast<char>(id - base_);
    return text;
  }
  std::string_view token(int32_t id) const override {
    if (id < base_ || id >= base_ + 256) return {};
    return std::string_view(bytes_).substr(static_cast<size_t>(id - base_), 1);
  }
  int32_t vocab_size() const override { return base_ + 256; }
  int32_t eot_id() const override { return eot_; }
  int32_t bos_id() const override { return bos_; }
  const std::string& sha256() const override { return sha256_; }
  const std::string& name() const override { return name_; }

 private:
  int32_t base_, eot_, bos_;
  std::string bytes_;
  std::string sha256_ = std::string(64, 'a'), name_ = "bytes";
};

class Prepare : public testing::Test {
 protected:
  // 300 documents, some equal, some short.
  void SetUp() override {
    std::mt19937 random(8);
    std::string jsonl;
    for (int i = 0; i < 300; ++i) {
      std::string text = i % 10 == 9 ? texts_[static_cast<size_t>(i - 5)]
                                     : str("document ", i, std::string(random() % 60, 'x'), " é");
      if (i % 25 == 3) text = str("s", i);
      texts_.push_back(text);
      jsonl += "{\"text\":\"" + text + "\"}\n";
    }
    write_text(path("in.jsonl"), jsonl);
  }
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  PrepareOptions options(const std::string& out, TokenSetFormat format = TokenSetFormat::kHdf5) const {
    PrepareOptions o;
    o.inputs = {path("in.jsonl").native()};
    o.out = path(out);
    o.format = format;
    o.text.chunk_bytes = 1000;
    return o;
  }
  static Texts documents(const fs::path& file, const Tokenizer& tokenizer) {
    auto set = open_token_set(file);
    Texts result;
    for (int64_t k = 0; k < set->num_docs(); ++k) {
      auto ids = set->read_doc(k);
      EXPECT_EQ(ids.back(), 0);
      result.push_back(tokenizer.decode(ids));
      if (set->info().text_bytes >= 0) {
        EXPECT_EQ(set->doc_bytes(k), static_cast<int64_t>(result.back().size()));
      }
    }
    return result;
  }
  // Every file of the folder with its content.
  std::map<std::string, std::string> files(const std::string& prefix) const {
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      if (entry.path().filename().native().starts_with(prefix))
        result[entry.path().filename().native().substr(prefix.size())] =
            entry.is_directory() ? "folder" : read_text(entry.path());
    return result;
  }
  ByteTokenizer tokenizer_;
  Texts texts_;
  test::TempDir folder_;
};

TEST_F(Prepare, DocumentsBeginAndEndWithTheTokensOfTheVocabulary) {
  const ByteTokenizer tokenizer(70000, 70256 + 3, 70256 + 5);
  auto with = options("h");
  with.min_tokens = 3;  // of the text: "s3" is shorter
  const auto report = prepare(with, tokenizer);
  EXPECT_GT(report.too_short, 0);
  const auto set = open_token_set(path("h"));
  EXPECT_EQ(set->eot_id(), 70259);
  EXPECT_EQ(set->info().bos_id, 70261);
  EXPECT_EQ(set->info().token_type, "u32");
  for (int64_t k = 0; k < set->num_docs(); ++k) {
    std::vector<int32_t> ids = set->read_doc(k);
    ASSERT_GE(ids.size(), 5u);
    EXPECT_EQ(ids.front(), 70261);
    EXPECT_EQ(ids.back(), 70259);
    EXPECT_EQ(static_cast<int64_t>(ids.size()), set->doc_bytes(k) + 2);
  }
  convert_token_set(*set, path("copy"), TokenSetFormat::kHdf5, {}, false);
  EXPECT_EQ(open_token_set(path("copy"))->eot_id(), 70259);
  EXPECT_EQ(open_token_set(path("copy"))->info().bos_id, 70261);
  // The other format cannot tell its end token.
  expect_error([&] { prepare(options("b", TokenSetFormat::kBinIdx), tokenizer); }, ExitCode::kUsage, "CLI-01",
               {"--format binidx", "70259"});
}

TEST_F(Prepare, DocumentsComeBackInBothFormats) {
  int64_t bytes = 0, tokens = 0;
  for (const auto& text : texts_)
    bytes += static_cast<int64_t>(text.size()), tokens += static_cast<int64_t>(text.size()) + 1;
  for (auto format : {TokenSetFormat::kHdf5, TokenSetFormat::kBinIdx}) {
    const bool hdf5 = format == TokenSetFormat::kHdf5;
    auto report = prepare(options(hdf5 ? "h" : "b", format), tokenizer_);
    ASSERT_EQ(report.sets.size(), 1u);
    EXPECT_EQ(report.sets[0].docs, 300);
    EXPECT_EQ(report.sets[0].tokens, tokens);
    EXPECT_EQ(report.sets[0].text_bytes, bytes);
    EXPECT_EQ(report.sets[0].sha256[0], io::sha256_file(report.sets[0].files[0]));
    EXPECT_EQ(documents(path(hdf5 ? "h" : "b"), tokenizer_), texts_);
    auto set = open_token_set(report.sets[0].files[0]);
    EXPECT_EQ(set->num_tokens(), tokens);
    EXPECT_EQ(set->info().token_type, "u16");
    EXPECT_EQ(set->info().format, hdf5 ? "hdf5" : "binidx");
    EXPECT_EQ(set->info().text_bytes, hdf5 ? bytes : -1);
    EXPECT_EQ(set->vocab_size(), hdf5 ? 257 : 0);
    EXPECT_EQ(set->tokenizer_sha256(), hdf5 ? tokenizer_.sha256() : "");
    auto verified = verify_token_set(*set, 0, set->eot_id());
    EXPECT_EQ(verified.tokens, tokens);
    EXPECT_EQ(verified.min_id, 0);
    EXPECT_EQ(verified.checksummed, hdf5);
    expect_error([&] { verify_token_set(*set, 100, 0); }, ExitCode::kData, "DATA-06",
                 {"document 0", "expected below the vocabulary size 100"});
    expect_error([&] { verify_token_set(*set, 0, 5); }, ExitCode::kData, "DATA-06",
                 {"document 0 ends with token 0"});
    auto looked = inspect_token_set(*set);
    EXPECT_EQ(looked.sampled_tokens, tokens);
    EXPECT_EQ(looked.sampled_docs, 300);
    EXPECT_EQ(looked.unended_docs, 0);
  }
  EXPECT_EQ(files("h").size(), 1u);  // nothing else is left behind
  EXPECT_EQ(files("b").size(), 2u);
}

TEST_F(Prepare, LargeVocabulariesTake32Bits) {
  ByteTokenizer wide(70000);
  for (auto format : {TokenSetFormat::kHdf5, TokenSetFormat::kBinIdx}) {
    auto report = prepare(options("w", format), wide);
    EXPECT_EQ(documents(report.sets[0].files[0], wide), texts_);
    EXPECT_EQ(open_token_set(report.sets[0].files[0])->info().token_type,
              format == TokenSetFormat::kHdf5 ? "u32" : "i32");
  }
}

TEST_F(Prepare, WorkersAndChunksOfJournalChangeNothing) {
  auto reference = options("ref");
  reference.val_fraction = 0.2;
  reference.dedup = true;
  prepare(reference, tokenizer_);
  const auto expected = files("ref");
  ASSERT_EQ(expected.size(), 2u);
  for (int workers : {1, 2, 5})
    for (uint64_t commit : {1, 3000}) {
      auto o = reference;
      o.out = path("other");
      o.workers = workers;
      o.commit_bytes = commit;
      o.force = true;
      prepare(o, tokenizer_);
      EXPECT_TRUE(files("other") == expected) << workers;
    }
}

TEST_F(Prepare, ValidationDedupAndShortDocuments) {
  auto o = options("s");
  o.val_fraction = 0.3;
  o.seed = 5;
  auto split = prepare(o, tokenizer_);
  auto train = documents(path("s.h5"), tokenizer_), val = documents(path("s.val.h5"), tokenizer_);
  EXPECT_EQ(train.size() + val.size(), 300u);
  EXPECT_NEAR(static_cast<double>(val.size()), 90, 35);
  for (const auto& text : val)
    EXPECT_EQ(std::count(train.begin(), train.end(), text), 0);  // equal ones stay together
  o.out = path("t");
  o.seed = 6;
  prepare(o, tokenizer_);
  EXPECT_NE(documents(path("t.val.h5"), tokenizer_), val);

  auto unique = options("u");
  unique.dedup = true;
  unique.min_tokens = 5;
  auto report = prepare(unique, tokenizer_);
  Texts expected;
  std::set<std::string> seen;
  int64_t too_short = 0, duplicates = 0;
  for (const auto& text : texts_) {
    if (text.size() < 5)
      ++too_short;
    else if (!seen.insert(text).second)
      ++duplicates;
    else
      expected.push_back(text);
  }
  EXPECT_EQ(documents(path("u.h5"), tokenizer_), expected);
  EXPECT_EQ(report.too_short, too_short);
  EXPECT_EQ(report.duplicates, duplicates);
  EXPECT_GT(too_short, 0);
  EXPECT_GT(duplicates, 0);
  expect_error(
      [&] {
        auto tiny = options("v");
        tiny.val_fraction = 1e-9;
        prepare(tiny, tokenizer_);
      },
      ExitCode::kData, "DATA-15", {"--val-fraction"});
  expect_error(
      [&] {
        auto nothing_to_train_on = options("w");
        nothing_to_train_on.val_fraction = 0.999999;
        prepare(nothing_to_train_on, tokenizer_);
      },
      ExitCode::kData, "DATA-15", {"fell into the validation set", "lower --val-fraction"});
}

TEST_F(Prepare, ConversionIsExact) {
  prepare(options("a", TokenSetFormat::kBinIdx), tokenizer_);
  convert_token_set(*open_token_set(path("a")), path("b"), TokenSetFormat::kHdf5, {}, false);
  convert_token_set(*open_token_set(path("b")), path("c"), TokenSetFormat::kBinIdx, {}, false);
  EXPECT_TRUE(files("a") == files("c"));
  EXPECT_EQ(documents(path("b"), tokenizer_), texts_);
  EXPECT_EQ(open_token_set(path("b"))->info().text_bytes, -1);
  prepare(options("h"), tokenizer_);
  TokenSetMeta meta;
  meta.created_by = "rookery";
  convert_token_set(*open_token_set(path("h")), path("k"), TokenSetFormat::kHdf5, meta, false);
  EXPECT_TRUE(files("h") == files("k"));  // doc bytes and identity are carried along
  expect_error(
      [&] { convert_token_set(*open_token_set(path("a")), path("c"), TokenSetFormat::kBinIdx, {}, false); },
      ExitCode::kCannotCreate, "DATA-25", {"c.bin", "--force"});
  expect_error(
      [&] {
        convert_token_set(*open_token_set(path("a")), path("a.idx"), TokenSetFormat::kBinIdx, {}, true);
      },
      ExitCode::kCannotCreate, "DATA-25", {"both input and output"});
}

TEST_F(Prepare, NothingToDoIsAnError) {  // D15
  for (const auto& [name, content] : {std::pair{"e.jsonl", ""},
                                      {"e.jsonl", "\n\n"},
                                      {"e.jsonl", "{\"text\":\"\"}\n"},
                                      {"e.txt", ""},
                                      {"e.txt", "\n\n"}}) {
    write_text(path(name), content);
    auto o = options("e");
    o.inputs = {path(name).native()};
    expect_error([&] { prepare(o, tokenizer_); }, ExitCode::kData, "DATA-15", {"no documents"});
    fs::remove(path(name));
    EXPECT_TRUE(files("e.").empty());
  }
}

TEST_F(Prepare, ExistingOutputsAndOtherWorkAreKept) {  // I1
  prepare(options("a"), tokenizer_);
  const auto before = files("a");
  expect_error([&] { prepare(options("a"), tokenizer_); }, ExitCode::kCannotCreate, "DATA-25",
               {"a.h5", "--force"});
  EXPECT_TRUE(files("a") == before);
  auto forced = options("a");
  forced.force = true;
  forced.min_tokens = 20;
  prepare(forced, tokenizer_);
  EXPECT_FALSE(files("a") == before);

  // Work that another command left is not gone on with.
  fs::create_directories(path("b.h5.partial"));
  write_text(path("b.h5.partial/journal.json"), R"({"fingerprint":"other"})");
  expect_error([&] { prepare(options("b"), tokenizer_); }, ExitCode::kCannotCreate, "DATA-19",
               {"b.h5.partial", "another command"});
  auto anew = options("b");
  anew.force = true;
  EXPECT_NO_THROW(prepare(anew, tokenizer_));
  // A bad line leaves nothing behind.
  write_text(path("bad.jsonl"), "{\"text\":\"a\"}\nbad\n");
  auto bad = options("c");
  bad.inputs = {path("bad.jsonl").native()};
  for (int workers : {1, 4}) {
    bad.workers = workers;
    expect_error([&] { prepare(bad, tokenizer_); }, ExitCode::kData, "DATA-12", {"bad.jsonl:2"});
  }
  EXPECT_TRUE(files("c.").empty());
}

TEST_F(Prepare, FirstFaultIsReportedWhateverTheWorkers) {
  std::string jsonl;
  for (int i = 0; i < 400; ++i) jsonl += i % 100 == 77 ? "bad\n" : "{\"text\":\"good\"}\n";
  write_text(path("f.jsonl"), jsonl);
  auto o = options("f");
  o.inputs = {path("f.jsonl").native()};
  o.text.chunk_bytes = 50;
  for (int workers : {1, 3, 8}) {
    o.workers = workers;
    expect_error([&] { prepare(o, tokenizer_); }, ExitCode::kData, "DATA-12", {"f.jsonl:78:"});
  }
}

// Any changed byte of an HDF5 set is found, or does no harm.
TEST_F(Prepare, DamagedHdf5SetsAreFound) {
  prepare(options("a"), tokenizer_);
  const std::string good = read_text(path("a.h5"));
  auto contents = [&](const fs::path& file) {
    auto set = open_token_set(file);
    verify_token_set(*set, 0, 0);
    std::vector<int32_t> tokens(static_cast<size_t>(set->num_tokens()));
    set->read(0, tokens);
    return std::pair(tokens, documents(file, tokenizer_));
  };
  const auto expected = contents(path("a.h5"));
  std::mt19937 random(6);
  int found = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bytes = good;
    const size_t at = round < 200 ? static_cast<size_t>(round) * 5 : random() % good.size();
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    write_text(path("damaged.h5"), bytes);
    try {
      auto got = contents(path("damaged.h5"));
      EXPECT_TRUE(got == expected) << "byte " << at;  // an unused byte, or text for people
    } catch (const Error& e) {
      EXPECT_TRUE(e.code() == ExitCode::kData || e.code() == ExitCode::kNoInput) << e.what();
      EXPECT_NE(std::string(e.what()).find("damaged.h5"), std::string::npos);
      ++found;
    }
  }
  EXPECT_GT(found, 150);
  for (size_t keep : {good.size() - 1, good.size() / 2, size_t{100}}) {
    write_text(path("damaged.h5"), good.substr(0, keep));
    expect_error([&] { open_token_set(path("damaged.h5")); }, ExitCode::kData, "", {"damaged.h5"});
  }
}

TEST_F(Prepare, OtherHdf5FilesAreNamed) {  // D18
  auto make = [&](const std::string& format, h5::Type type, std::vector<uint64_t> offsets, uint64_t tokens) {
    fs::remove(path("o.h5"));
    h5::Writer out(path("o.h5"), "test");
    out.attribute("/", "format", std::string_view(format));
    out.attribute("/", "format_version", uint32_t{1});
    for (const char* name : {"tokenizer_name", "tokenizer_sha256", "created_by", "source"})
      out.attribute("/", name, std::string_view("x"));
    for (const char* name : {"vocab_size", "eot_id"}) out.attribute("/", name, uint32_t{0});
    out.dataset("/tokens", type, {tokens}, std::vector<std::byte>(tokens * h5::size_of(type)));
    std::vector<uint32_t> sums = {io::crc32c(std::vector<std::byte>(tokens * h5::size_of(type)))};
    out.dataset("/checksums", std::span<const uint32_t>(sums));
    out.dataset("/doc_offsets", std::span<const uint64_t>(offsets));
    out.close();
    return path("o.h5");
  };
  EXPECT_EQ(open_token_set(make("rookery-tokens", h5::Type::kU16, {0, 2, 5}, 5))->num_docs(), 2);
  auto refused = [&](const fs::path& file, std::vector<std::string> words) {
    expect_error([&] { open_token_set(file); }, ExitCode::kData, "DATA-18", words);
  };
  refused(make("rookery-checkpoint", h5::Type::kU16, {0, 5}, 5), {"rookery-checkpoint", "no token set"});
  refused(make("rookery-tokens", h5::Type::kF32, {0, 5}, 5), {"/tokens holds f32", "expected u16 or u32"});
  refused(make("rookery-tokens", h5::Type::kU16, {0, 3, 2, 5}, 5), {"/doc_offsets[2] is 2", "at least 3"});
  refused(make("rookery-tokens", h5::Type::kU16, {1, 5}, 5), {"/doc_offsets[0]"});
  refused(make("rookery-tokens", h5::Type::kU16, {0, 4}, 5), {"ends at 4", "5 tokens"});
  write_text(path("text.h5"), "not HDF5");
  expect_error([&] { open_token_set(path("text.h5")); }, ExitCode::kData, "DATA-01", {"neither HDF5"});
}

}  // namespace
}  // namespace rookery::data
