// pretrain.cpp: the next token of plain text.
#include "trainer/recipes/recipe.h"

namespace rookery {
namespace {

struct PretrainConfig : config::RecipeConfig {
  double l2wrap = 1e-4;
  bool l2wrap_legacy = false;
  bool reset_at_documents = false;
  std::string kind() const override { return "pretrain"; }
  void fields(config::Visitor& v) override {
    RecipeConfig::fields(v);
    v("l2wrap", l2wrap, "pull of each position's largest logit towards 0, in the gradient only").at_least(0);
    v("l2wrap_legacy", l2wrap_legacy,
      "do not divide l2wrap by the micro-batches of a step, as older trainers did");
    v("reset_at_documents", reset_at_documents,
      "tokens see nothing of the documents before theirs in the same row");
  }
};

class Pretrain : public Recipe {
 public:
  explicit Pretrain(const PretrainConfig& config) : config_(config) {}
  ops::LossOut loss(Model& model, const DeviceBatch& batch, nn::Context& cx, int64_t count,
                    int64_t accum_steps) override {
    if (config_.reset_at_documents) cx.seq.doc_start = batch.doc_start;
    const Var hidden = model.hidden(cx, batch.x);
    ops::LossOptions options;
    options.count = static_cast<double>(count);
    if (model.uses_l2wrap())
      options.l2wrap = config_.l2wrap * static_cast<double>(config_.l2wrap_legacy ? accum_steps : 1);
    return ops::linear_cross_entropy(hidden, cx(model.head()), batch.y, {}, options);
  }

 private:
  PretrainConfig config_;
};

}  // namespace

DeviceBatch to_device(const data::Batch& b, Device& device) {
  const Shape shape{b.rows, b.seq_len};
  return {tensor_from(std::span<const int32_t>(b.x), shape, DType::kI32, device),
          tensor_from(std::span<const int32_t>(b.y), shape, DType::kI32, device),
          tensor_from(std::span<const uint8_t>(b.doc_start), shape, DType::kU8, device)};
}

void register_recipes() {
  config::register_recipe_config("pretrain", [] { return std::make_unique<PretrainConfig>(); });
}

std::unique_ptr<Recipe> make_recipe(const config::RecipeConfig& config) {
  if (const auto* pretrain = dynamic_cast<const PretrainConfig*>(&config))
    return std::make_unique<Pretrain>(*pretrain);
  RK_CHECK(false, "[make_recipe] nothing trains by ", config.kind());
  return nullptr;
}

}  // namespace rookery
