#include "trainer/plan/step.h"

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "trainer/nn/layers.h"

namespace rookery::plan {

StepMemory measure_step(Model& model, Device& device, DType dtype, int64_t B, int64_t T, const Mesh& mesh) {
  for (Parameter* p : model.parameters.all()) {
    p->master = empty(p->local(), dtype, device);
    p->grad = empty(p->local(), sum_dtype(dtype), device);
    p->grad_written = false;
  }
  const std::string key = str("step ", B, " ", T, " ", static_cast<int>(model.recompute));
  device.arena().begin_step(key);
  {
    const Tensor ids = empty({B, T}, DType::kI32, device);
    Tape tape;
    nn::SeqContext seq;
    nn::Context cx{&tape, seq, mesh};
    tape.backward(ops::linear_cross_entropy(
                      model.hidden(cx, ids), cx(model.head()), empty({B, T}, DType::kI32, device), {},
                      {static_cast<double>(B * T), 1e-4, 0, nn::vocab_slice(cx, model.head())})
                      .loss);
  }
  device.arena().end_step();
  const Arena::Plan& plan = *device.arena().plan(key);
  return {static_cast<int64_t>(plan.slab_bytes), static_cast<int64_t>(plan.peak_bytes)};
}

}  // namespace rookery::plan
