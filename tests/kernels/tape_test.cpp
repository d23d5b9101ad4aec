// tape_test.cpp: gradients reach every use of a value once, memory that is shared between gradients is never
// written to, and a leaf is ready exactly after its last use.
#include <gtest/gtest.h>

#include <map>

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
