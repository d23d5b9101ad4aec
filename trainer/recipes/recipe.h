// recipe.h: a way of training: what is trained, what its loss is, how held-out data is judged.
#pragma once

#include <limits>
#include <memory>

#include "data/loader/loader.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

// A batch as tensors on the device, and what is asked of it.
struct DeviceBatch {
  Tensor x;          // i32 [B, T]
  Tensor doc_start;  // u8 [B, T]
  Tensor document;   // i32 [B] or undefined: data::Batch::document
  Tensor rows;       // i32 [1, M]: the positions b T + t that must predict; undefined: each one
  Tensor y;          // i32: what these must predict
};

// Sums over the targets of held-out data.
struct Evaluation {
  double nats = 0;
  int64_t targets = 0;
  double correct = 0;  // answered right; NaN where the recipe does not ask
  void add(const Evaluation& other) {
    nats += other.nats;
    targets += other.targets;
    correct += other.correct;
  }
};

class Recipe {
 public:
  virtual ~Recipe() = default;
  // Every position predicts the token behind it, unless a recipe asks for something else. Into the tensors of
  // `on`, whose addresses stay while shapes do.
  virtual void prepare(const data::Batch& batch, Device& device, DeviceBatch& on) const;
  DeviceBatch prepare(const data::Batch& batch, Device& device) const {
    DeviceBatch on;
    prepare(batch, device, on);
    return on;
  }
  // What a pass over a batch begins with, on each stage of a pipeline.
  virtual void begin(const DeviceBatch&, nn::Context&) const {}
  // hidden: Model::hidden of batch.x. count: targets of the whole global batch, by which the loss is divided;
  // accum_steps: micro-batches of a step. Without a tape in cx: for validation, under the same conditions.
  virtual ops::LossOut loss_of(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx,
                               int64_t count, int64_t accum_steps) = 0;
  // What the model, without gradients, makes of a batch, judged as it is trained.
  virtual Evaluation judge(const Var& hidden, Model& model, const DeviceBatch& batch, nn::Context& cx) = 0;

  // The same where one rank has the whole model.
  ops::LossOut loss(Model& model, const DeviceBatch& batch, nn::Context& cx, int64_t count,
                    int64_t accum_steps) {
    begin(batch, cx);
    return loss_of(model.hidden(cx, batch.x), model, batch, cx, count, accum_steps);
  }
  Evaluation evaluate(Model& model, const DeviceBatch& batch, nn::Context& cx) {
    begin(batch, cx);
    return judge(model.hidden(cx, batch.x), model, batch, cx);
  }
};

void register_recipes();  // makes their keys known to the configuration
std::unique_ptr<Recipe> make_recipe(const config::RecipeConfig& config);

}  // namespace rookery
