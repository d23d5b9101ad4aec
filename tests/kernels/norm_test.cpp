// norm_test.cpp: layer norm and group norm, with and without gate, against the formulas of spec
// rwkv-common 2.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "kernels/ops/norm/norm.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

Values normed(const Values& x, const Values& gamma, const Values& beta, int64_t groups, double eps) {
  const int64_t C = static_cast<int64_t>(gamma.size()), N = C / groups;
  Values y(x.size());
  for (int64_t at = 0; at < static_cast<int64_t>(x.size()); at += N) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < N; ++i) mean += x[at + i] / static_cast<double>(N);
    for (int64_t i = 0; i < N; ++i)
      variance += (x[at + i] - mean) * (x[at + i] - mean) / static_cast<double>(N);
    for (int64_t i = 0; i < N; ++i)
      y[at + i] = (x[at + i] - mean) / std::sqrt(variance + eps) * gamma[(at + i) % C] + beta[(at + i) % C];
  }
  return y;
}

TEST(Norm, LayerNorm) {
  for (const auto& [B, T, C] : std::vector<std::array<int64_t, 3>>{
           {1, 1, 3}, {1, 5, 65}, {2, 33, 40}, {3, 1, 16}, {1, 90, 7}, {2, 20, 264}}) {
    OpCase c(str("layer_norm B", B, " T", T, " C", C));
    c.input("x", {B, T, C}, {-2, 3});
    c.input("gamma", {C}, {0.5, 1.5});
    c.input("beta", {C}, {-1, 1});
    c.bits_depend_on_threads = true;  // dgamma, dbeta
    c.run = [](const Named<Var>& in) {
      return std::vector{ops::layer_norm(in["x"], in["gamma"], in["beta"], 1e-5)};
    };
    c.reference = [](const Named<Values>& in) {
      return Outputs{normed(in["x"], in["gamma"], in["beta"], 1, 1e-5)};
    };
    c.check();
  }
}

// A row of equal values: the variance is 0 and eps alone keeps the result finite.
TEST(Norm, LayerNormOfEqualValues) {
  OpCase c("layer_norm of equal values");
  c.input("x", {2, 1, 12}, {0.75, 0.75});
  c.input("gamma", {12}, {0.5, 1.5});
  c.input("beta", {12}, {-1, 1});
  c.step = 1e-5;  // the formula bends within sqrt(eps) = 0.03
  c.gradient_error = 1e-6;
  c.run = [](const Named<Var>& in) {
    return std::vector{ops::layer_norm(in["x"], in["gamma"], in["beta"], 1e-3)};
  };
  c.reference = [](const Named<Values>& in) {
    return Outputs{normed(in["x"], in["gamma"], in["beta"], 1, 1e-3)};
  };
  c.check();
}

TEST(Norm, GroupNorm) {
  for (const auto& [B, T, H, N] : std::vector<std::array<int64_t, 4>>{
           {1, 1, 1, 5}, {2, 3, 3, 21}, {1, 40, 2, 64}, {2, 17, 5, 8}, {1, 3, 2, 35}})
    for (const bool gated : {false, true}) {
      OpCase c(str("group_norm B", B, " T", T, " H", H, " N", N, gated ? " gated" : ""));
      c.input("x", {B, T, H * N}, {-2, 3});
      c.input("gamma", {H * N}, {0.5, 1.5});
      c.input("beta", {H * N}, {-1, 1});
      if (gated) c.input("gate", {B, T, H * N}, {-3, 3});
      c.bits_depend_on_threads = true;
      c.run = [groups = H, gated = gated](const Named<Var>& in) {
        return std::vector{
            ops::group_norm(in["x"], in["gamma"], in["beta"], groups, 64e-5, gated ? in["gate"] : Var())};
      };
      c.reference = [groups = H, gated = gated](const Named<Values>& in) {
        Values y = normed(in["x"], in["gamma"], in["beta"], groups, 64e-5);
        for (size_t i = 0; i < y.size() && gated; ++i) y[i] *= in["gate"][i] / (1 + std::exp(-in["gate"][i]));
        return Outputs{y};
      };
      c.check();
    }
}

TEST(Norm, ChannelsMustDivideIntoGroups) {
  Device device(DeviceType::kCpu, 1);
  const Tensor x = zeros({2, 10}, DType::kF32, device), g = zeros({10}, DType::kF32, device);
  EXPECT_THROW(ops::group_norm(x, g, g, 3, 1e-5), Error);
  EXPECT_THROW(ops::layer_norm(x, zeros({9}, DType::kF32, device), g), Error);
}

}  // namespace
}  // namespace rookery::test
