#include "trainer/optim/adamw.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/adamw/adamw.h"

namespace rookery {
namespace {
constexpr auto kUpdate = RK_KERNEL(adamw_update);
constexpr auto kSquares = RK_KERNEL(sum_of_squares);
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
    const Parameter& p = *store_.parameters()[i];
    if (!p.trainable) continue;
    for (OptimSegment& segment : segments_[i]) {
      ++segment.steps;
      // Along axis a the segment is one run of elements for each index of the axes before it.
      int64_t outer = 1, inner = 1;
      for (int d = 0; d < segment.axis; ++d) outer *= p.global[d];
      for (int d = segment.axis + 1; d < p.global.size(); ++d) inner *= p.global[d];
      const int64_t stride = p.global[segment.axis] * inner;
      for (int64_t o = 0; o < outer; ++o) {
        const int64_t base = store_.range(i).begin + o * stride;
        kUpdate(device, {store_.masters(), store_.grads(), m_, v_, base + segment.begin * inner,
                         base + segment.end * inner, lr * groups_[i].lr_scale, config_.beta1, config_.beta2,
                         config_.eps, groups_[i].decay ? config_.weight_decay : 0.0, report.clip_coef,
                         segment.steps});
      }
    }
  }
  return report;
}

}  // namespace rookery
