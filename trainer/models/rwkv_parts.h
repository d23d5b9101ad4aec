// rwkv_parts.h: what several RWKV models have in common: the model around the blocks, initial values that
// depend on the layer (rwkv-common 6), optimizer groups and Finch's channel mixing. Who uses them: the
// rwkv*.cpp files, finch_c2.cpp, goldfinch.cpp.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/models/stack.h"
#include "trainer/nn/layers.h"

namespace rookery {

// Initial values of layer l of L; channel i of C.
struct LayerInit {
  int64_t layer, num_layers, C;
  double r01, r10;  // l / (L - 1) (0 for one layer), 1 - l / L
  LayerInit(int64_t layer, int64_t num_layers, int64_t channels);

  // The weight of the current token, (i / C)^power + shift, in fp32 as published (RWKV-5); and that of the
  // previous one, 1 minus it (later models).
  nn::Init current(double power, double shift = 0) const;
  nn::Init mix(double power, double shift = 0) const;
  nn::Init decay(int64_t width) const;  // -6 + 5 (n / (width - 1))^(0.7 + 1.3 r01)
  nn::Init bonus(int64_t width) const;  // r01 (1 - n / (width - 1)) + 0.1 ((n + 1) mod 3 - 1)
  nn::Init ln_x() const;                // ((1 + l) / L)^0.7
};

// The groups of the trainer of RWKV-5 and RWKV-6 (rwkv-common 7): the decay learns twice as fast; weight
// decay on the matrices named .weight alone.
OptimGroup finch_group(const Parameter& p);
bool is_weight_matrix(const Parameter& p);  // two dims wider than 1, and named .weight

// Finds a width that heads do not divide. num_heads 0: hidden_size / head_size.
void check_heads(int64_t hidden_size, int64_t head_size, int64_t num_heads,
                 std::vector<config::Finding>& findings);

// What a part of a block reads: the layer norm of the residual stream, to which the output of the part before
// is yet to be added, mixed with the token before.
class Entry {
 public:
  Entry(const nn::LayerNorm& norm, Var& x, Var delta = Var())
      : norm_(norm), x_(x), delta_(std::move(delta)) {}
  const Shape& shape() const { return x_.shape(); }  // [B, T, C]

  // With n = norm(x + delta): n + (shift(n) - n) mu[q], n itself where mu[q] is undefined. The sum becomes x,
  // and n's last token the one that the next pass finds in `slot`. A block calls it once:
  //   const auto [xr, xk] = in.mix(cx, prefix + "shift", {cx(mu_r), cx(mu_k)});
  template <size_t Q>
  std::array<Var, Q> mix(nn::Context& cx, const std::string& slot, const Var (&mu)[Q]) const {
    std::array<Var, Q> out;
    mix(cx, slot, mu, out);
    return out;
  }
  Var norm(const nn::Context& cx) const;  // n alone, where no token looks at the one before
  // What stands before the first token, for mix() and for who shifts its n once more.
  const ops::Previous& previous(nn::Context& cx, const std::string& slot) const;

 private:
  void mix(nn::Context& cx, const std::string& slot, std::span<const Var> mu, std::span<Var> out) const;
  const nn::LayerNorm& norm_;
  Var& x_;
  Var delta_;
  mutable std::optional<ops::Previous> previous_;  // asked for once: it may come from another rank
};

// x += time mixing, x += channel mixing, each behind a layer norm. The first sum is made where the channel
// mixing begins.
template <class TimeMix, class ChannelMix>
struct RwkvBlock {
  nn::LayerNorm ln1, ln2;
  TimeMix att;
  ChannelMix ffn;

  void operator()(nn::Context& cx, Carry& carry) const {
    const Var mixed = att(cx, Entry(ln1, carry.x), carry);
    const Var out = ffn(cx, Entry(ln2, carry.x, mixed));
    carry.x = ops::add(carry.x, out);
  }
};

// emb, blocks.0.ln0, blocks, ln_out and head. Embedding: U(-1e-4, 1e-4); head: orthogonal, gain 0.5 sqrt(V /
// C), or 0.5 where V <= C.
class RwkvStack : public Stack {
 public:
  using MakeBlock = std::function<Block(const nn::Scope&, const LayerInit&)>;
  RwkvStack(const nn::Part& part, int64_t num_layers, int64_t hidden_size, int64_t vocab_size,
            const MakeBlock& make_block);
};

// sigmoid(xr W_rec^T) * (relu(xk W_key^T)^2 W_val^T), xk and xr mixed with the token before (rwkv6-finch 5).
struct FinchChannelMix {
  std::string prefix;
  Parameter &maa_k, &maa_r;
  nn::Linear key, receptance, value;

  // power: of r10 in the exponent of the initial mix: 3 in the current trainer, 1 in the papers.
  FinchChannelMix(nn::Scope s, int64_t channels, int64_t ffn_size, const LayerInit& init, int64_t power);
  Var operator()(nn::Context& cx, const Entry& in) const;  // [B, T, C]
};

}  // namespace rookery
