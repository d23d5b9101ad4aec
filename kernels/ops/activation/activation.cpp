// activation.cpp: shapes, tape record.
#include "kernels/ops/activation/activation.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(activation_forward);
constexpr auto kBackward = RK_KERNEL_GPU(activation_backward);

GradTarget target(Grads& g, int input) { return g.wants(input) ? g.into(input) : GradTarget{}; }

Var of_output(std::string_view name, Activation kind, const Var& x) {
  Tensor y = empty_like(x.value());
  kForward(y.device(), {kind, x.value(), {}, y});
  // 1 - y^2 and y (1 - y) lose their digits near 1 where y is bf16, so these two keep x.
  const bool by_x = y.dtype() == DType::kBF16 && (kind == Activation::kTanh || kind == Activation::kSigmoid);
  const Tensor kept_x = by_x ? x.value() : Tensor(), kept_y = by_x ? Tensor() : y;
  return record(name, {x}, y, [kind, kept_x, kept_y](const Tensor& dy, Grads& g) {
    kBackward(dy.device(), {kind, kept_x, {}, kept_y, dy, target(g, 0), {}});
  });
}

Var product(std::string_view name, Activation kind, const Var& x, const Var& value) {
  check_shape(value.value(), x.shape(), str("[", name, "] value"));
  Tensor y = empty_like(x.value());
  kForward(y.device(), {kind, x.value(), value.value(), y});
  return record(name, {x, value}, y, [kind, x = x.value(), v = value.value()](const Tensor& dy, Grads& g) {
    kBackward(x.device(), {kind, x, v, {}, dy, target(g, 0), target(g, 1)});
  });
}

}  // namespace

Var tanh(const Var& x) { return of_output("tanh", Activation::kTanh, x); }
Var sigmoid(const Var& x) { return of_output("sigmoid", Activation::kSigmoid, x); }
Var one_minus(const Var& x) { return of_output("one_minus", Activation::kOneMinus, x); }
Var relu_sq(const Var& x) { return of_output("relu_sq", Activation::kReluSq, x); }

Var sigmoid_mul(const Var& gate, const Var& value) {
  return product("sigmoid_mul", Activation::kSigmoidMul, gate, value);
}
Var silu_mul(const Var& gate, const Var& value) {
  return product("silu_mul", Activation::kSiluMul, gate, value);
}
Var decay_complement_mul(const Var& w, const Var& key) {
  return product("decay_complement_mul", Activation::kDecayComplementMul, w, key);
}

Var add(const Var& a, const Var& b) {
  const Tensor sum = dear({a, b}, [&] { return std::vector{sum_of(a.value(), b.value())}; })[0];
  return record("add", {a, b}, sum, [](const Tensor& dy, Grads& g) {
    g.give(0, dy);
    g.give(1, dy);
  });
}

}  // namespace rookery::ops
