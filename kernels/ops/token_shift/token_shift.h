// token_shift.h: mixing each token with the one before it (rwkv-common 3) and Finch's data-dependent form of
// it (rwkv6-finch 1, 4). Bodies: token_shift_cpu.cpp.
#pragma once

#include <array>
#include <vector>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

// What stands before the first token of each row, and where documents begin.
struct Previous {
  Var carried;       // [B, C]: the token before position 0; undefined: zero
  Tensor doc_start;  // u8 [B, T]: 1 where the previous token counts as zero; undefined: nowhere
};

// out[q] = x + (shift(x) - x) * mu[q]. x, out: [B, T, C]; mu[q]: C elements. One or two mixes.
std::vector<Var> shift_lerp(const Var& x, const Previous& previous, const std::vector<Var>& mu);

// out[q] = x + (shift(x) - x) * (mu[q] + m_q), m_q = h[:, :, q R : (q+1) R] w2[q], for the five inputs q = w,
// k, v, r, g. x, out: [B, T, C]; mu[q]: C elements; h: [B, T, 5 R]; w2: [5, R, C]. m_q lives in cache only, a
// block of rows at a time.
inline constexpr int kNumMixes = 5;
std::array<Var, kNumMixes> ddlerp(const Var& x, const Previous& previous,
                                  const std::array<Var, kNumMixes>& mu, const Var& h, const Var& w2);

}  // namespace rookery::ops

namespace rookery {
struct ShiftArgs {
  Tensor x, carried, doc_start;  // the last two may be undefined
  int count;                     // mixes in use
  std::array<Tensor, ops::kNumMixes> mu, out;
  Tensor h, w2;    // ddlerp only
  Tensor scratch;  // ddlerp only: per part, kShiftBlock x C
};
struct ShiftGrad {
  Tensor x, carried, doc_start;
  int count;
  std::array<Tensor, ops::kNumMixes> mu, dout;  // an undefined dout counts as zero
  std::array<GradTarget, ops::kNumMixes> dmu;   // undefined: not wanted
  GradTarget dx, dcarried, dh, dw2;
  Tensor h, w2;
  // Per part: count x C for dmu, kShiftBlock x C for the gradient of the previous tokens, C for the one that
  // belongs to the part before; for ddlerp also kShiftBlock x C for m_q and 5 R C for dw2.
  Tensor scratch;
};
inline constexpr int64_t kShiftBlock = 32;  // rows worked on at a time
RK_BACKENDS(void shift_forward(const ShiftArgs&))
RK_BACKENDS(void shift_backward(const ShiftGrad&))
}  // namespace rookery
