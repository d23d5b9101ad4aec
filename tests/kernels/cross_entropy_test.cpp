// cross_entropy_test.cpp: head and loss in one, over block borders, masks and the logit regulariser.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "parallel/comm/threads.h"
#include "tests/support/op_case.h"

namespace rookery::test {
namespace {

struct Problem {
  int64_t M, C, V;
  bool masked;
  double l2wrap = 0;
  int64_t block_rows = 0;
};

// loss = sum(mask * ce) / count and the cross entropy of each row; with the regulariser's own term
// l2wrap / (2 count) * sum(mask * max^2), whose gradient the op adds, where `regularised`.
std::vector<Values> losses(const Named<Values>& in, const Problem& p, double count, bool regularised) {
  const Values &x = in["x"], &weight = in["weight"];
  double loss = 0;
  Values rows;
  for (int64_t m = 0; m < p.M; ++m) {
    Values logits(static_cast<size_t>(p.V), 0.0);
    for (int64_t v = 0; v < p.V; ++v)
      for (int64_t c = 0; c < p.C; ++c) logits[v] += x[m * p.C + c] * weight[v * p.C + c];
    const double largest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double y : logits) sum += std::exp(y - largest);
    const double mask = p.masked ? in["mask"][m] : 1;
    const double ce = std::log(sum) + largest - logits[static_cast<size_t>(in["targets"][m])];
    rows.push_back(mask == 0 ? 0 : ce);
    loss += mask * ce / count;
    if (regularised) loss += mask * p.l2wrap / 2 / count * largest * largest;
  }
  return {{loss}, rows};
}

void check(const Problem& p) {
  OpCase c(str("cross_entropy M", p.M, " C", p.C, " V", p.V, p.masked ? " masked" : "", " l2wrap ", p.l2wrap,
               " block ", p.block_rows));
  const double count = 0.7 * static_cast<double>(p.M);
  Values targets = random_values("targets", p.M, {0, static_cast<double>(p.V)});
  for (double& t : targets) t = std::floor(t);
  targets[0] = static_cast<double>(p.V - 1);
  c.input("x", {1, p.M, p.C}, {-1, 1});
  c.input("weight", {p.V, p.C}, {-1, 1});
  c.integers("targets", {1, p.M}, DType::kI32, targets);
  if (p.masked) {
    Values mask(static_cast<size_t>(p.M));
    for (int64_t m = 0; m < p.M; ++m) mask[m] = m % 3 == 0 ? 0 : m % 3 == 1 ? 1 : 0.25;
    c.constant("mask", {p.M}, mask);
    c.keep_f32("mask");
  }
  c.bf16_outputs = {DType::kF32, DType::kF32};
  if (p.V > 1000) c.f32_nmse = 1e-10;  // a gradient of x sums over the vocabulary
  c.bits_depend_on_threads = true;
  c.run = [=](const Named<Var>& in) {
    const ops::LossOut out =
        ops::linear_cross_entropy(in["x"], in["weight"], in["targets"].value(),
                                  p.masked ? in["mask"].value() : Tensor(), {count, p.l2wrap, p.block_rows});
    return std::vector<Var>{out.loss, out.row_loss};
  };
  c.reference = [=](const Named<Values>& in) { return losses(in, p, count, false); };
  c.gradient_reference = [=](const Named<Values>& in) { return losses(in, p, count, true); };
  c.check();
}

TEST(CrossEntropy, SmallSizes) {
  check({1, 1, 1, false});
  check({1, 3, 2, false});
  check({5, 7, 33, false});
  check({9, 16, 65, true});
  check({4, 5, 19, false, 0.1});
  check({7, 5, 19, true, 0.1});
  check({6, 8, 64, true, 0.1});
  check({9, 5, 19, false, 0.1, 4});
  check({7, 3, 40, true, 0, 3});
}

// In f32 a row of this many logits is more than the shared memory of a block.
TEST(CrossEntropy, LongRows) { check({2, 1, 50008, false}); }

// 128 rows is the smallest block, and a vocabulary beyond 2^23 / 128 asks for it.
TEST(CrossEntropy, RowsOverSeveralBlocks) {
  constexpr int64_t M = 131, C = 2, V = 66000;
  Device device(DeviceType::kCpu, 2);
  const Values x = random_values("x", M * C, {-1, 1}), w = random_values("w", V * C, {-1, 1});
  Values targets = random_values("targets", M, {0, double{V}});
  for (double& t : targets) t = std::floor(t);
  auto run = [&](int64_t begin, int64_t rows, Tensor& dx, Tensor& dw) {
    Tape tape;
    const auto part = std::span<const double>(x).subspan(begin * C, rows * C);
    const Var vx = tape.watch(tensor_from(part, {rows, C}, DType::kF64, device));
    const Var vw = tape.watch(tensor_from(std::span<const double>(w), {V, C}, DType::kF64, device));
    const Tensor t =
        tensor_from(std::span<const double>(targets).subspan(begin, rows), {rows}, DType::kI32, device);
    const ops::LossOut out = ops::linear_cross_entropy(vx, vw, t, Tensor(), {double{M}, 1e-2});
    tape.backward(out.loss);
    dx = tape.grad(vx);
    dw = tape.grad(vw);
    return out.loss.value().data<double>()[0];
  };
  Tensor dx, dw, dx0, dw0, dx1, dw1;
  const double whole = run(0, M, dx, dw);
  const double parts = run(0, 70, dx0, dw0) + run(70, M - 70, dx1, dw1);
  EXPECT_NEAR(whole, parts, 1e-12);
  Values joined = to_doubles(dx0);
  for (const double v : to_doubles(dx1)) joined.push_back(v);
  EXPECT_LE(nmse(to_doubles(dx), joined), 1e-24);
  EXPECT_LE(nmse(to_doubles(dw), to_doubles(sum_of(dw0, dw1))), 1e-24);
}

struct Whole {
  Values loss, row_loss, dx, dw;
};

// The vocabulary over `ranks` threads; slices of the gradient of the weight are joined, parts of that of x
// added. One rank: without slices.
Whole losses_of_ranks(const TestDevice& test_device, DType dtype, int ranks, const Problem& p,
                      const Values& x, const Values& w, const Values& targets) {
  Whole whole;
  std::vector<Whole> of_rank(static_cast<size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    const auto device = test_device.make(1);
    const int64_t words = p.V / ranks, first = comm.rank() * words;
    Values mask(static_cast<size_t>(p.M), 1.0);
    if (p.masked) mask[1] = 0, mask[2] = 0.25;
    Tape tape;
    const Var vx = tape.watch(tensor_from(std::span<const double>(x), {p.M, p.C}, dtype, *device));
    const Var vw = tape.watch(tensor_from(std::span<const double>(w).subspan(first * p.C, words * p.C),
                                          {words, p.C}, dtype, *device));
    const Tensor t = tensor_from(std::span<const double>(targets), {p.M}, DType::kI32, *device);
    const Tensor m = tensor_from(std::span<const double>(mask), {p.M}, sum_dtype(dtype), *device);
    ops::LossOptions options{static_cast<double>(p.M), p.l2wrap, p.block_rows};
    if (ranks > 1)
      options.slice = {first, [&](const Tensor& s) { comm.all_reduce(s, Reduce::kMax); },
                       [&](const Tensor& s) { comm.all_reduce(s, Reduce::kSum); }};
    const auto out = ops::linear_cross_entropy(vx, vw, t, m, options);
    tape.backward(out.loss);
    of_rank[static_cast<size_t>(comm.rank())] = {to_doubles(out.loss.value()), to_doubles(out.row_loss),
                                                 to_doubles(tape.grad(vx)), to_doubles(tape.grad(vw))};
  });
  whole = of_rank[0];
  for (size_t r = 1; r < of_rank.size(); ++r) {
    EXPECT_EQ(of_rank[r].loss, whole.loss);
    EXPECT_EQ(of_rank[r].row_loss, whole.row_loss);
    for (size_t i = 0; i < whole.dx.size(); ++i) whole.dx[i] += of_rank[r].dx[i];
    whole.dw.insert(whole.dw.end(), of_rank[r].dw.begin(), of_rank[r].dw.end());
  }
  return whole;
}

