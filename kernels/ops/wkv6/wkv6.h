// wkv6.h: the state recurrences of RWKV-6 (Finch) and RWKV-5 (Eagle) with initial and final state
// (rwkv6-finch 2, 3; rwkv5-eagle 3, 4). Shapes, tape record: wkv6.cpp. Bodies: wkv6_cpu.cpp, wkv6_cuda.cu.
// One token at a time, in words: tests/support/wkv6_ref.h.
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
// calls that hand the state on give the bits of one call if cut at a multiple of 16 tokens. On a GPU heads
// have at most 64 channels, states are f32 beside activations in bf16, and a decay exp(-exp(w)) below
// exp(-60) counts as that, its gradient as 0.
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
// Tokens between two states that the forward pass saves for it: N / 256 times the memory of r. Its other
// states it recomputes segment by segment, at about a sixth of its time.
inline constexpr int64_t kWkv6Segment = 256;
inline int64_t wkv6_padded(int64_t N) { return (N + kWkv6Pad - 1) / kWkv6Pad * kWkv6Pad; }
// Strips of one sequence that a thread takes through time together: their states are [512, padded N].
inline int64_t wkv6_group(int64_t N) { return wkv6_padded(N) < 512 ? 512 / wkv6_padded(N) : 1; }
// Elements of scratch per thread: forward the states of a group and some rows; backward also a state per
// block of a segment, up to one per token of a block, and the decays of a segment.
inline int64_t wkv6_forward_scratch(int64_t N) {
  const int64_t P = wkv6_padded(N);
  return (wkv6_group(N) * P + 40) * P;
}
inline int64_t wkv6_backward_scratch(int64_t T, int64_t N) {
  const int64_t P = wkv6_padded(N), tokens = T < kWkv6Segment ? T : kWkv6Segment;
  const int64_t states = wkv6_group(N) + (tokens + kWkv6Block - 1) / kWkv6Block + kWkv6Block;
  return (states * P + tokens + 80) * P;
}
// On a GPU: tokens between two saved states, and the largest head.
inline constexpr int64_t kWkv6GpuSegment = 64, kWkv6GpuHead = 64;
// Elements of scratch of a head: the states at the entries of a segment's chunks of 16 tokens.
inline constexpr int64_t kWkv6GpuScratch = kWkv6GpuSegment / 16 * kWkv6GpuHead * kWkv6GpuHead;

struct Wkv6Args {
  Tensor r, k, v, w, u, state0, doc_start;  // the last two may be undefined; w [B, T, H, N] or [H, N]
  Tensor y, state;
  Tensor saved;    // [B, segments - 1, H, N, N], the states between segments; undefined: not wanted
  int64_t strips;  // per head
  Tensor scratch;  // [threads, wkv6_forward_scratch]; CPU only
};
struct Wkv6Grad {
  Tensor r, k, v, w, u, state0, doc_start, saved;
  Tensor dy, dstate;           // dstate undefined: zero
  Tensor dr, dk, dv, dstate0;  // overwritten; dstate0 may be undefined
  GradTarget dw, du;           // overwritten where w is [B, T, H, N]; of an [H, N] undefined: not wanted
  int64_t strips;
  Tensor scratch;             // [threads, wkv6_backward_scratch]; GPU: [B, H, kWkv6GpuScratch]
  Tensor du_parts, dw_parts;  // [B, H, strips, padded N]; the second where w is [H, N]
  Tensor parts;               // with several strips: [strips, 3, B, T, H, N] for their shares of dr, dk, dw
};
RK_BACKENDS_GPU(void wkv6_forward(const Wkv6Args&))
RK_BACKENDS_GPU(void wkv6_backward(const Wkv6Grad&))
}  // namespace rookery
