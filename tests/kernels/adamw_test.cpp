// adamw_test.cpp: the update against a naive loop over several steps, and the sum of squares.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "kernels/ops/adamw/adamw.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

constexpr auto kUpdate = RK_KERNEL(adamw_update);
constexpr auto kSquares = RK_KERNEL(sum_of_squares);
constexpr auto kUpdateSquares = RK_KERNEL_GPU(adamw_squares);
constexpr auto kStep = RK_KERNEL_GPU(adamw_step);

struct State {
  Values p, m, v;
};

// rwkv-common 7, one element at a time.
void step(State& s, const Values& grad, int64_t begin, int64_t end, const AdamwArgs& a) {
  for (int64_t i = begin; i < end; ++i) {
    const double g = a.clip * grad[i];
    s.m[i] = a.beta1 * s.m[i] + (1 - a.beta1) * g;
    s.v[i] = a.beta2 * s.v[i] + (1 - a.beta2) * g * g;
    const double m_hat = s.m[i] / (1 - std::pow(a.beta1, a.step)),
                 v_hat = s.v[i] / (1 - std::pow(a.beta2, a.step));
    s.p[i] -= a.lr * (m_hat / (std::sqrt(v_hat) + a.eps) + a.weight_decay * s.p[i]);
  }
}

TEST(Adamw, AgainstANaiveLoop) {
  for (const TestDevice& test_device : cpu_devices())
    for (const DType dtype : {DType::kF64, DType::kF32})
      for (const double eps : {1e-8, 1e-18})
        for (const auto& [n, begin, end] :
             std::vector<std::array<int64_t, 3>>{{1, 0, 1}, {65, 3, 64}, {40000, 1, 39999}}) {
          SCOPED_TRACE(str(test_device.name, " ", dtype, " eps ", eps, " n ", n));
          const auto device = test_device.make(2);
          State expected{random_values("p", n, {-1, 1}), Values(n, 0.0), Values(n, 0.0)};
          const Tensor p = tensor_from(std::span<const double>(expected.p), {n}, dtype, *device);
          const Tensor m = zeros({n}, dtype, *device), v = zeros({n}, dtype, *device);
          for (int64_t k = 1; k <= 5; ++k) {
            Values grad = random_values(str("g", k), n, {-2, 2});
            for (size_t i = 0; i < grad.size(); i += 4) grad[i] = 0;  // rows that no token used
            const AdamwArgs a{p,     tensor_from(std::span<const double>(grad), {n}, dtype, *device),
                              m,     v,
                              begin, end,
                              1e-2,  0.9,
                              0.99,  eps,
                              0.1,   0.7,
                              k};
            kUpdate(*device, a);
            step(expected, grad, begin, end, a);
          }
          const double bound = dtype == DType::kF64 ? 1e-26 : 1e-11;
          EXPECT_LE(nmse(to_doubles(p), expected.p), bound);
          EXPECT_LE(nmse(to_doubles(m), expected.m), bound);
          EXPECT_LE(nmse(to_doubles(v), expected.v), bound);
        }
}

// A gradient that was always zero moves nothing, at any eps: 0 / (sqrt(0) + 1e-18) is 0 in float too.
TEST(Adamw, ZeroGradientIsNoUpdate) {
  for (const TestDevice& test_device : cpu_devices()) {
    const auto device = test_device.make(1);
    const Values start = random_values("p", 37, {-1, 1});
    const Tensor p = tensor_from(std::span<const double>(start), {37}, DType::kF32, *device);
    const Tensor zero = zeros({37}, DType::kF32, *device);
    const Tensor m = zeros({37}, DType::kF32, *device), v = zeros({37}, DType::kF32, *device);
    for (int64_t k = 1; k <= 3; ++k)
      kUpdate(*device, {p, zero, m, v, 0, 37, 1e-2, 0.9, 0.99, 1e-18, 0, 1, k});
    EXPECT_EQ(to_doubles(p), start) << test_device.name;
  }
}