TEST(CrossEntropy, SlicesOfTheVocabulary) {
  const Problem problems[] = {{5, 7, 36, false}, {9, 16, 72, true, 0.1}, {7, 3, 12, true, 0.1, 3}};
  for (const Problem& p : problems) {
    const Values x = random_values("x", p.M * p.C, {-1, 1});
    Values w = random_values("w", p.V * p.C, {-2, 2}), targets = random_values("t", p.M, {0, double(p.V)});
    for (double& t : targets) t = std::floor(t);
    // Row 0 has its largest logit in two slices: the regulariser pulls at the first.
    for (int64_t i = 0; i < p.C; ++i) w[(p.V - 2) * p.C + i] = w[2 * p.C + i] = x[i] > 0 ? 3 : -3;
    const Whole exact = losses_of_ranks(cpu_devices()[0], DType::kF64, 1, p, x, w, targets);
    for (const TestDevice& test_device : op_case_devices())
      for (const int ranks : {2, 4}) {
        const bool on_cpu = test_device.type == DeviceType::kCpu;
        for (const DType dtype : {on_cpu ? DType::kF64 : DType::kBF16, DType::kF32}) {
          SCOPED_TRACE(str(test_device.name, " ", dtype, " ", ranks, " ranks, V ", p.V));
          const double bound = dtype == DType::kF64 ? 1e-28 : dtype == DType::kF32 ? 1e-12 : 1e-4;
          const Whole found = losses_of_ranks(test_device, dtype, ranks, p, x, w, targets);
          EXPECT_LE(nmse(found.loss, exact.loss), bound);
          EXPECT_LE(nmse(found.row_loss, exact.row_loss), bound);
          EXPECT_LE(nmse(found.dx, exact.dx), bound);
          EXPECT_LE(nmse(found.dw, exact.dw), bound);
        }
      }
  }
}

