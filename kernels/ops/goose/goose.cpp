// goose.cpp: shapes, scratch, tape record.
#include "kernels/ops/goose/goose.h"

#include <array>

namespace rookery::ops {
namespace {

constexpr auto kKeysForward = RK_KERNEL_GPU(goose_keys_forward);
constexpr auto kKeysBackward = RK_KERNEL_GPU(goose_keys_backward);
constexpr auto kValueForward = RK_KERNEL_GPU(goose_value_forward);
constexpr auto kValueBackward = RK_KERNEL_GPU(goose_value_backward);
constexpr auto kOutputForward = RK_KERNEL_GPU(goose_output_forward);
constexpr auto kOutputBackward = RK_KERNEL_GPU(goose_output_backward);

GradTarget target(Grads& g, int input) { return g.wants(input) ? g.into(input) : GradTarget{}; }

void check_channels(const Var& parameter, int64_t C, std::string_view who) {
  RK_CHECK(parameter.value().numel() == C, who, " ", parameter.shape(), " for ", C, " channels");
}

Tensor scratch_of(const Tensor& like, int64_t sums) {
  Device& device = like.device();
  const int64_t C = like.shape().back(), cpu_rows = device.target() == DeviceType::kCpu ? 2 : 0;
  return empty({sum_parts(device, like.numel() / C), sums + cpu_rows, C}, sum_dtype(like.dtype()), device);
}

}  // namespace

GooseKeys goose_keys(const Var& key, const Var& rate, const Var& k_k, const Var& k_a, int64_t num_heads) {
  const int64_t C = key.shape().back();
  RK_CHECK(C % num_heads == 0, "[goose_keys] ", C, " channels in ", num_heads, " heads");
  check_shape(rate.value(), key.shape(), "[goose_keys] rate");
  check_channels(k_k, C, "[goose_keys] k_k");
  check_channels(k_a, C, "[goose_keys] k_a");
  Device& device = key.value().device();
  const Tensor k = empty_like(key.value()), a = empty_like(k), b = empty_like(k);
  kKeysForward(device, {key.value(), rate.value(), k_k.value(), k_a.value(), k, a, b, num_heads});
  const std::vector<Var> out =
      record("goose_keys", {key, rate, k_k, k_a}, std::array{k, a, b},
             [key = key.value(), rate = rate.value(), k_k = k_k.value(), k_a = k_a.value(), num_heads](
                 std::span<const Tensor> grad, Grads& g) {
               auto gradient = [&](int i) {
                 return grad[i].defined() ? grad[i] : zeros(key.shape(), key.dtype(), key.device());
               };
               kKeysBackward(key.device(),
                             {key, rate, k_k, k_a, gradient(0), gradient(1), gradient(2), target(g, 0),
                              target(g, 1), target(g, 2), target(g, 3), num_heads, scratch_of(key, 2)});
             });
  return {out[0], out[1], out[2]};
}

Var goose_value(const Var& value, const Var& first, const Var& mix) {
  check_shape(first.value(), value.shape(), "[goose_value] first");
  check_shape(mix.value(), value.shape(), "[goose_value] mix");
  const Tensor out = empty_like(value.value());
  kValueForward(out.device(), {value.value(), first.value(), mix.value(), out});
  return record(
      "goose_value", {value, first, mix}, out,
      [value = value.value(), first = first.value(), mix = mix.value()](const Tensor& dout, Grads& g) {
        kValueBackward(value.device(), {value, first, mix, dout, target(g, 0), target(g, 1), target(g, 2)});
      });
}

Var goose_output(const Var& y, const Var& gamma, const Var& beta, const Var& r, const Var& k, const Var& v,
                 const Var& r_k, const Var& gate, double eps) {
  const int64_t C = y.shape().back();
  const auto [H, N] = r_k.value().dims<2>("[goose_output] r_k");
  RK_CHECK(H * N == C, "[goose_output] r_k ", r_k.shape(), " for ", C, " channels");
  for (const auto& [name, x] : {std::pair("r", &r), {"k", &k}, {"v", &v}, {"gate", &gate}})
    check_shape(x->value(), y.shape(), str("[goose_output] ", name));
  check_channels(gamma, C, "[goose_output] gamma");
  check_channels(beta, C, "[goose_output] beta");
  const Tensor out = empty_like(y.value());
  kOutputForward(out.device(), {y.value(), gamma.value(), beta.value(), r.value(), k.value(), v.value(),
                                r_k.value(), gate.value(), out, eps});
  return record("goose_output", {y, gamma, beta, r, k, v, r_k, gate}, out,
                [y = y.value(), gamma = gamma.value(), beta = beta.value(), r = r.value(), k = k.value(),
                 v = v.value(), r_k = r_k.value(), gate = gate.value(), eps](const Tensor& dout, Grads& g) {
                  kOutputBackward(y.device(),
                                  {y, gamma, beta, r, k, v, r_k, gate, dout, target(g, 0), target(g, 1),
                                   target(g, 2), target(g, 3), target(g, 4), target(g, 5), target(g, 6),
                                   target(g, 7), eps, scratch_of(y, 3)});
                });
}

}  // namespace rookery::ops