// The change is told by what the update left, without a copy of what was before it: of a range over several
// tiles, and of one that is not trained.
void check_squares(Device& device, DType dtype, Values* bits) {
  constexpr int64_t n = 3 * kSquaresBlock + 27, frozen = n - 2;
  const double lr = 1e-2;
  const std::vector<AdamwRange> ranges = {{5, frozen, 1, 0.1, 0}, {frozen, n, 0, 0, 0}};
  Values before = random_values("p", n, {-1, 1}), grad;
  const Tensor p = tensor_from(std::span<const double>(before), {n}, dtype, device);
  const Tensor m = zeros({n}, dtype, device), v = zeros({n}, dtype, device);
  const Tensor state = zeros({3}, DType::kF64, device);
  const Tensor rate = tensor_from(std::span<const double>(&lr, 1), {1}, DType::kF64, device);
  const Tensor scratch = empty({squares_blocks(n)}, DType::kF64, device);
  const AdamwTable trained = adamw_table(std::span(ranges).first(1), device);
  Tensor g;
  for (int k = 1; k <= 3; ++k) {
    before = to_doubles(p);
    grad = random_values(str("g", k), n, {-2, 2});
    grad[9] = 0;
    g = tensor_from(std::span<const double>(grad), {n}, dtype, device);
    kStep(device, {p, g, m, v, {}, trained, state, rate, scratch, 0.9, 0.99, 1e-18, 100});
  }
  const AdamwTable table = adamw_table(ranges, device);
  ASSERT_EQ(table.tiles.dim(0), 5);
  const Tensor sums = empty({5, 3}, DType::kF64, device);
  kUpdateSquares(device, {p, g, m, v, table, state, rate, sums, 0.9, 0.99, 1e-18});
  const Values found = to_doubles(sums), after = to_doubles(p);
  const double bound = dtype == DType::kF64 ? 1e-12 : 1e-5;  // of a difference of near numbers
  Values total(3, 0.0), expected(3, 0.0);
  for (size_t i = 0; i < 12; ++i) total[i % 3] += found[i];
  for (size_t i = 5; i < frozen; ++i) {
    expected[0] += after[i] * after[i];
    expected[1] += grad[i] * grad[i];
    expected[2] += (after[i] - before[i]) * (after[i] - before[i]);
  }
  for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(total[i], expected[i], bound * expected[i]) << i;
  EXPECT_NEAR(found[12], after[n - 2] * after[n - 2] + after[n - 1] * after[n - 1], bound);
  EXPECT_EQ(found[14], 0);
  if (bits->empty()) *bits = found;
  EXPECT_EQ(found, *bits) << "other bits at another number of threads";
}

TEST(Adamw, SquaresOfAnUpdate) {
  for (const TestDevice& test_device : op_case_devices())
    for (const DType dtype : {DType::kF64, DType::kF32}) {
      if (dtype == DType::kF64 && test_device.type != DeviceType::kCpu) continue;
      SCOPED_TRACE(str(test_device.name, " ", dtype));
      Values bits;
      for (const int threads : {1, 2, 3}) check_squares(*test_device.make(threads), dtype, &bits);
    }
}

TEST(SumOfSquares, EqualAtAnyNumberOfThreads) {
  for (const TestDevice& test_device : cpu_devices())
    for (const DType dtype : {DType::kF64, DType::kF32})
      for (const int64_t n : {int64_t{1}, int64_t{65}, kSquaresBlock, 3 * kSquaresBlock + 7}) {
        const Values x = random_values("x", n, {-3, 3});
        double expected = 0, at_one_thread = 0;
        for (const double value : x) expected += value * value;
        for (const int threads : {1, 2, 3}) {
          const auto device = test_device.make(threads);
          double found = -1;
          kSquares(*device, {tensor_from(std::span<const double>(x), {n}, dtype, *device), &found,
                             empty({squares_blocks(n)}, DType::kF64, *device)});
          EXPECT_NEAR(found, expected, 1e-13 * expected) << test_device.name << " n " << n;
          if (threads == 1) at_one_thread = found;
          EXPECT_EQ(found, at_one_thread) << test_device.name << " n " << n;
        }
      }
}

