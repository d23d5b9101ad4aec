// norm.h: layer norm and per-head group norm, optionally gated (rwkv-common 2). Bodies: norm_cpu.cpp,
// norm_cuda.cu.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

// y = (x - mean) / sqrt(var + eps) * gamma + beta over the last dim (biased variance). x, y: [..., C]; gamma,
// beta: C elements.
Var layer_norm(const Var& x, const Var& gamma, const Var& beta, double eps = 1e-5);

// The same for each of num_groups slices of the last dim on its own, then y *= silu(gate) if gate is given.
// x, gate, y: [..., C].
Var group_norm(const Var& x, const Var& gamma, const Var& beta, int64_t num_groups, double eps,
               const Var& gate = Var());

}  // namespace rookery::ops

namespace rookery {
// Rows of G groups of N channels: x, y, gate [M, G*N], gamma, beta [G*N], mean, rstd [M, G] (sum_dtype).
struct NormArgs {
  Tensor x, gamma, beta, gate, y, mean, rstd;  // gate may be undefined
  int64_t num_groups;
  double eps;
};
// dx, dgate (+)=; dgamma and dbeta are summed per part of the rows in partial [parts, 2, C] (on the CPU 3:
// one row of scratch), then over the parts in their order.
struct NormGrad {
  Tensor x, gamma, beta, gate, mean, rstd, dy;
  GradTarget dx, dgate, dgamma, dbeta;  // undefined tensors: not wanted
  Tensor partial;                       // sum_dtype; on a GPU undefined where neither sum is wanted
  int64_t num_groups;
};
RK_BACKENDS_GPU(void norm_forward(const NormArgs&))
RK_BACKENDS_GPU(void norm_backward(const NormGrad&))
}  // namespace rookery
