// goldfinch.cpp: GoldFinch (arXiv 2407.12077): Finch-C2 blocks, whose output is compressed to a few numbers
// per token, then GOLD blocks, which attend to keys expanded from these numbers. Its ablations have GPTAlpha
// blocks in the place of GOLD. The blocks: goldfinch_parts.cpp.
#include "trainer/models/goldfinch.h"

#include <algorithm>

#include "kernels/ops/gold/gold.h"
#include "kernels/ops/norm/rms_norm.h"
#include "parallel/sequence/ring_attention.h"

namespace rookery {
namespace {

using nn::Context;
using nn::Scope;

// Upper is the attention of the blocks above; the models of both kinds have the rest in common.
template <class Upper>
class Hybrid : public RwkvStack {
 public:
  Hybrid(const GoldFinchConfig& c, const nn::Part& part)
      : RwkvStack(part, c.num_layers, c.hidden_size, c.vocab_size,
                  [&](const Scope& s, const LayerInit& init) -> Block {
                    if (init.layer < c.num_lower()) return goldfinch_block<FinchC2TimeMix>(s, c, init);
                    return goldfinch_block<Upper>(s, c, init, c.rotary);
                  }),
        c_(c) {}
  OptimGroup optim_group(const Parameter& p) const override { return goldfinch_group(p); }
  double mixer_flops_per_token(int64_t seq_len) const override {
    return static_cast<double>(c_.num_lower()) * c_.recurrent_flops() +
           static_cast<double>(c_.num_layers - c_.num_lower()) * c_.attention_flops(seq_len);
  }

 protected:
  GoldFinchConfig c_;
};

// What the GOLD blocks see of all tokens is held once: ids and the compressed output of the Finch-C2 blocks.
constexpr const char *kIds = "gold.ids", *kCache = "gold.cache";
// Output of the Finch-C2 blocks for the last tokens that prefill() did not take through the GOLD blocks.
constexpr const char* kPending = "gold.pending";

class GoldFinch : public Hybrid<Gold> {
 public:
  GoldFinch(const GoldFinchConfig& c, const nn::Part& part)
      : Hybrid<Gold>(c, part),
        compress_(Scope(parameters).of_unit(c.num_lower() + 1).child("w_kv_cache_a"), c.hidden_size,
                  c.cache_width(), nn::orthogonal(1.0)),
        expand_(Scope(parameters)
                    .of_unit(c.num_lower() + 1)
                    .param("w_kv_cache_b.weight", {c.hidden_size, c.hidden_size + c.cache_width()},
                           nn::orthogonal(1.0))) {}

  Carry embed(Context& cx, const Tensor& ids) override {
    Carry carry = Hybrid<Gold>::embed(cx, ids);
    carry.gold = sight_of(cx, ids);
    // Of the tokens of other ranks their ids travel.
    const Tensor seen = gather_left(cx.mesh.axis(Axis::kSeq), ids).value();
    carry.gold->x0 = seen.dim(1) > ids.dim(1) ? Hybrid<Gold>::embed(cx, seen).x : carry.x;
    return carry;
  }

  void run_block(int64_t i, Context& cx, Carry& carry) override {
    if (i == c_.num_lower()) enter_upper(cx, carry);
    Hybrid<Gold>::run_block(i, cx, carry);
    if (i + 1 == c_.num_layers) leave_upper(cx, carry);
  }

  // The GOLD blocks' sight is made of x0 by the first of them.
  std::vector<Flow> flow(int64_t i, const Context& cx, const Tensor& ids, Carry& carry) override {
    std::vector<Flow> parts = Hybrid<Gold>::flow(i, cx, ids, carry);
    if (!carry.gold) carry.gold = sight_of(cx, ids);
    const int64_t S = ids.dim(1) * (cx.mesh.index(Axis::kSeq) + 1);  // of this rank and those to its left
    const Shape shape{ids.dim(0), S, parts[0].shape[2]};
    if (i <= c_.num_lower()) {
      parts.push_back({&carry.gold->x0, shape});
    } else {
      parts.push_back({&carry.gold->keys, shape});
      parts.push_back({&carry.gold->values, shape});
    }
    return parts;
  }

  // Of the GOLD part's 2 G token shifts each looks one token further back, so the output of a token depends
  // on the Finch-C2 blocks' output for 2 G tokens before it; what stood in the shifts before these has no
  // influence (goldfinch 9). Those tokens wait for the next pass, the others never see a GOLD block.
  void prefill(Context& cx, const Tensor& ids) override {
    if (cx.seq.doc_start.defined()) return Model::prefill(cx, ids);  // where texts start is not kept for them
    Carry carry = embed(cx, ids);
    for (int64_t i = 0; i < c_.num_lower(); ++i) block(i, cx, carry);
    cx.seq.append(kIds, Var(ids));
    cx.seq.append(kCache, compress_(cx, carry.x));
    const Tensor waiting = nn::join_tokens(cx.seq.state(kPending).value(), carry.x.value());
    const int64_t count = std::min(waiting.dim(1), 2 * (c_.num_layers - c_.num_lower()));
    cx.seq.leave(kPending, nn::tokens_of(waiting, waiting.dim(1) - count, count));
  }