// Norm, clipping and all ranges in one, against the naive loop: ranges over the borders of tiles, off 16
// bytes, one that came after two updates, gaps that stay as they were.
void check_step(Device& device, DType dtype, DType grad_dtype, int64_t n) {
  SCOPED_TRACE(str(dtype, ", gradients ", grad_dtype, ", n ", n));
  const std::vector<AdamwRange> ranges = {{0, 1, 1, 0.1, 0},
                                          {8, 40, 2, 0, 0},
                                          {48, kSquaresBlock + 100, 1, 0.1, 0},
                                          {kSquaresBlock + 101, n - 2, 0.5, 0.2, 2}};
  State expected{random_values("p", n, {-1, 1}), Values(n, 0.0), Values(n, 0.0)};
  const Tensor p = tensor_from(std::span<const double>(expected.p), {n}, dtype, device);
  const Tensor m = zeros({n}, dtype, device), v = zeros({n}, dtype, device);
  const Tensor weights = device.type() == DeviceType::kCpu ? Tensor() : empty({n}, DType::kBF16, device);
  const Tensor state = zeros({3}, DType::kF64, device);
  const Tensor scratch = empty({squares_blocks(n)}, DType::kF64, device);
  const double lr = 1e-2, eps = 1e-8, limit = 30;
  AdamwStepArgs a{p, {}, m, v, weights, {}, state, {}, scratch, 0.9, 0.99, eps, limit};
  a.lr = tensor_from(std::span<const double>(&lr, 1), {1}, DType::kF64, device);
  auto give = [&](const Values& grad) {
    a.grad = tensor_from(std::span<const double>(grad), {n}, grad_dtype, device);
    kStep(device, a);
    return to_doubles(a.grad);  // as rounded
  };
  for (int64_t k = 1; k <= 4; ++k) {
    const std::span<const AdamwRange> present(ranges.data(), k > 2 ? 4 : 3);
    a.table = adamw_table(present, device);
    const double size = k == 2 ? 0.01 : 2;  // of the second the norm is below the limit
    const Values grad = give(random_values(str("g", k), n, {-size, size}));
    double squares = 0;
    for (const double g : grad) squares += g * g;
    const double norm = std::sqrt(squares), clip = std::min(1.0, limit / (norm + 1e-6));
    EXPECT_EQ(clip == 1, k == 2);
    for (const AdamwRange& r : present)
      step(expected, grad, r.begin, r.end,
           {{}, {}, {}, {}, 0, 0, lr * r.lr_scale, 0.9, 0.99, eps, r.weight_decay, clip, k - r.missed});
    const Values found = to_doubles(state);
    EXPECT_NEAR(found[0], norm, 1e-12 * norm);
    EXPECT_NEAR(found[1], clip, 1e-12);
    EXPECT_EQ(found[2], static_cast<double>(k));
    const double bound = dtype == DType::kF64 ? 1e-24 : 1e-12;
    EXPECT_LE(nmse(to_doubles(p), expected.p), bound);
    EXPECT_LE(nmse(to_doubles(m), expected.m), bound);
    EXPECT_LE(nmse(to_doubles(v), expected.v), bound);
  }
  const Values before = to_doubles(p);
  const Values rounded = weights.defined() ? to_doubles(weights) : Values();
  for (const AdamwRange& r : ranges)
    for (int64_t i = r.begin; i < r.end && weights.defined(); ++i)
      ASSERT_EQ(bf16(static_cast<float>(rounded[i])).bits, bf16(static_cast<float>(before[i])).bits) << i;
  Values grad(n, 1.0);
  grad[n - 1] = INFINITY;
  give(grad);
  EXPECT_EQ(to_doubles(p), before);
  EXPECT_EQ(to_doubles(state)[1], 0);
  EXPECT_EQ(to_doubles(state)[2], 4);
  // A loss that is not finite, though the gradient is.
  const Values losses{1, INFINITY, 1};
  a.losses = tensor_from(std::span<const double>(losses), {3}, dtype, device);
  give(Values(n, 1.0));
  EXPECT_EQ(to_doubles(p), before);
  EXPECT_EQ(to_doubles(state)[1], 0);
  a.losses = zeros({3}, dtype, device);
  give(Values(n, 1.0));
  EXPECT_NE(to_doubles(p), before);
  EXPECT_EQ(to_doubles(state)[2], 5);
}

TEST(AdamwStep, AgainstANaiveLoop) {
  for (const TestDevice& test_device : op_case_devices())
    for (const int64_t n : {kSquaresBlock + 840, 2 * kSquaresBlock + 203}) {
      SCOPED_TRACE(test_device.name);
      const auto device = test_device.make(2);
      if (test_device.type == DeviceType::kCpu) check_step(*device, DType::kF64, DType::kF64, n);
      check_step(*device, DType::kF32, DType::kF32, n);
      if (test_device.type != DeviceType::kCpu) check_step(*device, DType::kF32, DType::kBF16, n);
    }
}

}  // namespace
}  // namespace rookery::test
