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

// Sums over what each rank owns become those of the whole model, with the same bits on every rank.
void sum_over_owners(const ParamStore& store, std::span<double> sums) {
  const Mesh& mesh = store.mesh();
  if (mesh.world().size() == 1) return;
  const Tensor all = tensor_from(std::span<const double>(sums), {static_cast<int64_t>(sums.size())},
                                 DType::kF64, store.device());
  const auto add = [&](Communicator& ranks) {
    if (ranks.size() > 1) ranks.all_reduce(all, Reduce::kSum);
  };
  if (store.level() > 0) add(mesh.replicas());
  add(mesh.axis(Axis::kTensor));
  add(mesh.axis(Axis::kPipe));
  std::ranges::copy(to_doubles(all), sums.begin());
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
    m_ = zeros({store.num_owned()}, store.dtype(), device);
    v_ = zeros({store.num_owned()}, store.dtype(), device);
  }
  const Arena::Owner owner(device.arena(), "workspaces");
  scratch_ = empty({squares_blocks(store.num_owned())}, DType::kF64, device);
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
  store_.publish();
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
  const auto of = [&](const Tensor& values) {
    double sum = 0;
    kSquares(store_.device(), {values, &sum, scratch_});
    return sum;
  };
  double sum = 0;
  if (store_.counts_all()) {
    for (const ParamStore::Part& part : store_.parts()) sum += of(part.grad);
  } else {
    for (size_t i = 0; i < segments_.size(); ++i) {
      const ParamStore::Range r = store_.range(i);
      const ParamStore::Part& part = store_.part(i);
      if (store_.counts(*store_.parameters()[i]) && r.begin < r.end)
        sum += of(part.grad.narrow(r.begin - part.begin, r.end - r.begin));
    }
  }
  sum_over_owners(store_, std::span(&sum, 1));
  return sum;
}

void AdamW::update_on_host(double clip) {
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (!store_.parameters()[i]->trainable) continue;
    const ParamStore::Part& part = store_.part(i);
    const Tensor m = m_.narrow(part.begin, part.master.numel()),
                 v = v_.narrow(part.begin, part.master.numel());
    for (const AdamwRange& r : ranges(i, updates_))
      kUpdate(store_.device(),
              {part.master, part.grad, m, v, r.begin - part.begin, r.end - part.begin, lr_ * r.lr_scale,
               config_.beta1, config_.beta2, config_.eps, r.weight_decay, clip, updates_ + 1 - r.missed});
  }
}

std::vector<AdamwRange> AdamW::ranges(size_t parameter, int64_t updates) const {
  std::vector<AdamwRange> all;
  const Parameter& p = *store_.parameters()[parameter];
  const OptimGroup& group = groups_[parameter];
  const Shape local = p.local();
  const ParamStore::Range own = store_.range(parameter);
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
      const int64_t base = own.begin - own.first + o * length * inner;
      const int64_t from = std::max(own.begin, base + begin * inner),
                    to = std::min(own.end, base + end * inner);
      if (from < to)
        all.push_back(
            {from, to, group.lr_scale, group.decay ? config_.weight_decay : 0.0, updates - segment.steps});
    }
  }
  return all;
}

std::vector<AdamW::Norms> AdamW::norms(double lr,
                                       const std::function<std::string(const Parameter&)>& part_of) {
  std::vector<Norms> parts;
  std::vector<size_t> place;  // in `parts`, by parameter
  for (const Parameter* p : store_.parameters()) {
    const std::string name = part_of(*p);
    const auto it = std::ranges::find(parts, name, &Norms::part);
    place.push_back(static_cast<size_t>(it - parts.begin()));
    if (it == parts.end()) parts.push_back({name});
  }
  std::vector<double> sums(3 * parts.size());
  for (const ParamStore::Part& part : store_.parts()) add_norms(part, lr, place, sums);
  sum_over_owners(store_, sums);
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].param = std::sqrt(sums[3 * i]);
    parts[i].grad = std::sqrt(sums[3 * i + 1]);
    parts[i].change = std::sqrt(sums[3 * i + 2]);
  }
  return parts;
}

void AdamW::add_norms(const ParamStore::Part& part, double lr, std::span<const size_t> place,
                      std::span<double> sums) const {
  std::vector<AdamwRange> all;
  std::vector<size_t> place_of_range;
  for (size_t i = 0; i < segments_.size(); ++i) {
    const Parameter& p = *store_.parameters()[i];
    if (&store_.part(i) != &part || !store_.counts(p)) continue;
    for (AdamwRange range : ranges(i, updates_)) {
      if (!p.trainable) range.lr_scale = 0;
      range.missed = std::min(range.missed, updates_ - 1);  // without updates its moments are 0
      range.begin -= part.begin;
      range.end -= part.begin;
      all.push_back(range);
      place_of_range.push_back(place[i]);
    }
  }
  if (all.empty()) return;
  Device& device = store_.device();
  const AdamwTable table = adamw_table(all, device);
  const Tensor squares = empty(table.tiles.shape(), DType::kF64, device);
  const int64_t n = part.master.numel();
  kUpdateSquares(device, {part.master, part.grad, m_.narrow(part.begin, n), v_.narrow(part.begin, n), table,
                          numbers({0, 1, static_cast<double>(updates_)}, device), numbers({lr}, device),
                          squares, config_.beta1, config_.beta2, config_.eps});
  const std::vector<double> tiles = to_doubles(squares);
  size_t tile = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    double own[3] = {};
    for (int64_t left = squares_blocks(all[i].end - all[i].begin); left > 0; --left, ++tile)
      for (size_t k = 0; k < 3; ++k) own[k] += tiles[3 * tile + k];
    for (size_t k = 0; k < 3; ++k) sums[3 * place_of_range[i] + k] += own[k];
  }
}

}  // namespace rookery
