// loader_test.cpp: batches are what the sampler says, on any number of ranks, read ahead or not; bad ids are
// found.
#include "data/loader/loader.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/data/support.h"
#include "tests/support/process.h"

namespace rookery::data {
namespace {

using test::expect_error;

class LoaderTest : public testing::Test {
 protected:
  // A set of documents that count up from `base` and end with 0.
  std::shared_ptr<const TokenSet> make_set(const std::string& name, int docs, int base, int top = 0) {
    std::string bin;
    std::vector<int32_t> lengths;
    std::vector<int64_t> pointers, index = {0};
    for (int k = 0; k < docs; ++k) {
      pointers.push_back(static_cast<int64_t>(bin.size()));
      lengths.push_back(3 + k % 5);
      for (int i = 0; i + 1 < lengths.back(); ++i)
        test::append<uint16_t>(bin, static_cast<uint16_t>(base + k % 50 + i));
      test::append<uint16_t>(bin, 0);
      index.push_back(k + 1);
    }
    if (top) std::memcpy(bin.data() + bin.size() / 4 * 2, "\xff\xff", 2);
    test::write_text(folder_.path() / (name + ".bin"), bin);
    test::write_text(folder_.path() / (name + ".idx"), test::make_idx(8, lengths, pointers, index));
    return open_token_set(folder_.path() / name);
  }
  static LoaderOptions options(int64_t seq_len = 16) {
    LoaderOptions o;
    o.sampling.seq_len = seq_len;
    o.sampling.seed = 9;
    o.vocab_size = 1000;
    return o;
  }
  test::TempDir folder_;
};

TEST_F(LoaderTest, RowsAreTheWindowsOfTheSampler) {
  auto set = make_set("a", 400, 1);
  Loader loader({{set, 1, "a"}}, options());
  auto sampler = make_sampler(set->num_tokens(), options().sampling);
  for (int64_t first : {0, 4, 8, 1000}) {
    Batch batch = loader.next(first, 4);
    ASSERT_EQ(batch.x.size(), 64u);
    for (int64_t b = 0; b < 4; ++b) {
      EXPECT_EQ(batch.samples[static_cast<size_t>(b)], first + b);
      const int64_t start = sampler->start(first + b);
      std::vector<int32_t> window(17), before(1, 0);
      set->read(start, window);
      if (start > 0) set->read(start - 1, before);
      for (int64_t t = 0; t < 16; ++t) {
        const size_t i = static_cast<size_t>(b * 16 + t);
        EXPECT_EQ(batch.x[i], window[static_cast<size_t>(t)]);
        EXPECT_EQ(batch.y[i], window[static_cast<size_t>(t) + 1]);
        EXPECT_EQ(batch.doc_start[i], (t == 0 ? before[0] : window[static_cast<size_t>(t) - 1]) == 0);
      }
    }
  }
  EXPECT_GE(loader.wait_seconds(), 0);
}

TEST_F(LoaderTest, DocumentsWithoutAnEndTokenStartByTheirOffsets) {
  test::write_text(folder_.path() / "n.bin", std::string("\1\0\2\0\3\0\4\0\5\0\6\0", 12));
  test::write_text(folder_.path() / "n.idx", test::make_idx(8, {2, 4}, {0, 4}, {0, 1, 2}));
  auto o = options(5);
  o.sampling.sampling = Sampling::kSequential;
  Loader loader({{open_token_set(folder_.path() / "n"), 1, "n"}}, o);
  EXPECT_EQ(loader.read(0, 1).doc_start, (std::vector<uint8_t>{1, 0, 1, 0, 0}));
}

TEST_F(LoaderTest, RanksTogetherReadTheGlobalBatch) {
  auto set = make_set("a", 400, 1);
  Loader whole({{set, 1, "a"}}, options());
  std::map<int64_t, std::vector<int32_t>> rows;
  Batch global = whole.read(24, 12);
  for (size_t j = 0; j < 12; ++j)
    rows[global.samples[j]] = {global.x.begin() + static_cast<long>(j) * 16,
                               global.x.begin() + static_cast<long>(j + 1) * 16};
  for (int64_t rank = 0; rank < 3; ++rank) {
    auto o = options();
    o.rank = rank;
    o.world = 3;
    Loader loader({{set, 1, "a"}}, o);
    for (int64_t micro = 0; micro < 2; ++micro) {  // 2 micro-batches of 2 rows on 3 ranks: 12 samples
      Batch part = loader.next(24 + micro * 6, 2);
      for (size_t j = 0; j < 2; ++j) {
        ASSERT_TRUE(rows.count(part.samples[j]));
        EXPECT_TRUE(std::equal(rows[part.samples[j]].begin(), rows[part.samples[j]].end(),
                               part.x.begin() + static_cast<long>(j) * 16));
        rows.erase(part.samples[j]);
      }
    }
  }
  EXPECT_TRUE(rows.empty());
}

TEST_F(LoaderTest, ReadingAheadChangesNothing) {
  auto set = make_set("a", 400, 1), other = make_set("b", 300, 500);
  std::vector<LoaderSource> sources = {{set, 0.7, "a"}, {other, 0.3, "b"}};
  Loader loader(sources, options());
  std::mt19937 random(3);
  int64_t first = 0, rows = 2;
  for (int round = 0; round < 300; ++round) {
    if (random() % 8 == 0) first = random() % 100000;  // a skip or a step back
    if (random() % 16 == 0) rows = 1 + random() % 5;
    Batch batch = loader.next(first, rows), expected = loader.read(first, rows);
    ASSERT_EQ(batch.samples, expected.samples);
    ASSERT_EQ(batch.x, expected.x);
    ASSERT_EQ(batch.y, expected.y);
    ASSERT_EQ(batch.doc_start, expected.doc_start);
    first += rows;
  }
}

TEST_F(LoaderTest, SourcesAreMixedByWeight) {
  Loader loader({{make_set("a", 400, 1), 3, "a"}, {make_set("b", 300, 500), 1, "b"}}, options());
  int64_t from_b = 0;
  Batch batch = loader.read(0, 400);
  for (int64_t j = 0; j < 400; ++j)  // every window of 16 holds an id above 0
    from_b += *std::max_element(batch.x.begin() + j * 16, batch.x.begin() + (j + 1) * 16) >= 500;
  EXPECT_EQ(from_b, 100);
  EXPECT_EQ(loader.samples_by_source(400), (std::vector<int64_t>{300, 100}));
}

TEST_F(LoaderTest, TellsWhichSourceIsReadSlowest) {
  Loader loader({{make_set("a", 400, 1), 1, "rare"}, {make_set("b", 400, 2), 1e4, "often"}}, options());
  loader.read(0, 100);  // all of them from the second
  EXPECT_EQ(loader.slowest_source(), "often");
}

TEST_F(LoaderTest, IdsOutsideTheVocabularyAreNamed) {  // D6
  expect_error(
      [&] {
        Loader({{make_set("a", 400, 1, 1), 1, "a"}}, options());
      },
      ExitCode::kData, "DATA-06", {"is 65535", "vocab_size = 1000", "document"});
  // Too far inside for the look at the start: found by the batch, and the loader goes on elsewhere.
  std::string bin(2 * 1'000'000, '\1');
  std::memcpy(bin.data() + 2 * 300'000, "\xff\xff", 2);
  test::write_text(folder_.path() / "big.bin", bin);
  test::write_text(folder_.path() / "big.idx", test::make_idx(8, {1'000'000}, {0}, {0, 1}));
  auto o = options(1000);
  o.sampling.sampling = Sampling::kSequential;
  Loader loader({{open_token_set(folder_.path() / "big"), 1, "big"}}, o);
  EXPECT_NO_THROW(loader.next(297, 1));
  expect_error([&] { loader.next(298, 2), loader.next(300, 2); }, ExitCode::kData, "DATA-06",
               {"big", "token 300000 (document 0, token 300000 of it) is 65535"});
  EXPECT_NO_THROW(loader.next(302, 2));
}

TEST_F(LoaderTest, WrongSetsAreErrorsAtTheStart) {
  auto set = make_set("a", 10, 1);
  expect_error(
      [&] {
        Loader({{set, 1, "a"}}, options(4096));
      },
      ExitCode::kData, "DATA-07", {"4096 + 1", "a: "});  // D7
  expect_error(
      [&] {
        Loader({{set, 0, "wiki"}}, options());
      },
      ExitCode::kConfig, "DATA-20", {"wiki"});  // D20
  Loader twice({{set, 1, "a"}, {open_token_set(folder_.path() / "a.bin"), 1, "b"}}, options());
  ASSERT_EQ(twice.warnings().size(), 1u);
  EXPECT_NE(twice.warnings()[0].find("same file"), std::string::npos);
}

TEST_F(LoaderTest, StopsAtOnceWithAFullQueue) {
  auto set = make_set("a", 400, 1);
  for (int round = 0; round < 50; ++round) {
    Loader loader({{set, 1, "a"}}, options());
    if (round % 2) loader.next(round, 3);
  }
}

}  // namespace
}  // namespace rookery::data
