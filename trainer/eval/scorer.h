// scorer.h: how well a model predicts given tokens: log-likelihoods, for perplexity, bits per byte, loss by
// position and multiple choice. Memory is that of one pass, however long the text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor/tensor.h"
#include "trainer/models/model.h"

namespace rookery::eval {

struct Score {
  double nats = 0;     // -sum of natural-log probabilities
  int64_t tokens = 0;  // predicted
  void add(const Score& other) {
    nats += other.nats;
    tokens += other.tokens;
  }
};

// A text that goes on from another one.
struct Continuation {
  double nats = 0;     // -sum of natural-log probabilities
  bool greedy = true;  // each token was the most probable one
};

enum class ContextMode {
  kCarried,  // the recurrent state runs through the whole text
  kWindows,  // each window of `window` tokens starts from nothing but the token before it
             // (lm-evaluation-harness's rolling form)
};

class Scorer {
 public:
  // window: tokens per forward pass, and of context in kWindows.
  Scorer(Model& model, Device& device, int64_t window = 512, ContextMode mode = ContextMode::kCarried)
      : model_(model), device_(device), window_(window), mode_(mode) {}

  // -log p of tokens[1], tokens[2], ..., each given those before it.
  std::vector<double> token_nats(std::span<const int32_t> tokens);
  Score score(std::span<const int32_t> tokens);  // their sum

  // Of each of `choices` (one token or more) after `context` (one token or more). The context is read once;
  // its state, always carried, serves all.
  std::vector<Continuation> continuations(std::span<const int32_t> context,
                                          std::span<const std::vector<int32_t>> choices);

 private:
  Var hidden(nn::SeqContext& seq, std::span<const int32_t> tokens);
  // A step of the arena for a pass over n tokens; end_step() ends it.
  void begin_pass(const std::string& what, const nn::SeqContext& seq, int64_t n);
  Model& model_;
  Device& device_;
  int64_t window_;
  ContextMode mode_;
};

}  // namespace rookery::eval
