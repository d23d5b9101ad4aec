// scorer.h: how well a model predicts given tokens: sums of log-likelihoods, for perplexity, bits per byte
// and multiple choice.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/tensor/tensor.h"
#include "trainer/models/model.h"

namespace rookery::eval {

struct Score {
  double nats = 0;     // -sum of natural-log probabilities
  int64_t tokens = 0;  // predicted
  bool greedy = true;  // each was the most probable one
  void add(const Score& other) {
    nats += other.nats;
    tokens += other.tokens;
    greedy = greedy && other.greedy;
  }
};

enum class ContextMode {
  kCarried,  // the recurrent state runs through the whole text
  kWindows,  // each window of `window` tokens starts from nothing but the token before it
             // (lm-evaluation-harness's rolling form)
};

class Scorer {
 public:
  // window: tokens per forward pass, and of context in kWindows.
  Scorer(Model& model, Device& device, DType dtype, int64_t window = 512,
         ContextMode mode = ContextMode::kCarried)
      : model_(model), device_(device), dtype_(dtype), window_(window), mode_(mode) {}

  // Of tokens[from..], each given those before it; tokens[0 .. from) are context only. from >= 1. want_greedy
  // costs a look at the logits.
  Score score(std::span<const int32_t> tokens, int64_t from = 1, bool want_greedy = false);

 private:
  Score score_window(nn::SeqContext& seq, std::span<const int32_t> tokens, int64_t from, int64_t rows,
                     bool want_greedy);
  Model& model_;
  Device& device_;
  DType dtype_;
  int64_t window_;
  ContextMode mode_;
};

}  // namespace rookery::eval
