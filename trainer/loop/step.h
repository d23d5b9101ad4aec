// step.h: one training step on whatever device: batches into buffers that stay, forward and backward of each
// micro-batch, the update. Nothing in it waits for a GPU until its end, so that the whole of it can be noted
// once as a graph and replayed. Next: trainer.cpp, memory_plan.cpp.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/loader/loader.h"
#include "trainer/loop/session.h"
#include "trainer/loop/stage.h"
#include "trainer/optim/adamw.h"
#include "trainer/recipes/recipe.h"

namespace rookery::loop {

class TrainStep {
 public:
  // All of them outlive it. With config.graph, steps on a GPU, or an emulated one, become a graph once two
  // have asked for the same memory; `on_graph` is called whenever one is noted.
  TrainStep(Session& session, Recipe& recipe, AdamW& optim, std::function<void()> on_graph = {});

  struct Report {
    double loss, loss_max;  // of the step; that of the worst micro-batch
    // Seconds of the CPU; NaN of a graph, and on a GPU, which works on when the host has gone on.
    double forward_s, backward_s, optim_s;
    double wait_s;  // for the other ranks, after the backward pass
    AdamW::Report update;
  };
  // The micro-batches of one step, equal in number from step to step.
  Report run(const std::vector<data::Batch>& batches, double lr);

  // Of held-out data: Stage::evaluate.
  Evaluation evaluate(const DeviceBatch& batch) { return stage_.evaluate(batch); }

  // On the meta device: asks for the memory of a step of so many micro-batches like this one.
  void plan(const data::Batch& batch, int64_t micro_batches);

 private:
  void load(const std::vector<data::Batch>& batches);
  void work(size_t micro_batches);
  void run_or_replay();

  Session& session_;
  Recipe& recipe_;
  AdamW& optim_;
  Stage stage_;
  std::function<void()> on_graph_;
  std::vector<DeviceBatch> batches_;
  int64_t targets_ = 0;  // of all micro-batches
  // [micro-batches + 1]: the loss of each, and 0, or NaN where a test wants a step that is not finite.
  Tensor losses_;
  Tensor seed_;  // the gradient of a loss: 1
  Report report_{};
  std::unique_ptr<Replay> graph_;
  std::vector<const std::byte*> addresses_;  // of the last step that was no graph, slab first
  int64_t noted_targets_ = 0;                // by which it divided losses
};

}  // namespace rookery::loop
