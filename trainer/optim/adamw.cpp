#include "trainer/optim/adamw.h"

#include <algorithm>
#include <cmath>

namespace rookery {
namespace {
constexpr auto kUpdate = RK_KERNEL(adamw_update);
constexpr auto kSquares = RK_KERNEL(sum_of_squares);
constexpr auto kStep = RK_KERNEL_GPU(adamw_step);
constexpr auto kUpdateSquares = RK_KERNEL_GPU(adamw_squares);

Tensor numbers(std::initializer_list<double> values, Device& device) {
  return tensor_from(std::span<const double>(values.begin(), values.size()),
                     {static_cast<int64_t>(values.size())}, DType::kF64, device);
}
}  // namespace

AdamW::AdamW(ParamStore& store, const AdamwConfig& config,
             const std::function<OptimGroup(const Parameter&)>& group_of)
    : store_(store), config_(config) {
  for (const Parameter* p : store.parameters()) {
    groups_.push_back(group_of(*p));
    segments_.push_back({{0, 0, p->global[0], 0}});
  }
  Device& device = store.device();
  {
    const Arena::Owner owner(device.arena(), "moments");
    m_ = zeros(store.masters().shape(), store.dtype(), device);
    v_ = zeros(store.masters().shape(), store.dtype(), device);
  }
  const Arena::Owner owner(device.arena(), "workspaces");
  scratch_ = empty({squares_blocks(store.grads().numel())}, DType::kF64, device);
}

void AdamW::set_segments(size_t parameter, std::vector<OptimSegment> segments) {
  segments_[parameter] = std::move(segments);
  table_ = {};
}

AdamW::Report AdamW::step(double lr) {
  set_rate(lr);
  launch({});
  return finish();
}

void AdamW::set_rate(double lr) {
  lr_ = lr;
  if (on_cpu()) return;
  Device& device = store_.device();
  const Arena::Owner owner(device.arena(), "workspaces");
  if (!state_.defined()) {
    state_ = zeros({3}, DType::kF64, device);
    rate_ = zeros({1}, DType::kF64, device);
  }
  if (!table_.rules.defined()) {
    std::vector<AdamwRange> all;
    for (size_t i = 0; i < segments_.size(); ++i) {
      if (!store_.parameters()[i]->trainable) continue;
      for (const AdamwRange& range : ranges(i, updates_)) all.push_back(range);
    }
    table_ = adamw_table(all, device);
  }
  upload(&lr, rate_);
}

void AdamW::launch(const Tensor& losses) {
  for (Parameter* p : store_.parameters())
    if (!p->trainable) fill_zero(p->grad);  // frozen parameters do not count in the norm
  if (!on_cpu()) {
    kStep(store_.device(), {store_.masters(), store_.grads(), m_, v_, store_.copies(), table_, state_, rate_,
                            scratch_, config_.beta1, config_.beta2, config_.eps, config_.grad_clip, losses});
    return;
  }
  report_ = {NAN, 1, false};
  if (losses.defined())
    for (const double loss : to_doubles(losses))
      if (!std::isfinite(loss)) return;
  const double sum = squares();
  report_ = {std::sqrt(sum), 1, std::isfinite(sum)};
  if (!report_.finite) return;
  if (config_.grad_clip > 0)
    report_.clip_coef = std::min(1.0, config_.grad_clip / (report_.grad_norm + 1e-6));
  update_on_host(report_.clip_coef);
}

AdamW::Report AdamW::finish() {
  if (!on_cpu()) {
    const std::vector<double> state = Readback(state_).values();  // AdamwState
    const bool applied = state[1] > 0;
    report_ = {state[0], applied ? state[1] : 1, applied};
  }
  if (!report_.finite) return report_;
  ++updates_;
  for (size_t i = 0; i < segments_.size(); ++i)
    if (store_.parameters()[i]->trainable)
      for (OptimSegment& segment : segments_[i]) ++segment.steps;
  return report_;
}

double AdamW::squares() const {
  const Mesh& mesh = store_.mesh();
  const auto of = [&](const Tensor& values) {
    double sum = 0;
    kSquares(store_.device(), {values, &sum, scratch_});
    return sum;
  };
  double sum = 0;
  const std::vector<Parameter*>& parameters = store_.parameters();
  if (std::ranges::all_of(parameters, [&](const Parameter* p) { return store_.counts(*p); })) {
    sum = of(store_.grads());
  } else {
    for (const Parameter* p : parameters)
      if (store_.counts(*p)) sum += of(p->grad);
  }
  for (const Axis axis : {Axis::kTensor, Axis::kPipe})
    if (mesh.degree(axis) > 1) {
      const Tensor part = numbers({sum}, store_.device());
      mesh.axis(axis).all_reduce(part, Reduce::kSum);
      sum = to_doubles(part)[0];
    }
  return sum;
}

void AdamW::update_on_host(double clip) {
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (!store_.parameters()[i]->trainable) continue;
    for (const AdamwRange& r : ranges(i, updates_))
      kUpdate(store_.device(),
              {store_.masters(), store_.grads(), m_, v_, r.begin, r.end, lr_ * r.lr_scale, config_.beta1,
               config_.beta2, config_.eps, r.weight_decay, clip, updates_ + 1 - r.missed});
  }
}

