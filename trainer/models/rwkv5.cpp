// rwkv5.cpp: Eagle (RWKV-5.2, x052): arXiv 2404.05892, with the names, initial values and optimizer groups of
// the published trainer.
#include "trainer/models/rwkv5.h"

#include "kernels/ops/activation/activation.h"
#include "trainer/models/rwkv_parts.h"
#include "trainer/nn/recurrence.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

// x * mu + shift(x) * (1 - mu) for each mu: published time_mix_* weigh the current token.
template <size_t Q>
std::array<Var, Q> time_mix(Context& cx, const Entry& in, const std::string& slot,
                            Parameter* const (&mu)[Q]) {
  Var of_previous[Q];
  for (size_t q = 0; q < Q; ++q) of_previous[q] = ops::one_minus(cx(*mu[q]));
  return in.mix(cx, slot, of_previous);
}

struct TimeMix {
  int64_t head_size;
  std::string prefix;
  Parameter &mix_k, &mix_v, &mix_r, &mix_g, &decay, &faaaa;
  nn::Linear receptance, key, value, output, gate;
  Parameter &ln_x_weight, &ln_x_bias;

  TimeMix(Scope s, const Rwkv5Config& c, const LayerInit& init, int64_t C, int64_t A)
      : head_size(c.head_size),
        prefix(s.prefix()),
        mix_k(s.param("time_mix_k", {1, 1, C}, init.current(init.r10))),
        mix_v(s.param("time_mix_v", {1, 1, C}, init.current(init.r10, 0.3 * init.r01))),
        mix_r(s.param("time_mix_r", {1, 1, C}, init.current(0.5 * init.r10))),
        mix_g(s.param("time_mix_g", {1, 1, C}, init.current(0.5 * init.r10))),
        decay(s.param("time_decay", {A / c.head_size, c.head_size}, init.decay(A), 0)),
        faaaa(s.param("time_faaaa", {A / c.head_size, c.head_size}, init.bonus(A), 0)),
        receptance(s.child("receptance"), C, A, nn::orthogonal(1.0), nn::Split::kOut),
        key(s.child("key"), C, A, nn::orthogonal(0.1), nn::Split::kOut),
        value(s.child("value"), C, A, nn::orthogonal(1.0), nn::Split::kOut),
        output(s.child("output"), A, C, nn::constant(0), nn::Split::kIn),
        gate(s.child("gate"), C, A, nn::orthogonal(0.1), nn::Split::kOut),
        ln_x_weight(s.param("ln_x.weight", {A}, init.ln_x(), 0)),
        ln_x_bias(s.param("ln_x.bias", {A}, nn::constant(0), 0)) {}

  // Result: [B, T, C].
  Var operator()(Context& cx, const Entry& in, const Carry&) const {
    const int64_t B = in.shape()[0], T = in.shape()[1];
    const int64_t A = faaaa.local().numel(), N = head_size, H = A / N;
    const auto [xk, xv, xr, xg] = time_mix(cx, in, prefix + "shift", {&mix_k, &mix_v, &mix_r, &mix_g});

    const Shape heads{B, T, H, N};
    const Var y = nn::wkv5(cx, prefix + "wkv", receptance(cx, xr).reshape(heads), key(cx, xk).reshape(heads),
                           value(cx, xv).reshape(heads), cx(decay), cx(faaaa));
    // eps = 1e-5 * 8^2: the published trainer divides by 8 before the norm; the constant does not change with
    // N.
    const Var z =
        ops::group_norm(y.reshape({B, T, A}), cx(ln_x_weight), cx(ln_x_bias), H, 64e-5, gate(cx, xg));
    return output(cx, z);
  }
};

struct ChannelMix {
  std::string prefix;
  Parameter &mix_k, &mix_r;
  nn::Linear key, receptance, value;

  ChannelMix(Scope s, int64_t C, int64_t F, const LayerInit& init)
      : prefix(s.prefix()),
        mix_k(s.param("time_mix_k", {1, 1, C}, init.current(init.r10))),
        mix_r(s.param("time_mix_r", {1, 1, C}, init.current(init.r10))),
        key(s.child("key"), C, F, nn::orthogonal(1.0), nn::Split::kOut),
        receptance(s.child("receptance"), C, C, nn::constant(0)),
        value(s.child("value"), F, C, nn::constant(0), nn::Split::kIn) {}

  Var operator()(Context& cx, const Entry& in) const {
    const auto [xk, xr] = time_mix(cx, in, prefix + "shift", {&mix_k, &mix_r});
    const Var k = ops::relu_sq(key(cx, xk));  // [B, T, F]
    return ops::sigmoid_mul(receptance(cx, xr), value(cx, k));
  }
};

RwkvBlock<TimeMix, ChannelMix> make_block(const Scope& s, const Rwkv5Config& c, const LayerInit& init) {
  return {{s.child("ln1"), c.hidden_size},
          {s.child("ln2"), c.hidden_size},
          {s.child("att"), c, init, c.hidden_size, c.num_heads * c.head_size},
          {s.child("ffn"), c.hidden_size, c.ffn_size, init}};
}

class Rwkv5 : public RwkvStack {
 public:
  Rwkv5(const Rwkv5Config& c, const nn::Part& part)
      : RwkvStack(part, c.num_layers, c.hidden_size, c.vocab_size,
                  [&](const Scope& s, const LayerInit& init) { return make_block(s, c, init); }),
        flops_(7.0 * static_cast<double>(c.head_size * c.head_size * c.num_heads * c.num_layers)) {}
  OptimGroup optim_group(const Parameter& p) const override { return finch_group(p); }
  double mixer_flops_per_token(int64_t) const override { return flops_; }

 private:
  double flops_;
};

}  // namespace

void Rwkv5Config::fields(config::Visitor& v) {
  v("num_layers", num_layers, "blocks").between(1, 1024);
  v("hidden_size", hidden_size, "width of the residual stream").between(1, 1 << 17);
  v("head_size", head_size, "channels of one head; 64 in all published models").between(1, 256);
  v("num_heads", num_heads, "heads of the time mixing; 0: hidden_size / head_size").between(0, 1 << 14);
  v("ffn_size", ffn_size, "width of the channel mixing; 0: 3.5 hidden_size, down to a multiple of 32")
      .between(0, 1 << 20);
  v("vocab_size", vocab_size, "rows of the embedding and the head; above every token id")
      .between(2, 1 << 24)
      .required();
}

void Rwkv5Config::check(std::vector<config::Finding>& findings) const {
  check_heads(hidden_size, head_size, num_heads, findings);
  if (resolved().ffn_size == 0)
    findings.push_back({"model.ffn_size", str("3.5 x hidden_size ", hidden_size,
                                              " is less than 32; set ffn_size, or a larger hidden_size")});
}

std::vector<config::ModelConfig::Shared> Rwkv5Config::shared() const {
  const Rwkv5Config c = resolved();
  return {{"num_heads", c.num_heads}, {"ffn_size", c.ffn_size}, {"vocab_size", vocab_size}};
}

Rwkv5Config Rwkv5Config::resolved() const {
  Rwkv5Config c = *this;
  if (c.num_heads == 0) c.num_heads = c.hidden_size / c.head_size;
  if (c.ffn_size == 0) c.ffn_size = c.hidden_size * 7 / 2 / 32 * 32;
  return c;
}

std::unique_ptr<Model> make_rwkv5(const Rwkv5Config& config, const nn::Part& part) {
  return std::make_unique<Rwkv5>(config.resolved(), part);
}

}  // namespace rookery
