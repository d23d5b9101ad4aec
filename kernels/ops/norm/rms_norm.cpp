// rms_norm.cpp: shapes, tape record.
#include "kernels/ops/norm/rms_norm.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(rms_norm_forward);
constexpr auto kBackward = RK_KERNEL_GPU(rms_norm_backward);

}  // namespace

Var rms_norm(const Var& x, const Var& gamma, double eps, RmsEps where) {
  const int64_t C = x.shape().back(), M = x.value().numel() / C;
  if (gamma.defined())
    RK_CHECK(gamma.value().numel() == C, "[rms_norm] gamma ", gamma.shape(), " for ", C, " channels");
  Device& device = x.value().device();
  Tensor y = empty_like(x.value()), rstd = empty({M}, sum_dtype(y.dtype()), device);
  kForward(device, {x.value(), gamma.value(), y, rstd, eps, where});
  return record("rms_norm", {x, gamma}, y,
                [x = x.value(), gamma = gamma.value(), rstd, eps, where, C, M](const Tensor& dy, Grads& g) {
                  const auto target = [&](int i) { return g.wants(i) ? g.into(i) : GradTarget{}; };
                  RmsNormGrad a{x, gamma, rstd, dy, target(0), target(1), {}, eps, where};
                  if (g.wants(1))
                    a.partial = empty({sum_parts(x.device(), M), 1, C}, sum_dtype(x.dtype()), x.device());
                  kBackward(x.device(), a);
                });
}

}  // namespace rookery::ops
