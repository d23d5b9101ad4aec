// matmul.cpp: shapes, tape record and gradients: dx = dy W, dW = dy^T x (rwkv-common 1 fixes the two storage
// orders).
#include "kernels/ops/matmul/matmul.h"

#include "kernels/ops/matmul/bias.h"
#include "kernels/ops/matmul/product.h"

namespace rookery::ops {
namespace {

constexpr auto kFillRows = RK_KERNEL_GPU(fill_rows);
constexpr auto kSumRows = RK_KERNEL_GPU(sum_rows);

Shape with_last(const Shape& shape, int64_t last) {
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims.back() = last;
  return Shape(std::span<const int64_t>(dims));
}

void add_rows(const Tensor& x, int64_t N, const GradTarget& out) {
  const bool on_cpu = x.device().target() == DeviceType::kCpu;
  kSumRows(x.device(),
           {x, out, on_cpu ? Tensor() : empty({sum_rows_parts(x.numel() / N), N}, DType::kF32, x.device())});
}

// w_out_in: weight [N, K] (linear) or [K, N] (matmul).
Var with_weight(std::string_view name, const Var& x, const Var& w, bool w_out_in, const Var& bias) {
  RK_CHECK(w.shape().size() == 2, "[", name, "] weight must have 2 dims, has ", w.shape());
  const int64_t K = x.shape().back(), M = K == 0 ? 0 : x.value().numel() / K;
  const int64_t N = w.shape()[w_out_in ? 0 : 1];
  RK_CHECK(w.shape()[w_out_in ? 1 : 0] == K, "[", name, "] x ", x.shape(), " and weight ", w.shape(),
           " do not fit");
  RK_CHECK(x.value().dtype() == w.value().dtype(), "[", name, "] x is ", x.value().dtype(), ", weight ",
           w.value().dtype());
  const bool has_bias = bias.defined();
  if (has_bias)
    RK_CHECK(bias.value().numel() == N, "[", name, "] bias ", bias.shape(), " for ", N, " outputs");
  const auto compute = [&] {
    const Tensor out = empty(with_last(x.shape(), N), x.value().dtype(), x.value().device());
    if (has_bias) kFillRows(out.device(), {bias.value(), out});
    rookery::product(M, N, K, {x.value(), K}, {w.value(), w_out_in ? K : N, w_out_in}, has_bias, {out, N});
    return std::vector{out};
  };
  const Tensor y = dear({x, w, bias}, compute)[0];
  return record(
      name, {x, w, bias}, y, [x = x.value(), w = w.value(), w_out_in, M, N, K](const Tensor& dy, Grads& g) {
        if (g.wants(0)) {
          const GradTarget dx = g.into(0);
          rookery::product(M, K, N, {dy, N}, {w, w_out_in ? K : N, !w_out_in}, dx.accumulate, {dx.tensor, K});
        }
        if (g.wants(1)) {
          const GradTarget dw = g.into(1);
          if (w_out_in) {
            rookery::product(N, K, M, {dy, N, true}, {x, K}, dw.accumulate, {dw.tensor, K});
          } else {
            rookery::product(K, N, M, {x, K, true}, {dy, N}, dw.accumulate, {dw.tensor, N});
          }
        }
        if (g.wants(2)) add_rows(dy, N, g.into(2));
      });
}

}  // namespace

Var linear(const Var& x, const Var& weight, const Var& bias) {
  return with_weight("linear", x, weight, true, bias);
}
Var matmul(const Var& x, const Var& a, const Var& bias) { return with_weight("matmul", x, a, false, bias); }

}  // namespace rookery::ops
