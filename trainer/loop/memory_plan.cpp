#include "trainer/loop/memory_plan.h"

#include <algorithm>

#include "trainer/loop/human.h"
#include "trainer/loop/session.h"
#include "trainer/loop/trainer.h"
#include "trainer/recipes/recipe.h"

namespace rookery::loop {

MemoryPlan plan_memory(const config::RunConfig& config, DeviceType target) {
  auto meta = std::make_unique<Device>(DeviceType::kMeta, static_cast<int>(config.threads));
  meta->plans_for = target;
  const Session session =
      make_session(config::parse_run(config::resolved_yaml(config), "the configuration"), std::move(meta));
  Device& device = *session.device;
  const auto loader = make_loader(config, session.model->vocab_size());
  const auto recipe = make_recipe(*config.recipe);
  const int64_t accum = config.grad_accum_steps(1), rows = config.recipe->micro_batch_size;
  device.arena().begin_step("train");
  session.store->begin_step();
  // From the second micro-batch on, whose gradients add, each asks for the same.
  for (int64_t i = 0; i < std::min<int64_t>(accum, 2); ++i) {
    const DeviceBatch batch = recipe->prepare(loader->read(i * rows, rows), device);
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx{&tape, seq};
    tape.backward(recipe->loss(*session.model, batch, cx, config.tokens_per_step(), accum).loss);
  }
  device.arena().end_step();
  const auto one = session.store->num_elements() * static_cast<int64_t>(dtype_size(session.store->dtype()));
  return {one, one, 2 * one, static_cast<int64_t>(device.arena().plan("train")->slab_bytes)};
}

std::string to_string(const MemoryPlan& plan) {
  return str("parameters ", mib(plan.parameters), " + gradients ", mib(plan.gradients), " + moments ",
             mib(plan.moments), " + activations ", mib(plan.activations), " = ", mib(plan.total()));
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
