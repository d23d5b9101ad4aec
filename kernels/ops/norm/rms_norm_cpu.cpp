// rms_norm_cpu.cpp: one row at a time.
#include "kernels/ops/norm/rms_norm.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int64_t kRows = 16;  // rows per thread below which waking it does not pay

template <class T>
void forward(const RmsNormArgs& a) {
  const int64_t M = a.rstd.numel(), C = a.x.dim(-1);
  const T eps = static_cast<T>(a.eps);
  const T* gamma = a.gamma.defined() ? a.gamma.data<T>() : nullptr;
  parallel_for(a.x.device().pool(), M, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* __restrict x = a.x.data<T>() + row * C;
      T* __restrict y = a.y.data<T>() + row * C;
      T square = 0;
#pragma omp simd reduction(+ : square)
      for (int64_t i = 0; i < C; ++i) square += x[i] * x[i];
      const T mean = square / static_cast<T>(C);
      const T rstd =
          T(1) / (a.where == RmsEps::kInside ? T(__builtin_sqrt(mean + eps)) : T(__builtin_sqrt(mean)) + eps);
      a.rstd.data<T>()[row] = rstd;
      if (gamma) {
#pragma omp simd
        for (int64_t i = 0; i < C; ++i) y[i] = x[i] * rstd * gamma[i];
      } else {
#pragma omp simd
        for (int64_t i = 0; i < C; ++i) y[i] = x[i] * rstd;
      }
    }
  });
}

// With q = dy gamma and r the factor of the row: dx = r q - x d, where d = r^3 mean(q x) for eps inside the
// root and r^2 mean(q x) / rms outside.
template <class T>
inline __attribute__((always_inline)) void row_backward(const RmsNormGrad& a, int64_t row, int64_t C,
                                                        const T* gamma, T* __restrict dgamma) {
  const T* __restrict x = a.x.data<T>() + row * C;
  const T* __restrict dy = a.dy.data<T>() + row * C;
  const T rstd = a.rstd.data<T>()[row];
  if (dgamma) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) dgamma[i] += dy[i] * x[i] * rstd;
  }
  if (!a.dx.tensor.defined()) return;
  T dot = 0;
  if (gamma) {
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < C; ++i) dot += dy[i] * gamma[i] * x[i];
  } else {
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < C; ++i) dot += dy[i] * x[i];
  }
  const T mean = dot / static_cast<T>(C);
  T d = rstd * rstd * rstd * mean;
  if (a.where == RmsEps::kOutside) {
    const T rms = T(1) / rstd - static_cast<T>(a.eps);
    d = rms > T(0) ? rstd * rstd * mean / rms : T(0);  // all of x is 0
  }
  T* __restrict dx = a.dx.tensor.data<T>() + row * C;
  const bool add = a.dx.accumulate;
  if (gamma) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) dx[i] = (add ? dx[i] : T(0)) + (rstd * dy[i] * gamma[i] - x[i] * d);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) dx[i] = (add ? dx[i] : T(0)) + (rstd * dy[i] - x[i] * d);
  }
}

template <class T>
void backward(const RmsNormGrad& a) {
  const int64_t M = a.rstd.numel(), C = a.x.dim(-1);
  const T* gamma = a.gamma.defined() ? a.gamma.data<T>() : nullptr;
  T* partial = a.partial.defined() ? a.partial.data<T>() : nullptr;
  for (int64_t i = 0; partial && i < a.partial.numel(); ++i) partial[i] = 0;
  parallel_parts(a.x.device().pool(), M, kRows, [&](int64_t begin, int64_t end, int part) {
    for (int64_t row = begin; row < end; ++row)
      row_backward<T>(a, row, C, gamma, partial ? partial + part * C : nullptr);
  });
  if (!partial) return;
  T* dgamma = a.dgamma.tensor.data<T>();
  for (int64_t i = 0; i < C; ++i) {
    T sum = a.dgamma.accumulate ? dgamma[i] : T(0);
    for (int64_t part = 0; part < a.partial.dim(0); ++part) sum += partial[part * C + i];
    dgamma[i] = sum;
  }
}

}  // namespace

void rms_norm_forward(const RmsNormArgs& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { forward<T>(a); });
}
void rms_norm_backward(const RmsNormGrad& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
