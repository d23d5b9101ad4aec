// goose_test.cpp: the element-wise parts of RWKV-7's time mixing against the formulas of its paper.
#include "kernels/ops/goose/goose.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Size {
  int64_t B, T, H, N;
  Shape rows() const { return {B, T, H * N}; }
  int64_t numel() const { return B * T * H * N; }
};

const std::vector<Size> kSizes = {{1, 1, 1, 5}, {2, 3, 3, 21}, {1, 40, 2, 64}, {2, 17, 5, 8}};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

Outputs keys(const Named<Values>& in, const Size& s) {
  const Values &key = in["key"], &rate = in["rate"], &k_k = in["k_k"], &k_a = in["k_a"];
  Outputs out(3, Values(key.size()));
  for (int64_t at = 0; at < s.numel(); at += s.N) {
    double squares = 0;
    for (int64_t i = at; i < at + s.N; ++i) squares += std::pow(key[i] * k_k[i % (s.H * s.N)], 2);
    for (int64_t i = at; i < at + s.N; ++i) {
      const int64_t c = i % (s.H * s.N);
      const double alpha = sigmoid(rate[i]), kk = key[i] * k_k[c] / std::max(std::sqrt(squares), 1e-12);
      out[0][i] = key[i] * (1 + (alpha - 1) * k_a[c]);
      out[1][i] = -kk;
      out[2][i] = kk * alpha;
    }
  }
  return out;
}

OpCase keys_case(const std::string& name, const Size& s, Uniform key) {
  OpCase c(name);
  c.input("key", s.rows(), key);
  c.input("rate", s.rows(), {-3, 3});
  c.input("k_k", {1, 1, s.H * s.N}, {0.5, 1});
  c.input("k_a", {1, 1, s.H * s.N}, {0.8, 1.2});
  c.bits_depend_on_threads = true;  // dk_k, dk_a
  c.run = [H = s.H](const Named<Var>& in) {
    const ops::GooseKeys out = ops::goose_keys(in["key"], in["rate"], in["k_k"], in["k_a"], H);
    return std::vector{out.k, out.a, out.b};
  };
  c.reference = [s](const Named<Values>& in) { return keys(in, s); };
  return c;
}

TEST(Goose, Keys) {
  for (const Size& s : kSizes)
    keys_case(str("goose_keys B", s.B, " T", s.T, " H", s.H, " N", s.N), s, {-2, 2}).check();
}

// A key that is zero in a head is divided by the least norm: its gradient is linear, and huge.
TEST(Goose, KeysOfNothing) {
  OpCase c = keys_case("goose_keys of nothing", {1, 2, 2, 6}, {0, 0});
  c.step = 1e-15;  // within the least norm
  c.check();
}

TEST(Goose, Value) {
  for (const Size& s : kSizes) {
    OpCase c(str("goose_value B", s.B, " T", s.T, " C", s.H * s.N));
    c.input("value", s.rows(), {-1, 1});
    c.input("first", s.rows(), {-1, 1});
    c.input("mix", s.rows(), {-4, 4});
    c.run = [](const Named<Var>& in) {
      return std::vector{ops::goose_value(in["value"], in["first"], in["mix"])};
    };
    c.reference = [](const Named<Values>& in) {
      Values out = in["value"];
      for (size_t i = 0; i < out.size(); ++i) out[i] += (in["first"][i] - out[i]) * sigmoid(in["mix"][i]);
      return Outputs{out};
    };
    c.check();
  }
}

TEST(Goose, Output) {
  for (const Size& s : kSizes) {
    OpCase c(str("goose_output B", s.B, " T", s.T, " H", s.H, " N", s.N));
    for (const char* name : {"y", "r", "k", "v", "gate"}) c.input(name, s.rows(), {-1, 1.5});
    c.input("gamma", {s.H * s.N}, {0.5, 1.5});
    c.input("beta", {s.H * s.N}, {-1, 1});
    c.input("r_k", {s.H, s.N}, {-0.3, 0.3});
    c.bits_depend_on_threads = true;  // dgamma, dbeta, dr_k
    c.run = [](const Named<Var>& in) {
      return std::vector{ops::goose_output(in["y"], in["gamma"], in["beta"], in["r"], in["k"], in["v"],
                                           in["r_k"], in["gate"], 64e-5)};
    };
    c.reference = [s](const Named<Values>& in) {
      const int64_t C = s.H * s.N;
      Values out(in["y"].size());
      for (int64_t at = 0; at < s.numel(); at += s.N) {
        double mean = 0, variance = 0, bonus = 0;
        for (int64_t i = at; i < at + s.N; ++i) mean += in["y"][i] / static_cast<double>(s.N);
        for (int64_t i = at; i < at + s.N; ++i) {
          variance += std::pow(in["y"][i] - mean, 2) / static_cast<double>(s.N);
          bonus += in["r"][i] * in["k"][i] * in["r_k"][i % C];
        }
        for (int64_t i = at; i < at + s.N; ++i)
          out[i] = ((in["y"][i] - mean) / std::sqrt(variance + 64e-5) * in["gamma"][i % C] +
                    in["beta"][i % C] + bonus * in["v"][i]) *
                   in["gate"][i];
      }
      return Outputs{out};
    };
    c.check();
  }
}

TEST(Goose, RefusesWrongShapes) {
  Device device(DeviceType::kCpu, 1);
  const auto x = [&](const Shape& shape) { return Var(zeros(shape, DType::kF32, device)); };
  const Var rows = x({1, 4, 10}), c = x({10});
  EXPECT_THROW(ops::goose_keys(rows, rows, c, c, 3), Error);
  EXPECT_THROW(ops::goose_keys(rows, x({1, 4, 9}), c, c, 2), Error);
  EXPECT_THROW(ops::goose_value(rows, rows, x({1, 5, 10})), Error);
  EXPECT_THROW(ops::goose_output(rows, c, c, rows, rows, rows, x({2, 4}), rows, 1e-5), Error);
  EXPECT_THROW(ops::goose_output(rows, x({9}), c, rows, rows, rows, x({2, 5}), rows, 1e-5), Error);
}

}  // namespace
}  // namespace rookery::test
