#include "trainer/models/goldfinch_parts.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/attention/attention.h"
#include "trainer/nn/attention.h"
#include "trainer/nn/recurrence.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

constexpr int64_t kMixRank = 32, kDecayRank = 64, kValue2Rank = 64;

nn::Init low_rank() { return nn::uniform(-0.01, 0.01); }

// Of the matrices that correct keys and values of a GOLD block.
int64_t gold_rank(const GoldFinchSizes& c) { return std::max<int64_t>(c.hidden_size / 16, 64); }

// x + tanh(x w1) w2.
Var corrected(Context& cx, const Var& x, Parameter& w1, Parameter& w2) {
  return ops::add(x, ops::matmul(ops::tanh(ops::matmul(x, cx(w1))), cx(w2)));
}

RopeOptions rope_options(const Rotary& rotary, int64_t offset) {
  return {RopePairs::kAdjacent, rotary.theta, {RopeScaling::Kind::kLinear, rotary.rescale}, offset};
}

}  // namespace

// ---- Finch-C2 ----

FinchC2TimeMix::FinchC2TimeMix(Scope s, const GoldFinchSizes& sizes, const LayerInit& init)
    : c(sizes),
      prefix(s.prefix()),
      maa_x(s.param("time_maa_x", {1, 1, init.C}, init.mix(init.r10))),
      maa_r(s.param("time_maa_r", {1, 1, init.C}, init.mix(0.5 * init.r10))),
      maa_k(s.param("time_maa_k", {1, 1, init.C}, init.mix(init.r10))),
      maa_v(s.param("time_maa_v", {1, 1, init.C}, init.mix(init.r10, 0.3 * init.r01))),
      maa_w(s.param("time_maa_w", {1, 1, init.C}, init.mix(init.r10))),
      maa_v2(s.param("time_maa_v2", {1, 1, init.C}, init.mix(init.r10, 0.3 * init.r01))),
      maa_w2(s.param("time_maa_w2", {5, kMixRank, init.C}, low_rank())),
      maa_w1(s.param("time_maa_w1", {init.C, 5 * kMixRank}, nn::constant(0))),
      decay(s.param("time_decay", {1, 1, init.C}, init.decay(init.C), 2)),
      decay_w1(s.param("time_decay_w1", {init.C, kDecayRank}, nn::constant(0))),
      decay_w2(s.param("time_decay_w2", {kDecayRank, init.C}, low_rank(), 1)),
      value2_w1(s.param("time_value2_w1", {init.C, kValue2Rank}, nn::constant(0))),
      value2_w2(s.param("time_value2_w2", {kValue2Rank, init.C}, low_rank(), 1)),
      faaaa(s.param("time_faaaa", {init.C / c.head_size, c.head_size}, init.bonus(init.C), 0)),
      receptance(s.child("receptance"), init.C, init.C, nn::orthogonal(1.0), nn::Split::kOut),
      key(s.child("key"), init.C, init.C, nn::orthogonal(0.1), nn::Split::kOut),
      value(s.child("value"), init.C, init.C, nn::orthogonal(1.0), nn::Split::kOut),
      output(s.child("output"), init.C, init.C, nn::constant(0), nn::Split::kIn),
      ln_x(s.child("ln_x"), init.C, init.ln_x()) {}

