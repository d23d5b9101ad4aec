// step.h: the activations of a training step of any size, found on the meta device: nothing is computed, no
// data is read, no memory is taken. Of a run with its data: trainer/loop/memory_plan.h.
#pragma once

#include <cstdint>

#include "trainer/models/model.h"

namespace rookery::plan {

struct StepMemory {
  int64_t taken = 0;    // bytes of the packed plan
  int64_t at_once = 0;  // the most that is live at once
};
// One micro-batch of B sequences of T tokens, each of which is a target, with model.recompute. device: kMeta.
// dtype: of parameters and activations; those bf16, gradients are f32. mesh: of MetaCommunicators; the model
// is this rank's part.
StepMemory measure_step(Model& model, Device& device, DType dtype, int64_t B, int64_t T, const Mesh& mesh);

}  // namespace rookery::plan
