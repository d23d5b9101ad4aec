// mqar_test.cpp: examples of associative recall against the definition of the task, and sets that are none.
#include "data/synthetic/mqar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "data/dataset/token_set.h"
#include "tests/data/support.h"
#include "tests/support/process.h"

namespace rookery::data::mqar {
namespace {

TEST(Mqar, an_example_is_as_the_task_defines_it) {
  const Options o{128, 8, 3};
  for (int64_t index = 0; index < 50; ++index) {
    const auto tokens = example(o, index);
    ASSERT_EQ(tokens.size(), 128u);
    std::set<int32_t> keys, values, asked;
    for (int64_t i = 0; i < 8; ++i) {
      keys.insert(tokens[2 * i]);
      values.insert(tokens[2 * i + 1]);
    }
    EXPECT_EQ(keys.size(), 8u);
    EXPECT_EQ(values.size(), 8u);
    EXPECT_GE(*keys.begin(), 1);
    EXPECT_LE(*keys.rbegin(), 4095);
    EXPECT_GE(*values.begin(), 4096);
    EXPECT_LE(*values.rbegin(), 8191);
    for (size_t t = 16; t < tokens.size(); ++t) {
      if (tokens[t] == 0) continue;
      EXPECT_EQ(t % 2, 0u) << "queries stand in even slots";
      asked.insert(tokens[t]);
    }
    EXPECT_EQ(asked, keys);
    const auto found = labels(tokens, "example");
    ASSERT_EQ(found.size(), 8u);
    for (const Label& label : found) {
      const auto key = std::find(tokens.begin(), tokens.begin() + 16, tokens[label.position]);
      EXPECT_EQ(label.value, *(key + 1));
    }
  }
}

TEST(Mqar, examples_differ_and_repeat) {
  const Options o{64, 4, 0}, other{64, 4, 10};
  EXPECT_EQ(example(o, 5), example(o, 5));
  EXPECT_NE(example(o, 5), example(o, 6));
  EXPECT_NE(example(o, 5), example(other, 5));
}

// With one pair slot s is drawn with probability (s + 1)^-0.99 / sum: compared with counts of 20000 draws.
TEST(Mqar, early_slots_are_more_probable_by_the_power_law) {
  const Options o{16, 1, 1};
  std::array<double, 7> count{}, weight{};
  double sum = 0;
  for (size_t s = 0; s < 7; ++s) sum += weight[s] = std::pow(static_cast<double>(s + 1), -0.99);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i)
    count[static_cast<size_t>((labels(example(o, i), "")[0].position - 2) / 2)] += 1;
  for (size_t s = 0; s < 7; ++s) {
    const double p = weight[s] / sum;
    EXPECT_NEAR(count[s] / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << "slot " << s;
  }
}

TEST(Mqar, a_set_holds_each_example_as_a_window) {
  const test::TempDir dir(test::TempDir::Place::kMemory);
  const auto path = dir.path() / "examples.h5";
  const Options o{64, 4, 2};
  write(o, 10, path, true, "test");
  const auto set = open_token_set(path);
  ASSERT_EQ(set->num_docs(), 11);
  EXPECT_EQ((set->num_tokens() - 1) / 64, 10) << "windows of 64 tokens and the one behind them";
  for (int64_t i = 0; i < 10; ++i) {
    std::vector<int32_t> window(64);
    set->read(i * 64, window);
    EXPECT_EQ(window, example(o, i));
  }
  test::expect_error([&] { write(o, 10, path, false, "test"); }, ExitCode::kCannotCreate, "DATA-25", {});
}

TEST(Mqar, what_is_no_example_is_refused) {
  test::expect_error([] { check({16, 5, 0}); }, ExitCode::kUsage, "MQAR-01", {"5 pairs in 16"});
  auto tokens = example({64, 4, 0}, 0);
  auto refused = [](std::vector<int32_t> t, const char* word) {
    test::expect_error([&] { labels(t, "set.h5"); }, ExitCode::kData, "MQAR-02", {"set.h5", word});
  };
  tokens[63] = 77;
  refused(tokens, "token 63 is 77");
  refused(std::vector<int32_t>(64, 0), "0 pairs");
  refused({5, 4100, 0, 0}, "1 pairs and 0 keys");
}

}  // namespace
}  // namespace rookery::data::mqar
