// layers.h: the layers that models share. A layer holds references to its parameters and calls one op.
#pragma once

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/matmul/matmul.h"
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/norm/rms_norm.h"
#include "trainer/nn/context.h"
#include "trainer/nn/module.h"

namespace rookery::nn {

enum class Bias : uint8_t { kNone, kZero };  // kZero: one that starts at 0

// y = x W^T + bias. weight: [out, in]; bias: [out].
struct Linear {
  Parameter& weight;
  Parameter* bias;  // null: none
  Linear(Scope s, int64_t in, int64_t out, Init init, Bias with = Bias::kNone)
      : weight(s.param("weight", {out, in}, std::move(init))),
        bias(with == Bias::kNone ? nullptr : &s.param("bias", {out}, constant(0))) {}
  Var operator()(const Context& cx, const Var& x) const {
    return ops::linear(x, cx(weight), bias ? cx(*bias) : Var());
  }
};

// y = f(x down) up + bias of low rank, its matrices as published low-rank matrices are stored. down: [in, R];
// up: [R, out]; bias: out elements, or null.
struct LowRank {
  Parameter &down, &up;
  Parameter* bias;
  Var operator()(const Context& cx, const Var& x, Var (*f)(const Var&) = nullptr) const {
    const Var h = ops::matmul(x, cx(down));
    return ops::matmul(f ? f(h) : h, cx(up), bias ? cx(*bias) : Var());
  }
};

// Full layer norm with weight and bias (rwkv-common 2).
struct LayerNorm {
  Parameter &weight, &bias;
  LayerNorm(Scope s, int64_t channels, Init weight_init = constant(1))
      : weight(s.param("weight", {channels}, std::move(weight_init))),
        bias(s.param("bias", {channels}, constant(0))) {}
  Var operator()(const Context& cx, const Var& x) const { return ops::layer_norm(x, cx(weight), cx(bias)); }
};

// x / sqrt(mean(x^2) + eps) * weight (llama-baseline 2).
struct RmsNorm {
  Parameter& weight;
  double eps;
  RmsNorm(Scope s, int64_t channels, double epsilon)
      : weight(s.param("weight", {channels}, constant(1))), eps(epsilon) {}
  Var operator()(const Context& cx, const Var& x) const { return ops::rms_norm(x, cx(weight), eps); }
};

// (silu(x gate^T) * (x up^T)) down^T, under the names that the published model has for the three.
struct SwiGlu {
  struct Names {
    const char *gate, *up, *down;
  };
  Linear gate, up, down;
  SwiGlu(Scope s, int64_t channels, int64_t hidden, const Names& names, const Init& init)
      : SwiGlu(s, channels, hidden, names, init, init) {}
  SwiGlu(Scope s, int64_t channels, int64_t hidden, const Names& names, const Init& init,
         const Init& init_down)
      : gate(s.child(names.gate), channels, hidden, init),
        up(s.child(names.up), channels, hidden, init),
        down(s.child(names.down), hidden, channels, init_down) {}
  // x, result: [B, T, C].
  Var operator()(const Context& cx, const Var& x) const {
    return down(cx, ops::silu_mul(gate(cx, x), up(cx, x)));
  }
};

}  // namespace rookery::nn
