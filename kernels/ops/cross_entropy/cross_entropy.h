// cross_entropy.h: output head and loss in one, a block of rows at a time, so the full logits are never held.
// The gradient of the logits is formed where the logits were, and multiplied on at once: the loss is linear
// in its upstream gradient, which scales the result later. Row body: cross_entropy_cpu.cpp.
#pragma once

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

struct LossOptions {
  // The loss is sum(mask * cross entropy) / count. count: targets of the whole (global) batch, so that sums
  // over ranks and micro-batches need no further division. 0, a batch without targets: loss and gradient 0.
  double count = 1;
  // Pulls each row's largest logit towards 0: adds l2wrap / count * max to the gradient at the first argmax
  // (rwkv-common 5; 1e-4). The loss that is returned holds the cross entropy alone.
  double l2wrap = 0;
};
struct LossOut {
  Var loss;         // scalar
  Tensor row_loss;  // [M]: cross entropy of each row in nats, 0 where masked
};

// x: [.., C] with M rows; weight: [V, C]; targets: i32 with M elements in [0, V); mask: M numbers >= 0, or
// undefined (all 1). M may be 0. Where x or weight is not tracked its gradient is not computed.
LossOut linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, const Tensor& mask,
                             const LossOptions& options);

// Rows of a block: its logits stay near the last-level cache, yet it is tall enough for full-speed products.
int64_t loss_block_rows(int64_t M, int64_t V);

}  // namespace rookery::ops

namespace rookery {
struct CrossEntropyArgs {
  Tensor logits;                   // [m, V]; becomes its own gradient where want_grad
  Tensor targets, mask, row_loss;  // [m]
  double scale, l2wrap;            // 1 / count; l2wrap / count
  bool want_grad;
};
RK_BACKENDS(void cross_entropy_rows(const CrossEntropyArgs&))
}  // namespace rookery
