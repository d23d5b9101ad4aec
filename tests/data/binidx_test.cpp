// binidx_test.cpp: .bin/.idx files of other programs: what must load, what must be refused, and every header
// byte changed.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "data/dataset/token_set.h"
#include "tests/data/support.h"
#include "tests/support/golden.h"
#include "tests/support/process.h"
#include "tests/support/shared.h"

namespace rookery::data {
namespace {

using test::expect_error;
using test::write_text;

nlohmann::json foreign_files() {
  return nlohmann::json::parse(test::read_text(test::golden_folder() / "foreign/manifest.json"))["files"];
}

TEST(BinIdxGolden, FilesOfOtherProgramsLoad) {
  RK_NEEDS_SHARED(test::golden_folder() / "foreign/manifest.json");
  int found = 0;
  for (const auto& entry : foreign_files()) {
    if (entry["expect"] != "load" || !entry["format"].get<std::string>().starts_with("Megatron")) continue;
    ++found;
    const fs::path prefix = test::golden_folder() / "foreign" / entry["file"].get<std::string>();
    for (const char* suffix : {"", ".bin", ".idx"}) {
      auto set = open_token_set(prefix.native() + suffix);
      auto flat = entry["flat"].get<std::vector<int32_t>>();
      auto documents = entry["documents"].get<std::vector<std::vector<int32_t>>>();
      ASSERT_EQ(set->num_tokens(), static_cast<int64_t>(flat.size()));
      std::vector<int32_t> tokens(flat.size());
      set->read(0, tokens);
      EXPECT_EQ(tokens, flat);
      ASSERT_EQ(set->num_docs(), static_cast<int64_t>(documents.size()));
      for (size_t k = 0; k < documents.size(); ++k)
        EXPECT_EQ(set->read_doc(static_cast<int64_t>(k)), documents[k]);
      EXPECT_TRUE(set->info().warnings.empty());
      EXPECT_EQ(set->doc_at(0), 0);
      EXPECT_EQ(set->doc_at(set->num_tokens() - 1), set->num_docs() - 1);
    }
  }
  EXPECT_GE(found, 2);
}

TEST(BinIdxGolden, HostileFilesAreRefused) {
  RK_NEEDS_SHARED(test::golden_folder() / "foreign/manifest.json");
  int found = 0;
  for (const auto& entry : foreign_files()) {
    if (entry["expect"] != "reject" || !entry["format"].get<std::string>().starts_with("Megatron")) continue;
    ++found;
    SCOPED_TRACE(entry["because"].get<std::string>());
    expect_error(
        [&] { open_token_set(test::golden_folder() / "foreign" / entry["file"].get<std::string>()); },
        ExitCode::kData, "", {".idx: "});
  }
  EXPECT_GE(found, 11);
  auto hostile = [](const char* name) { return test::golden_folder() / "foreign/hostile" / name; };
  expect_error([&] { open_token_set(hostile("idx_bin_truncated")); }, ExitCode::kData, "DATA-03",
               {"5 tokens", "holds 3", "outside: 1"});
  auto flat = open_token_set(hostile("idx_pointer_misaligned"), TokenView::kFlat);
  EXPECT_EQ(flat->num_tokens(), 5);
  EXPECT_FALSE(flat->info().warnings.empty());
  expect_error([&] { flat->doc(0); }, ExitCode::kData, "DATA-05", {"byte 5"});
}

class BinIdx : public testing::Test {
 protected:
  // Writes PREFIX.bin of u16 tokens 1, 2, 3, ... and PREFIX.idx.
  fs::path write(const std::string& idx, int tokens) {
    std::string bin;
    for (int i = 0; i < tokens; ++i) test::append<uint16_t>(bin, static_cast<uint16_t>(i + 1));
    write_text(folder_.path() / "set.bin", bin);
    write_text(folder_.path() / "set.idx", idx);
    return folder_.path() / "set";
  }
  test::TempDir folder_;
};

TEST_F(BinIdx, DocumentsFollowThePointers) {
  // Two documents; the second has two pieces, one of them in front of the first document.
  auto set = open_token_set(write(test::make_idx(8, {2, 1, 3}, {4, 0, 8}, {0, 1, 3}), 7));
  EXPECT_EQ(set->read_doc(0), (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(set->read_doc(1), (std::vector<int32_t>{1, 5, 6, 7}));
  EXPECT_EQ(set->info().warnings.size(), 1u);
  EXPECT_EQ(set->doc_at(0), -1);  // not in order
}

TEST_F(BinIdx, FindsDocumentsByPosition) {
  std::vector<int32_t> lengths;
  std::vector<int64_t> pointers, docs = {0};
  std::vector<int64_t> owner;  // of each position; empty documents own none
  std::mt19937 random(5);
  for (int k = 0; k < 3000; ++k) {
    pointers.push_back(static_cast<int64_t>(owner.size()) * 2);
    lengths.push_back(static_cast<int32_t>(random() % 4));
    owner.insert(owner.end(), static_cast<size_t>(lengths.back()), k);
    docs.push_back(k + 1);
  }
  auto set =
      open_token_set(write(test::make_idx(8, lengths, pointers, docs), static_cast<int>(owner.size())));
  for (size_t i = 0; i < owner.size(); ++i) ASSERT_EQ(set->doc_at(static_cast<int64_t>(i)), owner[i]) << i;
  EXPECT_EQ(set->doc_at(-1), -1);
  EXPECT_EQ(set->doc_at(set->num_tokens()), -1);
  std::vector<uint8_t> starts(owner.size());
  set->mark_doc_starts(0, starts);
  for (size_t i = 0; i < owner.size(); ++i) ASSERT_EQ(starts[i], i == 0 || owner[i] != owner[i - 1]) << i;
  std::vector<uint8_t> part(100);
  set->mark_doc_starts(1000, part);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), starts.begin() + 1000));
}

TEST_F(BinIdx, EveryFaultHasItsMessage) {
  auto refused = [&](const std::string& idx, int tokens, const char* id, std::vector<std::string> words) {
    auto path = write(idx, tokens);
    expect_error([&] { open_token_set(path); }, ExitCode::kData, id, words);
  };
  const std::string good = test::make_idx(8, {2, 3}, {0, 4}, {0, 1, 2});
  refused("", 5, "DATA-01", {"expected 4d 4d"});
  refused(good.substr(0, 20), 5, "DATA-02", {"20 bytes"});
  refused(good.substr(0, good.size() - 1), 5, "DATA-02", {"interrupted"});
  refused(good + "x", 5, "DATA-02", {"expected 82"});
  std::string shard;
  test::append<int32_t>(shard, 20240520);
  refused(shard + std::string(1020, 0), 5, "DATA-01", {"llm.c"});
  std::string version = good;
  version[9] = 2;
  refused(version, 5, "DATA-01", {"version", "is 2"});
  refused(good, 4, "DATA-03", {"lists 5", "holds 4", "outside: 1"});
  refused(good, 6, "DATA-03", {"lists 5", "holds 6"});
  refused(test::make_idx(8, {2, 3}, {0, 4}, {0, 2, 1, 2}), 5, "DATA-05", {"entry 2", "is 1"});
  refused(test::make_idx(8, {2, 3}, {0, 4}, {1, 2}), 5, "DATA-05", {"entry 0"});
  refused(test::make_idx(8, {2, 3}, {0, 4}, {0, 1}), 5, "DATA-05", {"ends at sequence 1"});
  refused(test::make_idx(8, {2, 3}, {0, 4}, {}), 5, "DATA-05", {"empty"});
  // Swapped files.
  write(good, 5);
  fs::rename(folder_.path() / "set.bin", folder_.path() / "other.idx");
  fs::rename(folder_.path() / "set.idx", folder_.path() / "other.bin");
  expect_error([&] { open_token_set(folder_.path() / "other"); }, ExitCode::kData, "DATA-01", {"swapped"});
  // An odd number of bytes.
  write(good, 5);
  write_text(folder_.path() / "set.bin", "odd");
  expect_error([&] { open_token_set(folder_.path() / "set"); }, ExitCode::kData, "DATA-03",
               {"multiple of 2"});
  expect_error([&] { open_token_set(folder_.path() / "none"); }, ExitCode::kNoInput, "DATA-21",
               {"none.idx", "rookery data prepare"});
}

TEST_F(BinIdx, ModesOfMultimodalFilesAreIgnored) {
  auto set = open_token_set(write(test::make_idx(8, {2, 3}, {0, 4}, {0, 1, 2}) + std::string("\0\1", 2), 5));
  EXPECT_EQ(set->num_docs(), 2);
}

TEST_F(BinIdx, NegativeAndHugeIdsAreRefusedWithTheirPosition) {
  std::string bin;
  for (int64_t id : {1, 2, -1}) test::append(bin, id);
  write_text(folder_.path() / "set.bin", bin);
  write_text(folder_.path() / "set.idx", test::make_idx(5, {3}, {0}, {0, 1}));
  auto set = open_token_set(folder_.path() / "set");
  std::vector<int32_t> tokens(3);
  expect_error([&] { set->read(0, tokens); }, ExitCode::kData, "DATA-06", {"token 2 is -1"});
}

// D4: the file under an open set is cut, changed or replaced.
TEST_F(BinIdx, ChangesOfOpenFilesAreNoticed) {
  auto path = write(test::make_idx(8, {2, 3}, {0, 4}, {0, 1, 2}), 5);
  auto set = open_token_set(path);
  EXPECT_NO_THROW(set->check_unchanged());
  fs::resize_file(path.native() + ".bin", 6);
  expect_error([&] { set->check_unchanged(); }, ExitCode::kData, "DATA-04", {"set.bin", "10 bytes"});
  std::vector<int32_t> tokens(5);
  expect_error([&] { set->read(0, tokens); }, ExitCode::kData, "DATA-04", {"set.bin"});
  fs::remove(path.native() + ".bin");
  expect_error([&] { set->check_unchanged(); }, ExitCode::kData, "DATA-04", {"no longer there"});
}

// I6: offsets beyond 4 GB, in a sparse file.
TEST_F(BinIdx, LargeFilesHave64BitOffsets) {
  constexpr int64_t kTokens = (int64_t{5} << 30) / 2, kHalf = kTokens / 2;
  auto path = write(test::make_idx(8, {static_cast<int32_t>(kHalf), static_cast<int32_t>(kTokens - kHalf)},
                                   {0, 2 * kHalf}, {0, 1, 2}),
                    1);
  fs::resize_file(path.native() + ".bin", 2 * kTokens);
  {
    std::fstream file(path.native() + ".bin", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(2 * (kTokens - 1));
    file.write("\x39\x30", 2);
  }
  auto set = open_token_set(path);
  std::vector<int32_t> tokens(2);
  set->read(kTokens - 2, tokens);
  EXPECT_EQ(tokens, (std::vector<int32_t>{0, 12345}));
  EXPECT_EQ(set->doc_at(kTokens - 1), 1);
  EXPECT_EQ(set->doc(1).front().end, kTokens);
}

// Whatever the bytes of an .idx: an error with code 65, or a set that can be read through. Never a crash or a
// huge allocation.
TEST_F(BinIdx, MutatedIndexesAreSafe) {
  std::mt19937 random(1);
  const std::string good = test::make_idx(8, {2, 3, 1, 0, 4}, {0, 4, 10, 12, 12}, {0, 1, 3, 4, 5});
  int refused = 0, accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = good;
    for (uint32_t n = 1 + random() % 3; n > 0; --n)
      bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 8 == 0) bytes.resize(random() % (bytes.size() + 8));
    auto path = write(bytes, 10);
    try {
      auto set = open_token_set(path, random() % 2 ? TokenView::kFlat : TokenView::kDocuments);
      std::vector<int32_t> tokens(static_cast<size_t>(set->num_tokens()));
      set->read(0, tokens);
      for (int64_t k = 0; k < set->num_docs(); ++k) set->read_doc(k);
      set->doc_at(set->num_tokens() / 2);
      ++accepted;
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), ExitCode::kData) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace rookery::data
