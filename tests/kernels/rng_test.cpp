// rng_test.cpp: Philox 4x32-10 against the vectors published with it (Random123, kat_vectors), and the
// distributions made of it.
#include "kernels/base/rng.h"

#include <gtest/gtest.h>

namespace rookery {
namespace {

using Block = std::array<uint32_t, 4>;

TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox(0, 0).block(0), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox(~0ull, ~0ull).block(~0ull), (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0.
  EXPECT_EQ(Philox(0x299f31d0a4093822ull, 0x0370734413198a2eull).block(0x85a308d3243f6a88ull),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformAndNormalMoments) {
  const Philox random(7, stream_of("moments"));
  constexpr int64_t n = 200'000;
  double sum = 0, square = 0, normal = 0, normal_square = 0, fourth = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double u = random.uniform(i), z = random.normal(i);
    ASSERT_TRUE(u >= 0 && u < 1 && std::isfinite(z));
    sum += u / n;
    square += u * u / n;
    normal += z / n;
    normal_square += z * z / n;
    fourth += z * z * z * z / n;
  }
  // Five standard errors each: 1/sqrt(12 n), sqrt(4/45 n), 1/sqrt(n), sqrt(2/n), sqrt(96/n).
  EXPECT_NEAR(sum, 1.0 / 2, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(square, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
  EXPECT_NEAR(normal, 0, 5 * std::sqrt(1.0 / n));
  EXPECT_NEAR(normal_square, 1, 5 * std::sqrt(2.0 / n));
  EXPECT_NEAR(fourth, 3, 5 * std::sqrt(96.0 / n));
}

TEST(Philox, StreamsAndSeedsDiffer) {
  EXPECT_NE(Philox(1, 0).bits(0), Philox(0, 0).bits(0));
  EXPECT_NE(Philox(0, 1).bits(0), Philox(0, 0).bits(0));
  EXPECT_NE(stream_of("blocks.0.att.key.weight"), stream_of("blocks.1.att.key.weight"));
  static_assert(stream_of("") == 1469598103934665603ull);
}

}  // namespace
}  // namespace rookery
