// context.h: what a forward pass may need. Models hand it on without looking inside.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "kernels/autograd/autograd.h"
#include "kernels/ops/token_shift/token_shift.h"
#include "parallel/mesh/mesh.h"
#include "parallel/sequence/sequence.h"
#include "parallel/shard/param_store.h"

namespace rookery::nn {

// What a layer sees of the tokens before its own: nothing, a carried state (generation, long texts), or a
// learned initial state; and where documents start. Layers name their slot ("blocks.0.att.wkv") and ask; they
// never know which case it is. A state has a constant size; a history grows by a row per token.
class SeqContext {
 public:
  Tensor doc_start;     // u8 [B, T], or undefined: tokens of one row are one text
  Tensor row_document;  // i32 [B]: of a later part of rows, where the text of the token before it begins
  bool carry = false;   // keep the states that this pass leaves, for the next one
  SeqMethod method = SeqMethod::kRing;           // where ranks share the tokens of a sequence
  std::shared_ptr<Received> received = nullptr;  // of a part that will run again

  ops::Previous previous(const std::string& slot) const { return {find(slot), doc_start}; }
  Var state(const std::string& slot) const { return find(slot); }
  // A state that layers start from; with a Var on the tape its gradient is computed (state tuning).
  void set(const std::string& slot, Var state) { states_[slot] = std::move(state); }
  void drop(const std::string& slot) { states_.erase(slot); }
  void leave(const std::string& slot, const Var& state) {
    if (carry) states_[slot] = Var(state.value());
  }
  const std::map<std::string, Var>& states() const { return states_; }

  // Rows of any shape that a layer keeps of every token, its keys for instance.
  struct History {
    Tensor rows;           // [B, capacity, ...], the first `length` of each sequence filled
    int64_t length = 0;    // tokens
    Tensor document = {};  // i32 [B]: where the text of the last token begins; undefined: at 0
  };
  // How many tokens earlier passes left in the slot: the position of this pass's first one.
  int64_t length(const std::string& slot) const;
  Tensor document(const std::string& slot) const;  // of the token before it
  // x: [B, T, ...]. The rows of all tokens up to the last of x, [B, S, ...] with S >= length(slot) + T; with
  // `carry` they are kept. The capacity doubles, so that a token does not cost a copy of all before it.
  Var append(const std::string& slot, const Var& x);
  const std::map<std::string, History>& histories() const { return histories_; }
  void set_history(const std::string& slot, History history) { histories_[slot] = std::move(history); }

  size_t bytes() const;  // memory of all of it, room to grow included
  void clear() {
    states_.clear();
    histories_.clear();
  }

 private:
  Var find(const std::string& slot) const {
    const auto it = states_.find(slot);
    return it == states_.end() ? Var() : it->second;
  }
  Tensor document_after(const std::string& slot, const Shape& x) const;
  std::map<std::string, Var> states_;
  std::map<std::string, History> histories_;
};

// Along the tokens, dim 1: [B, T1, ...] and [B, T2, ...] to [B, T1 + T2, ...]; `before` may be undefined.
Tensor join_tokens(const Tensor& before, const Tensor& after);
// Tokens [begin, begin + count) of x [B, T, ...]: a copy, x itself where it has no others.
Tensor tokens_of(const Tensor& x, int64_t begin, int64_t count);

struct Context {
  Tape* tape = nullptr;  // null: no gradients
  SeqContext& seq;
  const Mesh& mesh = Mesh::single();
  ParamStore* units = nullptr;  // what hears of the blocks; null: nobody
  Var operator()(Parameter& p) const { return tape ? tape->leaf(p) : Var(p.value()); }
};

}  // namespace rookery::nn
