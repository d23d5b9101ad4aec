#include "trainer/loop/stage.h"

#include "trainer/loop/human.h"

namespace rookery::loop {

void Stage::begin(const Job& job) {
  job_ = job;
  passes_.clear();  // of a step that failed
  backward_passes_ = 0;
  forward_s_ = backward_s_ = 0;
}

// Memory for what flows into the first block of this stage.
std::vector<Tensor> Stage::incoming(const DeviceBatch& batch) {
  if (session_.stage.first()) return {};
  const ParamStore& store = *session_.store;
  const DType dtype = store.copies().defined() ? store.copies().dtype() : store.dtype();
  nn::SeqContext seq;
  const nn::Context cx{nullptr, seq, *session_.mesh};
  Carry carry;
  std::vector<Tensor> tensors;
  for (const Model::Flow& flow : session_.model->flow(session_.stage.begin, cx, batch.x, carry))
    tensors.push_back(empty(flow.shape, dtype, *session_.device));
  return tensors;
}

// Result: what flows into the next stage; of the last one the output of the last norm.
std::vector<Var> Stage::run(nn::Context& cx, const DeviceBatch& batch, const std::vector<Var>& inputs) {
  Model& model = *session_.model;
  const StageBlocks& blocks = session_.stage;
  cx.seq.method = seq_method_from_string(session_.config.mesh.seq_method);
  recipe_.begin(batch, cx);
  Carry carry;
  if (blocks.first()) {
    carry = model.embed(cx, batch.x);
  } else {
    auto from = inputs.begin();
    for (const Model::Flow& flow : model.flow(blocks.begin, cx, batch.x, carry)) *flow.part = *from++;
  }
  for (int64_t i = blocks.begin; i < blocks.end; ++i) model.block(i, cx, carry);
  if (blocks.last()) return {model.final_norm(cx, carry)};
  std::vector<Var> outputs;
  for (const Model::Flow& flow : model.flow(blocks.end, cx, batch.x, carry)) {
    check_shape(flow.part->value(), flow.shape, "[Stage] what flows on");
    outputs.push_back(*flow.part);
  }
  return outputs;
}

std::vector<Tensor> Stage::inputs(int64_t i) { return incoming(job_.batches[static_cast<size_t>(i)]); }

std::vector<Tensor> Stage::forward(int64_t i, std::vector<Tensor> inputs) {
  const double start = steady_now();
  const Range range(*session_.device, "forward", Profile::Kind::kPhase);
  const DeviceBatch& batch = job_.batches[static_cast<size_t>(i)];
  Pass& pass = *(passes_[i] = std::make_unique<Pass>(session_));
  for (const Tensor& x : inputs) pass.inputs.push_back(pass.tape.watch(x));
  pass.outputs = run(pass.cx, batch, pass.inputs);
  std::vector<Tensor> out;
  if (session_.stage.last()) {
    pass.outputs = {recipe_
                        .loss_of(pass.outputs[0], *session_.model, batch, pass.cx, job_.targets,
                                 static_cast<int64_t>(job_.batches.size()))
                        .loss};
  } else {
    for (const Var& x : pass.outputs) out.push_back(x.value());
  }
  forward_s_ += steady_now() - start;
  return out;
}

std::vector<Tensor> Stage::output_gradients(int64_t i) {
  std::vector<Tensor> gradients;
  if (session_.stage.last()) return gradients;
  for (const Var& x : passes_.at(i)->outputs) gradients.push_back(empty_like(x.value()));
  return gradients;
}

std::vector<Tensor> Stage::backward(int64_t i, std::vector<Tensor> gradients) {
  const double start = steady_now();
  const Range range(*session_.device, "backward", Profile::Kind::kPhase);
  const auto node = passes_.extract(i);
  Pass& pass = *node.mapped();
  const bool last = session_.stage.last();
  if (last) gradients = {job_.seed};
  std::vector<std::pair<Var, Tensor>> seeds;
  for (size_t k = 0; k < gradients.size(); ++k)
    if (pass.outputs[k].tracked()) seeds.emplace_back(pass.outputs[k], gradients[k]);
  session_.store->reduce_during(pass.tape, ++backward_passes_ == job_.batches.size());
  pass.tape.backward(seeds);
  std::vector<Tensor> out;
  for (const Var& x : pass.inputs) {
    const Tensor grad = pass.tape.grad(x);
    out.push_back(grad.defined() ? grad : zeros(x.shape(), x.value().dtype(), x.value().device()));
  }
  backward_s_ += steady_now() - start;
  if (last) copy(pass.outputs[0].value(), job_.losses.narrow(i, 1));
  return out;
}

Evaluation Stage::evaluate(const DeviceBatch& batch) {
  Communicator& pipe = session_.mesh->axis(Axis::kPipe);
  nn::SeqContext seq;
  nn::Context cx{nullptr, seq, *session_.mesh, session_.store->units()};
  std::vector<Var> inputs;
  for (const Tensor& t : incoming(batch)) {
    pipe.recv(t, pipe.rank() - 1);
    inputs.emplace_back(t);
  }
  const std::vector<Var> outputs = run(cx, batch, inputs);
  Evaluation result;
  if (session_.stage.last()) {
    result = recipe_.judge(outputs[0], *session_.model, batch, cx);
  } else {
    for (const Var& x : outputs) pipe.send(x.value(), pipe.rank() + 1);
  }
  if (pipe.size() == 1) return result;
  const double mine[] = {result.nats, static_cast<double>(result.targets), result.correct};
  const Tensor sums = tensor_from(std::span<const double>(mine), {3}, DType::kF64, *session_.device);
  pipe.all_reduce(sums, Reduce::kSum);  // of one stage alone
  const std::vector<double> all = to_doubles(sums);
  return {all[0], static_cast<int64_t>(all[1]), all[2]};
}

}  // namespace rookery::loop
