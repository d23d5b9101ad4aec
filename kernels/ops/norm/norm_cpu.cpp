// norm_cpu.cpp: one row at a time; statistics in two sweeps over a row that is in cache.
#include "kernels/ops/math/vmath.h"
#include "kernels/ops/norm/norm.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int64_t kRows = 16;  // rows per thread below which waking it does not pay

template <class T>
inline __attribute__((always_inline)) void group_forward(const NormArgs& a, int64_t row, int64_t group,
                                                         int64_t N, T eps) {
  const int64_t C = a.num_groups * N, at = row * C + group * N;
  const T* __restrict x = a.x.data<T>() + at;
  const T* __restrict gamma = a.gamma.data<T>() + group * N;
  const T* __restrict beta = a.beta.data<T>() + group * N;
  T* __restrict y = a.y.data<T>() + at;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < N; ++i) sum += x[i];
  const T mean = sum / static_cast<T>(N);
  T square = 0;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < N; ++i) square += (x[i] - mean) * (x[i] - mean);
  const T rstd = T(1) / __builtin_sqrt(square / static_cast<T>(N) + eps);
  a.mean.data<T>()[row * a.num_groups + group] = mean;
  a.rstd.data<T>()[row * a.num_groups + group] = rstd;
  if (a.gate.defined()) {
    const T* __restrict gate = a.gate.data<T>() + at;
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) y[i] = ((x[i] - mean) * rstd * gamma[i] + beta[i]) * vsilu(gate[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) y[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
  }
}

template <class T>
inline __attribute__((always_inline)) void store(T* out, bool accumulate, T value) {
  *out = accumulate ? *out + value : value;
}

// dx = rstd (q - mean(q) - xhat mean(q xhat)) with q = dz gamma; dz = dy silu(gate), dgate = dy z
// silu'(gate).
template <class T>
inline __attribute__((always_inline)) void group_backward(const NormGrad& a, int64_t row, int64_t group,
                                                          int64_t N, T* dgamma, T* dbeta, T* __restrict dz) {
  const int64_t C = a.num_groups * N, at = row * C + group * N;
  const T* __restrict x = a.x.data<T>() + at;
  const T* __restrict gamma = a.gamma.data<T>() + group * N;
  const T* __restrict beta = a.beta.data<T>() + group * N;
  const T* __restrict dy = a.dy.data<T>() + at;
  const T mean = a.mean.data<T>()[row * a.num_groups + group],
          rstd = a.rstd.data<T>()[row * a.num_groups + group];
  T* __restrict sum_gamma = dgamma + group * N;
  T* __restrict sum_beta = dbeta + group * N;
  if (a.gate.defined()) {
    const T* __restrict gate = a.gate.data<T>() + at;
    if (a.dgate.tensor.defined()) {
      // dz serves as scratch for the gradient of the gate: with the choice between = and += inside, the loop
      // would not become vector code.
#pragma omp simd
      for (int64_t i = 0; i < N; ++i) {
        const T s = vsigmoid(gate[i]);
        const T z = (x[i] - mean) * rstd * gamma[i] + beta[i];
        dz[i] = dy[i] * z * s * (T(1) + gate[i] * (T(1) - s));
      }
      T* __restrict dgate = a.dgate.tensor.data<T>() + at;
      if (a.dgate.accumulate) {
#pragma omp simd
        for (int64_t i = 0; i < N; ++i) dgate[i] += dz[i];
      } else {
#pragma omp simd
        for (int64_t i = 0; i < N; ++i) dgate[i] = dz[i];
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) dz[i] = dy[i] * vsilu(gate[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < N; ++i) dz[i] = dy[i];
  }
  T q_sum = 0, qx_sum = 0;
#pragma omp simd reduction(+ : q_sum, qx_sum)
  for (int64_t i = 0; i < N; ++i) {
    const T xhat = (x[i] - mean) * rstd, q = dz[i] * gamma[i];
    q_sum += q;
    qx_sum += q * xhat;
    sum_gamma[i] += dz[i] * xhat;
    sum_beta[i] += dz[i];
  }
  if (!a.dx.tensor.defined()) return;
  const T q_mean = q_sum / static_cast<T>(N), qx_mean = qx_sum / static_cast<T>(N);
  T* __restrict dx = a.dx.tensor.data<T>() + at;
  const bool add = a.dx.accumulate;
#pragma omp simd
  for (int64_t i = 0; i < N; ++i) {
    const T d = rstd * (dz[i] * gamma[i] - q_mean - (x[i] - mean) * rstd * qx_mean);
    dx[i] = add ? dx[i] + d : d;
  }
}

template <class T>
void forward(const NormArgs& a) {
  const int64_t C = a.gamma.numel(), M = a.x.numel() / C, N = C / a.num_groups;
  parallel_for(a.x.device().pool(), M, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t group = 0; group < a.num_groups; ++group)
        group_forward<T>(a, row, group, N, static_cast<T>(a.eps));
  });
}

template <class T>
void add_up(const GradTarget& target, const T* partial, int64_t parts, int64_t stride, int64_t C) {
  if (!target.tensor.defined()) return;
  T* out = target.tensor.data<T>();
  for (int64_t i = 0; i < C; ++i) {
    T sum = target.accumulate ? out[i] : T(0);
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * stride + i];
    out[i] = sum;
  }
}

template <class T>
void backward(const NormGrad& a) {
  const int64_t C = a.gamma.numel(), M = a.x.numel() / C, N = C / a.num_groups, parts = a.partial.dim(0);
  T* partial = a.partial.data<T>();
  for (int64_t i = 0; i < parts * 3 * C; ++i) partial[i] = 0;
  parallel_parts(a.x.device().pool(), M, kRows, [&](int64_t begin, int64_t end, int part) {
    T* dgamma = partial + part * 3 * C;
    T* dz = dgamma + 2 * C;
    for (int64_t row = begin; row < end; ++row)
      for (int64_t group = 0; group < a.num_groups; ++group)
        group_backward<T>(a, row, group, N, dgamma, dgamma + C, dz);
  });
  add_up(a.dgamma, partial, parts, 3 * C, C);
  add_up(a.dbeta, partial + C, parts, 3 * C, C);
}

}  // namespace

void norm_forward(const NormArgs& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { forward<T>(a); });
}
void norm_backward(const NormGrad& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
