// pretrain.cpp: the next token of plain text.
#include "trainer/recipes/pretrain.h"

#include "trainer/nn/layers.h"

namespace rookery {
namespace {

class Pretrain : public Recipe {
 public:
  explicit Pretrain(const PretrainConfig& config) : config_(config) {}
  void begin(const DeviceBatch& batch, nn::Context& cx) const override {
    if (!config_.reset_at_documents) return;
    cx.seq.doc_start = batch.doc_start;
    cx.seq.row_document = batch.document;
  }
  ops::LossOut loss_of(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx,
                       int64_t count, int64_t accum_steps) override {
    ops::LossOptions options;
    options.count = static_cast<double>(count);
    options.slice = nn::vocab_slice(cx, model.head());
    if (model.uses_l2wrap())
      options.l2wrap = config_.l2wrap * static_cast<double>(config_.l2wrap_legacy ? accum_steps : 1);
    return ops::linear_cross_entropy(hidden, cx(model.head()), batch.y, {}, options);
  }
  Evaluation judge(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx) override {
    ops::LossOptions options;
    options.slice = nn::vocab_slice(cx, model.head());
    const Tensor nats = ops::linear_cross_entropy(hidden, cx(model.head()), batch.y, {}, options).row_loss;
    Evaluation e;
    for (const double row : to_doubles(nats)) e.nats += row;
    e.targets = nats.numel();
    e.correct = std::numeric_limits<double>::quiet_NaN();
    return e;
  }

 private:
  PretrainConfig config_;
};

}  // namespace

void PretrainConfig::fields(config::Visitor& v) {
  RecipeConfig::fields(v);
  v("l2wrap", l2wrap, "pull of each position's largest logit towards 0, in the gradient only").at_least(0);
  v("l2wrap_legacy", l2wrap_legacy,
    "do not divide l2wrap by the micro-batches of a step, as older trainers did");
  v("reset_at_documents", reset_at_documents,
    "tokens see nothing of the documents before theirs in the same row");
}

std::unique_ptr<Recipe> make_pretrain(const PretrainConfig& config) {
  return std::make_unique<Pretrain>(config);
}

}  // namespace rookery
