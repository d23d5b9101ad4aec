#include "parallel/shard/param_store.h"

namespace rookery {

ParamStore::ParamStore(std::vector<Parameter*> parameters, DType dtype, Device& device, const Mesh& mesh,
                       Copies copies)
    : parameters_(std::move(parameters)), mesh_(mesh) {
  constexpr int64_t kAlignElements = 16;
  int64_t end = 0;
  for (const Parameter* p : parameters_) {
    ranges_.push_back({end, end + p->local().numel()});
    end = (ranges_.back().end + kAlignElements - 1) / kAlignElements * kAlignElements;
  }
  auto bucket = [&](const char* owner, DType type) {
    const Arena::Owner scope(device.arena(), owner);
    return zeros({end}, type, device);
  };
  masters_ = bucket("parameters", dtype);
  grads_ = bucket("gradients", dtype);
  if (copies == Copies::kBf16) copies_ = bucket("compute copies", DType::kBF16);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = *parameters_[i];
    auto own = [&](const Tensor& from) {
      return from.narrow(ranges_[i].begin, p.local().numel()).reshape(p.local());
    };
    p.master = own(masters_);
    p.grad = own(grads_);
    if (copies_.defined()) p.compute = own(copies_);
  }
}

int64_t ParamStore::num_elements() const {
  int64_t n = 0;
  for (const Range& r : ranges_) n += r.end - r.begin;
  return n;
}

void ParamStore::publish() {
  if (copies_.defined()) copy(masters_, copies_);
}

void ParamStore::begin_step() {
  for (Parameter* p : parameters_) p->grad_written = false;
}

// The first stage and the last have it; a sum of two is the same on both.
void ParamStore::join_tied() {
  Communicator& pipe = mesh_.axis(Axis::kPipe);
  if (pipe.size() == 1) return;
  const int other = pipe.rank() == 0 ? pipe.size() - 1 : 0;
  for (Parameter* p : parameters_) {
    if (!p->tied) continue;
    const Tensor theirs = empty_like(p->grad);
    pipe.send(p->grad, other);
    pipe.recv(theirs, other);
    add_to(theirs, p->grad);
  }
}

bool ParamStore::counts(const Parameter& p) const {
  const bool first_copy = !p.tied || mesh_.index(Axis::kPipe) == 0;
  return first_copy && (p.spec.split_dim >= 0 || mesh_.index(Axis::kTensor) == 0);
}

void ParamStore::finish_reduction() {
  for (Parameter* p : parameters_)
    if (!p->grad_written) fill_zero(p->grad);
  join_tied();
  if (mesh_.degree(Axis::kTensor) > 1)
    for (Parameter* p : parameters_)
      if (p->spec.split_dim < 0) mesh_.axis(Axis::kTensor).all_reduce(p->grad, Reduce::kSum);
  if (mesh_.replicas().size() > 1) mesh_.replicas().all_reduce(grads_, Reduce::kSum);
}

}  // namespace rookery
