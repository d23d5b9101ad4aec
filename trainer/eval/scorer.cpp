#include "trainer/eval/scorer.h"

#include <algorithm>

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/matmul/matmul.h"

namespace rookery::eval {

// tokens: rows of n + 1; predicts the last n of each, counting those from position `from` of a row on.
Score Scorer::score_window(nn::SeqContext& seq, std::span<const int32_t> tokens, int64_t from, int64_t rows,
                           bool want_greedy) {
  const int64_t n = static_cast<int64_t>(tokens.size()) / rows - 1;
  std::vector<int32_t> x, y;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t t = 0; t < n; ++t) {
      x.push_back(tokens[row * (n + 1) + t]);
      y.push_back(tokens[row * (n + 1) + t + 1]);
    }
  nn::Context cx{nullptr, seq};
  const Tensor ids = tensor_from(std::span<const int32_t>(x), {rows, n}, DType::kI32, device_);
  const Tensor targets = tensor_from(std::span<const int32_t>(y), {rows, n}, DType::kI32, device_);
  const Var hidden = model_.hidden(cx, ids);
  const auto loss = ops::linear_cross_entropy(hidden, Var(model_.head().master), targets, {}, {});
  Score score;
  const std::vector<double> nats = to_doubles(loss.row_loss);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t t = std::max<int64_t>(from - 1, 0); t < n; ++t) {
      score.nats += nats[row * n + t];
      ++score.tokens;
    }
  if (want_greedy) {
    const Tensor logits = ops::linear(hidden, Var(model_.head().master)).value();
    const int64_t V = logits.dim(2);
    dispatch_float(dtype_, [&]<class T>() {
      for (int64_t t = std::max<int64_t>(from - 1, 0); t < n; ++t) {
        const T* row = logits.data<T>() + t * V;
        score.greedy = score.greedy && std::max_element(row, row + V) - row == y[t];
      }
    });
  }
  return score;
}

Score Scorer::score(std::span<const int32_t> tokens, int64_t from, bool want_greedy) {
  RK_CHECK(from >= 1, "[Scorer] the first token has no context");
  const int64_t n = static_cast<int64_t>(tokens.size());
  Score total;
  nn::SeqContext seq;
  seq.carry = mode_ == ContextMode::kCarried;
  // Each pass predicts up to `window_` tokens from as many, the first of which the pass before predicted.
  for (int64_t begin = 0; begin + 1 < n; begin += window_) {
    const int64_t count = std::min(window_, n - 1 - begin);
    if (mode_ == ContextMode::kWindows) {
      if (begin + count < from) continue;
      seq.clear();
    }
    total.add(score_window(seq, tokens.subspan(begin, count + 1), from - begin, 1,
                           want_greedy && begin + count >= from));
  }
  return total;
}

}  // namespace rookery::eval
