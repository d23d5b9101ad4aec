// model.h: what the rest of the program knows of a model: embed, blocks, head. That is enough for training,
// evaluation, generation and checkpoints; one .cpp per architecture beside this file.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "trainer/nn/context.h"
#include "trainer/nn/module.h"

namespace rookery {

// What flows from block to block.
struct GoldSight;
struct Carry {
  Var x;             // residual stream [B, T, C]
  Var v_first = {};  // RWKV-7: the value of layer 0 [B, T, A], which later layers mix with their own
  std::shared_ptr<GoldSight> gold = {};  // GoldFinch (goldfinch_parts.h)
};

// How the optimizer treats a parameter.
struct OptimGroup {
  double lr_scale = 1;
  bool decay = false;
};

// What the tape holds of a block between its forward and its backward pass.
enum class Recompute : uint8_t {
  kNone,       // all that its ops save
  kSelective,  // its input and its dear tensors (Keep::kDear); the others are computed again
  kBlock,      // its input
};
Recompute recompute_from_string(const std::string& name);  // "none", "selective", "block"

class Model {
 public:
  // part: what this rank has of the tensors that the ranks of the tensor axis cut.
  explicit Model(const nn::Part& part) : parameters(part) {}
  virtual ~Model() = default;
  virtual Carry embed(nn::Context& cx, const Tensor& ids) = 0;  // ids: i32 [B, T]
  virtual int64_t num_blocks() const = 0;
  virtual void run_block(int64_t i, nn::Context& cx, Carry& carry) = 0;  // for block()
  virtual Var final_norm(nn::Context& cx, const Carry& carry) = 0;       // [B, T, C]
  // What flows into block i of a pass over ids [B, T]: the parts of `carry`, which may be new, and their
  // shapes, in the order in which a stage of a pipeline sends them to the next.
  struct Flow {
    Var* part;
    Shape shape;
  };
  virtual std::vector<Flow> flow(int64_t i, const nn::Context& cx, const Tensor& ids, Carry& carry);
  virtual Parameter& embedding() = 0;  // [V, C]
  virtual Parameter& head() = 0;       // [V, C]; the embedding itself if tied
  virtual OptimGroup optim_group(const Parameter& p) const = 0;
  // A tensor that the published files hold but no output depends on: written, allowed to be absent, not
  // counted.
  virtual bool is_unused(const Parameter&) const { return false; }
  // Trained with the pull on the largest logit (rwkv-common 5).
  virtual bool uses_l2wrap() const { return true; }
  // FLOPs of the sequence mixers per token, forward, in the recurrent form (for MFU): 7 N^2 H L for RWKV-6;
  // of attention on average over seq_len tokens.
  virtual double mixer_flops_per_token(int64_t seq_len) const = 0;

  void block(int64_t i, nn::Context& cx, Carry& carry);
  int64_t vocab_size() { return head().global[0]; }
  // The output of the last norm: what the head reads. ids: i32 [B, T]; result: [B, T, C].
  Var hidden(nn::Context& cx, const Tensor& ids);
  Var logits(nn::Context& cx, const Tensor& ids);           // [B, T, V]
  Var logits_of(const nn::Context& cx, const Var& hidden);  // of all words, on every rank; [.., C] to [.., V]
  // Reads tokens whose output nobody needs: leaves in cx.seq what the tokens after them depend on.
  virtual void prefill(nn::Context& cx, const Tensor& ids) { hidden(cx, ids); }

  nn::ParameterList parameters;
  Recompute recompute = Recompute::kNone;
};

}  // namespace rookery
