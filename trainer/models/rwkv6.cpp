// rwkv6.cpp: Finch (RWKV-6, x060): arXiv 2404.05892, with the names, initial values and optimizer groups of
// the published trainer.
#include "trainer/models/rwkv6.h"

#include "kernels/ops/activation/activation.h"
#include "trainer/models/rwkv_parts.h"
#include "trainer/nn/recurrence.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

struct TimeMix {
  int64_t head_size;
  std::string prefix;
  Parameter &maa_x, &maa_w, &maa_k, &maa_v, &maa_r, &maa_g, &maa_w1, &maa_w2;
  Parameter &decay, &decay_w1, &decay_w2, &faaaa;
  nn::Linear receptance, key, value, output, gate;
  Parameter &ln_x_weight, &ln_x_bias;

  TimeMix(Scope s, const Rwkv6Config& c, const LayerInit& init, int64_t A)
      : head_size(c.head_size),
        prefix(s.prefix()),
        maa_x(s.param("time_maa_x", {1, 1, c.hidden_size}, init.mix(init.r10))),
        maa_w(s.param("time_maa_w", {1, 1, c.hidden_size}, init.mix(init.r10))),
        maa_k(s.param("time_maa_k", {1, 1, c.hidden_size}, init.mix(init.r10))),
        maa_v(s.param("time_maa_v", {1, 1, c.hidden_size}, init.mix(init.r10, 0.3 * init.r01))),
        maa_r(s.param("time_maa_r", {1, 1, c.hidden_size}, init.mix(0.5 * init.r10))),
        maa_g(s.param("time_maa_g", {1, 1, c.hidden_size}, init.mix(0.5 * init.r10))),
        maa_w1(s.param("time_maa_w1", {c.hidden_size, 5 * c.mix_rank}, nn::constant(0))),
        maa_w2(s.param("time_maa_w2", {5, c.mix_rank, c.hidden_size}, nn::uniform(-0.01, 0.01))),
        decay(s.param("time_decay", {1, 1, A}, init.decay(A), 2)),
        decay_w1(s.param("time_decay_w1", {c.hidden_size, c.decay_rank}, nn::constant(0))),
        decay_w2(s.param("time_decay_w2", {c.decay_rank, A}, nn::uniform(-0.01, 0.01), 1)),
        faaaa(s.param("time_faaaa", {A / c.head_size, c.head_size}, init.bonus(A), 0)),
        receptance(s.child("receptance"), c.hidden_size, A, nn::orthogonal(1.0), nn::Split::kOut),
        key(s.child("key"), c.hidden_size, A, nn::orthogonal(0.1), nn::Split::kOut),
        value(s.child("value"), c.hidden_size, A, nn::orthogonal(1.0), nn::Split::kOut),
        output(s.child("output"), A, c.hidden_size, nn::constant(0), nn::Split::kIn),
        gate(s.child("gate"), c.hidden_size, A, nn::orthogonal(0.1), nn::Split::kOut),
        ln_x_weight(s.param("ln_x.weight", {A}, init.ln_x(), 0)),
        ln_x_bias(s.param("ln_x.bias", {A}, nn::constant(0), 0)) {}

  // Result: [B, T, C].
  Var operator()(Context& cx, const Entry& in, const Carry&) const {
    const int64_t B = in.shape()[0], T = in.shape()[1];
    const int64_t A = faaaa.local().numel(), N = head_size, H = A / N;
    const ops::Previous& previous = in.previous(cx, prefix + "shift");

    // ddlerp: how much of the previous token each of the five inputs takes depends on the data.
    const auto [x, xxx] = in.mix(cx, prefix + "shift", {Var(), cx(maa_x)});
    const Var h = ops::tanh(ops::matmul(xxx, cx(maa_w1)));  // [B, T, 5 R]
    const auto [xw, xk, xv, xr, xg] =
        ops::ddlerp(x, previous, {cx(maa_w), cx(maa_k), cx(maa_v), cx(maa_r), cx(maa_g)}, h, cx(maa_w2));

    const Shape heads{B, T, H, N};
    const Var w = ops::matmul(ops::tanh(ops::matmul(xw, cx(decay_w1))), cx(decay_w2), cx(decay));
    const Var y = nn::wkv6(cx, prefix + "wkv", receptance(cx, xr).reshape(heads), key(cx, xk).reshape(heads),
                           value(cx, xv).reshape(heads), w.reshape(heads), cx(faaaa));
    // eps = 1e-5 * 8^2: the published kernel divides by 8 before the norm; the constant does not change with
    // N.
    const Var z =
        ops::group_norm(y.reshape({B, T, A}), cx(ln_x_weight), cx(ln_x_bias), H, 64e-5, gate(cx, xg));
    return output(cx, z);
  }
};

