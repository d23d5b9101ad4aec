#include "trainer/optim/adamw.h"

#include <algorithm>
#include <cmath>

namespace rookery {
namespace {
constexpr auto kUpdate = RK_KERNEL(adamw_update);
constexpr auto kSquares = RK_KERNEL(sum_of_squares);
constexpr auto kUpdateSquares = RK_KERNEL(adamw_squares);
}  // namespace

AdamW::AdamW(ParamStore& store, const AdamwConfig& config,
             const std::function<OptimGroup(const Parameter&)>& group_of)
    : store_(store), config_(config) {
  for (const Parameter* p : store.parameters()) {
    groups_.push_back(group_of(*p));
    segments_.push_back({{0, 0, p->global[0], 0}});
  }
  m_ = zeros(store.masters().shape(), store.dtype(), store.device());
  v_ = zeros(store.masters().shape(), store.dtype(), store.device());
  scratch_ = empty({squares_blocks(store.grads().numel())}, DType::kF64, store.device());
}

AdamW::Report AdamW::step(double lr) {
  Device& device = store_.device();
  for (Parameter* p : store_.parameters())
    if (!p->trainable) fill_zero(p->grad);  // frozen parameters do not count in the norm
  double squares = 0;
  kSquares(device, {store_.grads(), &squares, scratch_});
  Report report{std::sqrt(squares), 1.0, std::isfinite(squares)};
  if (!report.finite) return report;
  if (config_.grad_clip > 0) report.clip_coef = std::min(1.0, config_.grad_clip / (report.grad_norm + 1e-6));

  for (size_t i = 0; i < store_.parameters().size(); ++i) {
    if (!store_.parameters()[i]->trainable) continue;
    for (OptimSegment& segment : segments_[i]) ++segment.steps;
    for_each_range(i, lr, report.clip_coef, [&](const AdamwArgs& update) { kUpdate(device, update); });
  }
  return report;
}

void AdamW::for_each_range(size_t parameter, double lr, double clip,
                           const std::function<void(const AdamwArgs&)>& visit) const {
  const Parameter& p = *store_.parameters()[parameter];
  for (const OptimSegment& segment : segments_[parameter]) {
    // Along axis a the segment is one run of elements for each index of the axes before it.
    int64_t outer = 1, inner = 1;
    for (int d = 0; d < segment.axis; ++d) outer *= p.global[d];
    for (int d = segment.axis + 1; d < p.global.size(); ++d) inner *= p.global[d];
    const int64_t stride = p.global[segment.axis] * inner;
    for (int64_t o = 0; o < outer; ++o) {
      const int64_t base = store_.range(parameter).begin + o * stride;
      visit({store_.masters(), store_.grads(), m_, v_, base + segment.begin * inner,
             base + segment.end * inner, lr * groups_[parameter].lr_scale, config_.beta1, config_.beta2,
             config_.eps, groups_[parameter].decay ? config_.weight_decay : 0.0, clip,
             std::max<int64_t>(segment.steps, 1)});  // 0 of a frozen parameter: its moments are 0
    }
  }
}

std::vector<AdamW::Norms> AdamW::norms(double lr,
                                       const std::function<std::string(const Parameter&)>& part_of) {
  std::vector<Norms> parts;
  for (size_t i = 0; i < store_.parameters().size(); ++i) {
    const Parameter& p = *store_.parameters()[i];
    const std::string part = part_of(p);
    auto it = std::find_if(parts.begin(), parts.end(), [&](const Norms& n) { return n.part == part; });
    if (it == parts.end()) it = parts.insert(parts.end(), {part});
    for_each_range(i, p.trainable ? lr : 0, 1, [&](const AdamwArgs& update) {
      AdamwSquaresArgs::Result squares{};
      kUpdateSquares(store_.device(),
                     {update, &squares,
                      empty({3 * squares_blocks(update.end - update.begin)}, DType::kF64, store_.device())});
      it->param += squares.param;
      it->grad += squares.grad;
      it->change += squares.change;
    });
  }
  for (Norms& n : parts) n = {n.part, std::sqrt(n.param), std::sqrt(n.grad), std::sqrt(n.change)};
  return parts;
}

}  // namespace rookery
