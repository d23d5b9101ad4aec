// memory_plan.h: what a training step will hold in memory, known before anything is allocated: the step runs
// on the meta device. Next: trainer.cpp, which does not begin what does not fit.
#pragma once

#include <cstdint>
#include <string>

#include "data/loader/loader.h"
#include "kernels/tensor/device.h"
#include "trainer/config/run_config.h"

namespace rookery::loop {

struct MemoryPlan {  // bytes by owner
  int64_t parameters = 0, gradients = 0, moments = 0;
  int64_t copies = 0;       // bf16 parameters that operations read, on a GPU
  int64_t activations = 0;  // all that comes and goes within a step
  int64_t workspaces = 0;   // batches, the optimizer's tables and scratch
  int64_t total() const { return parameters + gradients + moments + copies + activations + workspaces; }
};
// Of rank 0 of the smallest mesh that the configuration asks for. target: the device that will run it. Throws
// DEV-01 where an operation has no kernel for that.
MemoryPlan plan_memory(const config::RunConfig& config, DeviceType target = DeviceType::kCpu);
// The same of batches like this one: no data is opened.
MemoryPlan plan_memory(const config::RunConfig& config, DeviceType target, const data::Batch& batch);

// What the arena of a device holds from the second training step on.
MemoryPlan memory_held(const Device& device);

// "parameters 1.4 MiB + gradients 1.4 MiB + moments 2.8 MiB + activations 12.0 MiB = 17.6 MiB"; copies and
// workspaces where there are any.
std::string to_string(const MemoryPlan& plan);

// Throws kUnavailable MEM-02, with the parts and what would make them smaller, when the plan is larger than
// `available` bytes.
void check_memory(const MemoryPlan& plan, const config::RunConfig& config, int64_t available);

}  // namespace rookery::loop
