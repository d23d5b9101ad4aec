// foreign_values_test.cpp: floating-point types into one another: every 16-bit pattern, ties, overflow, NaN.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "trainer/checkpoint/foreign/values.h"

namespace rookery::foreign {
namespace {

template <class To, class From>
To converted(From value, Type from, Type to, ValueCounts* counts = nullptr, bool saturate = false) {
  To out{};
  const ValueCounts c = convert_values(from, std::as_bytes(std::span(&value, 1)), to,
                                       std::as_writable_bytes(std::span(&out, 1)), saturate);
  if (counts) *counts = c;
  return out;
}

// The value of 16 bits by the definition of the format.
double by_definition(uint16_t bits, int fraction, int bias) {
  const int exponent = (bits & 0x7fff) >> fraction, most = 0x7fff >> fraction;
  const double digits = double(bits & ((1 << fraction) - 1)) / double(1 << fraction);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == most) return digits > 0 ? std::nan("") : sign * INFINITY;
  return sign * (exponent == 0 ? std::ldexp(digits, 1 - bias) : std::ldexp(1 + digits, exponent - bias));
}

struct Format {
  Type type;
  int fraction, bias;
};
constexpr Format kFormats[] = {{Type::kF16, 10, 15}, {Type::kBf16, 7, 127}};

TEST(ForeignValues, EveryPatternOf16BitsWidensByItsDefinitionAndComesBack) {
  for (const Format& f : kFormats)
    for (int b = 0; b < 65536; ++b) {
      const auto bits = uint16_t(b);
      const double expected = by_definition(bits, f.fraction, f.bias);
      const auto wide = converted<float>(bits, f.type, Type::kF32);
      const auto wider = converted<double>(bits, f.type, Type::kF64);
      if (std::isnan(expected)) {
        EXPECT_TRUE(std::isnan(wide) && std::isnan(wider)) << b;
        EXPECT_TRUE(
            std::isnan(by_definition(converted<uint16_t>(wide, Type::kF32, f.type), f.fraction, f.bias)));
        continue;
      }
      ASSERT_EQ(double(wide), expected) << b;
      ASSERT_EQ(wider, expected) << b;
      ASSERT_EQ(converted<uint16_t>(wide, Type::kF32, f.type), bits) << b;
      ASSERT_EQ(converted<uint16_t>(wider, Type::kF64, f.type), bits) << b;
    }
}

// Between two neighbours of the target: the nearer one, at a tie the even one.
TEST(ForeignValues, RoundsToTheNearestTiesToEven) {
  for (const Format& f : kFormats)
    for (int b = 0; b < (f.type == Type::kF16 ? 0x7bff : 0x7f7f); b += 7) {
      const double low = by_definition(uint16_t(b), f.fraction, f.bias),
                   high = by_definition(uint16_t(b + 1), f.fraction, f.bias), middle = (low + high) / 2;
      const auto even = uint16_t(b % 2 ? b + 1 : b);
      const auto rounded = [&](double v) { return converted<uint16_t>(v, Type::kF64, f.type); };
      ASSERT_EQ(rounded(middle), even) << b;
      ASSERT_EQ(rounded(std::nextafter(middle, 0)), b) << b;
      ASSERT_EQ(rounded(std::nextafter(middle, INFINITY)), b + 1) << b;
      ASSERT_EQ(rounded(-middle), even | 0x8000) << b;
      ASSERT_EQ(converted<uint16_t>(float(middle), Type::kF32, f.type), even) << b;  // exact in fp32
    }
}

TEST(ForeignValues, OverflowIsCountedAndSaturatesWhereAsked) {
  ValueCounts counts;
  EXPECT_EQ(converted<uint16_t>(65519.99f, Type::kF32, Type::kF16, &counts), 0x7bff);
  EXPECT_EQ(counts.overflows, 0u);
  EXPECT_EQ(converted<uint16_t>(-65520.f, Type::kF32, Type::kF16, &counts), 0xfc00);
  EXPECT_EQ(counts.overflows, 1u);
  EXPECT_EQ(converted<uint16_t>(-65520.f, Type::kF32, Type::kF16, &counts, true), 0xfbff);
  EXPECT_EQ(counts.overflows, 1u);
  EXPECT_EQ(converted<uint16_t>(3.4e38f, Type::kF32, Type::kBf16, &counts, true), 0x7f7f);
  EXPECT_EQ(counts.overflows, 1u);
  EXPECT_EQ(converted<float>(1e39, Type::kF64, Type::kF32, &counts), INFINITY);
  EXPECT_EQ(counts.overflows, 1u);
  EXPECT_EQ(counts.not_finite, 0u);
  EXPECT_EQ(converted<uint16_t>(INFINITY, Type::kF32, Type::kF16, &counts, true), 0x7c00);
  EXPECT_EQ(counts.overflows, 0u);
  EXPECT_EQ(counts.not_finite, 1u);
  EXPECT_TRUE(std::isnan(converted<float>(std::nan(""), Type::kF64, Type::kF32, &counts)));
  EXPECT_EQ(counts.not_finite, 1u);
}

TEST(ForeignValues, TheSameTypeIsCopiedBitForBit) {
  const auto odd = std::bit_cast<float>(0x7f800001u);  // a signalling NaN
  ValueCounts counts;
  EXPECT_EQ(std::bit_cast<uint32_t>(converted<float>(odd, Type::kF32, Type::kF32, &counts)), 0x7f800001u);
  EXPECT_EQ(counts.not_finite, 1u);
}

}  // namespace
}  // namespace rookery::foreign
