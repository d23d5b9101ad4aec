#include "trainer/loop/memory_plan.h"

#include <functional>

#include "trainer/loop/human.h"
#include "trainer/loop/session.h"
#include "trainer/loop/step.h"
#include "trainer/loop/trainer.h"
#include "trainer/recipes/recipe.h"

namespace rookery::loop {

namespace {

using ReadBatch = std::function<data::Batch(int64_t vocab_size)>;

MemoryPlan plan_steps(const config::RunConfig& config, DeviceType target, const ReadBatch& read) {
  auto meta = std::make_unique<Device>(DeviceType::kMeta, static_cast<int>(config.threads));
  meta->plans_for = target;
  const MeshDegrees degrees = config.mesh.degrees(1);
  MetaCommunicator world(0, static_cast<int>(degrees.world()));
  const Mesh mesh(degrees, world);
  Session session = make_session(config::parse_run(config::resolved_yaml(config), "the configuration"),
                                 std::move(meta), mesh);
  const auto recipe = make_recipe(*config.recipe);
  AdamW optim(*session.store, make_adamw_config(config),
              [&](const Parameter& p) { return session.model->optim_group(p); });
  const data::Batch batch = read(session.model->vocab_size());
  TrainStep step(session, *recipe, optim);  // what it keeps counts
  step.plan(batch, config.grad_accum_steps(degrees.world()));
  return memory_held(*session.device);
}

}  // namespace

MemoryPlan plan_memory(const config::RunConfig& config, DeviceType target) {
  return plan_steps(config, target, [&](int64_t vocab_size) {
    return make_loader(config, vocab_size)->read(0, config.recipe->micro_batch_size);
  });
}

MemoryPlan plan_memory(const config::RunConfig& config, DeviceType target, const data::Batch& batch) {
  return plan_steps(config, target, [&](int64_t) { return batch; });
}

MemoryPlan memory_held(const Device& device) {
  MemoryPlan held;
  for (const auto& [name, bytes] : {std::pair{"parameters", &held.parameters},
                                    {"gradients", &held.gradients},
                                    {"moments", &held.moments},
                                    {"compute copies", &held.copies},
                                    {"workspaces", &held.workspaces}})
    for (const Arena::Owned& owned : device.arena().owners())
      if (owned.name == name) *bytes = static_cast<int64_t>(owned.bytes);
  if (const Arena::Plan* step = device.arena().plan("train"))
    held.activations = static_cast<int64_t>(step->slab_bytes);
  return held;
}

std::string to_string(const MemoryPlan& plan) {
  std::string text = str("parameters ", mib(plan.parameters), " + gradients ", mib(plan.gradients),
                         " + moments ", mib(plan.moments));
  if (plan.copies > 0) text += str(" + compute copies ", mib(plan.copies));
  text += str(" + activations ", mib(plan.activations));
  if (plan.workspaces > 0) text += str(" + workspaces ", mib(plan.workspaces));
  return text + str(" = ", mib(plan.total()));
}

void check_memory(const MemoryPlan& plan, const config::RunConfig& config, int64_t available) {
  if (plan.total() <= available) return;
  fail(ExitCode::kUnavailable, "MEM-02", config.name, ": found ", mib(available),
       " of free memory, expected at least ", to_string(plan), "; lower recipe.micro_batch_size (",
       config.recipe->micro_batch_size,
       "; activations shrink with it, global_batch_size may stay) or data.seq_len (", config.data.seq_len,
       "), take recipe.recompute: block (", config.recipe->recompute, "), a smaller model, or free memory");
}

}  // namespace rookery::loop
