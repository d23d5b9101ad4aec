// activation_cpu.cpp: one pass over the elements.
#include "kernels/ops/activation/activation.h"
#include "kernels/ops/math/vmath.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements per thread below which waking it does not pay

template <class T>
inline __attribute__((always_inline)) T sqrt_of(T x) {
  return __builtin_sqrt(x);
}
template <>
inline __attribute__((always_inline)) float sqrt_of(float x) {
  return __builtin_sqrtf(x);
}

template <class T>
void forward(const ActivationArgs& a) {
  parallel_for(a.y.device().pool(), a.y.numel(), kGrain, [&](int64_t begin, int64_t end) {
    const T* __restrict x = a.x.data<T>();
    T* __restrict y = a.y.data<T>();
    switch (a.kind) {
      case Activation::kTanh:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = vtanh(x[i]);
        break;
      case Activation::kReluSq:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const T positive = x[i] > T(0) ? x[i] : T(0);
          y[i] = x[i] != x[i] ? x[i] : positive * positive;
        }
        break;
      case Activation::kSigmoidMul: {
        const T* __restrict value = a.value.data<T>();
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = vsigmoid(x[i]) * value[i];
        break;
      }
    }
  });
}

template <class T>
void backward(const ActivationGrad& a) {
  parallel_for(a.dy.device().pool(), a.dy.numel(), kGrain, [&](int64_t begin, int64_t end) {
    const T* __restrict dy = a.dy.data<T>();
    if (a.kind == Activation::kSigmoidMul) {
      const T* __restrict x = a.x.data<T>();
      const T* __restrict value = a.value.data<T>();
      if (a.dx.tensor.defined()) {
        T* __restrict dx = a.dx.tensor.data<T>();
        if (a.dx.accumulate) {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) {
            const T s = vsigmoid(x[i]);
            dx[i] += dy[i] * value[i] * s * (T(1) - s);
          }
        } else {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) {
            const T s = vsigmoid(x[i]);
            dx[i] = dy[i] * value[i] * s * (T(1) - s);
          }
        }
      }
      if (a.dvalue.tensor.defined()) {
        T* __restrict dvalue = a.dvalue.tensor.data<T>();
        if (a.dvalue.accumulate) {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) dvalue[i] += dy[i] * vsigmoid(x[i]);
        } else {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) dvalue[i] = dy[i] * vsigmoid(x[i]);
        }
      }
      return;
    }
    if (!a.dx.tensor.defined()) return;
    const T* __restrict y = a.y.data<T>();
    T* __restrict dx = a.dx.tensor.data<T>();
    const bool relu = a.kind == Activation::kReluSq, add = a.dx.accumulate;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const T slope = relu ? T(2) * sqrt_of(y[i]) : T(1) - y[i] * y[i];
      dx[i] = (add ? dx[i] : T(0)) + dy[i] * slope;
    }
  });
}

}  // namespace

void activation_forward(const ActivationArgs& a) {
  dispatch_float(a.y.dtype(), [&]<class T>() { forward<T>(a); });
}
void activation_backward(const ActivationGrad& a) {
  dispatch_float(a.dy.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
