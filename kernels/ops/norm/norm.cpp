// norm.cpp: shapes, tape record.
#include "kernels/ops/norm/norm.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(norm_forward);
constexpr auto kBackward = RK_KERNEL_GPU(norm_backward);

Var norm(std::string_view name, const Var& x, const Var& gamma, const Var& beta, int64_t num_groups,
         double eps, const Var& gate) {
  const int64_t C = x.shape().back(), M = x.value().numel() / C;
  RK_CHECK(C % num_groups == 0, "[", name, "] ", C, " channels in ", num_groups, " groups");
  RK_CHECK(gamma.value().numel() == C && beta.value().numel() == C, "[", name, "] gamma ", gamma.shape(),
           ", beta ", beta.shape(), " for ", C, " channels");
  if (gate.defined())
    RK_CHECK(gate.value().numel() == M * C, "[", name, "] gate ", gate.shape(), " for x ", x.shape());
  Device& device = x.value().device();
  const DType dtype = x.value().dtype();
  Tensor y = empty(x.shape(), dtype, device);
  Tensor mean = empty({M, num_groups}, sum_dtype(dtype), device), rstd = empty_like(mean);
  kForward(device, {x.value(), gamma.value(), beta.value(), gate.value(), y, mean, rstd, num_groups, eps});
  return record(name, {x, gamma, beta, gate}, y,
                [x = x.value(), gamma = gamma.value(), beta = beta.value(), gate = gate.value(), mean, rstd,
                 num_groups, C, M](const Tensor& dy, Grads& g) {
                  auto target = [&](int i) { return g.wants(i) ? g.into(i) : GradTarget{}; };
                  Device& on = x.device();
                  const int64_t cpu_scratch = on.target() == DeviceType::kCpu;
                  Tensor partial;
                  if (cpu_scratch || g.wants(1) || g.wants(2))
                    partial = empty({sum_parts(on, M), 2 + cpu_scratch, C}, sum_dtype(x.dtype()), on);
                  kBackward(x.device(), {x, gamma, beta, gate, mean, rstd, dy, target(0), target(3),
                                         target(1), target(2), partial, num_groups});
                });
}

}  // namespace

Var layer_norm(const Var& x, const Var& gamma, const Var& beta, double eps) {
  return norm("layer_norm", x, gamma, beta, 1, eps, Var());
}
Var group_norm(const Var& x, const Var& gamma, const Var& beta, int64_t num_groups, double eps,
               const Var& gate) {
  return norm("group_norm", x, gamma, beta, num_groups, eps, gate);
}

}  // namespace rookery::ops
