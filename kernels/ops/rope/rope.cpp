// rope.cpp: frequencies, shapes, tape record.
#include "kernels/ops/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace rookery {

std::vector<double> rope_frequencies(int64_t D, double theta, const RopeScaling& s) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < D / 2; ++i) {
    double f = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(D));
    if (s.kind == RopeScaling::Kind::kLinear) f /= s.factor;
    if (s.kind == RopeScaling::Kind::kLlama3) {
      // Turns within the context that the model was first trained on, from slow (divided) to fast (kept).
      const double turns = s.original_context * f / (2 * std::numbers::pi);
      const double keep =
          std::clamp((turns - s.low_frequency) / (s.high_frequency - s.low_frequency), 0.0, 1.0);
      f *= (1 - keep) / s.factor + keep;
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

namespace ops {
namespace {

constexpr auto kRotate = RK_KERNEL_GPU(rope_rotate);

void rotate(const Tensor& x, const GradTarget& y, const std::vector<double>& frequencies,
            const RopeOptions& o, bool back) {
  Device& device = x.device();
  const bool cpu = device.target() == DeviceType::kCpu;
  const Tensor scratch =
      empty({cpu ? device.pool().num_threads() : x.dim(1), x.dim(3)}, sum_dtype(x.dtype()), device);
  kRotate(device, {x, y, frequencies, o.pairs, o.offset, back, scratch});
}

}  // namespace

Var rope(const Var& x, const RopeOptions& o) {
  const auto [B, T, H, D] = x.value().dims<4>("[rope] x");
  RK_CHECK(D % 2 == 0, "[rope] heads of odd size ", D);
  const std::vector<double> frequencies = rope_frequencies(D, o.theta, o.scaling);
  Tensor y = empty_like(x.value());
  rotate(x.value(), {y, false}, frequencies, o, false);
  return record("rope", {x}, y, [frequencies, o](const Tensor& dy, Grads& g) {
    rotate(dy, g.into(0), frequencies, o, true);
  });
}

}  // namespace ops
}  // namespace rookery
