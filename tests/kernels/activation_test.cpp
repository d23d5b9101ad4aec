// activation_test.cpp: element-wise functions against their formulas.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/activation/activation.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

const std::vector<Shape> kShapes = {{1}, {3, 5}, {1, 1, 65}, {2, 7, 40}};

template <class F>
Values map(const Values& x, F f) {
  Values y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = f(x[i]);
  return y;
}

TEST(Activation, Tanh) {
  for (const Shape& shape : kShapes) {
    OpCase c("tanh" + to_string(shape));
    c.input("x", shape, {-3, 3});
    c.run = [](const Named<Var>& in) { return std::vector{ops::tanh(in["x"])}; };
    c.reference = [](const Named<Values>& in) {
      return Outputs{map(in["x"], [](double x) { return std::tanh(x); })};
    };
    c.check();
  }
}

TEST(Activation, Sigmoid) {
  for (const Shape& shape : kShapes) {
    OpCase c("sigmoid" + to_string(shape));
    c.input("x", shape, {-5, 5});
    c.run = [](const Named<Var>& in) { return std::vector{ops::sigmoid(in["x"])}; };
    c.reference = [](const Named<Values>& in) {
      return Outputs{map(in["x"], [](double x) { return 1 / (1 + std::exp(-x)); })};
    };
    c.check();
  }
}

TEST(Activation, OneMinus) {
  for (const Shape& shape : kShapes) {
    OpCase c("one_minus" + to_string(shape));
    c.input("x", shape, {-1, 0.9});
    c.run = [](const Named<Var>& in) { return std::vector{ops::one_minus(in["x"])}; };
    c.reference = [](const Named<Values>& in) {
      return Outputs{map(in["x"], [](double x) { return 1 - x; })};
    };
    c.check();
  }
}

TEST(Activation, ReluSq) {
  for (const Shape& shape : kShapes) {
    OpCase c("relu_sq" + to_string(shape));
    c.input("x", shape, {-2, 2});
    c.avoid("x", 0, 1e-2);  // the second derivative jumps there
    c.run = [](const Named<Var>& in) { return std::vector{ops::relu_sq(in["x"])}; };
    c.reference = [](const Named<Values>& in) {
      return Outputs{map(in["x"], [](double x) { return x > 0 ? x * x : 0; })};
    };
    c.check();
  }
}

TEST(Activation, NotANumberIsKept) {
  const Values x = {NAN, -1, 0, 3}, ones(4, 1.0);
  for (const TestDevice& test_device : op_case_devices()) {
    const auto device = test_device.make(1);
    const Var in(tensor_from(std::span<const double>(x), {4}, DType::kF32, *device));
    const Values squares = to_doubles(ops::relu_sq(in).value());
    EXPECT_TRUE(std::isnan(squares[0])) << test_device.name;
    EXPECT_EQ((Values{squares[1], squares[2], squares[3]}), (Values{0, 0, 9})) << test_device.name;

    Tape tape;
    const Var w = tape.watch(in.value());
    const Tensor one = tensor_from(std::span<const double>(ones), {4}, DType::kF32, *device);
    const Var y = ops::decay_complement_mul(w, one);
    tape.backward(y, &one);
    EXPECT_TRUE(std::isnan(to_doubles(y.value())[0])) << test_device.name;
    EXPECT_TRUE(std::isnan(to_doubles(tape.grad(w))[0])) << test_device.name;
  }
}

TEST(Activation, SigmoidMul) {
  for (const Shape& shape : kShapes) {
    OpCase c("sigmoid_mul" + to_string(shape));
    c.input("gate", shape, {-4, 4});
    c.input("value", shape, {-2, 2});
    c.run = [](const Named<Var>& in) { return std::vector{ops::sigmoid_mul(in["gate"], in["value"])}; };
    c.reference = [](const Named<Values>& in) {
      Values y = map(in["gate"], [](double x) { return 1 / (1 + std::exp(-x)); });
      for (size_t i = 0; i < y.size(); ++i) y[i] *= in["value"][i];
      return Outputs{y};
    };
    c.check();
  }
}

