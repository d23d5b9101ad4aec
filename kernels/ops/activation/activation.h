// activation.h: element-wise functions. Bodies: activation_cpu.cpp, activation_cuda.cu.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

Var tanh(const Var& x);                              // any shape
Var sigmoid(const Var& x);                           // any shape
Var one_minus(const Var& x);                         // 1 - x
Var relu_sq(const Var& x);                           // max(x, 0)^2, the activation of channel mixing
Var sigmoid_mul(const Var& gate, const Var& value);  // sigmoid(gate) * value, same shapes
Var silu_mul(const Var& gate, const Var& value);     // gate * sigmoid(gate) * value (SwiGLU), same shapes
// (1 - exp(-exp(w))) * key: the part of a Finch state that decay w takes away. Same shapes.
Var decay_complement_mul(const Var& w, const Var& key);
Var add(const Var& a, const Var& b);  // same shapes; the gradient is shared, not copied

}  // namespace rookery::ops

namespace rookery {
enum class Activation : uint8_t {
  kTanh,
  kSigmoid,
  kOneMinus,
  kReluSq,
  kSigmoidMul,
  kSiluMul,
  kDecayComplementMul
};
struct ActivationArgs {
  Activation kind;
  Tensor x, value, y;  // value: the products only
};
// Functions of one argument take their gradient from y alone: tanh 1 - y^2, sigmoid y (1 - y), relu_sq
// 2 sqrt(y); in bf16 tanh and sigmoid from x, and y is undefined.
struct ActivationGrad {
  Activation kind;
  Tensor x, value, y, dy;
  GradTarget dx, dvalue;
};
RK_BACKENDS_GPU(void activation_forward(const ActivationArgs&))
RK_BACKENDS_GPU(void activation_backward(const ActivationGrad&))
}  // namespace rookery
