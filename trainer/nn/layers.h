// layers.h: the layers that models share. A layer holds references to its parameters and calls one op.
#pragma once

#include "kernels/ops/matmul/matmul.h"
#include "kernels/ops/norm/norm.h"
#include "trainer/nn/context.h"
#include "trainer/nn/module.h"

namespace rookery::nn {

// y = x W^T, no bias. weight: [out, in].
struct Linear {
  Parameter& weight;
  Linear(Scope s, int64_t in, int64_t out, Init init)
      : weight(s.param("weight", {out, in}, std::move(init))) {}
  Var operator()(const Context& cx, const Var& x) const { return ops::linear(x, cx(weight)); }
};

// Full layer norm with weight and bias (rwkv-common 2).
struct LayerNorm {
  Parameter &weight, &bias;
  LayerNorm(Scope s, int64_t channels)
      : weight(s.param("weight", {channels}, constant(1))), bias(s.param("bias", {channels}, constant(0))) {}
  Var operator()(const Context& cx, const Var& x) const { return ops::layer_norm(x, cx(weight), cx(bias)); }
};

}  // namespace rookery::nn
