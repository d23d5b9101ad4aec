// sampler_test.cpp: golden values of RWKV-LM's order, the shuffle as a bijection, mixtures as exact shares.
#include "data/sampler/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "data/sampler/mixture.h"
#include "tests/data/support.h"

namespace rookery::data {
namespace {

constexpr int64_t kMinipile = 1498226207;

TEST(MagicPrime, PrimesAndFactorsOfKnownSets) {
  struct Row {
    int64_t tokens, seq_len, slots, prime, factor;
  };
  for (const Row& row :
       {Row{kMinipile, 512, 2926223, 2926181, 1808479}, Row{kMinipile, 1024, 1463111, 1463027, 904200},
        Row{kMinipile, 2048, 731555, 731531, 452111}, Row{kMinipile, 4096, 365777, 365759, 226051},
        Row{332115325534, 4096, 81082843, 81082817, 50111936},
        Row{383509969694, 4096, 93630363, 93630353, 57866740}, Row{200499, 512, 391, 389, 240}}) {
    EXPECT_EQ(row.tokens / row.seq_len, row.slots);
    EXPECT_EQ(magic::prime_for(row.tokens, row.seq_len), row.prime);
    EXPECT_EQ(magic::factor(row.prime), row.factor);
    EXPECT_NO_THROW(magic::check_prime(row.prime, row.tokens, row.seq_len));
  }
}

TEST(MagicPrime, StartsOfKnownSamples) {
  const std::vector<int64_t> samples = {1, 2, 3, 4, 100, 40320, 40321};
  struct Row {
    int64_t prime, seq_len, tokens;
    std::vector<int64_t> starts;
  };
  for (const Row& row :
       {Row{2926181,
            512,
            kMinipile,
            {925941248, 1414711296, 1029138944, 830257664, 1319949824, 679373824, 631271424}},
        Row{731531,
            2048,
            kMinipile,
            {925923328, 1414684672, 1029122048, 830248960, 1436624896, 867487744, 689049600}},
        Row{365759,
            4096,
            kMinipile,
            {925904896, 1414643712, 1029050368, 830107648, 957284352, 1008726016, 1370165248}},
        Row{389, 512, 200499, {122880, 186368, 131072, 96768, 115712, 141824, 168960}}}) {
    auto sampler = make_sampler(row.tokens, {.seq_len = row.seq_len, .sampling = Sampling::kMagicPrime});
    EXPECT_EQ(sampler->samples_per_epoch(), row.prime);
    for (size_t i = 0; i < samples.size(); ++i) {
      EXPECT_EQ(magic::start(samples[i], row.prime, row.seq_len), row.starts[i]);
      EXPECT_EQ(sampler->start(samples[i] - 1), row.starts[i]);  // our numbers begin at 0
    }
  }
}

TEST(MagicPrime, VisitsEveryWindowOnceInRange) {
  constexpr int64_t N = 200499, C = 512;
  std::set<int64_t> seen;
  for (int64_t ii = 1; ii <= 389; ++ii) {
    int64_t start = magic::start(ii, 389, C);
    EXPECT_EQ(start % C, 0);
    EXPECT_LE(start + C + 1, N);
    seen.insert(start);
  }
  EXPECT_EQ(seen.size(), 389u);
  EXPECT_EQ(magic::start(390, 389, C), magic::start(1, 389, C));
}

// One step's samples do not depend on how the global batch is cut into ranks and micro-batches.
TEST(MagicPrime, StepHoldsTheSameSamplesOnAnyMesh) {
  auto step_samples = [](int64_t world, int64_t micro, int64_t accumulation, int64_t step) {
    std::multiset<int64_t> samples;
    for (int64_t rank = 0; rank < world; ++rank)
      for (int64_t m = 0; m < accumulation; ++m)
        for (int64_t row = 0; row < micro; ++row) {
          int64_t idx = (step * accumulation + m) * micro + row;
          samples.insert(1 + idx * world + rank);
        }
    return samples;
  };
  for (int64_t step : {0, 1, 7}) {
    auto one = step_samples(1, 16, 1, step);
    EXPECT_EQ(one, step_samples(4, 4, 1, step));
    EXPECT_EQ(one, step_samples(2, 2, 4, step));
    EXPECT_EQ(one, step_samples(16, 1, 1, step));
  }
}

TEST(MagicPrime, WrongPrimeIsNamedWithTheRightOne) {  // D8
  for (int64_t wrong : std::vector<int64_t>{390, 379, 397, 347, -5, 0x7fffffffffffffe7})
    test::expect_error([&] { magic::check_prime(wrong, 200499, 512); }, ExitCode::kConfig, "DATA-08",
                       {"expected 389"});
  // p = slots passes RWKV-LM's assertion, but its last window would read one token too many.
  EXPECT_TRUE(magic::is_prime(383));
  test::expect_error([&] { magic::check_prime(383, 383 * 512, 512); }, ExitCode::kConfig, "DATA-08",
                     {"383 does not fit the data", "expected 359"});
  test::expect_error([] { make_sampler(2000, {.seq_len = 512, .sampling = Sampling::kMagicPrime}); },
                     ExitCode::kData, "DATA-08", {"too few"});
}

TEST(MagicPrime, GlobalBatchMustDivideAMiniEpoch) {  // D9
  for (int64_t good : {1, 2, 16, 40320}) EXPECT_NO_THROW(magic::check_global_batch(good));
  test::expect_error([] { magic::check_global_batch(11); }, ExitCode::kConfig, "DATA-09", {"10", "12"});
  test::expect_error([] { magic::check_global_batch(0); }, ExitCode::kConfig, "DATA-09", {});
  test::expect_error([] { magic::check_global_batch(50000); }, ExitCode::kConfig, "DATA-09", {"40320"});
}

TEST(MagicPrime, PrimalityAgreesWithTrialDivision) {
  for (int64_t n = -2; n < 20000; ++n) {
    bool prime = n > 1;
    for (int64_t d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
    EXPECT_EQ(magic::is_prime(n), prime) << n;
  }
  EXPECT_TRUE(magic::is_prime(9223372036854775783));  // the largest below 2^63
  EXPECT_FALSE(magic::is_prime(3215031751));          // strong pseudoprime to 2, 3, 5, 7
  EXPECT_FALSE(magic::is_prime(4759123141));
}

TEST(Shuffle, IsAPermutationForEverySize) {
  for (int64_t size : {1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000, 4097})
    for (uint64_t epoch : {0, 1, 5}) {
      std::vector<uint8_t> seen(static_cast<size_t>(size));
      for (int64_t i = 0; i < size; ++i) {
        int64_t j = permute(i, size, 7, epoch);
        ASSERT_TRUE(j >= 0 && j < size);
        ++seen[static_cast<size_t>(j)];
      }
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), size) << "size " << size;
    }
}

TEST(Shuffle, DependsOnSeedAndEpochAndLooksRandom) {
  constexpr int64_t kSize = 10000;
  int64_t same_seed = 0, same_epoch = 0, neighbours = 0;
  double correlation = 0;
  for (int64_t i = 0; i < kSize; ++i) {
    int64_t a = permute(i, kSize, 1, 0), b = permute((i + 1) % kSize, kSize, 1, 0);
    same_seed += a == permute(i, kSize, 2, 0);
    same_epoch += a == permute(i, kSize, 1, 1);
    neighbours += std::abs(a - b) == 1;
    correlation += (static_cast<double>(i) - kSize / 2.0) * (static_cast<double>(a) - kSize / 2.0);
  }
  // A random permutation gives 1, 1 and 2 in the mean; the correlation has a standard deviation of 0.01.
  EXPECT_LT(same_seed, 10);
  EXPECT_LT(same_epoch, 10);
  EXPECT_LT(neighbours, 12);
  EXPECT_LT(std::abs(correlation / (std::pow(kSize, 3) / 12)), 0.05);
}

TEST(Samplers, CoverTheStreamOncePerEpochWithoutOverlap) {
  for (Sampling sampling : {Sampling::kShuffled, Sampling::kSequential}) {
    auto sampler = make_sampler(1001, {.seq_len = 10, .sampling = sampling, .seed = 3});
    ASSERT_EQ(sampler->samples_per_epoch(), 100);
    std::vector<std::vector<int64_t>> epochs(2);
    for (int64_t s = 0; s < 200; ++s) epochs[static_cast<size_t>(s / 100)].push_back(sampler->start(s));
    EXPECT_EQ(epochs[0] == epochs[1], sampling == Sampling::kSequential);
    for (auto& epoch : epochs) {
      EXPECT_EQ(std::is_sorted(epoch.begin(), epoch.end()), sampling == Sampling::kSequential);
      std::sort(epoch.begin(), epoch.end());
      for (size_t i = 0; i < epoch.size(); ++i) EXPECT_EQ(epoch[i], static_cast<int64_t>(i) * 10);
    }
  }
}

TEST(Samplers, TooFewTokensIsAnErrorWithNumbers) {  // D7
  test::expect_error([] { make_sampler(512, {.seq_len = 512}); }, ExitCode::kData, "DATA-07",
                     {"512 tokens", "512 + 1"});
  EXPECT_EQ(make_sampler(513, {.seq_len = 512})->samples_per_epoch(), 1);
  EXPECT_EQ(make_sampler(1024, {.seq_len = 512})->samples_per_epoch(),
            1);  // the second window lacks its last target
  test::expect_error([] { sampling_from_string("shuffle"); }, ExitCode::kConfig, "", {"shuffled"});
}

TEST(MixtureTest, SharesAreExactAtEveryPrefixAndSamplesCountUp) {
  const std::vector<double> weights = {0.5, 0.3, 0.15, 0.05};
  Mixture mixture(weights, {"a", "b", "c", "d"});
  std::vector<int64_t> next(4, 0);
  for (int64_t s = 0; s < 20000; ++s) {
    auto choice = mixture.at(s);
    ASSERT_EQ(choice.sample, next[choice.source]++) << "sample " << s;
    ASSERT_EQ(mixture.counts(s + 1), next);
    for (size_t k = 0; k < 4; ++k)
      ASSERT_LE(std::abs(static_cast<double>(next[k]) - weights[k] * static_cast<double>(s + 1)), 2.0);
  }
  int64_t far = int64_t{1} << 60;  // no overflow
  auto counts = mixture.counts(far);
  EXPECT_EQ(counts[0] + counts[1] + counts[2] + counts[3], far);
  EXPECT_EQ(mixture.at(far).sample, counts[mixture.at(far).source]);
}

TEST(MixtureTest, OneSourceGetsEverythingAndWeightsAreNormalised) {
  Mixture one({3.0}, {"a"});
  for (int64_t s : {0, 1, 2, 1000}) EXPECT_EQ(one.at(s).sample, s);
  EXPECT_EQ(Mixture({2, 6}, {"a", "b"}).counts(1000), Mixture({0.25, 0.75}, {"a", "b"}).counts(1000));
}

TEST(MixtureTest, BadWeightsAreErrors) {  // D20
  for (double bad :
       {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    test::expect_error([&] { Mixture({1, bad}, {"a", "wiki"}); }, ExitCode::kConfig, "DATA-20", {"wiki"});
  test::expect_error([] { Mixture({}, {}); }, ExitCode::kConfig, "DATA-20", {});
  test::expect_error([] { Mixture({1e-12, 1}, {"tiny", "b"}); }, ExitCode::kConfig, "DATA-20", {"tiny"});
}

}  // namespace
}  // namespace rookery::data
