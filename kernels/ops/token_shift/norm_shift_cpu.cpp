// norm_shift_cpu.cpp: a row at a time, which stays in the cache from the sum to the mixes. A thread owns a
// range of rows. Forward it walks down, with the norm of the row before at hand; backward up, with what the
// row after sent back.
#include <cstring>

#include "kernels/ops/token_shift/norm_shift.h"

namespace rookery::RK_BACKEND {
namespace {

#define RK_INLINE inline __attribute__((always_inline))

constexpr int64_t kRows = 16;  // per thread, below which waking it does not pay

template <class A>
RK_INLINE bool starts(const A& a, int64_t row) {
  return a.doc_start.defined() && a.doc_start.template data<uint8_t>()[row] != 0;
}

// The carried token before a sequence's first row, or null.
template <class T, class A>
RK_INLINE const T* carried_row(const A& a, int64_t sequence, int64_t C) {
  return a.carried.defined() ? a.carried.template data<T>() + sequence * C : nullptr;
}

// The sum and the statistics of a row. Not inlined: the first row of a thread's range is looked at by the
// thread before it too, and must be the same to the bit.
template <class T>
__attribute__((noinline)) void sum_row(const T* __restrict x, const T* __restrict delta, T eps, int64_t C,
                                       T* __restrict sum, T* __restrict mean, T* __restrict rstd) {
  T total = 0, square = 0;
  if (delta != nullptr) {
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < C; ++i) {
      sum[i] = x[i] + delta[i];
      total += sum[i];
    }
    x = sum;
  } else {
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < C; ++i) total += x[i];
  }
  *mean = total / static_cast<T>(C);
  const T m = *mean;
#pragma omp simd reduction(+ : square)
  for (int64_t i = 0; i < C; ++i) square += (x[i] - m) * (x[i] - m);
  *rstd = static_cast<T>(T(1) / __builtin_sqrt(square / static_cast<T>(C) + eps));
}

template <class T>
RK_INLINE void norm_row(const T* __restrict x, T mean, T rstd, const T* __restrict gamma,
                        const T* __restrict beta, T* __restrict n, int64_t C) {
#pragma omp simd
  for (int64_t i = 0; i < C; ++i) n[i] = (x[i] - mean) * rstd * gamma[i] + beta[i];
}

// before: null where it counts as zero.
template <class T>
RK_INLINE void mix_row(const T* __restrict n, const T* before, const T* __restrict mu, T* __restrict out,
                       int64_t C) {
  if (before != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) out[i] = n[i] + (before[i] - n[i]) * mu[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) out[i] = n[i] - n[i] * mu[i];
  }
}

template <class T>
void forward(const NormShiftArgs& a) {
  const int64_t seq_len = a.x.dim(1), C = a.x.dim(2), rows = a.x.dim(0) * seq_len;
  const T *x = a.x.data<T>(), *delta = a.delta.defined() ? a.delta.data<T>() : nullptr;
  const T *gamma = a.gamma.data<T>(), *beta = a.beta.data<T>();
  T *sum = a.sum.data<T>(), *mean = a.mean.data<T>(), *rstd = a.rstd.data<T>();
  const T eps = static_cast<T>(a.eps);
  parallel_parts(a.x.device().pool(), rows, kRows, [&](int64_t begin, int64_t end, int part) {
    T* n = a.scratch.data<T>() + part * 2 * C;
    T* before = n + C;
    if (begin % seq_len != 0) {  // the last row of another thread, once more
      T own_mean, own_rstd;
      const int64_t at = (begin - 1) * C;
      sum_row<T>(x + at, delta ? delta + at : nullptr, eps, C, before, &own_mean, &own_rstd);
      norm_row<T>(delta ? before : x + at, own_mean, own_rstd, gamma, beta, n, C);
      std::memcpy(before, n, C * sizeof(T));
    }
    for (int64_t row = begin; row < end; ++row) {
      const int64_t at = row * C;
      sum_row<T>(x + at, delta ? delta + at : nullptr, eps, C, sum + at, mean + row, rstd + row);
      norm_row<T>(sum + at, mean[row], rstd[row], gamma, beta, n, C);
      const T* previous = starts(a, row)       ? nullptr
                          : row % seq_len != 0 ? before
                                               : carried_row<T>(a, row / seq_len, C);
      for (int q = 0; q < a.count; ++q) {
        T* out = a.out[q].data<T>() + at;
        if (a.mu[q].defined()) {
          mix_row<T>(n, previous, a.mu[q].data<T>(), out, C);
        } else {
          std::memcpy(out, n, C * sizeof(T));
        }
      }
      if (a.last.defined() && row % seq_len == seq_len - 1)
        std::memcpy(a.last.data<T>() + row / seq_len * C, n, C * sizeof(T));
      T* const other = before;
      before = n;
      n = other;
    }
  });
}

// One mix of one row: dn += d (1 - mu), back += d mu, dmu += d (before - n).
template <class T>
RK_INLINE void mix_row_backward(const T* __restrict d, const T* __restrict mu, const T* __restrict n,
                                const T* before, T* __restrict dn, T* __restrict back, T* __restrict dmu,
                                int64_t C) {
  if (before != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) {
      const T part = d[i] * mu[i];
      dn[i] += d[i] - part;
      back[i] += part;
      dmu[i] += d[i] * (before[i] - n[i]);
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) {
      const T part = d[i] * mu[i];
      dn[i] += d[i] - part;
      back[i] += part;
      dmu[i] -= d[i] * n[i];
    }
  }
}

