// matmul.h: products of activations with weights. Body: product.h.
#pragma once

#include "kernels/autograd/autograd.h"

namespace rookery::ops {

// y = x W^T + bias. x: [..., K]; weight: [N, K] (as published linear weights are stored); bias: N elements,
// or undefined; y: [..., N].
Var linear(const Var& x, const Var& weight, const Var& bias = Var());

// y = x A + bias. x: [..., K]; a: [K, N] (as published low-rank matrices are stored); bias: [..., N] with N
// elements, or undefined.
Var matmul(const Var& x, const Var& a, const Var& bias = Var());

}  // namespace rookery::ops
