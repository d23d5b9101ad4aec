// wkv6.h: the state recurrences of RWKV-6 (Finch) and RWKV-5 (Eagle) with initial and final state
// (rwkv6-finch 2, 3; rwkv5-eagle 3, 4). Shapes, tape record: wkv6.cpp. Bodies: wkv6_cpu.cpp. One token at a
// time, in words: tests/support/wkv6_ref.h.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

struct WkvOut {
  Var y;      // [B, T, H, N]
  Var state;  // [B, H, N, N]: after the last token
};

// y_t = r_t (S_{t-1} + diag(u) k_t^T v_t),  S_t = diag(exp(-exp(w_t))) S_{t-1} + k_t^T v_t, for each sequence
// and head. r, k, v, w: [B, T, H, N], any decay; u: [H, N]. state0: [B, H, N, N], [key, value]; undefined:
// zero. doc_start: u8 [B, T], undefined: nowhere; where it is 1 the state is zero before that token. Two
// calls that hand the state on give the bits of one call if cut at a multiple of 16 tokens.
WkvOut wkv6(const Var& r, const Var& k, const Var& v, const Var& w, const Var& u, const Var& state0 = Var(),
            const Tensor& doc_start = Tensor());

// The same with one decay for all tokens, w: [H, N].
WkvOut wkv5(const Var& r, const Var& k, const Var& v, const Var& w, const Var& u, const Var& state0 = Var(),
            const Tensor& doc_start = Tensor());

}  // namespace rookery::ops

namespace rookery {
// A head's value columns may be cut in strips, so that there is work for every thread. Rows are padded to a
// multiple of kWkv6Pad elements; a strip is a multiple of that many columns.
inline constexpr int64_t kWkv6Pad = 32;
inline constexpr int64_t kWkv6Block = 16;  // tokens between two states that the backward pass keeps
inline int64_t wkv6_padded(int64_t N) { return (N + kWkv6Pad - 1) / kWkv6Pad * kWkv6Pad; }
// Elements of scratch per thread: forward a state and some rows; backward also a state per block of the
// sequence, up to one per token of a block, and the decays.
inline int64_t wkv6_forward_scratch(int64_t N) { return (wkv6_padded(N) + 40) * wkv6_padded(N); }
inline int64_t wkv6_backward_scratch(int64_t T, int64_t N) {
  const int64_t P = wkv6_padded(N), states = (T + kWkv6Block - 1) / kWkv6Block + kWkv6Block + 1;
  return (states * P + T + 80) * P;
}
struct Wkv6Args {
  Tensor r, k, v, w, u, state0, doc_start;  // the last two may be undefined; w [B, T, H, N] or [H, N]
  Tensor y, state;
  int64_t strips;  // per head
  Tensor scratch;  // [threads, wkv6_forward_scratch]
};
struct Wkv6Grad {
  Tensor r, k, v, w, u, state0, doc_start;
  Tensor dy, dstate;           // dstate undefined: zero
  Tensor dr, dk, dv, dstate0;  // overwritten; dstate0 may be undefined
  GradTarget dw, du;           // overwritten where w is [B, T, H, N]; of an [H, N] undefined: not wanted
  int64_t strips;
  Tensor scratch;             // [threads, wkv6_backward_scratch]
  Tensor du_parts, dw_parts;  // [B, H, strips, padded N]; the second where w is [H, N]
  Tensor parts;               // with several strips: [strips, 3, B, T, H, N] for their shares of dr, dk, dw
};
RK_BACKENDS(void wkv6_forward(const Wkv6Args&))
RK_BACKENDS(void wkv6_backward(const Wkv6Grad&))
}  // namespace rookery
