// stage.h: this rank's blocks of the model at work: forward over a micro-batch, and back. With one stage that
// is the whole model. In which order the micro-batches come: parallel/pipeline/schedule.h.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "parallel/pipeline/schedule.h"
#include "trainer/loop/session.h"
#include "trainer/recipes/recipe.h"

namespace rookery::loop {

class Stage : public StageRunner {
 public:
  Stage(Session& session, Recipe& recipe) : session_(session), recipe_(recipe) {}  // both outlive it

  struct Job {  // one step
    std::span<const DeviceBatch> batches;
    int64_t targets;  // of all micro-batches on all ranks, by which losses are divided
    Tensor losses;    // where the last stage writes those of the micro-batches
    Tensor seed;      // the gradient of a loss
  };
  void begin(const Job& job);
  std::vector<Tensor> inputs(int64_t micro_batch) override;
  std::vector<Tensor> forward(int64_t micro_batch, std::vector<Tensor> inputs) override;
  std::vector<Tensor> output_gradients(int64_t micro_batch) override;
  std::vector<Tensor> backward(int64_t micro_batch, std::vector<Tensor> gradients) override;

  // Of this step, so far: seconds of the CPU.
  double forward_s() const { return forward_s_; }
  double backward_s() const { return backward_s_; }

  // Recipe::evaluate by all stages: each of them calls it and has the result.
  Evaluation evaluate(const DeviceBatch& batch);

 private:
  struct Pass {  // of a micro-batch, from forward to backward
    explicit Pass(const Session& session) : cx{&tape, seq, *session.mesh, session.store->units()} {}
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx;
    std::vector<Var> inputs, outputs;  // of the last stage: the loss
  };
  std::vector<Tensor> incoming(const DeviceBatch& batch);
  std::vector<Var> run(nn::Context& cx, const DeviceBatch& batch, const std::vector<Var>& inputs);

  Session& session_;
  Recipe& recipe_;
  Job job_{};
  std::map<int64_t, std::unique_ptr<Pass>> passes_;  // in flight
  size_t backward_passes_ = 0;
  double forward_s_ = 0, backward_s_ = 0;
};

}  // namespace rookery::loop
