// rope_test.cpp: rotary positions against the formulas of llama-baseline 2 and goldfinch 6.
#include "kernels/ops/rope/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>

#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

// A pair as a complex number, times e^(i p f).
Values turned(const Values& x, const Shape& shape, const RopeOptions& o, const std::vector<double>& f) {
  const int64_t T = shape[1], H = shape[2], D = shape[3];
  Values y(x.size());
  for (int64_t row = 0; row < shape.numel() / D; ++row)
    for (int64_t i = 0; i < D / 2; ++i) {
      const bool halves = o.pairs == RopePairs::kHalves;
      const int64_t re = row * D + (halves ? i : 2 * i), im = row * D + (halves ? i + D / 2 : 2 * i + 1);
      const auto z =
          std::complex(x[re], x[im]) * std::polar(1.0, static_cast<double>(o.offset + row / H % T) * f[i]);
      y[re] = z.real();
      y[im] = z.imag();
    }
  return y;
}

TEST(Rope, TurnsPairs) {
  for (const Shape& shape : std::vector<Shape>{{1, 1, 1, 2}, {2, 5, 3, 6}, {1, 70, 2, 16}})
    for (const RopePairs pairs : {RopePairs::kHalves, RopePairs::kAdjacent})
      for (const int64_t offset : {0, 1000}) {
        const RopeOptions o{.pairs = pairs, .theta = 500, .scaling = {}, .offset = offset};
        OpCase c(str("rope", to_string(shape), pairs == RopePairs::kHalves ? " halves" : " adjacent", " at ",
                     offset));
        c.input("x", shape, {-2, 2});
        c.run = [=](const Named<Var>& in) { return std::vector{ops::rope(in["x"], o)}; };
        c.reference = [=](const Named<Values>& in) {
          std::vector<double> f;
          for (int64_t i = 0; i < shape[3] / 2; ++i)
            f.push_back(std::pow(500, -2.0 * static_cast<double>(i) / static_cast<double>(shape[3])));
          return Outputs{turned(in["x"], shape, o, f)};
        };
        c.check();
      }
}

TEST(Rope, ScaledFrequencies) {
  const int64_t D = 64;
  const RopeScaling linear{.kind = RopeScaling::Kind::kLinear, .factor = 4};
  const RopeScaling llama3{.kind = RopeScaling::Kind::kLlama3,
                           .factor = 8,
                           .low_frequency = 1,
                           .high_frequency = 4,
                           .original_context = 8192};
  const auto plain = rope_frequencies(D, 5e5, {}), by4 = rope_frequencies(D, 5e5, linear),
             l3 = rope_frequencies(D, 5e5, llama3);
  ASSERT_EQ(plain.size(), 32u);
  int kept = 0, divided = 0, between = 0;
  for (int64_t i = 0; i < D / 2; ++i) {
    const double inv = std::pow(5e5, -2.0 * static_cast<double>(i) / 64), wave = 2 * M_PI / inv;
    EXPECT_NEAR(plain[i] / inv, 1, 1e-14);
    EXPECT_NEAR(by4[i] / (inv / 4), 1, 1e-14);
    double expected = 0;
    if (wave < 8192.0 / 4) {
      expected = inv, ++kept;
    } else if (wave > 8192.0 / 1) {
      expected = inv / 8, ++divided;
    } else {
      const double s = (8192.0 / wave - 1) / (4 - 1);
      expected = inv * ((1 - s) / 8 + s), ++between;
    }
    EXPECT_NEAR(l3[i] / expected, 1, 1e-14) << i;
  }
  EXPECT_TRUE(kept > 5 && divided > 5 && between > 1) << kept << " " << divided << " " << between;
}

TEST(Rope, HeadsOfOddSize) {
  Device device(DeviceType::kCpu, 1);
  EXPECT_THROW(ops::rope(zeros({1, 2, 3, 5}, DType::kF32, device), {}), Error);
}

}  // namespace
}  // namespace rookery::test
