// layers.h: the layers that models share. A layer holds references to its parameters and calls one op. Where
// the ranks of the tensor axis share its work, it says along which dim its parameters are cut and calls the
// collective (parallel/collective_ops); models have neither rank nor branch.
#pragma once

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/matmul/matmul.h"
#include "kernels/ops/norm/norm.h"
#include "kernels/ops/norm/rms_norm.h"
#include "parallel/collective_ops/collective_ops.h"
#include "trainer/nn/context.h"
#include "trainer/nn/module.h"

namespace rookery::nn {

enum class Bias : uint8_t { kNone, kZero };  // kZero: one that starts at 0

enum class Split : uint8_t {
  kNone,  // every rank computes all of y
  kOut,   // each computes its channels of y
  kIn,    // each has its channels of x; y is the sum of what they contribute, on all of them
};

// y = x W^T + bias. weight: [out, in]; bias: [out], none with Split::kIn.
struct Linear {
  Split split;
  Parameter& weight;
  Parameter* bias;  // null: none
  Linear(Scope s, int64_t in, int64_t out, Init init, Split how = Split::kNone, Bias with = Bias::kNone);
  Var operator()(const Context& cx, const Var& x) const;
};

// y = f(x down) up + bias of low rank, its matrices as published low-rank matrices are stored. down: [in, R];
// up: [R, out]; bias: out elements, or null. The last two may be cut by channels of y.
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
  // x, result: this rank's channels [.., C / ranks]; mean and variance are those of all C.
  Var across_ranks(const Context& cx, const Var& x) const;
};

// x / sqrt(mean(x^2) + eps) * weight (llama-baseline 2).
struct RmsNorm {
  Parameter& weight;
  double eps;
  RmsNorm(Scope s, int64_t channels, double epsilon)
      : weight(s.param("weight", {channels}, constant(1))), eps(epsilon) {}
  Var operator()(const Context& cx, const Var& x) const { return ops::rms_norm(x, cx(weight), eps); }
};

// Rows of a table that the ranks of the tensor axis cut by words. ids: i32 [B, T]; result: [B, T, C].
Var embedding(const Context& cx, const Tensor& ids, Parameter& table);
// This rank's words of an output head, for the loss (ops::linear_cross_entropy).
ops::VocabSlice vocab_slice(const Context& cx, const Parameter& head);

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
      : gate(s.child(names.gate), channels, hidden, init, Split::kOut),
        up(s.child(names.up), channels, hidden, init, Split::kOut),
        down(s.child(names.down), hidden, channels, init_down, Split::kIn) {}
  // x, result: [B, T, C].
  Var operator()(const Context& cx, const Var& x) const {
    return down(cx, ops::silu_mul(gate(cx, x), up(cx, x)));
  }
};

}  // namespace rookery::nn
