// norm_shift.cpp: shapes, scratch, tape record.
#include "kernels/ops/token_shift/norm_shift.h"

namespace rookery::ops {
namespace {

constexpr auto kForward = RK_KERNEL_GPU(norm_shift_forward);
constexpr auto kBackward = RK_KERNEL_GPU(norm_shift_backward);

// Inputs of the record, by position; the mixes come last.
enum Input { kX, kDelta, kGamma, kBeta, kCarried, kMu };

GradTarget target(Grads& g, int input) { return g.wants(input) ? g.into(input) : GradTarget{}; }

// `rows` more of them on the CPU.
Tensor scratch_of(const Tensor& x, int64_t sums, int64_t rows) {
  Device& device = x.device();
  const bool on_cpu = device.target() == DeviceType::kCpu;
  return empty({sum_parts(device, x.dim(0) * x.dim(1)), sums + (on_cpu ? rows : 0), x.dim(2)},
               sum_dtype(x.dtype()), device);
}

}  // namespace

NormShift norm_shift(const Var& x, const Var& delta, const Var& gamma, const Var& beta,
                     const Previous& previous, const std::vector<Var>& mu, bool keep_last, double eps) {
  const auto [B, T, C] = x.value().dims<3>("[norm_shift] x");
  const int count = static_cast<int>(mu.size());
  RK_CHECK(count >= 1 && count <= kMaxMixes, "[norm_shift] 1 to ", kMaxMixes, " mixes, got ", count);
  if (delta.defined()) check_shape(delta.value(), x.shape(), "[norm_shift] delta");
  for (const auto& [name, v] : {std::pair("gamma", &gamma), {"beta", &beta}})
    RK_CHECK(v->value().numel() == C, "[norm_shift] ", name, " ", v->shape(), " for ", C, " channels");
  check_previous(previous, x.shape(), "[norm_shift]");

  Device& device = x.value().device();
  const DType dtype = x.value().dtype();
  NormShiftArgs a{x.value(),
                  delta.value(),
                  gamma.value(),
                  beta.value(),
                  previous.carried.value(),
                  previous.doc_start,
                  count,
                  {},
                  {},
                  delta.defined() ? empty_like(x.value()) : x.value(),
                  empty({B * T}, sum_dtype(dtype), device),
                  {},
                  {},
                  {},
                  eps};
  a.rstd = empty_like(a.mean);
  std::vector<Tensor> computed{a.sum};
  for (int q = 0; q < count; ++q) {
    if (mu[q].defined())
      RK_CHECK(mu[q].value().numel() == C, "[norm_shift] mu ", mu[q].shape(), " for ", C, " channels");
    a.mu[q] = mu[q].value();
    computed.push_back(a.out[q] = empty_like(x.value()));
  }
  if (keep_last) a.last = empty({B, C}, dtype, device);
  if (device.target() == DeviceType::kCpu) a.scratch = scratch_of(a.x, 0, 2);
  kForward(device, a);

  const auto mu_or_none = [&](int q) { return q < count ? mu[q] : Var(); };
  static_assert(kMaxMixes == 6);
  const std::vector<Var> vars =
      record("norm_shift",
             {x, delta, gamma, beta, previous.carried, mu_or_none(0), mu_or_none(1), mu_or_none(2),
              mu_or_none(3), mu_or_none(4), mu_or_none(5)},
             computed,
             [sum = a.sum, gamma = a.gamma, beta = a.beta, mean = a.mean, rstd = a.rstd, carried = a.carried,
              doc_start = a.doc_start, mu = a.mu, count](std::span<const Tensor> grads, Grads& g) {
               NormShiftGrad b{sum,
                               gamma,
                               beta,
                               mean,
                               rstd,
                               carried,
                               doc_start,
                               count,
                               mu,
                               {},
                               grads[0],
                               {},
                               {},
                               target(g, kGamma),
                               target(g, kBeta),
                               target(g, kCarried),
                               scratch_of(sum, count + 2, 4)};
               if (g.wants(kX) || g.wants(kDelta)) b.dx = empty_like(sum);
               for (int q = 0; q < count; ++q) {
                 b.dout[q] = grads[1 + q];
                 b.dmu[q] = target(g, kMu + q);
               }
               kBackward(sum.device(), b);
               for (const int input : {kX, kDelta})
                 if (g.wants(input)) g.give(input, b.dx);
             });
  return {vars[0], {vars.begin() + 1, vars.end()}, a.last};
}

}  // namespace rookery::ops