std::vector<AdamwRange> AdamW::ranges(size_t parameter, int64_t updates) const {
  std::vector<AdamwRange> all;
  const Parameter& p = *store_.parameters()[parameter];
  const OptimGroup& group = groups_[parameter];
  const Shape local = p.local();
  for (const OptimSegment& segment : segments_[parameter]) {
    // Along axis a the segment is one run of elements for each index of the axes before it; this rank has
    // what of it lies in its part.
    int64_t outer = 1, inner = 1;
    for (int d = 0; d < segment.axis; ++d) outer *= local[d];
    for (int d = segment.axis + 1; d < local.size(); ++d) inner *= local[d];
    const int64_t length = local[segment.axis],
                  first = segment.axis == p.spec.split_dim ? p.spec.part * length : 0;
    const int64_t begin = std::clamp<int64_t>(segment.begin - first, 0, length),
                  end = std::clamp<int64_t>(segment.end - first, 0, length);
    for (int64_t o = 0; o < outer && begin < end; ++o) {
      const int64_t base = store_.range(parameter).begin + o * length * inner;
      all.push_back({base + begin * inner, base + end * inner, group.lr_scale,
                     group.decay ? config_.weight_decay : 0.0, updates - segment.steps});
    }
  }
  return all;
}

std::vector<AdamW::Norms> AdamW::norms(double lr,
                                       const std::function<std::string(const Parameter&)>& part_of) {
  std::vector<AdamwRange> all;
  std::vector<std::string> part_of_range;
  for (size_t i = 0; i < segments_.size(); ++i) {
    const Parameter& p = *store_.parameters()[i];
    for (AdamwRange range : ranges(i, updates_)) {
      if (!p.trainable) range.lr_scale = 0;
      range.missed = std::min(range.missed, updates_ - 1);  // without updates its moments are 0
      all.push_back(range);
      part_of_range.push_back(part_of(p));
    }
  }
  Device& device = store_.device();
  const AdamwTable table = adamw_table(all, device);
  const Tensor sums = empty(table.tiles.shape(), DType::kF64, device);
  kUpdateSquares(device, {store_.masters(), store_.grads(), m_, v_, table,
                          numbers({0, 1, static_cast<double>(updates_)}, device), numbers({lr}, device), sums,
                          config_.beta1, config_.beta2, config_.eps});
  const std::vector<double> squares = to_doubles(sums);
  std::vector<Norms> parts;
  size_t tile = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    Norms own{part_of_range[i]};
    for (int64_t n = squares_blocks(all[i].end - all[i].begin); n > 0; --n, ++tile) {
      own.param += squares[3 * tile];
      own.grad += squares[3 * tile + 1];
      own.change += squares[3 * tile + 2];
    }
    auto it = std::find_if(parts.begin(), parts.end(), [&](const Norms& n) { return n.part == own.part; });
    if (it == parts.end()) it = parts.insert(parts.end(), {own.part});
    it->param += own.param;
    it->grad += own.grad;
    it->change += own.change;
  }
  for (Norms& n : parts) n = {n.part, std::sqrt(n.param), std::sqrt(n.grad), std::sqrt(n.change)};
  return parts;
}

}  // namespace rookery
