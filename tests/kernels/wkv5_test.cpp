// wkv5_test.cpp: ops::wkv5 against the formulas of rwkv5-eagle 3, one token at a time. What both recurrences
// share is tested in depth by wkv6_test.cpp.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/ops/wkv6/wkv6.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Size {
  int64_t B, T, H, N;
};

Outputs eagle(const Named<Values>& in, const Size& s, bool carried, bool starts) {
  const auto [B, T, H, N] = s;
  const Values &r = in["r"], &k = in["k"], &v = in["v"], &w = in["w"], &u = in["u"];
  const Values doc_start = starts ? in["doc_start"] : Values();
  Values y(static_cast<size_t>(B * T * H * N), 0.0);
  Values S = carried ? in["state0"] : Values(static_cast<size_t>(B * H * N * N), 0.0);
  Values decay;
  for (const double raw : w) decay.push_back(std::exp(-std::exp(raw)));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t i = 0; i < N; ++i)
          for (int64_t j = 0; j < N; ++j) {
            const int64_t row = ((b * T + t) * H + h) * N;
            double& state = S[((b * H + h) * N + i) * N + j];
            if (starts && doc_start[b * T + t] != 0) state = 0;
            const double kv = k[row + i] * v[row + j];
            y[row + j] += r[row + i] * (state + u[h * N + i] * kv);
            state = decay[h * N + i] * state + kv;
          }
  return {y, S};
}

OpCase eagle_case(const Size& s, bool carried, bool starts, Uniform decay) {
  const auto [B, T, H, N] = s;
  OpCase c(str("wkv5 B", B, " T", T, " H", H, " N", N, carried ? " carried" : "", starts ? " starts" : "",
               " w ", decay.low, " to ", decay.high));
  for (const char* name : {"r", "k", "v"}) c.input(name, {B, T, H, N}, {-1, 1});
  c.input("w", {H, N}, decay);
  c.input("u", {H, N}, {-1, 1});
  if (carried) c.input("state0", {B, H, N, N}, {-1, 1});
  if (starts) {
    Values doc_start(static_cast<size_t>(B * T), 0.0);
    for (int64_t b = 0; b < B; ++b)
      for (const int64_t t : {int64_t{0}, int64_t{5}, int64_t{6}, int64_t{16}, 20 + b})
        if (t < T && (t > 0 || b == 1)) doc_start[b * T + t] = 1;
    c.integers("doc_start", {B, T}, DType::kU8, doc_start);
  }
  c.keep_f32("state0");
  c.bf16_outputs = {DType::kBF16, DType::kF32};
  c.run = [=](const Named<Var>& in) {
    const auto out = ops::wkv5(in["r"], in["k"], in["v"], in["w"], in["u"], carried ? in["state0"] : Var(),
                               starts ? in["doc_start"].value() : Tensor());
    return std::vector{out.y, out.state};
  };
  c.reference = [=](const Named<Values>& in) { return eagle(in, s, carried, starts); };
  return c;
}

TEST(Wkv5, FormulasAndGradients) {
  for (const Size& s : {Size{3, 1, 1, 32}, {1, 5, 3, 3}, {2, 22, 2, 20}, {1, 18, 3, 32}})
    for (const bool carried : {false, true})
      for (const bool starts : {false, true}) eagle_case(s, carried, starts, {-5, 1}).check();
}

// A state between two segments of the backward pass, and its gradient.
TEST(Wkv5, LongSequence) { eagle_case({1, kWkv6Segment + 14, 3, 3}, true, true, {-5, 1}).check(); }

// Decays of nearly 1, and so small that they underflow.
TEST(Wkv5, WeakAndStrongDecay) {
  eagle_case({1, 18, 3, 32}, true, false, {-9, -7}).check();
  eagle_case({1, 18, 3, 32}, true, false, {1, 3}).check();
}

// Fewer heads than threads: the value columns of a head are cut in strips, whose shares of dw are added up.
TEST(Wkv5, StripsOfValueColumns) {
  OpCase c = eagle_case({1, 17, 1, 64}, true, true, {-5, 1});
  c.bits_depend_on_threads = true;
  c.check();
}

TEST(Wkv5, RefusesWrongShapes) {
  Device device(DeviceType::kCpu, 1);
  const Tensor x = zeros({1, 4, 2, 32}, DType::kF32, device), u = zeros({2, 32}, DType::kF32, device);
  EXPECT_THROW(ops::wkv5(x, x, x, x, u), Error);  // a decay for each token is wkv6
  EXPECT_THROW(ops::wkv5(x, x, x, u, zeros({32}, DType::kF32, device)), Error);
}

}  // namespace
}  // namespace rookery::test
