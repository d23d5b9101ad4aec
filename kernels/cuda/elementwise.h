// elementwise.h: what tensors do without an operation: conversions between f32 and bf16, sums.
#pragma once

#include "kernels/tensor/tensor.h"

namespace rookery {
struct ConvertArgs {
  const Tensor &from, &to;
};
struct SumArgs {  // out = a + b; out has the dtype of a; f32, bf16, or a f32 and b bf16
  const Tensor &a, &b, &out;
};
namespace cuda {
void convert(const ConvertArgs& args);
void sum(const SumArgs& args);
}  // namespace cuda
namespace emul {
void convert(const ConvertArgs& args);
void sum(const SumArgs& args);
}  // namespace emul
}  // namespace rookery
