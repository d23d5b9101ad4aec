// rms_norm_test.cpp: RMS norm with eps inside the root (llama-baseline 2) and outside (rwkv-common 2), with
// and without weight.
#include "kernels/ops/norm/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

Values normed(const Values& x, const Values* gamma, int64_t C, double eps, RmsEps where) {
  Values y(x.size());
  for (size_t at = 0; at < x.size(); at += C) {
    double mean = 0;
    for (int64_t i = 0; i < C; ++i) mean += x[at + i] * x[at + i] / static_cast<double>(C);
    const double root = where == RmsEps::kInside ? std::sqrt(mean + eps) : std::sqrt(mean) + eps;
    for (int64_t i = 0; i < C; ++i) y[at + i] = x[at + i] / root * (gamma ? (*gamma)[i] : 1);
  }
  return y;
}

OpCase rms_case(const Shape& shape, Uniform range, double eps, RmsEps where, bool weighted) {
  const int64_t C = shape.back();
  OpCase c(str("rms_norm", to_string(shape), " eps ", eps, where == RmsEps::kInside ? " inside" : " outside",
               weighted ? " weighted" : ""));
  c.input("x", shape, range);
  if (weighted) c.input("gamma", {C}, {0.5, 1.5});
  c.bits_depend_on_threads = true;  // dgamma
  c.run = [=](const Named<Var>& in) {
    return std::vector{ops::rms_norm(in["x"], weighted ? in["gamma"] : Var(), eps, where)};
  };
  c.reference = [=](const Named<Values>& in) {
    return Outputs{normed(in["x"], weighted ? &in["gamma"] : nullptr, C, eps, where)};
  };
  return c;
}

TEST(RmsNorm, MatchesTheFormula) {
  for (const Shape& shape : std::vector<Shape>{{1, 1, 3}, {1, 5, 65}, {2, 33, 16}, {90, 7}, {2, 264}})
    for (const RmsEps where : {RmsEps::kInside, RmsEps::kOutside})
      for (const double eps : {1e-8, 0.3})
        for (const bool weighted : {true, false}) rms_case(shape, {-2, 3}, eps, where, weighted).check();
}

// Values as small as eps: there its place shows.
TEST(RmsNorm, SmallValues) {
  OpCase inside = rms_case({4, 8}, {-0.01, 0.01}, 1e-4, RmsEps::kInside, true);
  OpCase outside = rms_case({4, 8}, {-0.01, 0.01}, 1e-2, RmsEps::kOutside, true);
  for (OpCase* c : {&inside, &outside}) {
    c->step = 1e-5;
    c->gradient_error = 1e-6;
    c->check();
  }
}

TEST(RmsNorm, RowOfZeros) {
  Device device(DeviceType::kCpu, 1);
  for (const RmsEps where : {RmsEps::kInside, RmsEps::kOutside}) {
    Tape tape;
    const Var x = tape.watch(zeros({2, 4}, DType::kF32, device));
    const Var y = ops::rms_norm(x, Var(), 1e-4, where);
    const Tensor ones = tensor_from(std::span<const double>(Values(8, 1)), {2, 4}, DType::kF32, device);
    tape.backward(y, &ones);
    EXPECT_EQ(to_doubles(y.value()), Values(8, 0));
    for (const double d : to_doubles(tape.grad(x)))
      EXPECT_NEAR(d, where == RmsEps::kInside ? 100 : 1e4, 1e-2);  // 1 / sqrt(eps), 1 / eps
  }
}

TEST(RmsNorm, WeightMustFit) {
  Device device(DeviceType::kCpu, 1);
  EXPECT_THROW(ops::rms_norm(zeros({2, 10}, DType::kF32, device), zeros({9}, DType::kF32, device), 1e-5),
               Error);
}

}  // namespace
}  // namespace rookery::test
