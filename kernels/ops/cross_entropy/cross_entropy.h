// cross_entropy.h: output head and loss in one, a block of rows at a time, so the full logits are never held.
// The gradient of the logits is formed where the logits were, and multiplied on at once: the loss is linear
// in its upstream gradient, which scales the result later. Bodies: cross_entropy_cpu.cpp,
// cross_entropy_cuda.cu.
#pragma once

#include <functional>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/backend.h"

namespace rookery::ops {

// The words of the vocabulary that this rank has, where others have the rest: their ids begin at `first`. max
// and sum reduce a tensor (sum_dtype), in place, over all these ranks; each calls them alike. Without them
// there are no others.
struct VocabSlice {
  int64_t first = 0;
  std::function<void(const Tensor&)> max = {}, sum = {};
};

struct LossOptions {
  // The loss is sum(mask * cross entropy) / count. count: targets of the whole (global) batch, so that sums
  // over ranks and micro-batches need no further division. 0, a batch without targets: loss and gradient 0.
  double count = 1;
  // Pulls each row's largest logit towards 0: adds l2wrap / count * max to the gradient at the first argmax
  // (rwkv-common 5; 1e-4). The loss that is returned holds the cross entropy alone.
  double l2wrap = 0;
  int64_t block_rows = 0;  // of the logits that are held at a time; 0: loss_block_rows
  VocabSlice slice = {};
};
struct LossOut {
  Var loss;         // scalar (sum_dtype, as all losses)
  Tensor row_loss;  // [M]: cross entropy of each row in nats, 0 where masked
};

// x: [.., C] with M rows; weight: [V, C]; targets: i32 with M elements in [0, V); mask: M numbers >= 0
// (sum_dtype), or undefined (all 1). M may be 0. Where x or weight is not tracked its gradient is not
// computed. With options.slice weight has the rank's words, targets are ids of the whole vocabulary; loss and
// row_loss are whole on each rank, the gradient of x is a part of a sum over them.
LossOut linear_cross_entropy(const Var& x, const Var& weight, const Tensor& targets, const Tensor& mask,
                             const LossOptions& options);

// Rows of a block: tall enough for full-speed products, yet its logits stay near the last-level cache of the
// CPU, and within half a GB of a GPU.
int64_t loss_block_rows(const Device& device, int64_t M, int64_t V);

}  // namespace rookery::ops

namespace rookery {
struct CrossEntropyArgs {
  Tensor logits;                   // [m, V]; becomes its own gradient where want_grad
  Tensor targets, mask, row_loss;  // [m]
  double scale, l2wrap;            // 1 / count; l2wrap / count
  bool want_grad;
};
// The same where other ranks have the rest of each row, in three steps with a reduction over the ranks
// between them: `largest` (max), then `sums` (sum) and `argmax` (max).
struct CrossEntropySliceArgs {
  CrossEntropyArgs rows;  // targets count from the first word of the vocabulary
  int64_t first;          // id of the first logit
  Tensor largest;         // [m]
  Tensor argmax;          // [m]: minus the id of the first of the largest; -infinity where it is not here
  Tensor sums;            // [2, m]: of exponentials of logits above `largest`; the target's logit
};
// loss = sum of row_loss mask / count, in double.
struct CrossEntropySumArgs {
  Tensor row_loss, mask;  // [M]; mask may be undefined
  double count;
  Tensor loss;  // [1]
};
// to (+)= factor from
struct ScaleGradientArgs {
  Tensor from, factor;  // factor: [1], sum_dtype
  GradTarget to;
};
RK_BACKENDS_GPU(void cross_entropy_rows(const CrossEntropyArgs&))
RK_BACKENDS_GPU(void cross_entropy_slice_largest(const CrossEntropySliceArgs&))
RK_BACKENDS_GPU(void cross_entropy_slice_sums(const CrossEntropySliceArgs&))
RK_BACKENDS_GPU(void cross_entropy_slice_rows(const CrossEntropySliceArgs&))
RK_BACKENDS_GPU(void cross_entropy_sum(const CrossEntropySumArgs&))
RK_BACKENDS_GPU(void scale_gradient(const ScaleGradientArgs&))
}  // namespace rookery
