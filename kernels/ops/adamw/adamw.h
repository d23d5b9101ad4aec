// adamw.h: the optimizer's update and the sum of squares for clipping, on flat ranges of parameters. Bodies:
// adamw_cpu.cpp.
#pragma once

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
// What an update did to its range: sums of squares of the parameters after it, of the gradients before
// clipping and of the change, which the new moments tell. Blocks and order as in sum_of_squares.
struct AdamwSquaresArgs {
  AdamwArgs update;
  struct Result {
    double param, grad, change;
  } * result;
  Tensor scratch;  // f64, three per block: 3 squares_blocks(end - begin)
};
constexpr int64_t kSquaresBlock = 1 << 14;
constexpr int64_t squares_blocks(int64_t numel) { return (numel + kSquaresBlock - 1) / kSquaresBlock; }

RK_BACKENDS(void adamw_update(const AdamwArgs&))
RK_BACKENDS(void sum_of_squares(const SquaresArgs&))
RK_BACKENDS(void adamw_squares(const AdamwSquaresArgs&))

}  // namespace rookery