 private:
  // What each stage of a pipeline knows of the tokens itself.
  static std::shared_ptr<GoldSight> sight_of(const Context& cx, const Tensor& ids) {
    auto sight = std::make_shared<GoldSight>();
    sight->ids = ids;
    sight->doc_start = cx.seq.doc_start;
    sight->document = cx.seq.document(kIds);
    sight->starts = gather_left(cx.mesh.axis(Axis::kSeq), cx.seq.doc_start).value();
    return sight;
  }

  void enter_upper(Context& cx, Carry& carry) {
    GoldSight& sight = *carry.gold;
    const int64_t past = cx.seq.length(kIds), S = past + sight.ids.dim(1);
    const Tensor ids = cx.seq.append(kIds, Var(sight.ids)).value();
    const Var cache = cx.seq.append(kCache, compress_(cx, carry.x));
    if (past == 0) {
      sight.keys = ops::gold_keys(sight.x0, gather_left(cx.mesh.axis(Axis::kSeq), cache), cx(expand_));
      sight.values = ops::rms_norm(sight.x0, Var(), 1e-8, RmsEps::kOutside);
    } else {
      const auto [distinct, index] = ops::distinct_ids(ids, S, c_.vocab_size);
      const Var x0 = first_norm_(cx, nn::embedding(cx, distinct, *emb_));
      sight.tokens = ops::gold_tokens(index, x0.value(), cache.value(), cx(expand_).value(), sight.doc_start,
                                      sight.document);
    }
    sight.x0 = Var();
    const Tensor pending = cx.seq.state(kPending).value();
    if (!pending.defined()) return;
    carry.x = nn::join_tokens(pending, carry.x.value());
    if (sight.doc_start.defined()) {  // none starts in those
      const Tensor none = zeros({pending.dim(0), pending.dim(1)}, DType::kU8, pending.device());
      cx.seq.doc_start = nn::join_tokens(none, sight.doc_start);
    }
    cx.seq.drop(kPending);
  }

  void leave_upper(Context& cx, Carry& carry) {
    cx.seq.doc_start = carry.gold->doc_start;
    const int64_t T = carry.gold->ids.dim(1), all = carry.x.shape()[1];
    if (all > T) carry.x = nn::tokens_of(carry.x.value(), all - T, T);
  }

  nn::Linear compress_;  // [D / ratio, D]
  Parameter& expand_;    // [D, D + D / ratio]
};

}  // namespace

void GoldFinchConfig::fields(config::Visitor& v) {
  list_fields(v);
  v("upper_blocks", upper_blocks,
    "kind of the last blocks: gold shares one compressed key cache; gptalpha has keys and values of its own")
      .one_of({"gold", "gptalpha"});
  v("inv_other_layer_ratio", inv_other_layer_ratio,
    "the last of so many equal parts of the blocks is of that kind, the others are Finch-C2; 1: all blocks "
    "are")
      .between(1, 1024);
  v("kv_cache_compression_ratio", kv_cache_compression_ratio,
    "gold: hidden_size over the numbers that the key cache holds per token")
      .between(1, 1 << 17);
  v("rope_theta", rotary.theta, "base of rotary positions in those blocks; 0: no positions").at_least(0);
  v("rope_rescale", rotary.rescale,
    "divisor of the rotary angles: n reads texts n times as long as those trained on")
      .at_least(1);
}

void GoldFinchConfig::check(std::vector<config::Finding>& findings) const {
  check_sizes(findings);
  if (kv_cache_compression_ratio > hidden_size)
    findings.push_back({"model.kv_cache_compression_ratio",
                        str("kv_cache_compression_ratio ", kv_cache_compression_ratio,
                            " leaves nothing of hidden_size ", hidden_size, "; expected at most that")});
  if (rotary.theta > 0 && head_size % 2 != 0)
    findings.push_back(
        {"model.head_size", str("rotary positions need an even head_size, found ", head_size)});
}

std::unique_ptr<Model> make_goldfinch(const GoldFinchConfig& config, const nn::Part& part) {
  GoldFinchConfig c = config;
  c.resolve();
  if (c.upper_blocks == "gptalpha") return std::make_unique<Hybrid<GptAlpha>>(c, part);
  return std::make_unique<GoldFinch>(c, part);
}

}  // namespace rookery
