// goldfinch_parts.h: the blocks of arXiv 2407.12077: Finch-C2 and GPTAlpha time mixing and GOLD attention,
// with the names and initial values of the published trainer (goldfinch 2, 3, 5, 7). Stacks of them:
// finch_c2.cpp, goldfinch.cpp.
#pragma once

#include <string>
#include <vector>

#include "kernels/ops/activation/activation.h"
#include "kernels/ops/gold/gold.h"
#include "kernels/ops/rope/rope.h"
#include "trainer/config/run_config.h"
#include "trainer/models/rwkv_parts.h"

namespace rookery {

// The keys that all architectures of the paper share.
struct GoldFinchSizes {
  int64_t num_layers = 6, hidden_size = 256, head_size = 64;
  int64_t ffn_size = 0;  // 0: 3.5 hidden_size, rounded down to a multiple of 32
  int64_t vocab_size = 65536;
  bool use_v2 = true;           // a second value in place of the bonus for the current token
  bool use_one_minus_w = true;  // keys times (1 - decay)

  void list_fields(config::Visitor& v);
  void check_sizes(std::vector<config::Finding>& findings) const;
  std::vector<config::ModelConfig::Shared> shared_sizes() const;
  void resolve();  // fills in the zeros
  // FLOPs per token of one block's mixing: of the recurrence, and of attention over a sequence on average.
  double recurrent_flops() const;
  double attention_flops(int64_t seq_len) const;
};

// GoldFinch trainer: low-rank matrices, mixes and vectors are not decayed, time_decay learns twice as fast.
OptimGroup goldfinch_group(const Parameter& p);

// Finch without gate, with a layer norm over all channels and a second value in place of the bonus.
struct FinchC2TimeMix {
  GoldFinchSizes c;
  std::string prefix;
  Parameter &maa_x, &maa_r, &maa_k, &maa_v, &maa_w, &maa_v2, &maa_w2, &maa_w1;
  Parameter &decay, &decay_w1, &decay_w2, &value2_w1, &value2_w2, &faaaa;
  nn::Linear receptance, key, value, output;
  nn::LayerNorm ln_x;

  FinchC2TimeMix(nn::Scope s, const GoldFinchSizes& sizes, const LayerInit& init);
  // Result: [B, T, C].
  Var operator()(nn::Context& cx, const Entry& in, const Carry&) const;
};

// Positions of queries and keys: theta 0 means none; rescale divides the angles for longer texts.
struct Rotary {
  double theta = 0, rescale = 1;
};

// Softmax attention of a transformer behind Finch's data-dependent token shift.
struct GptAlpha {
  GoldFinchSizes c;
  Rotary rotary;
  std::string prefix;
  Parameter &maa_x, &maa_r, &maa_k, &maa_v, &maa_w1, &maa_w2;
  nn::Linear query, key, value, output;
  nn::LayerNorm ln_r, ln_k, ln_v, ln_x;

  GptAlpha(nn::Scope s, const GoldFinchSizes& sizes, Rotary positions, const LayerInit& init);
  Var operator()(nn::Context& cx, const Entry& in, const Carry&) const;
};

// What the GOLD blocks see of all S tokens up to those of the pass: of a first pass keys and values that all
// blocks share; after others what each block expands its own from, part by part.
struct GoldSight {
  Tensor ids;        // of the pass
  Var x0;            // [B, S, C]: embeddings after ln0 of all that are seen, until the first GOLD block
  Tensor doc_start;  // of the pass
  Var keys, values;  // [B, S, C]: the expanded cache and x0, both divided by their root mean square
  Tensor starts;     // u8 [B, S] or undefined: doc_start of all of these
  ops::GoldTokens tokens;
  Tensor document;  // i32 [B]: where the text of the first token begins; undefined: at 0
};

// Attention whose keys and values come from what all GOLD blocks share.
struct Gold {
  GoldFinchSizes c;
  Rotary rotary;
  std::string prefix;
  Parameter &maa_x, &maa_q, &maa_v_cache, &maa_k, &maa_v, &maa_q_w1, &maa_q_w2, &maa_kv_w1, &maa_kv_w2;
  Parameter &key_w1, &key_w2, &value_w1, &value_w2;
  nn::Linear query, output;
  nn::LayerNorm ln_q, ln_k, ln_v, ln_x;

  Gold(nn::Scope s, const GoldFinchSizes& sizes, Rotary positions, const LayerInit& init);
  Var operator()(nn::Context& cx, const Entry& in, const Carry& carry) const;

 private:
  Var attend(nn::Context& cx, const Var& q, const GoldSight& sight) const;
  Var attend_in_parts(nn::Context& cx, const Var& q, const GoldSight& sight) const;
  Var own_heads(const nn::Context& cx, const Var& x) const;
  double scale() const;
  Var turned(const Var& x, int64_t at) const;
};

// Of any kind of time mixing; args: what its constructor takes between sizes and initial values.
template <class TimeMix, class... Args>
RwkvBlock<TimeMix, FinchChannelMix> goldfinch_block(const nn::Scope& s, const GoldFinchSizes& c,
                                                    const LayerInit& init, const Args&... args) {
  return {{s.child("ln1"), c.hidden_size},
          {s.child("ln2"), c.hidden_size},
          {s.child("att"), c, args..., init},
          {s.child("ffn"), c.hidden_size, c.ffn_size, init, 1}};
}

}  // namespace rookery
