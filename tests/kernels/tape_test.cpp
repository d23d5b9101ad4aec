// tape_test.cpp: gradients reach every use of a value once, memory that is shared between gradients is never
// written to, a leaf is ready exactly after its last use, and recomputed segments change none of that.
#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/activation/activation.h"
#include "kernels/ops/matmul/matmul.h"

namespace rookery {
namespace {

class TapeTest : public ::testing::Test {
 protected:
  Tensor tensor(const std::vector<double>& values) {
    return tensor_from(std::span<const double>(values), {static_cast<int64_t>(values.size())}, DType::kF64,
                       device);
  }
  Parameter parameter(const std::string& name, const std::vector<double>& values) {
    Parameter p;
    p.name = name;
    p.master = tensor(values);
    p.grad = tensor(std::vector<double>(values.size(), -99));  // stale: the first gradient must overwrite it
    return p;
  }
  void backward(Tape& tape, const Var& y, const std::vector<double>& seed) {
    const Tensor s = tensor(seed);
    tape.backward(y, &s);
    EXPECT_EQ(to_doubles(s), seed) << "the seed was written to";
  }
  using Values = std::vector<double>;
  Device device{DeviceType::kCpu, 1};
};

TEST_F(TapeTest, OneValueTwiceInOneOp) {
  Tape tape;
  const Var x = tape.watch(tensor({1, 2}));
  backward(tape, ops::add(x, x), {10, 20});
  EXPECT_EQ(to_doubles(tape.grad(x)), (Values{20, 40}));
}

// sigmoid_mul writes straight into both gradients: they must not be the same memory.
TEST_F(TapeTest, OneValueTwiceInAnOpThatWritesDirectly) {
  for (const bool as_leaf : {false, true}) {
    Tape tape;
    Parameter p = parameter("p", {0, 0});
    const Var x = as_leaf ? tape.leaf(p) : tape.watch(tensor({0, 0}));
    backward(tape, ops::sigmoid_mul(x, x), {8, 16});  // d(sigmoid(x) x) = 1/2 at 0
    EXPECT_EQ(to_doubles(as_leaf ? p.grad : tape.grad(x)), (Values{4, 8}));
  }
}

// x + f(x), twice: the gradient of the sum is shared by both branches.
TEST_F(TapeTest, ResidualBranches) {
  Tape tape;
  const Var x = tape.watch(tensor({1, -1, 3}));
  const Var y = ops::add(x, ops::relu_sq(x));  // dy/dx = 1 + 2 max(x, 0)
  const Var z = ops::add(y, ops::relu_sq(y));
  backward(tape, z, {1, 1, 1});
  // y = 2, -1, 12
  EXPECT_EQ(to_doubles(tape.grad(x)), (Values{(1 + 4) * 3, 1, (1 + 24) * 7}));
}

TEST_F(TapeTest, SharedGradientsStayApart) {
  Tape tape;
  const Var a = tape.watch(tensor({1, 1})), b = tape.watch(tensor({2, 2})), c = tape.watch(tensor({3, 3}));
  // The gradient of the sum goes to a and b uncopied; a gets more from a second use.
  const Var sum = ops::add(ops::add(a, b), ops::add(a, c));
  backward(tape, ops::add(sum, ops::relu_sq(a)), {1, 10});
  EXPECT_EQ(to_doubles(tape.grad(a)), (Values{4, 40}));
  EXPECT_EQ(to_doubles(tape.grad(b)), (Values{1, 10}));
  EXPECT_EQ(to_doubles(tape.grad(c)), (Values{1, 10}));
}

TEST_F(TapeTest, ReshapeIsAView) {
  Tape tape;
  const Var x = tape.watch(tensor({1, 2, 3, 4}));
  const Var y = x.reshape({2, 2});
  EXPECT_EQ(y.value().raw(), x.value().raw());
  const Tensor seed = tensor({1, 2, 3, 4}).reshape({2, 2});
  tape.backward(y, &seed);
  EXPECT_EQ(to_string(tape.grad(x).shape()), "[4]");
  EXPECT_EQ(to_doubles(tape.grad(x)), (Values{1, 2, 3, 4}));
}

TEST_F(TapeTest, SeveralOutputsAtOnce) {
  Tape tape;
  const Var x = tape.watch(tensor({3})), y = ops::relu_sq(x), z = ops::add(x, y);
  const std::vector<std::pair<Var, Tensor>> seeds = {{y, tensor({1})}, {z, tensor({10})}};
  tape.backward(seeds);
  EXPECT_EQ(to_doubles(tape.grad(x)), Values{11 * 6 + 10});
}

TEST_F(TapeTest, ValuesTheLossDoesNotDependOn) {
  Tape tape;
  const Var x = tape.watch(tensor({1})), unused = tape.watch(tensor({1}));
  ops::relu_sq(unused);
  tape.backward(ops::relu_sq(x));
  EXPECT_FALSE(tape.grad(unused).defined());
  EXPECT_EQ(to_doubles(tape.grad(x)), Values{2});
}

TEST_F(TapeTest, ConstantsAreNotRecorded) {
  Tape tape;
  const Var c = ops::add(Var(tensor({1})), Var(tensor({2})));
  EXPECT_FALSE(c.tracked());
  EXPECT_EQ(to_doubles(c.value()), Values{3});
  EXPECT_THROW(tape.backward(c), Error);
  Parameter frozen = parameter("frozen", {5});
  frozen.trainable = false;
  EXPECT_FALSE(tape.leaf(frozen).tracked());
}

TEST_F(TapeTest, GradientsOfSeveralMicroBatchesAddUp) {
  Parameter p = parameter("p", {3});
  for (int i = 0; i < 3; ++i) {
    Tape tape;
    tape.backward(ops::relu_sq(tape.leaf(p)));
  }
  EXPECT_EQ(to_doubles(p.grad), Values{18});
  p.grad_written = false;  // a new step
  Tape tape;
  tape.backward(ops::relu_sq(tape.leaf(p)));
  EXPECT_EQ(to_doubles(p.grad), Values{6});
}

// Ready comes once per leaf, with the gradient complete, before nodes that were recorded earlier run.
TEST_F(TapeTest, LeafReadyIsExact) {
  Parameter p = parameter("p", {2}), q = parameter("q", {3}), r = parameter("r", {1});
  std::map<std::string, Values> ready;
  std::vector<std::string> order;
  Tape tape;
  tape.on_leaf_ready([&](Parameter& leaf) {
    order.push_back(leaf.name);
    EXPECT_TRUE(ready.emplace(leaf.name, to_doubles(leaf.grad)).second) << leaf.name << " twice";
  });
  const Var a = ops::add(tape.leaf(p), tape.leaf(q));     // 5
  const Var b = ops::add(ops::relu_sq(a), tape.leaf(r));  // 26
  const Var c = ops::add(b, ops::relu_sq(tape.leaf(p)));  // 30
  tape.backward(ops::add(c, c));
  EXPECT_EQ(ready["r"], Values{2});
  EXPECT_EQ(ready["p"], Values{2 * 10 + 2 * 4});
  EXPECT_EQ(ready["q"], Values{20});
  EXPECT_EQ(order.front(), "r");
}

// A leaf in a branch that the loss does not use is ready too: a bucket must not wait for it.
TEST_F(TapeTest, LeafOfAnUnusedBranchIsReady) {
  Parameter p = parameter("p", {2}), q = parameter("q", {3});
  std::vector<std::string> order;
  Tape tape;
  tape.on_leaf_ready([&](Parameter& leaf) { order.push_back(leaf.name); });
  const Var loss = ops::relu_sq(tape.leaf(p));
  ops::relu_sq(tape.leaf(q));
  tape.backward(loss);
  EXPECT_EQ(order, (std::vector<std::string>{"q", "p"}));
  EXPECT_FALSE(q.grad_written);
}

// Two inputs, one used in the segment and after it too, a leaf inside and outside; of the three results one
// is an input passed on.
TEST_F(TapeTest, ASegmentChangesNeitherGradientsNorTheOrderOfLeaves) {
  Parameter p = parameter("p", {2, -1}), q = parameter("q", {0.3, 3});
  struct Seen {
    Values p, q, x, y;
    std::vector<std::string> order;
    bool operator==(const Seen&) const = default;
  };
  const auto run = [&](std::optional<Keep> keep) {
    Seen seen;
    Tape tape;
    tape.on_leaf_ready([&](Parameter& leaf) { seen.order.push_back(leaf.name); });
    p.grad_written = q.grad_written = false;
    const Var x = tape.watch(tensor({0.7, 5})), y = tape.watch(tensor({0.1, -2}));
    const Var early = ops::sigmoid_mul(tape.leaf(p), x);
    int runs = 0;
    const auto segment = [&, x, y, early]() -> std::vector<Var> {
      ++runs;
      const Var a = ops::tanh(ops::add(early, ops::sigmoid_mul(tape.leaf(q), x)));
      const Var b = ops::relu_sq(ops::add(a, ops::sigmoid_mul(y, tape.leaf(p))));
      return {a, y, ops::silu_mul(a, b), Var(x.value())};
    };
    const std::vector<Var> out = keep ? recomputed(&tape, segment, *keep) : segment();
    EXPECT_FALSE(out[3].tracked());
    const Var z = ops::add(ops::sigmoid_mul(out[0], out[1]), ops::silu_mul(out[2], x));
    backward(tape, ops::add(z, ops::relu_sq(tape.leaf(q))), {1, 0.9});
    EXPECT_EQ(runs, keep ? 2 : 1);
    seen.p = to_doubles(p.grad), seen.q = to_doubles(q.grad);
    seen.x = to_doubles(tape.grad(x)), seen.y = to_doubles(tape.grad(y));
    return seen;
  };
  const Seen plain = run({});
  EXPECT_EQ(plain.order, (std::vector<std::string>{"q", "p"}));
  for (const Keep keep : {Keep::kNothing, Keep::kDear}) EXPECT_EQ(run(keep), plain) << static_cast<int>(keep);
}

TEST_F(TapeTest, ASegmentHoldsWhatItWasAskedTo) {
  const auto w = tensor({1, 2, 3, 4}).reshape({2, 2}), x0 = tensor({1, -2}).reshape({1, 2});
  const auto live = [&](std::optional<Keep> keep) {  // bytes between forward and backward, without x and w
    Tape tape;
    const size_t before = device.arena().persistent_bytes();
    const Var x = tape.watch(x0);
    const auto segment = [&, x]() -> std::vector<Var> {
      const Var h = ops::matmul(x, Var(w));                             // dear and saved
      const Var y = ops::add(x, ops::matmul(ops::relu_sq(h), Var(w)));  // dear, but nobody reads them
      return {y};
    };
    const std::vector<Var> out = keep ? recomputed(&tape, segment, *keep) : segment();
    return device.arena().persistent_bytes() - before;
  };
  // A block is at least 64 bytes. `out` is one; relu_sq keeps its result, of which the product keeps the
  // same.
  EXPECT_EQ(live({}), 2 * 64U);
  EXPECT_EQ(live(Keep::kNothing), 64U);
  EXPECT_EQ(live(Keep::kDear), 2 * 64U);
}

// A product that is kept is not computed twice; one that nobody needs is neither kept nor computed.
TEST_F(TapeTest, DearTensorsAreComputedOnce) {
  Tape tape;
  int computed = 0;
  const auto op = [&](const Var& x, bool saves) {
    const Tensor y = dear({x}, [&] {
      ++computed;
      return std::vector{sum_of(x.value(), x.value())};
    })[0];
    const Tensor saved = saves ? y : Tensor();
    return record("twice", {x}, y, [saved](const Tensor& dy, Grads& g) {
      if (saved.defined()) {
        EXPECT_EQ(to_doubles(saved), Values{6});
      }
      g.give(0, sum_of(dy, dy));
    });
  };
  const Var x = tape.watch(tensor({3}));
  const auto out = recomputed(
      &tape, [&, x] { return std::vector{op(op(x, true), false)}; }, Keep::kDear);
  EXPECT_EQ(to_doubles(out[0].value()), Values{12});
  backward(tape, out[0], {1});
  EXPECT_EQ(computed, 2);
  EXPECT_EQ(to_doubles(tape.grad(x)), Values{4});
}

TEST_F(TapeTest, ASegmentThatNobodyUses) {
  Parameter p = parameter("p", {2}), q = parameter("q", {3});
  std::vector<std::string> order;
  int runs = 0;
  Tape tape;
  tape.on_leaf_ready([&](Parameter& leaf) { order.push_back(leaf.name); });
  const Var loss = ops::relu_sq(tape.leaf(p));
  recomputed(
      &tape,
      [&] {
        ++runs;
        return std::vector{ops::relu_sq(tape.leaf(q))};
      },
      Keep::kNothing);
  tape.backward(loss);
  EXPECT_EQ(runs, 1);
  EXPECT_EQ(order, (std::vector<std::string>{"q", "p"}));
  EXPECT_FALSE(q.grad_written);
}

TEST_F(TapeTest, ASegmentOfConstantsIsAPlainCall) {
  int runs = 0;
  const auto segment = [&] {
    ++runs;
    return std::vector{ops::relu_sq(Var(tensor({2})))};
  };
  Tape tape;
  for (Tape* on : {&tape, static_cast<Tape*>(nullptr)}) {
    const Var y = recomputed(on, segment, Keep::kDear)[0];
    EXPECT_FALSE(y.tracked());
    EXPECT_EQ(to_doubles(y.value()), Values{4});
  }
  EXPECT_EQ(runs, 2);
}

TEST_F(TapeTest, MistakesInSegmentsAreFound) {
  Tape tape;
  const Var x = tape.watch(tensor({1}));
  Var leaked;
  const auto leaking = [&, x] {
    leaked = ops::relu_sq(x);
    return std::vector{ops::relu_sq(leaked)};
  };
  EXPECT_THROW(recomputed(
                   &tape, [&] { return recomputed(&tape, leaking, Keep::kNothing); }, Keep::kNothing),
               Error);
  const Var y = recomputed(&tape, leaking, Keep::kNothing)[0];  // the refusal left nothing behind
  EXPECT_THROW(ops::relu_sq(leaked), Error);
  EXPECT_THROW(tape.backward(leaked), Error);
  tape.backward(y);
  EXPECT_EQ(to_doubles(tape.grad(x)), Values{4});
  for (const bool more : {true, false}) {  // a second run that differs
    Tape other;
    const Var z = other.watch(tensor({1}));
    bool again = false;
    const Var out = recomputed(
        &other,
        [&, z] {
          const Var a = std::exchange(again, true) == more ? ops::add(z, z) : z;
          return std::vector{ops::relu_sq(a)};
        },
        Keep::kDear)[0];
    EXPECT_THROW(other.backward(out), Error);
  }
}

TEST_F(TapeTest, MistakesAreFound) {
  Tape one, two;
  const Var x = one.watch(tensor({1, 2})), y = two.watch(tensor({1, 2}));
  EXPECT_THROW(ops::add(x, y), Error);
  EXPECT_THROW(one.backward(ops::relu_sq(x)), Error);  // not a scalar
  EXPECT_THROW(one.backward(y), Error);
  EXPECT_THROW(one.grad(y), Error);
  const Tensor wrong = tensor({1, 2, 3});
  EXPECT_THROW(one.backward(ops::relu_sq(x), &wrong), Error);
}

}  // namespace
}  // namespace rookery