// dx = dsum + rstd (dn gamma - mean(dn gamma) - xhat mean(dn gamma xhat)); dsum and dx may be null.
template <class T>
RK_INLINE void norm_row_backward(const T* __restrict x, T mean, T rstd, const T* __restrict gamma,
                                 const T* __restrict dn, const T* dsum, T* dx, T* __restrict dgamma,
                                 T* __restrict dbeta, int64_t C) {
  T q_sum = 0, qx_sum = 0;
#pragma omp simd reduction(+ : q_sum, qx_sum)
  for (int64_t i = 0; i < C; ++i) {
    const T xhat = (x[i] - mean) * rstd, q = dn[i] * gamma[i];
    q_sum += q;
    qx_sum += q * xhat;
    dgamma[i] += dn[i] * xhat;
    dbeta[i] += dn[i];
  }
  if (dx == nullptr) return;
  const T q_mean = q_sum / static_cast<T>(C), qx_mean = qx_sum / static_cast<T>(C);
  T* __restrict out = dx;
  if (dsum != nullptr) {
    const T* __restrict more = dsum;
#pragma omp simd
    for (int64_t i = 0; i < C; ++i)
      out[i] = more[i] + rstd * (dn[i] * gamma[i] - q_mean - (x[i] - mean) * rstd * qx_mean);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i)
      out[i] = rstd * (dn[i] * gamma[i] - q_mean - (x[i] - mean) * rstd * qx_mean);
  }
}

template <class T>
RK_INLINE void add_row(const T* __restrict from, T* __restrict to, int64_t C) {
#pragma omp simd
  for (int64_t i = 0; i < C; ++i) to[i] += from[i];
}

// out (+)= the sums of row `k` of every part.
template <class T>
void add_parts(const Tensor& scratch, int64_t k, const GradTarget& target) {
  if (!target.tensor.defined()) return;
  const int64_t C = scratch.dim(2);
  T* out = target.tensor.data<T>();
  if (!target.accumulate) std::memset(out, 0, C * sizeof(T));
  for (int64_t part = 0; part < scratch.dim(0); ++part)
    add_row<T>(scratch.data<T>() + (part * scratch.dim(1) + k) * C, out, C);
}

template <class T>
void backward(const NormShiftGrad& a) {
  const int64_t seq_len = a.sum.dim(1), C = a.sum.dim(2), rows = a.sum.dim(0) * seq_len;
  const T *x = a.sum.data<T>(), *mean = a.mean.data<T>(), *rstd = a.rstd.data<T>();
  const T *gamma = a.gamma.data<T>(), *beta = a.beta.data<T>();
  const T* dsum = a.dsum.defined() ? a.dsum.data<T>() : nullptr;
  T* dx = a.dx.defined() ? a.dx.data<T>() : nullptr;
  T* dcarried = a.dcarried.tensor.defined() ? a.dcarried.tensor.data<T>() : nullptr;
  std::memset(a.scratch.raw(), 0, a.scratch.bytes());
  parallel_parts(a.sum.device().pool(), rows, kRows, [&](int64_t begin, int64_t end, int part) {
    T* const dmu = a.scratch.data<T>() + part * a.scratch.dim(1) * C;
    T *const dgamma = dmu + a.count * C, *const dbeta = dgamma + C;
    T *n = dbeta + C, *before = n + C, *dn = before + C, *back = dn + C;
    const auto norm_of = [&](int64_t row, T* to) {
      norm_row<T>(x + row * C, mean[row], rstd[row], gamma, beta, to, C);
    };
    // dn begins as what the row after the range sends to its last one.
    if (end < rows && end % seq_len != 0 && !starts(a, end))
      for (int q = 0; q < a.count; ++q) {
        if (!a.dout[q].defined() || !a.mu[q].defined()) continue;
        const T* __restrict d = a.dout[q].data<T>() + end * C, * __restrict mu = a.mu[q].data<T>();
#pragma omp simd
        for (int64_t i = 0; i < C; ++i) dn[i] += d[i] * mu[i];
      }
    norm_of(end - 1, n);
    for (int64_t row = end - 1; row >= begin; --row) {
      const bool first = row % seq_len == 0, alone = starts(a, row);
      if (!first) norm_of(row - 1, before);
      const T* previous = alone ? nullptr : first ? carried_row<T>(a, row / seq_len, C) : before;
      std::memset(back, 0, C * sizeof(T));
      for (int q = 0; q < a.count; ++q) {
        if (!a.dout[q].defined()) continue;
        const T* d = a.dout[q].data<T>() + row * C;
        if (a.mu[q].defined()) {
          mix_row_backward<T>(d, a.mu[q].data<T>(), n, previous, dn, back, dmu + q * C, C);
        } else {
          add_row<T>(d, dn, C);
        }
      }
      norm_row_backward<T>(x + row * C, mean[row], rstd[row], gamma, dn, dsum ? dsum + row * C : nullptr,
                           dx ? dx + row * C : nullptr, dgamma, dbeta, C);
      if (alone) std::memset(back, 0, C * sizeof(T));
      if (first) {
        if (dcarried != nullptr) {
          T* to = dcarried + row / seq_len * C;
          if (!a.dcarried.accumulate) std::memset(to, 0, C * sizeof(T));
          add_row<T>(back, to, C);
        }
        std::memset(back, 0, C * sizeof(T));
        if (row > begin) norm_of(row - 1, before);
      }
      T *const other_n = n, *const other_dn = dn;
      n = before, before = other_n;
      dn = back, back = other_dn;
    }
  });
  for (int q = 0; q < a.count; ++q) add_parts<T>(a.scratch, q, a.dmu[q]);
  add_parts<T>(a.scratch, a.count, a.dgamma);
  add_parts<T>(a.scratch, a.count + 1, a.dbeta);
}

}  // namespace

void norm_shift_forward(const NormShiftArgs& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { forward<T>(a); });
}
void norm_shift_backward(const NormShiftGrad& a) {
  dispatch_float(a.sum.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
