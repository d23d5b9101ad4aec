// rwkv7.cpp: Goose (RWKV-7, x070): arXiv 2503.14456, with the names, initial values and optimizer groups of
// the published trainer.
#include "trainer/models/rwkv7.h"

#include <cmath>

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/goose/goose.h"
#include "trainer/models/rwkv_parts.h"
#include "trainer/nn/recurrence.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

// Initial values along the channels of the time mixing (rwkv7-goose 8), in fp32 from terms that are formed in
// double, as published.
struct Ramps {
  int64_t width, head_size;
  double position(int64_t n) const {  // 0 .. 1
    return width > 1 ? static_cast<double>(n) / static_cast<double>(width - 1) : 0.0;
  }
  float linear(int64_t n) const { return static_cast<float>(position(n) - 0.5); }
  float zigzag(int64_t n) const {  // q |q| with q from -1 to 1 in each head
    if (head_size == 1) return 0.f;
    const double half = static_cast<double>(head_size - 1) / 2;
    const auto q = static_cast<float>((static_cast<double>(n % head_size) - half) / half);
    return q * std::abs(q);
  }
  nn::Init decay(double r01) const {
    return nn::values([*this, power = 1 + std::pow(r01, 0.3)](int64_t n) {
      return static_cast<float>(-6 + 6 * std::pow(position(n), power)) + 0.5f + zigzag(n) * 2.5f;
    });
  }
  nn::Init rate() const {
    return nn::values([*this](int64_t n) { return -0.19f + zigzag(n) * 0.3f + linear(n) * 0.4f; });
  }
  nn::Init falling(float from, float slope) const {
    return nn::values([=, *this](int64_t n) { return from - linear(n) * slope; });
  }
};

struct TimeMix {
  int64_t layer, head_size;
  std::string prefix;
  Parameter &x_r, &x_w, &x_k, &x_v, &x_a, &x_g;
  nn::LowRank decay, rate, mix, gate;  // mix: of the value residual; layer 0 has it and does not use it
  Parameter &k_k, &k_a, &r_k;
  nn::Linear receptance, key, value, output;
  Parameter &ln_x_weight, &ln_x_bias;

  TimeMix(Scope s, const Rwkv7Config& c, const LayerInit& init, int64_t C, int64_t A, const Ramps& ramps)
      : layer(init.layer),
        head_size(c.head_size),
        prefix(s.prefix()),
        x_r(s.param("x_r", {1, 1, C}, init.mix(0.2 * init.r10))),
        x_w(s.param("x_w", {1, 1, C}, init.mix(0.9 * init.r10))),
        x_k(s.param("x_k", {1, 1, C}, init.mix(0.7 * init.r10))),
        x_v(s.param("x_v", {1, 1, C}, init.mix(0.7 * init.r10))),
        x_a(s.param("x_a", {1, 1, C}, init.mix(0.9 * init.r10))),
        x_g(s.param("x_g", {1, 1, C}, init.mix(0.2 * init.r10))),
        decay(low_rank(s, "w", C, c.decay_rank, A, ramps.decay(init.r01))),
        rate(low_rank(s, "a", C, c.iclr_rank, A, ramps.rate())),
        mix(low_rank(s, "v", C, c.value_rank, A, ramps.falling(0.73f, 0.4f))),
        gate(low_rank(s, "g", C, c.gate_rank, A, nullptr)),
        k_k(s.param("k_k", {1, 1, A}, ramps.falling(0.71f, 0.1f), 2)),
        k_a(s.param("k_a", {1, 1, A}, nn::constant(1.02), 2)),
        r_k(s.param("r_k", {A / c.head_size, c.head_size}, nn::constant(-0.04), 0)),
        receptance(s.child("receptance"), C, A, nn::orthogonal(1.0), nn::Split::kOut),
        key(s.child("key"), C, A, nn::orthogonal(0.1), nn::Split::kOut),
        value(s.child("value"), C, A, nn::orthogonal(1.0), nn::Split::kOut),
        output(s.child("output"), A, C, nn::constant(0), nn::Split::kIn),
        ln_x_weight(s.param("ln_x.weight", {A}, init.ln_x(), 0)),
        ln_x_bias(s.param("ln_x.bias", {A}, nn::constant(0), 0)) {}

