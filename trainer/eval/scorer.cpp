#include "trainer/eval/scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/matmul/matmul.h"

namespace rookery::eval {

// The output of the last norm for each token: [1, n, C].
Var Scorer::hidden(nn::SeqContext& seq, std::span<const int32_t> tokens) {
  nn::Context cx{nullptr, seq};
  return model_.hidden(cx,
                       tensor_from(tokens, {1, static_cast<int64_t>(tokens.size())}, DType::kI32, device_));
}

// Full passes replay their memory plan. The last one of a text has a length of its own: one plan, made anew
// when it does not fit, serves all of these, so that plans do not pile up.
void Scorer::begin_pass(const std::string& what, const nn::SeqContext& seq, int64_t n) {
  const char* which = n < window_ ? " rest" : seq.states().empty() ? " first" : " next";
  device_.arena().begin_step(what + which);
}

std::vector<double> Scorer::token_nats(std::span<const int32_t> tokens) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  std::vector<double> all;
  nn::SeqContext seq;
  seq.carry = mode_ == ContextMode::kCarried;
  // Each pass predicts up to `window_` tokens from as many, the first of which the pass before predicted.
  for (int64_t begin = 0; begin + 1 < n; begin += window_) {
    const int64_t count = std::min(window_, n - 1 - begin);
    begin_pass("score", seq, count);
    {
      const Tensor targets = tensor_from(tokens.subspan(begin + 1, count), {1, count}, DType::kI32, device_);
      const Var h = hidden(seq, tokens.subspan(begin, count));
      const auto loss = ops::linear_cross_entropy(h, Var(model_.head().value()), targets, {}, {});
      for (const double nats : to_doubles(loss.row_loss)) all.push_back(nats);
    }
    device_.arena().end_step();
  }
  return all;
}

Score Scorer::score(std::span<const int32_t> tokens) {
  const std::vector<double> each = token_nats(tokens);
  return {std::accumulate(each.begin(), each.end(), 0.0), static_cast<int64_t>(each.size())};
}

std::vector<Continuation> Scorer::continuations(std::span<const int32_t> context,
                                                std::span<const std::vector<int32_t>> choices) {
  RK_CHECK(!context.empty(), "[Scorer] a continuation without a context");
  nn::SeqContext read;
  read.carry = true;
  std::span<const int32_t> left = context.first(context.size() - 1);
  while (!left.empty()) {
    const auto part = left.first(std::min(left.size(), static_cast<size_t>(window_)));
    begin_pass("read", read, static_cast<int64_t>(part.size()));
    hidden(read, part);
    device_.arena().end_step();
    left = left.subspan(part.size());
  }
  std::vector<Continuation> results;
  for (const std::vector<int32_t>& choice : choices) {
    RK_CHECK(!choice.empty(), "[Scorer] an empty continuation");
    nn::SeqContext seq = read;  // a pass changes nothing of the tokens before its own
    std::vector<int32_t> x{context.back()};
    x.insert(x.end(), choice.begin(), choice.end() - 1);
    begin_pass("choice", seq, static_cast<int64_t>(x.size()));
    const std::vector<double> logits =
        to_doubles(ops::linear(hidden(seq, x), Var(model_.head().value())).value());
    device_.arena().end_step();
    const int64_t V = static_cast<int64_t>(logits.size() / choice.size());
    Continuation result;
    for (size_t t = 0; t < choice.size(); ++t) {
      const std::span<const double> row = std::span(logits).subspan(t * V, V);
      const auto largest = std::max_element(row.begin(), row.end());
      double sum = 0;
      for (const double v : row) sum += std::exp(v - *largest);
      result.nats += std::log(sum) + *largest - row[choice[t]];
      result.greedy = result.greedy && largest - row.begin() == choice[t];
    }
    results.push_back(result);
  }
  return results;
}

}  // namespace rookery::eval