TEST(Activation, DecayComplementMul) {
  for (const Shape& shape : kShapes) {
    OpCase c("decay_complement_mul" + to_string(shape));
    c.input("w", shape, {-9, 2});
    c.input("key", shape, {-2, 2});
    c.run = [](const Named<Var>& in) { return std::vector{ops::decay_complement_mul(in["w"], in["key"])}; };
    c.reference = [](const Named<Values>& in) {
      Values y = map(in["w"], [](double w) { return -std::expm1(-std::exp(w)); });
      for (size_t i = 0; i < y.size(); ++i) y[i] *= in["key"][i];
      return Outputs{y};
    };
    c.check();
  }
}

// Each element keeps its digits: 1 - exp(-e) would lose them where e is small, exp(w) overflows where w is
// large.
TEST(Activation, DecayComplementOfExtremeDecays) {
  Device device(DeviceType::kCpu, 1);
  const Values w = {-16, -8, -1, 3, 50, 200};
  Tape tape;
  const Var x = tape.watch(tensor_from(std::span<const double>(w), {6}, DType::kF32, device));
  const Values ones(6, 1.0);
  const Tensor one = tensor_from(std::span<const double>(ones), {6}, DType::kF32, device);
  const Var y = ops::decay_complement_mul(x, one);
  tape.backward(y, &one);
  const Values out = to_doubles(y.value()), slope = to_doubles(tape.grad(x));
  for (size_t i = 0; i < w.size(); ++i) {
    const double e = std::exp(std::min(w[i], 30.0));
    EXPECT_NEAR(out[i] / -std::expm1(-e), 1, 1e-6) << w[i];
    EXPECT_NEAR(slope[i], e * std::exp(-e), 1e-6 * e * std::exp(-e)) << w[i];
  }
}

TEST(Activation, SiluMul) {
  for (const Shape& shape : kShapes) {
    OpCase c("silu_mul" + to_string(shape));
    c.input("gate", shape, {-4, 4});
    c.input("value", shape, {-2, 2});
    c.run = [](const Named<Var>& in) { return std::vector{ops::silu_mul(in["gate"], in["value"])}; };
    c.reference = [](const Named<Values>& in) {
      Values y = map(in["gate"], [](double x) { return x / (1 + std::exp(-x)); });
      for (size_t i = 0; i < y.size(); ++i) y[i] *= in["value"][i];
      return Outputs{y};
    };
    c.check();
  }
}

TEST(Activation, Add) {
  for (const Shape& shape : kShapes) {
    OpCase c("add" + to_string(shape));
    c.input("a", shape, {-2, 2});
    c.input("b", shape, {-2, 2});
    c.run = [](const Named<Var>& in) { return std::vector{ops::add(in["a"], in["b"])}; };
    c.reference = [](const Named<Values>& in) {
      Values y = in["a"];
      for (size_t i = 0; i < y.size(); ++i) y[i] += in["b"][i];
      return Outputs{y};
    };
    c.check();
  }
}

// Large enough for every thread to get a part.
TEST(Activation, SeveralThreads) {
  OpCase c("threads");
  c.input("gate", {3, 16411}, {-4, 4});
  c.input("value", {3, 16411}, {-2, 2});
  c.run = [](const Named<Var>& in) {
    return std::vector{ops::add(ops::tanh(in["gate"]), ops::sigmoid_mul(in["gate"], in["value"]))};
  };
  c.reference = [](const Named<Values>& in) {
    Values y(in["gate"].size());
    for (size_t i = 0; i < y.size(); ++i)
      y[i] = std::tanh(in["gate"][i]) + in["value"][i] / (1 + std::exp(-in["gate"][i]));
    return Outputs{y};
  };
  c.check();
}

}  // namespace
}  // namespace rookery::test