  // w1 [C, R], w2 [R, A] and the bias w0 for "w"; no bias without a value for it.
  static nn::LowRank low_rank(Scope s, const std::string& name, int64_t C, int64_t R, int64_t A,
                              nn::Init bias) {
    return {s.param(name + "1", {C, R}, nn::constant(0)), s.param(name + "2", {R, A}, nn::orthogonal(0.1), 1),
            bias ? &s.param(name + "0", {1, 1, A}, std::move(bias), 2) : nullptr};
  }

  // Result: [B, T, C]. carry.v_first: set by layer 0, read by the others.
  Var operator()(Context& cx, const Entry& in, Carry& carry) const {
    const int64_t B = in.shape()[0], T = in.shape()[1];
    const int64_t A = r_k.local().numel(), N = head_size, H = A / N;
    const auto [xr, xw, xk, xv, xa, xg] =
        in.mix(cx, prefix + "shift", {cx(x_r), cx(x_w), cx(x_k), cx(x_v), cx(x_a), cx(x_g)});

    const Var r = receptance(cx, xr), w = decay(cx, xw, ops::tanh);
    Var v = value(cx, xv);
    if (layer == 0) {
      carry.v_first = v;
    } else {
      v = ops::goose_value(v, carry.v_first, mix(cx, xv));
    }
    const auto [k, a, b] = ops::goose_keys(key(cx, xk), rate(cx, xa), cx(k_k), cx(k_a), H);

    const Shape heads{B, T, H, N};
    const Var y = nn::wkv7(cx, prefix + "wkv", r.reshape(heads), w.reshape(heads), k.reshape(heads),
                           v.reshape(heads), a.reshape(heads), b.reshape(heads), Wkv7Decay::kSigmoid);
    return output(cx, ops::goose_output(y.reshape({B, T, A}), cx(ln_x_weight), cx(ln_x_bias), r, k, v,
                                        cx(r_k), gate(cx, xg, ops::sigmoid), 64e-5));
  }
};

struct ChannelMix {
  std::string prefix;
  Parameter& x_k;
  nn::Linear key, value;

  ChannelMix(Scope s, const Rwkv7Config& c, const LayerInit& init)
      : prefix(s.prefix()),
        x_k(s.param("x_k", {1, 1, c.hidden_size}, init.mix(std::pow(init.r10, 4)))),
        key(s.child("key"), c.hidden_size, c.ffn_size, nn::orthogonal(1.0), nn::Split::kOut),
        value(s.child("value"), c.ffn_size, c.hidden_size, nn::constant(0), nn::Split::kIn) {}

  Var operator()(Context& cx, const Entry& in) const {
    const auto [mixed] = in.mix(cx, prefix + "shift", {cx(x_k)});
    return value(cx, ops::relu_sq(key(cx, mixed)));
  }
};

RwkvBlock<TimeMix, ChannelMix> make_block(const Scope& s, const Rwkv7Config& c, const LayerInit& init) {
  return {{s.child("ln1"), c.hidden_size},
          {s.child("ln2"), c.hidden_size},
          {s.child("att"), c, init, c.hidden_size, c.num_heads * c.head_size,
           Ramps{c.num_heads * c.head_size, c.head_size}},
          {s.child("ffn"), c, init}};
}

