// schedule.h: in which order a stage of the pipeline takes its micro-batches forward and back, and what it
// sends and receives between. What a stage computes: a StageRunner (trainer/loop/stage.h). Who has which
// blocks: stages.h.
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/comm/communicator.h"

namespace rookery {

// What one stage does with a micro-batch, known by its number. Tensors are the same in number, order and
// shape on both sides of a border between stages.
class StageRunner {
 public:
  virtual ~StageRunner() = default;
  // Memory for what comes from the stage before; of the first stage there is none.
  virtual std::vector<Tensor> inputs(int64_t micro_batch) = 0;
  // Result: what goes to the next stage; of the last one nothing, it has the loss.
  virtual std::vector<Tensor> forward(int64_t micro_batch, std::vector<Tensor> inputs) = 0;
  // Memory for the gradients of what forward() gave.
  virtual std::vector<Tensor> output_gradients(int64_t micro_batch) = 0;
  // Result: the gradients of the inputs. The micro-batch is done with.
  virtual std::vector<Tensor> backward(int64_t micro_batch, std::vector<Tensor> gradients) = 0;
};

struct StageAction {
  bool forward;
  int64_t micro_batch;
  bool operator==(const StageAction&) const = default;
};

// 1F1B (PipeDream-Flush; arXiv 2104.04473, section 2.2): stage s of S goes min(S - 1 - s, M) micro-batches
// ahead, then takes one forward and one back in turn, then those that are left back. At most S - s are in
// flight, backward comes in the order of the micro-batches, and one stage takes each forward and back.
std::vector<StageAction> one_forward_one_back(int64_t stage, int64_t stages, int64_t micro_batches);

// The share of a step in which a stage waits, where all take the same time: (S - 1) / (M + S - 1).
double pipeline_bubble(int64_t stages, int64_t micro_batches);

// One step of this rank's stage: `pipe` has the stages in their order. Sends do not wait for their receiver.
void run_schedule(StageRunner& stage, Communicator& pipe, int64_t micro_batches);

}  // namespace rookery
