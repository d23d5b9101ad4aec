// adamw.h: the optimizer's update and the sum of squares for clipping, on flat ranges of parameters; and all
// of it in one, where nothing comes back to the host. The table of ranges: adamw.cpp. Bodies: adamw_cpu.cpp,
// adamw_cuda.cu.
#pragma once

#include <span>

#include "kernels/ops/backend.h"
#include "kernels/tensor/tensor.h"

namespace rookery {

// Adam with bias correction and decoupled weight decay (rwkv-common 7), elements [begin, end) of flat tensors
// of one float dtype:
//   g = clip * grad;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p -= lr ((m / (1 - b1^n)) / (sqrt(v / (1 - b2^n)) + eps) + weight_decay p)
// A gradient that was always zero gives a zero update, also with eps = 1e-18.
struct AdamwArgs {
  Tensor param, grad, m, v;
  int64_t begin, end;
  double lr, beta1, beta2, eps, weight_decay, clip;
  int64_t step;  // n = 1, 2, ...
};
// result = sum of squares of `values`, in double, by blocks of fixed size in a fixed order.
struct SquaresArgs {
  Tensor values;
  double* result;
  Tensor scratch;  // f64, one per block: squares_blocks(numel)
};
constexpr int64_t kSquaresBlock = 1 << 14;
constexpr int64_t squares_blocks(int64_t numel) { return (numel + kSquaresBlock - 1) / kSquaresBlock; }

// Elements of the flat tensors with their own rate and decay, and how many updates were before they came.
struct AdamwRange {
  int64_t begin, end;
  double lr_scale, weight_decay;
  int64_t missed;
};
struct AdamwRule {
  double lr_scale, weight_decay, missed;
};
struct AdamwTile {
  int64_t begin, end, range;
};
// Ranges as they lie on the device, made once: rules f64 [ranges, 3], tiles of at most kSquaresBlock elements
// i64 [tiles, 3], in memory as the structs.
struct AdamwTable {
  Tensor rules, tiles;
};
AdamwTable adamw_table(std::span<const AdamwRange> ranges, Device& device);

// The norm of the whole gradient, its clipping and the update of all ranges:
//   clip = min(1, grad_clip / (norm + 1e-6)), 1 where grad_clip is 0
// Where the norm is not finite nothing changes but `state`: clip = 0.
struct AdamwState {
  double grad_norm, clip, updates;  // updates: so far, this one too
};
struct AdamwStepArgs {
  Tensor param, grad, m, v;  // flat; f32 (f64 on the CPU), on a GPU grad may be bf16
  Tensor weights;            // bf16, what the model computes with: set to param; may be undefined
  AdamwTable table;
  Tensor state;    // f64 [3], AdamwState: kept from step to step, 0 at first
  Tensor lr;       // f64 [1]
  Tensor scratch;  // f64, one per block: squares_blocks(numel)
  double beta1, beta2, eps, grad_clip;
  Tensor losses = {};  // of param's dtype: where one of them is not finite nothing changes either
};
// What an update did to the tiles of a table: sums of squares of the parameters after it, of the gradients
// before clipping and of the change, which the new moments tell.
struct AdamwSquaresArgs {
  Tensor param, grad, m, v;
  AdamwTable table;
  Tensor state, lr;  // as in the update; state.updates as it left it
  Tensor sums;       // f64 [tiles, 3]
  double beta1, beta2, eps;
};

RK_BACKENDS(void adamw_update(const AdamwArgs&))
RK_BACKENDS(void sum_of_squares(const SquaresArgs&))
RK_BACKENDS_GPU(void adamw_step(const AdamwStepArgs&))
RK_BACKENDS_GPU(void adamw_squares(const AdamwSquaresArgs&))

}  // namespace rookery
