// token_shift.h: mixing each token with the one before it (rwkv-common 3) and Finch's data-dependent form of
// it (rwkv6-finch 1, 4). Bodies: token_shift_cpu.cpp, token_shift_cuda.cu.
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
void check_previous(const Previous& previous, const Shape& x, std::string_view who);  // x: [B, T, C]

inline constexpr int kMaxMixes = 6;

// out[q] = x + (shift(x) - x) * mu[q]. x, out: [B, T, C]; mu[q]: C elements.
std::vector<Var> shift_lerp(const Var& x, const Previous& previous, const std::vector<Var>& mu);

// out[q] = x + (shift(x) - x) * (mu[q] + m_q), m_q = h[:, :, q R : (q+1) R] w2[q]. x, out: [B, T, C]; mu[q]:
// C elements; h: [B, T, Q R]; w2: [Q, R, C]. On the CPU m_q lives in cache only, a block of rows at a time;
// on a GPU it is a tensor. Where mu[q] is undefined, out[q] is not computed.
std::vector<Var> ddlerp(const Var& x, const Previous& previous, const std::vector<Var>& mu, const Var& h,
                        const Var& w2);

// The same with the outputs by name: const auto [xr, xk] = ddlerp(x, previous, {mu_r, mu_k}, h, w2).
template <size_t Q>
std::array<Var, Q> ddlerp(const Var& x, const Previous& previous, const Var (&mu)[Q], const Var& h,
                          const Var& w2) {
  const std::vector<Var> vars = ddlerp(x, previous, std::vector<Var>(mu, mu + Q), h, w2);
  std::array<Var, Q> out;
  for (size_t q = 0; q < Q; ++q) out[q] = vars[q];
  return out;
}

}  // namespace rookery::ops

namespace rookery {
struct ShiftArgs {
  Tensor x, carried, doc_start;                // the last two may be undefined
  int count;                                   // mixes in use
  std::array<Tensor, ops::kMaxMixes> mu, out;  // an undefined out is not computed
  Tensor h, w2;                                // ddlerp only
  Tensor scratch;                              // ddlerp on the CPU: per part, kShiftBlock x C
  Tensor m;                                    // ddlerp on a GPU: [count, B T, C]
};
struct ShiftGrad {
  Tensor x, carried, doc_start;
  int count;
  std::array<Tensor, ops::kMaxMixes> mu, dout;  // an undefined dout counts as zero
  std::array<GradTarget, ops::kMaxMixes> dmu;   // undefined: not wanted
  GradTarget dx, dcarried, dh, dw2;
  Tensor h, w2;
  // Per part: count x C for dmu, kShiftBlock x C for the gradient of the previous tokens (CPU only), C for
  // the one that belongs to the part before; for ddlerp on the CPU also kShiftBlock x C for m_q and count R C
  // for dw2.
  Tensor scratch;
  // ddlerp on a GPU: as above; the kernel leaves the gradient of m_q there, and dh and dw2 to the caller.
  Tensor m;
};
inline constexpr int64_t kShiftBlock = 32;  // rows worked on at a time
RK_BACKENDS_GPU(void shift_forward(const ShiftArgs&))
RK_BACKENDS_GPU(void shift_backward(const ShiftGrad&))
}  // namespace rookery