class Rwkv7 : public RwkvStack {
 public:
  Rwkv7(const Rwkv7Config& c, const nn::Part& part)
      : RwkvStack(part, c.num_layers, c.hidden_size, c.vocab_size,
                  [&](const Scope& s, const LayerInit& init) { return make_block(s, c, init); }),
        flops_(9.0 * static_cast<double>(c.head_size * c.head_size * c.num_heads * c.num_layers)) {}
  // rwkv-common 7: the decay bias learns twice as fast; weight decay on the matrices named .weight alone.
  OptimGroup optim_group(const Parameter& p) const override {
    if (p.name.find("att.w0") != std::string::npos) return {2, false};
    return {1, is_weight_matrix(p)};
  }
  bool is_unused(const Parameter& p) const override {
    return p.name == "blocks.0.att.v0" || p.name == "blocks.0.att.v1" || p.name == "blocks.0.att.v2";
  }
  double mixer_flops_per_token(int64_t) const override { return flops_; }
  std::vector<Flow> flow(int64_t i, const Context& cx, const Tensor& ids, Carry& carry) override {
    std::vector<Flow> parts = RwkvStack::flow(i, cx, ids, carry);
    const int64_t A = parameters.find("blocks.0.att.value.weight")->local()[0];
    if (i > 0) parts.push_back({&carry.v_first, {ids.dim(0), ids.dim(1), A}});
    return parts;
  }

 private:
  double flops_;
};

// At least 32, and a multiple of it: to the even one where two are equally near, as published.
int64_t rank_of(double size) {
  return std::max<int64_t>(32, 32 * static_cast<int64_t>(std::nearbyint(size / 32)));
}

}  // namespace

void Rwkv7Config::fields(config::Visitor& v) {
  v("num_layers", num_layers, "blocks").between(1, 1024);
  v("hidden_size", hidden_size, "width of the residual stream").between(1, 1 << 17);
  v("head_size", head_size, "channels of one head; 64 in all published models").between(1, 256);
  v("num_heads", num_heads, "heads of the time mixing; 0: hidden_size / head_size").between(0, 1 << 14);
  v("ffn_size", ffn_size, "width of the channel mixing; 0: 4 hidden_size").between(0, 1 << 20);
  v("vocab_size", vocab_size, "rows of the embedding and the head; above every token id")
      .between(2, 1 << 24)
      .required();
  v("rank_rule", rank_rule, "low ranks by hidden_size: A as the released weights, B as the current trainer")
      .one_of({"A", "B"});
  v("decay_rank", decay_rank, "rank of the decay; 0: by rank_rule").between(0, 1 << 14);
  v("iclr_rank", iclr_rank, "rank of the in-context learning rate; 0: by rank_rule").between(0, 1 << 14);
  v("value_rank", value_rank, "rank of the value residual; 0: by rank_rule").between(0, 1 << 14);
  v("gate_rank", gate_rank, "rank of the gate; 0: by rank_rule").between(0, 1 << 14);
}

void Rwkv7Config::check(std::vector<config::Finding>& findings) const {
  check_heads(hidden_size, head_size, num_heads, findings);
}

std::vector<config::ModelConfig::Shared> Rwkv7Config::shared() const {
  const Rwkv7Config c = resolved();
  return {{"num_heads", c.num_heads}, {"ffn_size", c.ffn_size}, {"vocab_size", vocab_size}};
}

Rwkv7Config Rwkv7Config::resolved() const {
  Rwkv7Config c = *this;
  const double root = std::sqrt(static_cast<double>(hidden_size));
  const bool released = rank_rule == "A";
  if (c.num_heads == 0) c.num_heads = c.hidden_size / c.head_size;
  if (c.ffn_size == 0) c.ffn_size = 4 * c.hidden_size;
  if (c.decay_rank == 0) c.decay_rank = rank_of(released ? 1.8 * root : 2.5 * root);
  if (c.iclr_rank == 0) c.iclr_rank = rank_of(released ? 1.8 * root : 2.5 * root);
  if (c.value_rank == 0) c.value_rank = rank_of(released ? 1.3 * root : 1.7 * root);
  if (c.gate_rank == 0)
    c.gate_rank = rank_of(released ? 0.6 * std::pow(static_cast<double>(hidden_size), 0.8) : 5 * root);
  return c;
}

std::unique_ptr<Model> make_rwkv7(const Rwkv7Config& config, const nn::Part& part) {
  return std::make_unique<Rwkv7>(config.resolved(), part);
}

}  // namespace rookery
