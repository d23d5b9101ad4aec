// param_store.cpp: a step calls begin_step(); for each micro-batch enter() and watch() at each block, then
// reduce_during() and the backward pass; then finish_reduction(), the optimizer, publish(). Collectives run
// on a CommStream, in the order of submission, which is the same on all ranks because the tape is.
#include "parallel/shard/param_store.h"

#include <algorithm>

namespace rookery {
namespace {

constexpr int64_t kAlignElements = 16;
int64_t aligned(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// On the stream's thread, where the device's own threads are not at hand.
void add_alone(const Tensor& from, const Tensor& to) {
  if (to.device().type() == DeviceType::kMeta) return;
  dispatch_float(to.dtype(), [&]<class T>() {
    const T* __restrict in = from.data<T>();
    T* __restrict out = to.data<T>();
    for (int64_t i = 0; i < to.numel(); ++i) out[i] += in[i];
  });
}

}  // namespace

ParamStore::ParamStore(std::vector<Parameter*> parameters, DType dtype, Device& device, const Mesh& mesh,
                       Copies copies, int64_t zero)
    : parameters_(std::move(parameters)), mesh_(mesh) {
  const int replicas = mesh.replicas().size();
  if (replicas > 1) {
    level_ = zero;
    slices_ = level_ > 0 ? replicas : 1;
  }
  RK_CHECK(level_ == 0 || copies == Copies::kNone, "[ParamStore] slices of parameters that have copies");
  if (replicas > 1 || mesh.degree(Axis::kTensor) > 1) {
    const auto own = [](Communicator& c) { return c.split(0, c.rank()); };
    replicas_ = own(mesh.replicas());
    tensor_ = own(mesh.axis(Axis::kTensor));
    comm_ = std::make_unique<CommStream>(mesh.world());
  }
  lay_out();
  allocate(copies, dtype, device);
}

// One rank: all parameters in the order of registration. Else by units, in each of them first those that
// every tensor rank has whole: their gradients are one more sum.
void ParamStore::lay_out() {
  std::vector<size_t> order(parameters_.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto number = [&](size_t i) { return together() ? 0 : parameters_[i]->unit; };
  const auto cut = [&](size_t i) { return parameters_[i]->spec.split_dim >= 0; };
  if (!together())
    std::ranges::stable_sort(order, {}, [&](size_t i) { return std::pair(number(i), cut(i)); });
  unit_of_.resize(order.size());
  place_in_unit_.resize(order.size());
  int64_t last = 0;
  for (const size_t i : order) last = std::max(last, number(i));
  place_of_unit_.assign(static_cast<size_t>(last) + 1, -1);
  int64_t previous = -1;
  for (const size_t i : order) {
    if (number(i) != previous) {
      previous = number(i);
      place_of_unit_[static_cast<size_t>(previous)] = static_cast<int64_t>(units_.size());
      units_.emplace_back().block = previous > 0 && previous < last;
    }
    Unit& u = units_.back();
    const int64_t begin = u.size, end = begin + parameters_[i]->local().numel();
    unit_of_[i] = units_.size() - 1;
    place_in_unit_[i] = begin;
    u.members.push_back(i);
    u.size = aligned(end, kAlignElements);
    if (!cut(i)) u.whole = u.size;
    if (parameters_[i]->tied && mesh_.degree(Axis::kPipe) > 1) u.tied = true;
    if (end < u.size) u.gaps.push_back({end, u.size, 0});
  }
  int64_t begin = 0;
  for (Unit& u : units_) {
    if (const int64_t end = aligned(u.size, kAlignElements * slices_); end > u.size) {
      u.gaps.push_back({u.size, end, 0});
      u.size = end;
    }
    u.begin = begin;
    u.slice = owned_;
    u.slice_size = u.size / slices_;
    begin += u.size;
    owned_ += u.slice_size;
  }
}

void ParamStore::allocate(Copies copies, DType dtype, Device& device) {
  int64_t whole = 0, outer = 0, largest_block = 0;
  for (const Unit& u : units_) {
    whole += u.size;
    (u.block ? largest_block : outer) = u.block ? std::max(largest_block, u.size) : outer + u.size;
  }
  const auto bucket = [&](const char* owner, int64_t size, DType type) {
    const Arena::Owner scope(device.arena(), owner);
    return zeros({size}, type, device);
  };
  masters_ = bucket("parameters", level_ < 3 ? whole : owned_, dtype);
  grads_ = bucket("gradients", level_ < 2 ? whole : owned_, dtype);
  if (copies == Copies::kBf16) copies_ = bucket("compute copies", whole, DType::kBF16);
  // What stays during a step, and what blocks take turns in.
  Tensor stay_values, stay_grads;
  if (level_ >= 2) {
    stay_grads = bucket("gradients", outer, dtype);
    for (Tensor& t : turns_of_grads_) t = bucket("gradients", largest_block, dtype);
  }
  if (level_ >= 3) {
    stay_values = bucket("parameters", outer, dtype);
    for (Tensor& t : turns_of_values_) t = bucket("parameters", largest_block, dtype);
  }
  int64_t staying = 0;
  const int64_t rank = slices_ > 1 ? mesh_.replicas().rank() : 0;
  for (Unit& u : units_) {
    const auto of = [&](bool all, const Tensor& buckets, const Tensor& stay,
                        const std::array<Tensor, 2>& turns) {
      if (all) return buckets.narrow(u.begin, u.size);
      return u.block ? turns[turn_of(u)].narrow(0, u.size) : stay.narrow(staying, u.size);
    };
    u.values = of(level_ < 3, masters_, stay_values, turns_of_values_);
    u.grads = of(level_ < 2, grads_, stay_grads, turns_of_grads_);
    u.own_master = level_ < 3 ? u.values.narrow(rank * u.slice_size, u.slice_size)
                              : masters_.narrow(u.slice, u.slice_size);
    u.own_grad =
        level_ < 2 ? u.grads.narrow(rank * u.slice_size, u.slice_size) : grads_.narrow(u.slice, u.slice_size);
    if (!u.block) staying += u.size;
    if (slices_ > 1) parts_.push_back({u.own_master, u.own_grad, u.slice});
    for (const size_t i : u.members) {
      Parameter& p = *parameters_[i];
      const auto own = [&](const Tensor& from, int64_t at) {
        return from.narrow(at, p.local().numel()).reshape(p.local());
      };
      (level_ < 3 ? p.master : p.compute) = own(u.values, place_in_unit_[i]);
      p.grad = own(u.grads, place_in_unit_[i]);
      if (copies_.defined()) p.compute = own(copies_, u.begin + place_in_unit_[i]);
    }
  }
  if (slices_ == 1) parts_.push_back({masters_, grads_, 0});
}

int64_t ParamStore::num_elements() const {
  int64_t n = 0;
  for (const Parameter* p : parameters_) n += p->local().numel();
  return n;
}

ParamStore::Range ParamStore::range(size_t index) const {
  const Unit& u = units_[unit_of_[index]];
  const int64_t mine = slices_ > 1 ? mesh_.replicas().rank() * u.slice_size : 0;
  const int64_t place = place_in_unit_[index], end = place + parameters_[index]->local().numel();
  const int64_t from = std::clamp(place, mine, mine + u.slice_size),
                to = std::clamp(end, mine, mine + u.slice_size);
  return {u.slice + from - mine, u.slice + to - mine, from - place};
}

size_t ParamStore::index_of(const Parameter& p) const {
  const auto it = std::ranges::find(parameters_, &p);
  RK_CHECK(it != parameters_.end(), "[ParamStore] ", p.name, " is not in this store");
  return static_cast<size_t>(it - parameters_.begin());
}

Tensor ParamStore::values(const Parameter& p) {
  const size_t index = index_of(p);
  await_parameters();
  if (p.master.defined()) return p.master;
  const Unit& u = units_[unit_of_[index]];
  const Tensor all = empty({u.size}, dtype(), device());
  replicas_->all_gather(u.own_master, all);
  return all.narrow(place_in_unit_[index], p.local().numel()).reshape(p.local());
}

void ParamStore::assign(const Parameter& p, const Tensor& values) {
  if (p.master.defined()) return copy(values, p.master);
  const Range r = range(index_of(p));
  const int64_t n = r.end - r.begin;
  if (n > 0) copy(values.reshape({values.numel()}).narrow(r.first, n), masters_.narrow(r.begin, n));
}

CommStream::Ticket ParamStore::submit(std::function<void()> work) {
  if (device().on_host()) return comm_->submit(std::move(work));
  work();
  return 0;
}

void ParamStore::begin_step() {
  for (Parameter* p : parameters_) p->grad_written = false;
  if (together()) return;
  for (Unit& u : units_) {
    u.reduced = u.summed = false;
    if (!u.block) comm_->wait(u.gathering);
  }
}

void ParamStore::reduce_during(Tape& tape, bool last) {
  if (together()) return;
  for (Unit& u : units_) {
    complete(u);
    if (level_ >= 2 && !u.block && !u.tied) open(u);
    u.used = std::max(u.used, u.ready);
    u.ready = 0;
    u.reduced = false;
  }
  if (level_ < 2 && !last) return;
  tape.on_leaf_ready([this](Parameter& p) {
    Unit& u = unit(p.unit);
    RK_CHECK(!u.reduced, "[ParamStore] ", p.name, " has a gradient in this pass, and had none before");
    if (++u.ready == u.used && !u.tied) reduce(u);
  });
}

// The first stage and the last have it; a sum of two is the same on both.
void ParamStore::join_tied() {
  Communicator& pipe = mesh_.axis(Axis::kPipe);
  if (pipe.size() == 1) return;
  const int other = pipe.rank() == 0 ? pipe.size() - 1 : 0;
  for (Parameter* p : parameters_) {
    if (!p->tied) continue;
    if (!p->grad_written) fill_zero(p->grad);
    p->grad_written = true;
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

bool ParamStore::counts_all() const {
  return std::ranges::all_of(parameters_, [&](const Parameter* p) { return counts(*p); });
}

// The memory of the unit's gradients is free for those of another pass.
void ParamStore::open(Unit& u) {
  if (u.block)
    for (Unit& other : units_) {
      if (!other.block || turn_of(other) != turn_of(u)) continue;
      complete(other);
      comm_->wait(other.reduction);
    }
  comm_->wait(u.reduction);
  for (const size_t i : u.members) parameters_[i]->grad_written = false;
}

// Where gradients are cut those of a pass are summed before the next one's come.
void ParamStore::complete(Unit& u) {
  if (level_ >= 2 && !u.tied && u.ready > 0 && !u.reduced) reduce(u);
}

void ParamStore::reduce(Unit& u) {
  for (const size_t i : u.members)
    if (Parameter& p = *parameters_[i]; !p.grad_written) fill_zero(p.grad);
  if (level_ >= 2)
    for (const Range& gap : u.gaps) fill_zero(u.grads.narrow(gap.begin, gap.end - gap.begin));
  const bool more = std::exchange(u.summed, true) && level_ >= 2;
  u.reduced = true;
  u.reduction = submit([this, &u, more] {
    if (tensor_->size() > 1 && u.whole > 0) tensor_->all_reduce(u.grads.narrow(0, u.whole), Reduce::kSum);
    if (replicas_->size() == 1) return;
    if (level_ == 0) return replicas_->all_reduce(u.grads, Reduce::kSum);
    if (!more) return replicas_->reduce_scatter(u.grads, u.own_grad, Reduce::kSum);
    // The sum over the ranks takes the place of this rank's slice, and joins those of earlier micro-batches.
    const Tensor sum = u.grads.narrow(replicas_->rank() * u.slice_size, u.slice_size);
    replicas_->reduce_scatter(u.grads, sum, Reduce::kSum);
    add_alone(sum, u.own_grad);
  });
}

void ParamStore::finish_reduction() {
  join_tied();
  if (together()) {
    for (Parameter* p : parameters_)
      if (!p->grad_written) fill_zero(p->grad);
    return;
  }
  for (Unit& u : units_) {
    complete(u);
    if (u.reduced) continue;
    if (level_ < 2 || u.tied) {
      reduce(u);
    } else if (!u.summed) {
      fill_zero(u.own_grad);
    }
  }
  comm_->finish();
}

void ParamStore::publish() {
  if (copies_.defined()) copy(masters_, copies_);
  if (level_ == 0) return;
  held_ = {};
  for (const bool block : {false, true})
    for (Unit& u : units_)
      if (u.block == block && (level_ < 3 || !block)) gather(u);
}

void ParamStore::gather(Unit& u) {
  u.gathering = submit([this, &u] { replicas_->all_gather(u.own_master, u.values); });
  if (level_ == 3 && u.block) held_[turn_of(u)] = &u;
}

void ParamStore::await_parameters() {
  if (!together()) comm_->finish();
}

void ParamStore::enter(int64_t number) {
  Unit& u = unit(number);
  const auto take = [&](Unit& wanted) {
    if (level_ == 3 && wanted.block && held_[turn_of(wanted)] != &wanted) gather(wanted);
  };
  take(u);
  if (&u + 1 < units_.data() + units_.size()) take(*(&u + 1));
  comm_->wait(u.gathering);
}

Var ParamStore::watch(int64_t number, const Var& x) {
  if (level_ < 2) return x;
  return record("unit", {x}, x.value(), [this, number](const Tensor& dy, Grads& grads) {
    Unit& u = unit(number);
    open(u);
    if (level_ == 3) {
      if (held_[turn_of(u)] != &u) gather(u);
      if (&u > units_.data() && (&u - 1)->block && held_[turn_of(*(&u - 1))] != &u - 1) gather(*(&u - 1));
      comm_->wait(u.gathering);
    }
    grads.give(0, dy);
  });
}

}  // namespace rookery