Var FinchC2TimeMix::operator()(Context& cx, const Entry& in, const Carry&) const {
  const int64_t B = in.shape()[0], T = in.shape()[1], A = faaaa.local().numel();
  const Shape heads{B, T, A / c.head_size, c.head_size};
  const ops::Previous& previous = in.previous(cx, prefix + "shift");

  const auto [x, xxx] = in.mix(cx, prefix + "shift", {Var(), cx(maa_x)});
  const Var h = ops::tanh(ops::matmul(xxx, cx(maa_w1)));  // [B, T, 5 R]
  const auto [xr, xk, xv, xw, xv2] =
      ops::ddlerp(x, previous, {cx(maa_r), cx(maa_k), cx(maa_v), cx(maa_w), c.use_v2 ? cx(maa_v2) : Var()}, h,
                  cx(maa_w2));

  const Var w = ops::matmul(ops::tanh(ops::matmul(xw, cx(decay_w1))), cx(decay_w2), cx(decay));
  Var k = key(cx, xk);
  if (c.use_one_minus_w) k = ops::decay_complement_mul(w, k);
  // With the second value the current token enters through it alone.
  const Var bonus = c.use_v2 ? Var(zeros(faaaa.local(), x.value().dtype(), x.value().device())) : cx(faaaa);
  const Var wkv = nn::wkv6(cx, prefix + "wkv", receptance(cx, xr).reshape(heads), k.reshape(heads),
                           value(cx, xv).reshape(heads), w.reshape(heads), bonus);
  Var y = wkv.reshape({B, T, A});
  if (c.use_v2) {
    const Var correction = ops::matmul(ops::tanh(ops::matmul(xv2, cx(value2_w1))), cx(value2_w2));
    y = ops::add(y, ops::add(value(cx, xv2), correction));
  }
  return output(cx, ln_x.across_ranks(cx, y));
}

// ---- GPTAlpha ----

GptAlpha::GptAlpha(Scope s, const GoldFinchSizes& sizes, Rotary positions, const LayerInit& init)
    : c(sizes),
      rotary(positions),
      prefix(s.prefix()),
      maa_x(s.param("time_maa_x", {1, 1, init.C}, init.mix(init.r10))),
      maa_r(s.param("time_maa_r", {1, 1, init.C}, init.mix(0.5 * init.r10))),
      maa_k(s.param("time_maa_k", {1, 1, init.C}, init.mix(init.r10))),
      maa_v(s.param("time_maa_v", {1, 1, init.C}, init.mix(init.r10, 0.3 * init.r01))),
      maa_w1(s.param("time_maa_w1", {init.C, 3 * kMixRank}, nn::constant(0))),
      maa_w2(s.param("time_maa_w2", {3, kMixRank, init.C}, low_rank())),
      query(s.child("query"), init.C, init.C, nn::orthogonal(1.0), nn::Split::kOut),
      key(s.child("key"), init.C, init.C, nn::orthogonal(0.1), nn::Split::kOut),
      value(s.child("value"), init.C, init.C, nn::orthogonal(1.0), nn::Split::kOut),
      output(s.child("output"), init.C, init.C, nn::constant(0), nn::Split::kIn),
      ln_r(s.child("ln_r"), init.C),
      ln_k(s.child("ln_k"), init.C),
      ln_v(s.child("ln_v"), init.C),
      ln_x(s.child("ln_x"), init.C, init.ln_x()) {}

Var GptAlpha::operator()(Context& cx, const Entry& in, const Carry&) const {
  const ops::Previous& previous = in.previous(cx, prefix + "shift");
  const auto [x, xxx] = in.mix(cx, prefix + "shift", {Var(), cx(maa_x)});
  const Var h = ops::tanh(ops::matmul(xxx, cx(maa_w1)));  // [B, T, 3 R]
  const auto [xr, xk, xv] = ops::ddlerp(x, previous, {cx(maa_r), cx(maa_k), cx(maa_v)}, h, cx(maa_w2));
  const int64_t N = c.head_size;
  const Var q = ln_r.across_ranks(cx, query(cx, xr)), k = ln_k.across_ranks(cx, key(cx, xk)),
            v = ln_v.across_ranks(cx, value(cx, xv));
  const Var y = nn::attend(cx, prefix, nn::in_heads(q, N), nn::in_heads(k, N), nn::in_heads(v, N),
                           rotary.theta > 0 ? std::optional(rope_options(rotary, 0)) : std::nullopt);
  return output(cx, ln_x.across_ranks(cx, y));
}

// ---- GOLD ----

