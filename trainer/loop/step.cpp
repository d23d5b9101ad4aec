#include "trainer/loop/step.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/fault.h"
#include "trainer/loop/human.h"

namespace rookery::loop {

TrainStep::TrainStep(Session& session, Recipe& recipe, AdamW& optim, std::function<void()> on_graph)
    : session_(session),
      recipe_(recipe),
      optim_(optim),
      stage_(session, recipe),
      on_graph_(std::move(on_graph)) {}

void TrainStep::load(const std::vector<data::Batch>& batches) {
  Device& device = *session_.device;
  const Arena::Owner owner(device.arena(), "workspaces");
  batches_.resize(batches.size());
  targets_ = 0;
  for (size_t i = 0; i < batches.size(); ++i) {
    const Range range(device, "upload", Profile::Kind::kPhase);
    recipe_.prepare(batches[i], device, batches_[i]);
    targets_ += batches_[i].y.numel();
  }
  targets_ *= session_.mesh->replicas().size();  // whose batches have the same shape
  const DType dtype = session_.store->dtype();
  if (!seed_.defined()) {
    const double one = 1;
    seed_ = tensor_from(std::span<const double>(&one, 1), {1}, dtype, device);
    losses_ = zeros({static_cast<int64_t>(batches.size()) + 1}, dtype, device);
  }
  RK_CHECK(losses_.numel() == static_cast<int64_t>(batches.size()) + 1, "[TrainStep] ", batches.size(),
           " micro-batches after ", losses_.numel() - 1);
}

// Only this is noted: it reads and writes memory of the device at addresses that stay.
void TrainStep::work(size_t micro_batches) {
  Arena& arena = session_.device->arena();
  arena.begin_step("train");
  session_.store->begin_step();
  if (!session_.stage.last()) fill_zero(losses_.narrow(0, losses_.numel() - 1));  // until the sum over stages
  stage_.begin({batches_, targets_, losses_, seed_});
  run_schedule(stage_, session_.mesh->axis(Axis::kPipe), static_cast<int64_t>(micro_batches));
  report_.forward_s = stage_.forward_s();
  report_.backward_s = stage_.backward_s();
  const double work_done = steady_now();
  session_.store->finish_reduction();
  for (Communicator* ranks : {&session_.mesh->replicas(), &session_.mesh->axis(Axis::kPipe)})
    if (ranks->size() > 1) ranks->all_reduce(losses_, Reduce::kSum);
  const double start = steady_now();
  report_.wait_s = start - work_done;
  const Range range(*session_.device, "optimizer", Profile::Kind::kPhase);
  optim_.launch(losses_);
  report_.optim_s = steady_now() - start;
  arena.end_step();
}

void TrainStep::run_or_replay() {
  Device& device = *session_.device;
  auto everything = [this] { work(batches_.size()); };
  // A profile has each operation, a graph is one, and what comes from other ranks is in none.
  if (session_.config.graph == "off" || session_.mesh->world().size() > 1 ||
      device.type() == DeviceType::kCpu || device.profile != nullptr)
    return everything();
  const auto addresses = [&] {
    std::vector<const std::byte*> all{device.arena().slab()};
    for (const DeviceBatch& batch : batches_)
      for (const Tensor* t : {&batch.x, &batch.doc_start, &batch.rows, &batch.y}) all.push_back(t->raw());
    return all;
  };
  // A graph holds for the addresses and the count of the step before, and the slab that its plan needs.
  if (addresses() != addresses_ || targets_ != noted_targets_ || !device.arena().repeats("train")) {
    graph_ = nullptr;
    everything();
    addresses_ = addresses();
    noted_targets_ = targets_;
    return;
  }
  if (!graph_) {
    try {
      graph_ = device.capture(everything);
    } catch (const Error& e) {
      fail(e.code(), e.id(), "graph: a step could not be noted: ", e.what(), "; mend it by graph: off");
    }
    if (on_graph_) on_graph_();
  }
  graph_->run();
  report_.forward_s = report_.backward_s = report_.optim_s = NAN;  // one piece
}

TrainStep::Report TrainStep::run(const std::vector<data::Batch>& batches, double lr) {
  report_ = {};
  load(batches);
  optim_.set_rate(lr);
  const bool spoiled = fault_point("train.loss") == FaultAction::kNan;
  const Tensor last = losses_.narrow(losses_.numel() - 1, 1);
  if (spoiled) {
    const double nan = NAN;
    copy(tensor_from(std::span<const double>(&nan, 1), {1}, losses_.dtype(), losses_.device()), last);
  }
  run_or_replay();
  Readback read(losses_);
  if (spoiled) fill_zero(last);
  report_.update = optim_.finish();
  for (const double loss : read.values()) {
    report_.loss += loss;
    report_.loss_max = std::max(report_.loss_max, loss * static_cast<double>(batches.size()));
  }
  if (!std::isfinite(report_.loss)) report_.loss_max = report_.loss;
  if (!session_.device->on_host())
    report_.forward_s = report_.backward_s = report_.optim_s = report_.wait_s = NAN;
  return report_;
}

void TrainStep::plan(const data::Batch& batch, int64_t micro_batches) {
  load(std::vector<data::Batch>(static_cast<size_t>(micro_batches), batch));
  optim_.set_rate(0);
  // From the second on, whose gradients add, and with as many in flight as there will be, each asks for the
  // same.
  work(std::min(batches_.size(),
                std::max<size_t>(2, static_cast<size_t>(session_.mesh->degree(Axis::kPipe)))));
}

}  // namespace rookery::loop
