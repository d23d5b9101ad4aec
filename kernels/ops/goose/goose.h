// goose.h: the element-wise parts of RWKV-7's time mixing between its matrix products (rwkv7-goose 1, 5),
// each in one pass over memory. Bodies: goose_cpu.cpp, goose_cuda.cu.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

// What the state update takes, from the key and the in-context learning rate alpha = sigmoid(rate).
struct GooseKeys {
  Var k;  // key (1 + (alpha - 1) k_a)
  Var a;  // -kk, kk the N channels of key k_k of each head divided by their norm, at least 1e-12
  Var b;  // kk alpha
};
// key, rate and results: [B, T, C]; k_k, k_a: C elements; N = C / num_heads.
GooseKeys goose_keys(const Var& key, const Var& rate, const Var& k_k, const Var& k_a, int64_t num_heads);

// value + (first - value) sigmoid(mix), the value residual. All of one shape.
Var goose_value(const Var& value, const Var& first, const Var& mix);

// (group_norm(y) + s v) gate with s = sum_j r_j k_j r_k_j of each head. y, r, k, v, gate: [B, T, C]; gamma,
// beta: C elements; r_k: [H, N].
Var goose_output(const Var& y, const Var& gamma, const Var& beta, const Var& r, const Var& k, const Var& v,
                 const Var& r_k, const Var& gate, double eps);

}  // namespace rookery::ops

namespace rookery {
struct GooseKeysArgs {
  Tensor key, rate, k_k, k_a, k, a, b;
  int64_t num_heads;
};
struct GooseKeysGrad {
  Tensor key, rate, k_k, k_a, dk, da, db;
  GradTarget dkey, drate, dk_k, dk_a;  // undefined tensors: not wanted, here and below
  int64_t num_heads;
  Tensor scratch;  // [parts, 2, C]: dk_k, dk_a; on the CPU 4: two rows of a head
};
struct GooseValueArgs {
  Tensor value, first, mix, out;
};
struct GooseValueGrad {
  Tensor value, first, mix, dout;
  GradTarget dvalue, dfirst, dmix;
};
struct GooseOutputArgs {
  Tensor y, gamma, beta, r, k, v, r_k, gate, out;
  double eps;
};
struct GooseOutputGrad {
  Tensor y, gamma, beta, r, k, v, r_k, gate, dout;
  GradTarget dy, dgamma, dbeta, dr, dk, dv, dr_k, dgate;
  double eps;
  Tensor scratch;  // [parts, 3, C]: dgamma, dbeta, dr_k; on the CPU 5: two rows of a head
};
RK_BACKENDS_GPU(void goose_keys_forward(const GooseKeysArgs&))
RK_BACKENDS_GPU(void goose_keys_backward(const GooseKeysGrad&))
RK_BACKENDS_GPU(void goose_value_forward(const GooseValueArgs&))
RK_BACKENDS_GPU(void goose_value_backward(const GooseValueGrad&))
RK_BACKENDS_GPU(void goose_output_forward(const GooseOutputArgs&))
RK_BACKENDS_GPU(void goose_output_backward(const GooseOutputGrad&))
}  // namespace rookery
