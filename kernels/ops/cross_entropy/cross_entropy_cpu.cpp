// cross_entropy_cpu.cpp: three sweeps over a row of logits: largest, sum of exponentials, gradient in place.
#include <algorithm>
#include <cmath>

#include "kernels/ops/cross_entropy/cross_entropy.h"
#include "kernels/ops/math/vmath.h"

namespace rookery::RK_BACKEND {
namespace {

inline __attribute__((always_inline)) float log_of(float x) { return __builtin_logf(x); }
inline __attribute__((always_inline)) double log_of(double x) { return __builtin_log(x); }

template <class T>
T largest_of(const T* __restrict y, int64_t n) {
  T largest = y[0];
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = y[i] > largest ? y[i] : largest;
  return largest;
}

template <class T>
void rows(const CrossEntropyArgs& a) {
  const int64_t V = a.logits.dim(1);
  parallel_for(a.logits.device().pool(), a.logits.dim(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* __restrict y = a.logits.data<T>() + row * V;
      const T mask = a.mask.defined() ? a.mask.data<T>()[row] : T(1);
      T* loss = a.row_loss.data<T>() + row;
      if (mask == T(0)) {
        *loss = 0;
        if (a.want_grad)
          for (int64_t i = 0; i < V; ++i) y[i] = 0;
        continue;
      }
      const T largest = largest_of(y, V);
      const T target_logit = y[a.targets.data<int32_t>()[row]];
      if (!a.want_grad) {
        T sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < V; ++i) sum += vexp(y[i] - largest);
        *loss = log_of(sum) + largest - target_logit;
        continue;
      }
      int64_t argmax = 0;
      while (argmax < V - 1 && y[argmax] != largest) ++argmax;
      T sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < V; ++i) {
        y[i] = vexp(y[i] - largest);
        sum += y[i];
      }
      *loss = log_of(sum) + largest - target_logit;
      const T scale = mask * static_cast<T>(a.scale);
      const T factor = scale / sum;
#pragma omp simd
      for (int64_t i = 0; i < V; ++i) y[i] *= factor;
      y[a.targets.data<int32_t>()[row]] -= scale;
      y[argmax] += mask * static_cast<T>(a.l2wrap) * largest;
    }
  });
}

// body(row, its logits)
template <class T, class F>
void each_row(const Tensor& logits, F&& body) {
  const int64_t V = logits.dim(1);
  parallel_for(logits.device().pool(), logits.dim(0), 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row, logits.data<T>() + row * V);
  });
}

template <class T>
void slice_largest(const CrossEntropySliceArgs& a) {
  const int64_t V = a.rows.logits.dim(1);
  each_row<T>(a.rows.logits, [&](int64_t row, T* y) { a.largest.data<T>()[row] = largest_of(y, V); });
}

template <class T>
void slice_sums(const CrossEntropySliceArgs& a) {
  const int64_t m = a.rows.logits.dim(0), V = a.rows.logits.dim(1);
  each_row<T>(a.rows.logits, [&](int64_t row, T* __restrict y) {
    const T largest = a.largest.data<T>()[row];
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < V; ++i) sum += vexp(y[i] - largest);
    int64_t argmax = 0;
    while (argmax < V && y[argmax] != largest) ++argmax;
    const int64_t target = a.rows.targets.data<int32_t>()[row] - a.first;
    a.sums.data<T>()[row] = sum;
    a.sums.data<T>()[m + row] = target >= 0 && target < V ? y[target] : T(0);
    a.argmax.data<T>()[row] = argmax < V ? -static_cast<T>(a.first + argmax) : -static_cast<T>(INFINITY);
  });
}

template <class T>
void slice_rows(const CrossEntropySliceArgs& a) {
  const int64_t m = a.rows.logits.dim(0), V = a.rows.logits.dim(1);
  each_row<T>(a.rows.logits, [&](int64_t row, T* __restrict y) {
    const T mask = a.rows.mask.defined() ? a.rows.mask.data<T>()[row] : T(1);
    const T largest = a.largest.data<T>()[row], sum = a.sums.data<T>()[row];
    a.rows.row_loss.data<T>()[row] = mask == T(0) ? T(0) : log_of(sum) + largest - a.sums.data<T>()[m + row];
    if (!a.rows.want_grad) return;
    if (mask == T(0)) return void(std::fill_n(y, V, T(0)));
    const T scale = mask * static_cast<T>(a.rows.scale), factor = scale / sum;
#pragma omp simd
    for (int64_t i = 0; i < V; ++i) y[i] = vexp(y[i] - largest) * factor;
    const int64_t target = a.rows.targets.data<int32_t>()[row] - a.first;
    if (target >= 0 && target < V) y[target] -= scale;
    if (a.rows.l2wrap == 0) return;
    const int64_t argmax = static_cast<int64_t>(-a.argmax.data<T>()[row]) - a.first;
    if (argmax >= 0 && argmax < V) y[argmax] += mask * static_cast<T>(a.rows.l2wrap) * largest;
  });
}

template <class T>
void sum_rows(const CrossEntropySumArgs& a) {
  double sum = 0;
  for (int64_t i = 0; i < a.row_loss.numel(); ++i)
    sum += a.row_loss.data<T>()[i] * (a.mask.defined() ? double{a.mask.data<T>()[i]} : 1.0);
  a.loss.data<T>()[0] = static_cast<T>(sum / a.count);
}

template <class T>
void scale(const ScaleGradientArgs& a) {
  const T factor = a.factor.data<T>()[0];
  parallel_for(a.from.device().pool(), a.from.numel(), 1 << 15, [&](int64_t begin, int64_t end) {
    const T* __restrict from = a.from.data<T>();
    T* __restrict to = a.to.tensor.data<T>();
    if (a.to.accumulate) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) to[i] += factor * from[i];
    } else {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) to[i] = factor * from[i];
    }
  });
}

}  // namespace

void cross_entropy_rows(const CrossEntropyArgs& a) {
  dispatch_float(a.logits.dtype(), [&]<class T>() { rows<T>(a); });
}
void cross_entropy_slice_largest(const CrossEntropySliceArgs& a) {
  dispatch_float(a.rows.logits.dtype(), [&]<class T>() { slice_largest<T>(a); });
}
void cross_entropy_slice_sums(const CrossEntropySliceArgs& a) {
  dispatch_float(a.rows.logits.dtype(), [&]<class T>() { slice_sums<T>(a); });
}
void cross_entropy_slice_rows(const CrossEntropySliceArgs& a) {
  dispatch_float(a.rows.logits.dtype(), [&]<class T>() { slice_rows<T>(a); });
}
void cross_entropy_sum(const CrossEntropySumArgs& a) {
  dispatch_float(a.loss.dtype(), [&]<class T>() { sum_rows<T>(a); });
}
void scale_gradient(const ScaleGradientArgs& a) {
  dispatch_float(a.from.dtype(), [&]<class T>() { scale<T>(a); });
}

}  // namespace rookery::RK_BACKEND
