// matmul.cpp: shapes, tape record and gradients: dx = dy W, dW = dy^T x (rwkv-common 1 fixes the two storage
// orders).
#include "kernels/ops/matmul/matmul.h"

#include <cstring>

#include "kernels/ops/backend.h"
#include "kernels/ops/matmul/product.h"

namespace rookery::ops {
namespace {

Shape with_last(const Shape& shape, int64_t last) {
  std::vector<int64_t> dims(shape.begin(), shape.end());
  dims.back() = last;
  return Shape(std::span<const int64_t>(dims));
}

void fill_rows(const Tensor& row, const Tensor& out) {
  if (out.device().type() == DeviceType::kMeta) return;
  const size_t bytes = row.bytes();
  parallel_for(out.device().pool(), out.numel() / row.numel(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(out.raw() + i * bytes, row.raw(), bytes);
  });
}

// out (+)= sum of the rows of x [M, N].
void sum_rows(const Tensor& x, int64_t N, const GradTarget& out) {
  if (x.device().type() == DeviceType::kMeta) return;
  dispatch_float(x.dtype(), [&]<class T>() {
    const T* rows = x.data<T>();
    T* sum = out.tensor.data<T>();
    parallel_for(x.device().pool(), N, 64, [&](int64_t begin, int64_t end) {
      if (!out.accumulate) std::memset(sum + begin, 0, (end - begin) * sizeof(T));
      for (int64_t i = 0; i < x.numel() / N; ++i)
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) sum[j] += rows[i * N + j];
    });
  });
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
  Tensor y = empty(with_last(x.shape(), N), x.value().dtype(), x.value().device());
  const bool has_bias = bias.defined();
  if (has_bias) {
    check_cpu("bias", y.device());
    RK_CHECK(bias.value().numel() == N, "[", name, "] bias ", bias.shape(), " for ", N, " outputs");
    fill_rows(bias.value(), y);
  }
  rookery::product(M, N, K, {x.value(), K}, {w.value(), w_out_in ? K : N, w_out_in}, has_bias, {y, N});
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
        if (g.wants(2)) sum_rows(dy, N, g.into(2));
      });
}

}  // namespace

Var linear(const Var& x, const Var& weight, const Var& bias) {
  return with_weight("linear", x, weight, true, bias);
}
Var matmul(const Var& x, const Var& a, const Var& bias) { return with_weight("matmul", x, a, false, bias); }

}  // namespace rookery::ops
