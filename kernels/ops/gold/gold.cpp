// gold.cpp: w is read as two matrices side by side, [D, D] for x0 and [D, R] for c.
#include "kernels/ops/gold/gold.h"

#include "kernels/ops/matmul/gemm.h"
#include "kernels/ops/norm/rms_norm.h"

namespace rookery::ops {

Var gold_keys(const Var& x0, const Var& c, const Var& w) {
  const auto [B, T, D] = x0.value().dims<3>("[gold_keys] x0");
  const int64_t R = c.shape().back(), M = B * T, K = D + R;
  check_shape(c.value(), {B, T, R}, "[gold_keys] c");
  check_shape(w.value(), {D, K}, "[gold_keys] w");
  Tensor z = empty_like(x0.value());
  dispatch_float(z.dtype(), [&]<class F>() {
    const F* weight = w.value().data<F>();
    parallel_gemm(z.device(), M, D, D, Operand<F>{x0.value().data<F>(), D, false}, {weight, K, true}, F(0),
                  z.data<F>(), D);
    parallel_gemm(z.device(), M, D, R, Operand<F>{c.value().data<F>(), R, false}, {weight + D, K, true}, F(1),
                  z.data<F>(), D);
  });
  const Var product =
      record("gold_keys", {x0, c, w}, z,
             [x0 = x0.value(), c = c.value(), w = w.value(), M, D = D, R, K](const Tensor& dz, Grads& g) {
               Device& device = dz.device();
               const GradTarget dx0 = g.wants(0) ? g.into(0) : GradTarget{},
                                dc = g.wants(1) ? g.into(1) : GradTarget{},
                                dw = g.wants(2) ? g.into(2) : GradTarget{};
               dispatch_float(dz.dtype(), [&]<class F>() {
                 const F *weight = w.data<F>(), *grad = dz.data<F>();
                 auto beta = [](const GradTarget& t) { return t.accumulate ? F(1) : F(0); };
                 if (dx0.tensor.defined())
                   parallel_gemm(device, M, D, D, Operand<F>{grad, D, false}, {weight, K, false}, beta(dx0),
                                 dx0.tensor.data<F>(), D);
                 if (dc.tensor.defined())
                   parallel_gemm(device, M, R, D, Operand<F>{grad, D, false}, {weight + D, K, false},
                                 beta(dc), dc.tensor.data<F>(), R);
                 if (!dw.tensor.defined()) return;
                 F* out = dw.tensor.data<F>();
                 parallel_gemm(device, D, D, M, Operand<F>{grad, D, true}, {x0.data<F>(), D, false}, beta(dw),
                               out, K);
                 parallel_gemm(device, D, R, M, Operand<F>{grad, D, true}, {c.data<F>(), R, false}, beta(dw),
                               out + D, K);
               });
             });
  return rms_norm(product, Var(), 1e-8, RmsEps::kOutside);
}

}  // namespace rookery::ops
