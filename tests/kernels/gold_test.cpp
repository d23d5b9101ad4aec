// gold_test.cpp: the expansion of GoldFinch's compressed keys against its formula.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/gold/gold.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Size {
  int64_t B, T, D, R;
};

TEST(Gold, Keys) {
  for (const Size& s : {Size{1, 1, 2, 1}, {2, 3, 5, 1}, {1, 7, 65, 4}, {2, 5, 16, 16}}) {
    OpCase c(str("gold_keys B", s.B, " T", s.T, " D", s.D, " R", s.R));
    c.input("x0", {s.B, s.T, s.D}, {-1, 1});
    c.input("c", {s.B, s.T, s.R}, {-1, 1});
    c.input("w", {s.D, s.D + s.R}, {-1, 1});
    c.bits_depend_on_threads = true;  // the sums of dw
    c.run = [](const Named<Var>& in) { return std::vector{ops::gold_keys(in["x0"], in["c"], in["w"])}; };
    c.reference = [s](const Named<Values>& in) {
      Values keys;
      for (int64_t row = 0; row < s.B * s.T; ++row) {
        Values joined(in["x0"].begin() + row * s.D, in["x0"].begin() + (row + 1) * s.D);
        joined.insert(joined.end(), in["c"].begin() + row * s.R, in["c"].begin() + (row + 1) * s.R);
        Values z(static_cast<size_t>(s.D), 0.0);
        double squares = 0;
        for (int64_t i = 0; i < s.D; ++i) {
          for (int64_t k = 0; k < s.D + s.R; ++k) z[i] += joined[k] * in["w"][i * (s.D + s.R) + k];
          squares += z[i] * z[i];
        }
        for (const double v : z) keys.push_back(v / (std::sqrt(squares / static_cast<double>(s.D)) + 1e-8));
      }
      return Outputs{keys};
    };
    c.check();
  }
}

TEST(Gold, ShapesThatDoNotFitAreNamed) {
  Device device(DeviceType::kCpu, 1);
  auto tensor = [&](const Shape& shape) { return Var(zeros(shape, DType::kF32, device)); };
  EXPECT_THROW(ops::gold_keys(tensor({2, 3, 4}), tensor({2, 3, 2}), tensor({4, 5})), Error);
  EXPECT_THROW(ops::gold_keys(tensor({2, 3, 4}), tensor({2, 2, 2}), tensor({4, 6})), Error);
}

}  // namespace
}  // namespace rookery::test
