// activation_cuda.cu: one pass over memory; a thread owns eight neighbouring elements, in float.
#include "kernels/ops/activation/activation.h"
#include "kernels/ops/grad_out.h"

namespace rookery::RK_BACKEND {
namespace {

RK_DEV float sigmoid_of(float x) { return 1.f / (1.f + expf(-x)); }
// exp(w); past 20 it is as good as infinite and would give inf * 0. NaN stays NaN.
RK_DEV float rate_of(float w) { return expf(w > 20.f ? 20.f : w); }

// The function of one argument, or what multiplies the value.
RK_DEV float factor(Activation kind, float x) {
  switch (kind) {
    case Activation::kTanh:
      return tanhf(x);
    case Activation::kSigmoid:
    case Activation::kSigmoidMul:
      return sigmoid_of(x);
    case Activation::kOneMinus:
      return 1.f - x;
    case Activation::kReluSq:
      return x > 0.f ? x * x : x != x ? x : 0.f;
    case Activation::kSiluMul:
      return x * sigmoid_of(x);
    case Activation::kDecayComplementMul:
      return -expm1f(-rate_of(x));
  }
  return 0.f;
}

// The derivative of factor(): of the products, and of tanh and sigmoid.
RK_DEV float slope(Activation kind, float x) {
  if (kind == Activation::kTanh) {
    const float t = tanhf(x);
    return 1.f - t * t;
  }
  if (kind == Activation::kDecayComplementMul) {
    const float e = rate_of(x);
    return e * expf(-e);
  }
  const float s = sigmoid_of(x);
  return kind == Activation::kSiluMul ? s * (1.f + x * (1.f - s)) : s * (1.f - s);
}

// The derivative of a function of one argument by its value.
RK_DEV float slope_at_value(Activation kind, float y) {
  switch (kind) {
    case Activation::kTanh:
      return 1.f - y * y;
    case Activation::kSigmoid:
      return y * (1.f - y);
    case Activation::kOneMinus:
      return -1.f;
    default:
      return 2.f * sqrtf(y);
  }
}

template <class T>
__global__ void forward_kernel(Activation kind, const T* x, const T* value, T* y, int64_t n) {
  const int64_t i = rk::first_of_pack();
  if (i >= n) return;
  rk::Pack out = rk::load_pack(x, i, n);
#pragma unroll
  for (int j = 0; j < rk::kPack; ++j) out[j] = factor(kind, out[j]);
  if (value != nullptr) {
    const rk::Pack v = rk::load_pack(value, i, n);
#pragma unroll
    for (int j = 0; j < rk::kPack; ++j) out[j] *= v[j];
  }
  rk::store_pack(y, i, n, out);
}

template <class T>
__global__ void unary_backward_kernel(Activation kind, const T* x, const T* y, const T* dy, rk::GradOut dx,
                                      int64_t n) {
  const int64_t i = rk::first_of_pack();
  if (i >= n) return;
  const rk::Pack at = rk::load_pack(x != nullptr ? x : y, i, n);
  rk::Pack out = rk::load_pack(dy, i, n);
#pragma unroll
  for (int j = 0; j < rk::kPack; ++j)
    out[j] *= x != nullptr ? slope(kind, at[j]) : slope_at_value(kind, at[j]);
  dx.store(i, n, out);
}

template <class T>
__global__ void product_backward_kernel(Activation kind, const T* x, const T* value, const T* dy,
                                        rk::GradOut dx, rk::GradOut dvalue, int64_t n) {
  const int64_t i = rk::first_of_pack();
  if (i >= n) return;
  const rk::Pack at = rk::load_pack(x, i, n), grad = rk::load_pack(dy, i, n);
  rk::Pack out;
  if (dx.wanted()) {
    const rk::Pack v = rk::load_pack(value, i, n);
#pragma unroll
    for (int j = 0; j < rk::kPack; ++j) out[j] = grad[j] * v[j] * slope(kind, at[j]);
    dx.store(i, n, out);
  }
  if (dvalue.wanted()) {
#pragma unroll
    for (int j = 0; j < rk::kPack; ++j) out[j] = grad[j] * factor(kind, at[j]);
    dvalue.store(i, n, out);
  }
}

}  // namespace

void activation_forward(const ActivationArgs& a) {
  const int64_t n = a.y.numel();
  if (n == 0) return;
  dispatch_gpu_float(a.y.dtype(), [&]<class T>() {
    rk::launch(a.y.device(), forward_kernel<T>, rk::pack_launch(n), a.kind, a.x.data<T>(),
               a.value.defined() ? a.value.data<T>() : nullptr, a.y.data<T>(), n);
  });
}

void activation_backward(const ActivationGrad& a) {
  const int64_t n = a.dy.numel();
  if (n == 0) return;
  const rk::GradOut dx = rk::grad_out(a.dx), dvalue = rk::grad_out(a.dvalue);
  dispatch_gpu_float(a.dy.dtype(), [&]<class T>() {
    if (a.value.defined()) {
      rk::launch(a.dy.device(), product_backward_kernel<T>, rk::pack_launch(n), a.kind, a.x.data<T>(),
                 a.value.data<T>(), a.dy.data<T>(), dx, dvalue, n);
    } else if (a.dx.tensor.defined()) {
      rk::launch(a.dy.device(), unary_backward_kernel<T>, rk::pack_launch(n), a.kind,
                 a.x.defined() ? a.x.data<T>() : nullptr, a.y.defined() ? a.y.data<T>() : nullptr,
                 a.dy.data<T>(), dx, n);
    }
  });
}

}  // namespace rookery::RK_BACKEND