Gold::Gold(Scope s, const GoldFinchSizes& sizes, Rotary positions, const LayerInit& init)
    : c(sizes),
      rotary(positions),
      prefix(s.prefix()),
      maa_x(s.param("time_maa_x", {1, 1, init.C}, init.mix(init.r10))),
      maa_q(s.param("time_maa_q", {1, 1, init.C}, init.mix(0.5 * init.r10))),
      maa_v_cache(s.param("time_maa_v_cache", {1, 1, init.C}, init.mix(init.r10))),
      maa_k(s.param("time_maa_k", {1, 1, init.C}, init.mix(init.r10))),
      maa_v(s.param("time_maa_v", {1, 1, init.C}, init.mix(init.r10, 0.3 * init.r01))),
      maa_q_w1(s.param("time_maa_q_w1", {init.C, kMixRank}, nn::constant(0))),
      maa_q_w2(s.param("time_maa_q_w2", {kMixRank, init.C}, low_rank())),
      maa_kv_w1(s.param("time_maa_kv_w1", {init.C, 2 * kMixRank}, nn::constant(0))),
      maa_kv_w2(s.param("time_maa_kv_w2", {2, kMixRank, init.C}, low_rank())),
      key_w1(s.param("time_key_w1", {init.C, gold_rank(c)}, nn::constant(0))),
      key_w2(s.param("time_key_w2", {gold_rank(c), init.C}, low_rank())),
      value_w1(s.param("time_value_w1", {init.C, gold_rank(c)}, nn::constant(0))),
      value_w2(s.param("time_value_w2", {gold_rank(c), init.C}, low_rank())),
      query(s.child("query"), init.C, init.C, nn::orthogonal(1.0), nn::Split::kOut),
      output(s.child("output"), init.C, init.C, nn::constant(0), nn::Split::kIn),
      ln_q(s.child("ln_q"), init.C),
      ln_k(s.child("ln_k"), init.C),
      ln_v(s.child("ln_v"), init.C),
      ln_x(s.child("ln_x"), init.C, init.ln_x()) {}

Var Gold::operator()(Context& cx, const Entry& in, const Carry& carry) const {
  const ops::Previous& previous = in.previous(cx, prefix + "shift");
  const auto [x, xxx] = in.mix(cx, prefix + "shift", {Var(), cx(maa_x)});
  const Var hq = ops::tanh(ops::matmul(xxx, cx(maa_q_w1)));  // [B, T, R]
  const auto [xq] =
      ops::ddlerp(x, previous, {cx(maa_q)}, hq, cx(maa_q_w2).reshape({1, kMixRank, c.hidden_size}));
  const Var q = ln_q.across_ranks(cx, query(cx, xq));

  const GoldSight& sight = *carry.gold;
  const Var y = sight.keys.defined() ? attend(cx, q, sight) : attend_in_parts(cx, q, sight);
  return output(cx, ln_x.across_ranks(cx, y));
}

// q, result: [B, T, this rank's channels], of the last T tokens that the pass sees.
Var Gold::attend(Context& cx, const Var& q, const GoldSight& sight) const {
  const ops::Previous nothing{Var(), sight.starts};
  const Var eee = ops::shift_lerp(sight.values, nothing, {cx(maa_v_cache)})[0];
  const Var hkv = ops::tanh(ops::matmul(eee, cx(maa_kv_w1))), w2 = cx(maa_kv_w2);  // [B, S, 2 R]
  const Var k0 = ops::ddlerp(sight.keys, nothing, {cx(maa_k), Var()}, hkv, w2)[0];
  const Var v0 = ops::ddlerp(sight.values, nothing, {Var(), cx(maa_v)}, hkv, w2)[1];
  const Var k = ln_k(cx, corrected(cx, k0, key_w1, key_w2)),
            v = ln_v(cx, corrected(cx, v0, value_w1, value_w2));
  const int64_t past = k.shape()[1] - q.shape()[1];
  return ops::attention(turned(nn::in_heads(q, c.head_size), past), turned(own_heads(cx, k), 0),
                        own_heads(cx, v), {scale(), past, cx.seq.doc_start, sight.document})
      .reshape(q.shape());
}

