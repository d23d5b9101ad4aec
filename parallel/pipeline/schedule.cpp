#include "parallel/pipeline/schedule.h"

#include <algorithm>

namespace rookery {
namespace {

std::vector<Tensor> receive(std::vector<Tensor> into, Communicator& pipe, int from) {
  for (const Tensor& t : into) pipe.recv(t, from);
  return into;
}

void send(const std::vector<Tensor>& tensors, Communicator& pipe, int to) {
  for (const Tensor& t : tensors) pipe.send(t, to);
}

}  // namespace

std::vector<StageAction> one_forward_one_back(int64_t stage, int64_t stages, int64_t micro_batches) {
  std::vector<StageAction> order;
  const int64_t ahead = std::min(stages - 1 - stage, micro_batches);
  for (int64_t i = 0; i < ahead; ++i) order.push_back({true, i});
  for (int64_t i = 0; i < micro_batches; ++i) {
    if (i + ahead < micro_batches) order.push_back({true, i + ahead});
    order.push_back({false, i});
  }
  return order;
}

double pipeline_bubble(int64_t stages, int64_t micro_batches) {
  return static_cast<double>(stages - 1) / static_cast<double>(micro_batches + stages - 1);
}

void run_schedule(StageRunner& stage, Communicator& pipe, int64_t micro_batches) {
  const int before = pipe.rank() - 1, after = pipe.rank() + 1;
  for (const StageAction& next : one_forward_one_back(pipe.rank(), pipe.size(), micro_batches)) {
    const int64_t i = next.micro_batch;
    if (next.forward) {
      send(stage.forward(i, receive(stage.inputs(i), pipe, before)), pipe, after);
    } else {
      send(stage.backward(i, receive(stage.output_gradients(i), pipe, after)), pipe, before);
    }
  }
}

}  // namespace rookery