RwkvBlock<TimeMix, FinchChannelMix> make_block(const Scope& s, const Rwkv6Config& c, const LayerInit& init) {
  return {{s.child("ln1"), c.hidden_size},
          {s.child("ln2"), c.hidden_size},
          {s.child("att"), c, init, c.num_heads * c.head_size},
          {s.child("ffn"), c.hidden_size, c.ffn_size, init, c.ffn_mix_power}};
}

class Rwkv6 : public RwkvStack {
 public:
  Rwkv6(const Rwkv6Config& c, const nn::Part& part)
      : RwkvStack(part, c.num_layers, c.hidden_size, c.vocab_size,
                  [&](const Scope& s, const LayerInit& init) { return make_block(s, c, init); }),
        flops_(7.0 * static_cast<double>(c.head_size * c.head_size * c.num_heads * c.num_layers)) {}
  OptimGroup optim_group(const Parameter& p) const override { return finch_group(p); }
  double mixer_flops_per_token(int64_t) const override { return flops_; }

 private:
  double flops_;
};

}  // namespace

void Rwkv6Config::fields(config::Visitor& v) {
  v("num_layers", num_layers, "blocks").between(1, 1024);
  v("hidden_size", hidden_size, "width of the residual stream").between(1, 1 << 17);
  v("head_size", head_size, "channels of one head; 64 in all published models").between(1, 256);
  v("num_heads", num_heads, "heads of the time mixing; 0: hidden_size / head_size").between(0, 1 << 14);
  v("ffn_size", ffn_size, "width of the channel mixing; 0: 3.5 hidden_size, down to a multiple of 32")
      .between(0, 1 << 20);
  v("vocab_size", vocab_size, "rows of the embedding and the head; above every token id")
      .between(2, 1 << 24)
      .required();
  v("mix_rank", mix_rank, "rank of the data-dependent token shift; 0: 32, or 64 from hidden_size 4096 on")
      .between(0, 1 << 14);
  v("decay_rank", decay_rank, "rank of the data-dependent decay; 0: 64, or 128 from hidden_size 4096 on")
      .between(0, 1 << 14);
  v("ffn_mix_power", ffn_mix_power,
    "initial token shift of the channel mixing: 3 as the current trainer, 1 as the papers")
      .between(1, 3);
}

void Rwkv6Config::check(std::vector<config::Finding>& findings) const {
  check_heads(hidden_size, head_size, num_heads, findings);
  if (ffn_mix_power == 2)
    findings.push_back({"model.ffn_mix_power",
                        "ffn_mix_power 2 is neither 3, as the current trainer, nor 1, as the papers"});
  if (resolved().ffn_size == 0)
    findings.push_back({"model.ffn_size", str("3.5 x hidden_size ", hidden_size,
                                              " is less than 32; set ffn_size, or a larger hidden_size")});
}

std::vector<config::ModelConfig::Shared> Rwkv6Config::shared() const {
  const Rwkv6Config c = resolved();
  return {{"num_heads", c.num_heads}, {"ffn_size", c.ffn_size}, {"vocab_size", vocab_size}};
}

Rwkv6Config Rwkv6Config::resolved() const {
  Rwkv6Config c = *this;
  if (c.num_heads == 0) c.num_heads = c.hidden_size / c.head_size;
  if (c.ffn_size == 0) c.ffn_size = c.hidden_size * 7 / 2 / 32 * 32;
  if (c.mix_rank == 0) c.mix_rank = c.hidden_size >= 4096 ? 64 : 32;
  if (c.decay_rank == 0) c.decay_rank = c.hidden_size >= 4096 ? 128 : 64;
  return c;
}

std::unique_ptr<Model> make_rwkv6(const Rwkv6Config& config, const nn::Part& part) {
  return std::make_unique<Rwkv6>(config.resolved(), part);
}

}  // namespace rookery