// q, result: [B, T, this rank's channels], of the last T of sight.tokens.
Var Gold::attend_in_parts(Context& cx, const Var& q, const GoldSight& sight) const {
  constexpr int64_t kPart = 1024;  // tokens whose keys and values lie in memory
  auto value = [&](Parameter& p) { return cx(p).value(); };
  const ops::GoldWeights weights{value(maa_v_cache), value(maa_k),       value(maa_v),     value(maa_kv_w1),
                                 value(maa_kv_w2),   value(key_w1),      value(key_w2),    value(value_w1),
                                 value(value_w2),    value(ln_k.weight), value(ln_k.bias), value(ln_v.weight),
                                 value(ln_v.bias)};
  const int64_t past = sight.tokens.index.dim(1) - q.shape()[1];
  auto part = [&](int64_t begin, int64_t count) {
    const auto [k, v] = ops::gold_expand(sight.tokens, weights, begin, count);
    return std::pair(turned(own_heads(cx, k), begin).value(), own_heads(cx, v).value());
  };
  const Var queries = turned(nn::in_heads(q, c.head_size), past);
  return Var(ops::attention_in_parts(queries.value(), sight.tokens.first, kPart, part,
                                     {scale(), past, cx.seq.doc_start, sight.document})
                 .reshape(q.shape()));
}

// Keys or values [B, S, C] of all heads, to [B, S, H, N] of this rank's.
Var Gold::own_heads(const Context& cx, const Var& x) const {
  return nn::in_heads(slice_last(x, cx.mesh.axis(Axis::kTensor)), c.head_size);
}

double Gold::scale() const { return 1 / std::sqrt(static_cast<double>(c.head_size)); }

// x [B, T, H, N], of the tokens from position `at` on, with rotary positions where there are any.
Var Gold::turned(const Var& x, int64_t at) const {
  return rotary.theta > 0 ? ops::rope(x, rope_options(rotary, at)) : x;
}

// ---- configuration, optimizer ----

void GoldFinchSizes::list_fields(config::Visitor& v) {
  v("num_layers", num_layers, "blocks").between(1, 1024);
  v("hidden_size", hidden_size, "width of the residual stream").between(1, 1 << 17);
  v("head_size", head_size, "channels of one head; 64 in all published models").between(1, 256);
  v("ffn_size", ffn_size, "width of the channel mixing; 0: 3.5 hidden_size, down to a multiple of 32")
      .between(0, 1 << 20);
  v("vocab_size", vocab_size, "rows of the embedding and the head; above every token id")
      .between(2, 1 << 24)
      .required();
  v("use_v2", use_v2, "Finch-C2: a second value in place of the bonus for the current token");
  v("use_one_minus_w", use_one_minus_w, "Finch-C2: keys times one minus the decay");
}

void GoldFinchSizes::check_sizes(std::vector<config::Finding>& findings) const {
  if (hidden_size % head_size != 0)
    findings.push_back({"model.hidden_size",
                        str("hidden_size ", hidden_size, " is not a multiple of head_size ", head_size)});
  GoldFinchSizes filled = *this;
  filled.resolve();
  if (filled.ffn_size == 0)
    findings.push_back({"model.ffn_size", str("3.5 x hidden_size ", hidden_size,
                                              " is less than 32; set ffn_size, or a larger hidden_size")});
}

std::vector<config::ModelConfig::Shared> GoldFinchSizes::shared_sizes() const {
  GoldFinchSizes c = *this;
  c.resolve();
  return {{"hidden_size / head_size", c.hidden_size / c.head_size},
          {"ffn_size", c.ffn_size},
          {"vocab_size", c.vocab_size}};
}

void GoldFinchSizes::resolve() {
  if (ffn_size == 0) ffn_size = hidden_size * 7 / 2 / 32 * 32;
}

double GoldFinchSizes::recurrent_flops() const { return 7.0 * static_cast<double>(head_size * hidden_size); }

double GoldFinchSizes::attention_flops(int64_t seq_len) const {
  return nn::attention_flops_per_token(hidden_size / head_size, head_size, seq_len);
}

OptimGroup goldfinch_group(const Parameter& p) {
  auto contains = [&](const char* part) { return p.name.find(part) != std::string::npos; };
  if (contains("_w1") || contains("_w2") || contains("time_maa")) return {1, false};
  if (contains("time_decay")) return {2, false};
  if (contains("time_faaaa") || p.name.ends_with(".bias")) return {1, false};
  int wide_dims = 0;
  for (const int64_t d : p.global) wide_dims += d > 1;
  return {1, wide_dims >= 2};
}

}  // namespace rookery
