// rms_norm.h: division by the root mean square, with and without weight (llama-baseline 2, rwkv-common 2).
// Bodies: rms_norm_cpu.cpp, rms_norm_cuda.cu.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery {

enum class RmsEps : uint8_t {
  kInside,   // x / sqrt(mean(x^2) + eps): Llama, Qwen2
  kOutside,  // x / (sqrt(mean(x^2)) + eps): GoldFinch
};

namespace ops {
// Over the last dim, times gamma if given. x, y: [..., C]; gamma: C elements.
Var rms_norm(const Var& x, const Var& gamma, double eps, RmsEps where = RmsEps::kInside);
}  // namespace ops

// Rows x, y [M, C], of one dtype, or x f32 where the others are bf16; rstd [M] (sum_dtype), the factor of
// each row.
struct RmsNormArgs {
  Tensor x, gamma, y, rstd;  // gamma may be undefined
  double eps;
  RmsEps where;
};
// dx (+)=; dgamma is summed per part of the rows in partial [parts, 1, C], then over the parts in their
// order.
struct RmsNormGrad {
  Tensor x, gamma, rstd, dy;
  GradTarget dx, dgamma;  // undefined tensors: not wanted
  Tensor partial;         // undefined without dgamma
  double eps;
  RmsEps where;
  Tensor rest = {};  // of dx in bf16, written anew: what rounding takes from it. Undefined: nobody asks
};
RK_BACKENDS_GPU(void rms_norm_forward(const RmsNormArgs&))
RK_BACKENDS_GPU(void rms_norm_backward(const RmsNormGrad&))

}  // namespace rookery
