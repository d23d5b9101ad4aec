// norm_shift.h: what each part of an RWKV block begins with, in one pass over memory: the residual sum, its
// layer norm and the mixing of each token with the one before (rwkv-common 2 to 4). Shapes, tape record:
// norm_shift.cpp. Bodies: norm_shift_cpu.cpp, norm_shift_cuda.cu.
#pragma once

#include "kernels/ops/token_shift/token_shift.h"

namespace rookery::ops {

struct NormShift {
  Var x;                 // x + delta [B, T, C]
  std::vector<Var> out;  // [B, T, C] each
  Tensor last;           // n of the last tokens [B, C], where it was asked for
};

// With n = layer_norm(x + delta): out[q] = n + (shift(n) - n) * mu[q], or n itself where mu[q] is undefined.
// x, delta: [B, T, C], delta may be undefined; gamma, beta, mu[q]: C elements; previous.carried: a normed
// token. The way back keeps x + delta and two numbers per token, but no n.
NormShift norm_shift(const Var& x, const Var& delta, const Var& gamma, const Var& beta,
                     const Previous& previous, const std::vector<Var>& mu, bool keep_last = false,
                     double eps = 1e-5);

}  // namespace rookery::ops

namespace rookery {
struct NormShiftArgs {
  Tensor x, delta, gamma, beta;  // delta may be undefined
  Tensor carried, doc_start;     // these too
  int count;                     // mixes in use
  std::array<Tensor, ops::kMaxMixes> mu, out;
  Tensor sum, mean, rstd;  // [B, T, C], x itself without delta; [B T], sum_dtype
  Tensor last;             // [B, C] or undefined
  Tensor scratch;          // on the CPU: per part, 2 x C
  double eps;
};
struct NormShiftGrad {
  Tensor sum, gamma, beta, mean, rstd, carried, doc_start;
  int count;
  std::array<Tensor, ops::kMaxMixes> mu, dout;  // an undefined dout counts as zero
  Tensor dsum;                                  // of the sum's other readers; undefined: zero
  Tensor dx;                                    // of x and of delta; undefined: not wanted
  std::array<GradTarget, ops::kMaxMixes> dmu;   // undefined tensors: not wanted, here and below
  GradTarget dgamma, dbeta, dcarried;
  Tensor scratch;  // [parts, count + 2, C]: dmu, dgamma, dbeta; on the CPU count + 6: four rows
};
RK_BACKENDS_GPU(void norm_shift_forward(const NormShiftArgs&))
RK_BACKENDS_GPU(void norm_shift_backward(const NormShiftGrad&))
}  // namespace rookery
