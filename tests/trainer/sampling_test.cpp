// sampling_test.cpp: tokens drawn from logits: their frequencies against the probabilities, the cuts by rank
// and share, penalties, repeatability.
#include "trainer/eval/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/base/error.h"

namespace rookery::eval {
namespace {

constexpr int kDraws = 10000;
const std::vector<double> kLogits = {0.3, 2.0, -1.0, 1.2, 0.3};

// exp(power * logit), normalised over `allowed`.
std::vector<double> probabilities(double power, const std::vector<int>& allowed) {
  std::vector<double> p(kLogits.size(), 0);
  double sum = 0;
  for (const int i : allowed) sum += p[i] = std::exp(power * kLogits[i]);
  for (double& v : p) v /= sum;
  return p;
}

// Draws kDraws tokens and compares their counts: the chi-square statistic stays below what chance exceeds
// once in 10^5 (25 at 4 degrees of freedom); a token of probability 0 never comes.
void expect_distribution(const SamplingOptions& options, const std::vector<double>& expected) {
  Sampling sampling(options);
  std::vector<int> counts(kLogits.size());
  for (int i = 0; i < kDraws; ++i) ++counts[sampling.pick(kLogits)];
  double chi_square = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double mean = kDraws * expected[i];
    if (mean == 0) {
      EXPECT_EQ(counts[i], 0) << i;
    } else {
      chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
    }
  }
  EXPECT_LT(chi_square, 25);
}

TEST(SamplingTest, DrawsFollowTheProbabilities) {
  expect_distribution({.seed = 1}, probabilities(1, {0, 1, 2, 3, 4}));
  expect_distribution({.temperature = 0.5, .seed = 2}, probabilities(2, {0, 1, 2, 3, 4}));
  expect_distribution({.temperature = 2, .seed = 3}, probabilities(0.5, {0, 1, 2, 3, 4}));
}

TEST(SamplingTest, CutsByRankAndByShare) {
  expect_distribution({.top_k = 2, .seed = 4}, probabilities(1, {1, 3}));
  expect_distribution({.top_k = 9, .seed = 5}, probabilities(1, {0, 1, 2, 3, 4}));
  // The two most probable hold 0.75 of the whole, the most probable alone 0.52.
  const auto p = probabilities(1, {0, 1, 2, 3, 4});
  ASSERT_LT(p[1], 0.6);
  ASSERT_GT(p[1] + p[3], 0.6);
  expect_distribution({.top_p = 0.6, .seed = 6}, probabilities(1, {1, 3}));
  expect_distribution({.top_p = 0.5, .seed = 7}, probabilities(1, {1}));
  expect_distribution({.temperature = 3, .top_p = 0.6, .seed = 8}, probabilities(1.0 / 3, {1, 3}));
}

TEST(SamplingTest, ZeroTemperatureAndZeroShareTakeTheMostProbableAndTheLowestOfEqualIds) {
  expect_distribution({.temperature = 0}, probabilities(1, {1}));
  expect_distribution({.top_p = 0}, probabilities(1, {1}));
  Sampling greedy({.temperature = 0});
  EXPECT_EQ(greedy.pick(std::vector<double>{1, 3, 3}), 1);
}

TEST(SamplingTest, PenaltiesLowerWhatHasCome) {
  Sampling once({.presence_penalty = 1000, .seed = 9});
  std::vector<int32_t> first;
  for (int i = 0; i < 5; ++i) first.push_back(once.pick(kLogits));
  std::sort(first.begin(), first.end());
  EXPECT_EQ(first, (std::vector<int32_t>{0, 1, 2, 3, 4}));

  Sampling each({.temperature = 0, .frequency_penalty = 0.3});
  std::vector<int32_t> drawn;
  for (int i = 0; i < 5; ++i) drawn.push_back(each.pick(std::vector<double>{1, 0.5}));
  EXPECT_EQ(drawn, (std::vector<int32_t>{0, 0, 1, 0, 1}));  // 1 .7 .4 .4 .1 against .5 .5 .5 .2 .2
}

TEST(SamplingTest, TheSeedDecides) {
  const auto text = [](uint64_t seed) {
    Sampling sampling({.seed = seed});
    std::vector<int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampling.pick(kLogits));
    return ids;
  };
  EXPECT_EQ(text(1), text(1));
  EXPECT_NE(text(1), text(2));
}

TEST(SamplingTest, LogitsThatAreNotFiniteAreAnError) {
  Sampling sampling({});
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    try {
      sampling.pick(std::vector<double>{0, bad});
      FAIL();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kNumerics);
    }
  }
}

}  // namespace
}  // namespace rookery::eval
