// wkv7.h: the state recurrence of RWKV-7 (Goose) with its initial and final state (rwkv7-goose 2, 3, 4).
// Shapes, tape record: wkv7.cpp. Bodies: wkv7_cpu.cpp, wkv7_cuda.cu. One token at a time, as a plain loop:
// tests/kernels/wkv7_test.cpp.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery {

// How the decay per channel follows from the op's input w.
enum class Wkv7Decay : uint8_t {
  kSigmoid,  // exp(-e^(-1/2) sigmoid(w)), in (0.545, 1): the model
  kExpExp,   // exp(-exp(w)): any decay; test vectors
};

namespace ops {

struct Wkv7Out {
  Var y;      // [B, T, H, N]
  Var state;  // [B, H, N, N]: after the last token
};

// S_t = S_{t-1} (diag(decay(w_t)) + a_t b_t^T) + v_t k_t^T,  y_t = S_t r_t, for each sequence and head.
// r, w, k, v, a, b: [B, T, H, N]. state0: [B, H, N, N], [value, key]; undefined: zero. doc_start: u8 [B, T],
// undefined: nowhere; where it is 1 the state is zero before that token. Two calls that hand the state on
// give the bits of one call. On a GPU they do if cut at a multiple of 64 tokens, heads have at most 64
// channels, states are f32 beside activations in bf16, and a decay exp(-exp(w)) below exp(-60) counts as
// that, its gradient as 0.
Wkv7Out wkv7(const Var& r, const Var& w, const Var& k, const Var& v, const Var& a, const Var& b,
             Wkv7Decay decay, const Var& state0 = Var(), const Tensor& doc_start = Tensor());

}  // namespace ops

// A head's value columns may be cut in strips, so that there is work for every thread. Rows are padded to a
// multiple of kWkv7Pad elements; a strip is a multiple of that many columns.
inline constexpr int64_t kWkv7Pad = 32;
// Tokens between two states that the backward pass keeps, and of a head before the next head of its group has
// its turn in the forward pass.
inline constexpr int64_t kWkv7Block = 16;
// Tokens between two states that the forward pass saves for it: N / 256 times the memory of r.
inline constexpr int64_t kWkv7Segment = 256;
inline int64_t wkv7_padded(int64_t N) { return (N + kWkv7Pad - 1) / kWkv7Pad * kWkv7Pad; }
// Strips of one sequence that a thread takes through time together: their states are [512, padded N].
inline int64_t wkv7_group(int64_t N) { return wkv7_padded(N) < 512 ? 512 / wkv7_padded(N) : 1; }
// Elements of scratch per thread: the states of a group; forward some rows; backward also a state per block
// of a segment, one per token of a block, the rows of a block, and the decays of a segment.
inline int64_t wkv7_forward_scratch(int64_t N) {
  const int64_t P = wkv7_padded(N);
  return (wkv7_group(N) * (P + 1) + kWkv7Block + 7) * P;
}
inline int64_t wkv7_backward_scratch(int64_t T, int64_t N) {
  const int64_t P = wkv7_padded(N), tokens = T < kWkv7Segment ? T : kWkv7Segment;
  const int64_t states = wkv7_group(N) + (tokens + kWkv7Block - 1) / kWkv7Block + kWkv7Block + 1;
  return (states * P + tokens + 8 * kWkv7Block + 8) * P;
}
// On a GPU: tokens between two saved states, and the largest head.
inline constexpr int64_t kWkv7GpuSegment = 64, kWkv7GpuHead = 64;
// Elements of scratch of a head: the states at the entries of a segment's chunks of 16 tokens.
inline constexpr int64_t kWkv7GpuScratch = kWkv7GpuSegment / 16 * kWkv7GpuHead * kWkv7GpuHead;

struct Wkv7Args {
  Tensor r, w, k, v, a, b, state0, doc_start;  // the last two may be undefined
  Wkv7Decay decay;
  Tensor y, state;
  // For the backward pass; undefined: not wanted. S_{t-1} a_t [B, T, H, N], and the states between segments
  // [B, segments - 1, H, N, N].
  Tensor read, saved;
  int64_t strips;  // per head
  Tensor scratch;  // [threads, wkv7_forward_scratch]; CPU only
};
struct Wkv7Grad {
  Tensor r, w, k, v, a, b, state0, doc_start;
  Wkv7Decay decay;
  Tensor read, saved;
  Tensor dy, dstate;                       // dstate undefined: zero
  Tensor dr, dw, dk, dv, da, db, dstate0;  // overwritten; dstate0 may be undefined
  int64_t strips;
  Tensor scratch;  // [threads, wkv7_backward_scratch]; GPU: [B, H, kWkv7GpuScratch]
  Tensor parts;    // with several strips: [strips, 5, B, T, H, N] for their shares of dr, dw, dk, da, db
};
RK_BACKENDS_GPU(void wkv7_forward(const Wkv7Args&))
RK_BACKENDS_GPU(void wkv7_backward(const Wkv7Grad&))

}  // namespace rookery
