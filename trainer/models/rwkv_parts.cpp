#include "trainer/models/rwkv_parts.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/token_shift/norm_shift.h"

namespace rookery {
namespace {

// n / (width - 1), in double as the reference does.
double position(int64_t n, int64_t width) {
  return width > 1 ? static_cast<double>(n) / static_cast<double>(width - 1) : 0.0;
}

}  // namespace

LayerInit::LayerInit(int64_t l, int64_t L, int64_t channels)
    : layer(l),
      num_layers(L),
      C(channels),
      r01(L > 1 ? static_cast<double>(l) / static_cast<double>(L - 1) : 0.0),
      r10(1.0 - static_cast<double>(l) / static_cast<double>(L)) {}

nn::Init LayerInit::current(double power, double shift) const {
  return nn::values([p = static_cast<float>(power), s = static_cast<float>(shift), c = C](int64_t i) {
    return std::pow(static_cast<float>(static_cast<double>(i) / static_cast<double>(c)), p) + s;
  });
}

nn::Init LayerInit::mix(double power, double shift) const {
  return nn::values([p = static_cast<float>(power), s = static_cast<float>(shift), c = C](int64_t i) {
    return 1.f - (std::pow(static_cast<float>(static_cast<double>(i) / static_cast<double>(c)), p) + s);
  });
}

nn::Init LayerInit::decay(int64_t width) const {
  return nn::values([width, r = r01](int64_t n) {
    return static_cast<float>(-6.0 + 5.0 * std::pow(position(n, width), 0.7 + 1.3 * r));
  });
}

nn::Init LayerInit::bonus(int64_t width) const {
  return nn::values([width, r = r01](int64_t n) {
    return static_cast<float>(r * (1.0 - position(n, width)) + 0.1 * static_cast<double>((n + 1) % 3 - 1));
  });
}

nn::Init LayerInit::ln_x() const {
  return nn::constant(std::pow(static_cast<double>(1 + layer) / static_cast<double>(num_layers), 0.7));
}

OptimGroup finch_group(const Parameter& p) {
  auto contains = [&](const char* part) { return p.name.find(part) != std::string::npos; };
  if (contains("_w1") || contains("_w2") || contains("time_mix") || contains("time_maa") ||
      contains("time_faaaa"))
    return {1, false};
  if (contains("time_sta")) return {1, true};
  if (contains("time_decay")) return {2, false};
  return {1, is_weight_matrix(p)};
}

bool is_weight_matrix(const Parameter& p) {
  int wide_dims = 0;
  for (const int64_t d : p.global) wide_dims += d > 1;
  return wide_dims >= 2 && p.name.find(".weight") != std::string::npos;
}

void check_heads(int64_t hidden_size, int64_t head_size, int64_t num_heads,
                 std::vector<config::Finding>& findings) {
  if (num_heads == 0 && hidden_size % head_size != 0)
    findings.push_back(
        {"model.hidden_size", str("hidden_size ", hidden_size, " is not a multiple of head_size ", head_size,
                                  "; choose one that is, or set num_heads")});
}

const ops::Previous& Entry::previous(nn::Context& cx, const std::string& slot) const {
  if (previous_) return *previous_;
  previous_ = cx.seq.previous(slot);
  if (Communicator& ranks = cx.mesh.axis(Axis::kSeq); ranks.size() > 1) {
    Var last = last_token(x_);
    if (delta_.defined()) last = ops::add(last, last_token(delta_));
    previous_->carried = from_left(ranks, norm_(cx, last), cx.seq.received.get());
  }
  return *previous_;
}

void Entry::mix(nn::Context& cx, const std::string& slot, std::span<const Var> mu, std::span<Var> out) const {
  const ops::NormShift made = ops::norm_shift(x_, delta_, cx(norm_.weight), cx(norm_.bias),
                                              previous(cx, slot), {mu.begin(), mu.end()}, cx.seq.carry);
  x_ = made.x;
  cx.seq.leave(slot, made.last);
  std::copy(made.out.begin(), made.out.end(), out.begin());
}

Var Entry::norm(const nn::Context& cx) const {
  const ops::NormShift made =
      ops::norm_shift(x_, delta_, cx(norm_.weight), cx(norm_.bias), ops::Previous(), {Var()});
  x_ = made.x;
  return made.out[0];
}

RwkvStack::RwkvStack(const nn::Part& part, int64_t L, int64_t C, int64_t V, const MakeBlock& make_block)
    : Stack(part) {
  const nn::Scope top(parameters), blocks = top.child("blocks"), last = top.of_unit(L + 1);
  emb_ = &top.param("emb.weight", {V, C}, nn::uniform(-1e-4, 1e-4), 0);
  first_norm_ = nn::LayerNorm(blocks.child("0").child("ln0"), C);
  for (int64_t i = 0; i < L; ++i)
    blocks_.push_back(make_block(blocks.of_unit(i + 1).child(std::to_string(i)), LayerInit(i, L, C)));
  last_norm_ = nn::LayerNorm(last.child("ln_out"), C);
  const double gain = V > C ? 0.5 * std::sqrt(static_cast<double>(V) / static_cast<double>(C)) : 0.5;
  head_ = &last.param("head.weight", {V, C}, nn::orthogonal(gain), 0);
}

FinchChannelMix::FinchChannelMix(nn::Scope s, int64_t C, int64_t F, const LayerInit& init, int64_t power)
    : prefix(s.prefix()),
      maa_k(s.param("time_maa_k", {1, 1, C}, init.mix(std::pow(init.r10, power)))),
      maa_r(s.param("time_maa_r", {1, 1, C}, init.mix(std::pow(init.r10, power)))),
      key(s.child("key"), C, F, nn::orthogonal(1.0), nn::Split::kOut),
      receptance(s.child("receptance"), C, C, nn::constant(0)),
      value(s.child("value"), F, C, nn::constant(0), nn::Split::kIn) {}

Var FinchChannelMix::operator()(nn::Context& cx, const Entry& in) const {
  const auto [xk, xr] = in.mix(cx, prefix + "shift", {cx(maa_k), cx(maa_r)});
  const Var k = ops::relu_sq(key(cx, xk));  // [B, T, F]
  return ops::sigmoid_mul(receptance(cx, xr), value(cx, k));
}

}  // namespace rookery