// Equal largest logits: the regulariser pulls at the first alone (rwkv-common 5).
TEST(CrossEntropy, TiesGoToTheLowestIndex) {
  for (const TestDevice& test_device : cpu_devices()) {
    const auto device = test_device.make(1);
    const Values x = {1}, w = {-1, 2, 0, 2, 2};  // logits are w; 1, 3 and 4 are largest
    const int32_t target = 2;
    const double count = 4, l2wrap = 0.5;
    Tape tape;
    const Var vw = tape.watch(tensor_from(std::span<const double>(w), {5, 1}, DType::kF64, *device));
    const Tensor vx = tensor_from(std::span<const double>(x), {1, 1}, DType::kF64, *device);
    const Tensor t = tensor_from(std::span<const int32_t>(&target, 1), {1}, DType::kI32, *device);
    tape.backward(ops::linear_cross_entropy(vx, vw, t, Tensor(), {count, l2wrap}).loss);
    double sum = 0;
    for (const double y : w) sum += std::exp(y);
    for (int64_t v = 0; v < 5; ++v)
      EXPECT_NEAR(tape.grad(vw).data<double>()[v],
                  (std::exp(w[v]) / sum - (v == target) + (v == 1 ? l2wrap * 2 : 0)) / count, 1e-15)
          << test_device.name << " logit " << v;
  }
}

// Evaluation (nothing tracked) takes another path through the rows and must give the same loss.
TEST(CrossEntropy, WithoutGradient) {
  for (const TestDevice& test_device : cpu_devices()) {
    const auto device = test_device.make(2);
    const Values x = random_values("x", 37 * 6, {-1, 1}), w = random_values("w", 65 * 6, {-9, 9});
    const Values targets(37, 7.0);
    Tape tape;
    const Tensor tx = tensor_from(std::span<const double>(x), {37, 6}, DType::kF32, *device);
    const Tensor tw = tensor_from(std::span<const double>(w), {65, 6}, DType::kF32, *device);
    const Tensor t = tensor_from(std::span<const double>(targets), {37}, DType::kI32, *device);
    const auto tracked = ops::linear_cross_entropy(tape.watch(tx), tw, t, Tensor(), {37, 0});
    const auto plain = ops::linear_cross_entropy(tx, tw, t, Tensor(), {37, 0});
    EXPECT_FALSE(plain.loss.tracked());
    EXPECT_EQ(to_doubles(plain.row_loss), to_doubles(tracked.row_loss)) << test_device.name;
  }
}

