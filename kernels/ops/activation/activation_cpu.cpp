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

// What multiplies the value, and its derivative.
struct Sigmoid {
  template <class T>
  static inline __attribute__((always_inline)) T of(T x) {
    return vsigmoid(x);
  }
  template <class T>
  static inline __attribute__((always_inline)) T slope(T x) {
    const T s = vsigmoid(x);
    return s * (T(1) - s);
  }
};
struct Silu {
  template <class T>
  static inline __attribute__((always_inline)) T of(T x) {
    return vsilu(x);
  }
  template <class T>
  static inline __attribute__((always_inline)) T slope(T x) {
    const T s = vsigmoid(x);
    return s * (T(1) + x * (T(1) - s));
  }
};
struct DecayComplement {
  // exp(x) past this is as good as infinite and would give inf * 0.
  template <class T>
  static inline __attribute__((always_inline)) T rate(T x) {
    return vexp(x > T(20) ? T(20) : x);
  }
  // 1 - exp(-e) = 2 t / (1 + t), t = tanh(e / 2): nothing cancels where e is small.
  template <class T>
  static inline __attribute__((always_inline)) T of(T x) {
    const T t = vtanh(rate(x) * T(0.5));
    return T(2) * t / (T(1) + t);
  }
  template <class T>
  static inline __attribute__((always_inline)) T slope(T x) {
    const T e = rate(x);
    return e * vexp(-e);
  }
};

template <class Factor, class T>
void product_forward(const ActivationArgs& a, int64_t begin, int64_t end) {
  const T* __restrict x = a.x.data<T>();
  const T* __restrict value = a.value.data<T>();
  T* __restrict y = a.y.data<T>();
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = Factor::of(x[i]) * value[i];
}

template <class Factor, class T>
void product_backward(const ActivationGrad& a, int64_t begin, int64_t end) {
  const T* __restrict dy = a.dy.data<T>();
  const T* __restrict x = a.x.data<T>();
  const T* __restrict value = a.value.data<T>();
  if (a.dx.tensor.defined()) {
    T* __restrict dx = a.dx.tensor.data<T>();
    if (a.dx.accumulate) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dx[i] += dy[i] * value[i] * Factor::slope(x[i]);
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dx[i] = dy[i] * value[i] * Factor::slope(x[i]);
    }
  }
  if (a.dvalue.tensor.defined()) {
    T* __restrict dvalue = a.dvalue.tensor.data<T>();
    if (a.dvalue.accumulate) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dvalue[i] += dy[i] * Factor::of(x[i]);
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dvalue[i] = dy[i] * Factor::of(x[i]);
    }
  }
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
      case Activation::kSigmoid:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = vsigmoid(x[i]);
        break;
      case Activation::kOneMinus:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y[i] = T(1) - x[i];
        break;
      case Activation::kReluSq:
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
          const T positive = x[i] > T(0) ? x[i] : T(0);
          y[i] = x[i] != x[i] ? x[i] : positive * positive;
        }
        break;
      case Activation::kSigmoidMul:
        product_forward<Sigmoid, T>(a, begin, end);
        break;
      case Activation::kSiluMul:
        product_forward<Silu, T>(a, begin, end);
        break;
      case Activation::kDecayComplementMul:
        product_forward<DecayComplement, T>(a, begin, end);
        break;
    }
  });
}

template <class T>
void backward(const ActivationGrad& a) {
  parallel_for(a.dy.device().pool(), a.dy.numel(), kGrain, [&](int64_t begin, int64_t end) {
    if (a.kind == Activation::kSigmoidMul) return product_backward<Sigmoid, T>(a, begin, end);
    if (a.kind == Activation::kSiluMul) return product_backward<Silu, T>(a, begin, end);
    if (a.kind == Activation::kDecayComplementMul) return product_backward<DecayComplement, T>(a, begin, end);
    if (!a.dx.tensor.defined()) return;
    const T* __restrict dy = a.dy.data<T>();
    const T* __restrict y = a.y.data<T>();
    T* __restrict dx = a.dx.tensor.data<T>();
    const bool add = a.dx.accumulate;
    auto times = [&](auto slope) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) dx[i] = (add ? dx[i] : T(0)) + dy[i] * slope(y[i]);
    };
    switch (a.kind) {
      case Activation::kTanh:
        return times([](T v) __attribute__((always_inline)) { return T(1) - v * v; });
      case Activation::kSigmoid:
        return times([](T v) __attribute__((always_inline)) { return v * (T(1) - v); });
      case Activation::kOneMinus:
        return times([](T) __attribute__((always_inline)) { return T(-1); });
      default:
        return times([](T v) __attribute__((always_inline)) { return T(2) * sqrt_of(v); });
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
