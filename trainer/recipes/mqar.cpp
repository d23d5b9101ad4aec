// mqar.cpp: head and loss on the asked positions only (recipes.md 3).
#include "trainer/recipes/mqar.h"

#include <algorithm>

#include "data/synthetic/mqar.h"
#include "kernels/ops/embedding/embedding.h"
#include "trainer/nn/layers.h"

namespace rookery {
namespace {

class Mqar : public Recipe {
 public:
  void prepare(const data::Batch& batch, Device& device, DeviceBatch& on) const override {
    const Shape shape{batch.rows, batch.seq_len};
    assign(on.x, std::span<const int32_t>(batch.x), shape, device);
    assign(on.doc_start, std::span<const uint8_t>(batch.doc_start), shape, device);
    std::vector<int32_t> rows, values;
    const std::span<const int32_t> x(batch.x);
    for (int64_t b = 0; b < batch.rows; ++b) {
      const auto row = x.subspan(static_cast<size_t>(b * batch.seq_len), static_cast<size_t>(batch.seq_len));
      for (const auto& label : data::mqar::labels(row, str("sample ", batch.samples[b]))) {
        rows.push_back(static_cast<int32_t>(b * batch.seq_len + label.position));
        values.push_back(label.value);
      }
    }
    const Shape asked{1, static_cast<int64_t>(rows.size())};
    assign(on.rows, std::span<const int32_t>(rows), asked, device);
    assign(on.y, std::span<const int32_t>(values), asked, device);
  }

  ops::LossOut loss_of(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx,
                       int64_t count, int64_t) override {
    ops::LossOptions options;
    options.count = static_cast<double>(count);
    options.slice = nn::vocab_slice(cx, model.head());
    return ops::linear_cross_entropy(asked(hidden, batch), cx(model.head()), batch.y, {}, options);
  }

  Evaluation judge(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx) override {
    const Var x = asked(hidden, batch), head = cx(model.head());
    const Tensor logits = model.logits_of(cx, x).value();
    ops::LossOptions options;
    options.slice = nn::vocab_slice(cx, model.head());
    Evaluation e;
    for (const double row : to_doubles(ops::linear_cross_entropy(x, head, batch.y, {}, options).row_loss))
      e.nats += row;
    e.targets = batch.y.numel();
    const int64_t V = model.vocab_size();
    const std::vector<double> all = to_doubles(logits), answers = to_doubles(batch.y);
    for (int64_t m = 0; m < e.targets; ++m) {
      const auto row = std::span(all).subspan(static_cast<size_t>(m * V), static_cast<size_t>(V));
      const auto best = std::max_element(row.begin(), row.end()) - row.begin();
      e.correct += static_cast<double>(best) == answers[static_cast<size_t>(m)];
    }
    return e;
  }

 private:
  // The hidden states of the asked positions: [1, M, C].
  static Var asked(const Var& hidden, const DeviceBatch& batch) {
    const int64_t C = hidden.shape()[2];
    return ops::embedding(batch.rows, hidden.reshape({hidden.value().numel() / C, C}));
  }
};

}  // namespace

std::unique_ptr<Recipe> make_mqar(const MqarConfig&) { return std::make_unique<Mqar>(); }

}  // namespace rookery
