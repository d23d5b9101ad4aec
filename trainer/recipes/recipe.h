// recipe.h: a way of training: what is trained and what its loss is.
#pragma once

#include <memory>

#include "data/loader/loader.h"
#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "trainer/config/run_config.h"
#include "trainer/models/model.h"

namespace rookery {

// A batch as tensors on the device.
struct DeviceBatch {
  Tensor x, y;       // i32 [B, T]
  Tensor doc_start;  // u8 [B, T]
};
DeviceBatch to_device(const data::Batch& batch, Device& device);

class Recipe {
 public:
  virtual ~Recipe() = default;
  // count: targets of the whole global batch, by which the loss is divided; accum_steps: micro-batches of a
  // step.
  virtual ops::LossOut loss(Model& model, const DeviceBatch& batch, nn::Context& cx, int64_t count,
                            int64_t accum_steps) = 0;
};

void register_recipes();  // makes their keys known to the configuration
std::unique_ptr<Recipe> make_recipe(const config::RecipeConfig& config);

}  // namespace rookery