// A frozen head costs neither the product nor the memory of its gradient.
TEST(CrossEntropy, OnlyWhatIsTrackedGetsAGradient) {
  constexpr int64_t M = 9, C = 6, V = 65;
  Device device(DeviceType::kCpu, 2);
  const Values x = random_values("x", M * C, {-1, 1}), w = random_values("w", V * C, {-1, 1});
  const Tensor t = tensor_from(std::span<const double>(Values(M, 7.0)), {M}, DType::kI32, device);
  auto run = [&](bool x_tracked, bool w_tracked, Values& dx, Values& dw) {
    const Tensor tx = tensor_from(std::span<const double>(x), {M, C}, DType::kF64, device);
    const Tensor tw = tensor_from(std::span<const double>(w), {V, C}, DType::kF64, device);
    const std::string key = str(x_tracked, w_tracked);
    device.arena().begin_step(key);
    {
      Tape tape;
      const Var vx = x_tracked ? tape.watch(tx) : Var(tx), vw = w_tracked ? tape.watch(tw) : Var(tw);
      tape.backward(ops::linear_cross_entropy(vx, vw, t, Tensor(), {M, 1e-2}).loss);
      if (x_tracked) dx = to_doubles(tape.grad(vx));
      if (w_tracked) dw = to_doubles(tape.grad(vw));
    }
    device.arena().end_step();
    return device.arena().plan(key)->total_bytes;
  };
  Values dx, dw, dx_alone, dw_alone;
  const size_t both = run(true, true, dx, dw);
  // Two blocks each: the gradient that is saved, and the one that is handed on.
  EXPECT_GE(both - run(true, false, dx_alone, dw), 2 * V * C * sizeof(double));
  EXPECT_GE(both - run(false, true, dx, dw_alone), 2 * M * C * sizeof(double));
  EXPECT_EQ(dx_alone, dx);
  EXPECT_EQ(dw_alone, dw);
}

TEST(CrossEntropy, WithoutRowsOrTargetsAllIsZero) {
  for (const int64_t M : {0, 3}) {
    Device device(DeviceType::kCpu, 1);
    const Values x(M * 2, 0.5), w = {1, 2, 3, -1, 0, 4}, targets(M, 1.0), mask(M, 0.0);
    Tape tape;
    const Var vx = tape.watch(tensor_from(std::span<const double>(x), {M, 2}, DType::kF64, device));
    const Var vw = tape.watch(tensor_from(std::span<const double>(w), {3, 2}, DType::kF64, device));
    const auto out = ops::linear_cross_entropy(
        vx, vw, tensor_from(std::span<const double>(targets), {M}, DType::kI32, device),
        tensor_from(std::span<const double>(mask), {M}, DType::kF64, device), {0, 1e-2});
    tape.backward(out.loss);
    EXPECT_EQ(to_doubles(out.loss.value()), Values(1, 0.0));
    EXPECT_EQ(to_doubles(tape.grad(vx)), Values(M * 2, 0.0));
    EXPECT_EQ(to_doubles(tape.grad(vw)), Values(6, 0.0));
  }
}

TEST(CrossEntropy, LargeLogitsStayFinite) {
  Device device(DeviceType::kCpu, 1);
  const Values x = {1}, w = {3e4, -3e4, 2.9e4};
  const int32_t target = 1;
  const Tensor t = tensor_from(std::span<const int32_t>(&target, 1), {1}, DType::kI32, device);
  const auto out = ops::linear_cross_entropy(
      tensor_from(std::span<const double>(x), {1, 1}, DType::kF32, device),
      tensor_from(std::span<const double>(w), {3, 1}, DType::kF32, device), t, Tensor(), {1, 0});
  EXPECT_EQ(out.loss.value().data<float>()[0], 6e4f);
}

}  // namespace
}  // namespace rookery::test
