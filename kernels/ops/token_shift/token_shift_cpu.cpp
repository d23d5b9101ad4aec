// token_shift_cpu.cpp: blocks of kShiftBlock rows, so that the low-rank part of ddlerp is multiplied, used
// and dropped within the cache. A thread owns a range of rows of [B T, C]. The gradient that its first row
// sends to the row before (another thread's) waits in scratch and is added at the end, so the sums do not
// depend on where the ranges begin.
#include <cstring>

#include "kernels/ops/matmul/gemm.h"
#include "kernels/ops/token_shift/token_shift.h"

namespace rookery::RK_BACKEND {
namespace {

// The row before row `row` of [B, T, C]: null where it counts as zero.
template <class T>
inline __attribute__((always_inline)) const T* previous_row(const Tensor& x, const Tensor& carried,
                                                            const Tensor& doc_start, int64_t row,
                                                            int64_t seq_len, int64_t C) {
  if (doc_start.defined() && doc_start.data<uint8_t>()[row] != 0) return nullptr;
  if (row % seq_len != 0) return x.data<T>() + (row - 1) * C;
  return carried.defined() ? carried.data<T>() + row / seq_len * C : nullptr;
}

// out = x + (prev - x) (mu + m); m may be null (zero).
template <class T>
inline __attribute__((always_inline)) void lerp_row(const T* __restrict x, const T* prev,
                                                    const T* __restrict mu, const T* __restrict m,
                                                    T* __restrict out, int64_t C) {
  if (prev != nullptr && m != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) out[i] = x[i] + (prev[i] - x[i]) * (mu[i] + m[i]);
  } else if (prev != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) out[i] = x[i] + (prev[i] - x[i]) * mu[i];
  } else if (m != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) out[i] = x[i] - x[i] * (mu[i] + m[i]);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) out[i] = x[i] - x[i] * mu[i];
  }
}

// One row of the backward of one mix, M = mu + m: dx += d (1 - M), dprev += d M, dm = d (prev - x) (over m),
// dmu += dm.
template <class T>
inline __attribute__((always_inline)) void lerp_row_backward(const T* __restrict x, const T* prev,
                                                             const T* __restrict mu, const T* __restrict d,
                                                             T* __restrict m, T* __restrict dx,
                                                             T* __restrict dprev, T* __restrict dmu,
                                                             int64_t C) {
  if (m != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) {
      const T part = d[i] * (mu[i] + m[i]);
      const T dm = d[i] * ((prev ? prev[i] : T(0)) - x[i]);
      dx[i] += d[i] - part;
      dprev[i] += part;
      dmu[i] += dm;
      m[i] = dm;
    }
  } else {
#pragma omp simd
    for (int64_t i = 0; i < C; ++i) {
      const T part = d[i] * mu[i];
      dx[i] += d[i] - part;
      dprev[i] += part;
      dmu[i] += d[i] * ((prev ? prev[i] : T(0)) - x[i]);
    }
  }
}

template <class T>
inline __attribute__((always_inline)) void add_row(const T* __restrict from, T* __restrict to, int64_t C) {
#pragma omp simd
  for (int64_t i = 0; i < C; ++i) to[i] += from[i];
}

template <class T>
void forward(const ShiftArgs& a) {
  const int64_t seq_len = a.x.dim(1), C = a.x.dim(2), rows = a.x.dim(0) * seq_len;
  const int64_t R = a.w2.defined() ? a.w2.dim(1) : 0, QR = a.count * R;
  parallel_parts(a.x.device().pool(), rows, kShiftBlock, [&](int64_t begin, int64_t end, int part) {
    T* m = R > 0 ? a.scratch.data<T>() + part * kShiftBlock * C : nullptr;
    for (int64_t block = begin; block < end; block += kShiftBlock) {
      const int64_t block_end = block + kShiftBlock < end ? block + kShiftBlock : end;
      for (int q = 0; q < a.count; ++q) {
        if (!a.out[q].defined()) continue;
        if (R > 0)
          gemm(block_end - block, C, R, Operand<T>{a.h.data<T>() + block * QR + q * R, QR, false},
               Operand<T>{a.w2.data<T>() + q * R * C, C, false}, T(0), m, C);
        for (int64_t row = block; row < block_end; ++row)
          lerp_row<T>(a.x.data<T>() + row * C, previous_row<T>(a.x, a.carried, a.doc_start, row, seq_len, C),
                      a.mu[q].data<T>(), m ? m + (row - block) * C : nullptr, a.out[q].data<T>() + row * C,
                      C);
      }
    }
  });
}

template <class T>
void backward(const ShiftGrad& a) {
  const int64_t seq_len = a.x.dim(1), C = a.x.dim(2), rows = a.x.dim(0) * seq_len;
  const int64_t R = a.w2.defined() ? a.w2.dim(1) : 0, QR = a.count * R;
  const int64_t parts = a.scratch.dim(0), stride = a.scratch.dim(1) * C;
  T* scratch = a.scratch.data<T>();
  T* dcarried = a.dcarried.tensor.defined() ? a.dcarried.tensor.data<T>() : nullptr;
  if (dcarried && !a.dcarried.accumulate) std::memset(dcarried, 0, a.dcarried.tensor.numel() * sizeof(T));
  // Where the gradient for the row before `row` goes: null if that row counts as zero.
  T* dx = a.dx.tensor.data<T>();
  auto previous_target = [&](int64_t row) -> T* {
    if (a.doc_start.defined() && a.doc_start.data<uint8_t>()[row] != 0) return nullptr;
    if (row % seq_len != 0) return dx + (row - 1) * C;
    return dcarried ? dcarried + row / seq_len * C : nullptr;
  };
  int64_t first_row[kMaxThreads];
  for (int64_t part = 0; part < parts; ++part) {
    first_row[part] = -1;
    std::memset(scratch + part * stride, 0, stride * sizeof(T));
  }
  parallel_parts(a.x.device().pool(), rows, kShiftBlock, [&](int64_t begin, int64_t end, int part) {
    T* dmu = scratch + part * stride;                // [count, C]
    T* dprev = dmu + a.count * C;                    // [kShiftBlock, C]
    T* waiting = dprev + kShiftBlock * C;            // [C]
    T* m = R > 0 ? waiting + C : nullptr;            // [kShiftBlock, C]
    T* dw2 = R > 0 ? m + kShiftBlock * C : nullptr;  // [count, R, C]
    first_row[part] = begin;
    for (int64_t block = begin; block < end; block += kShiftBlock) {
      const int64_t block_end = block + kShiftBlock < end ? block + kShiftBlock : end,
                    count = block_end - block;
      std::memset(dprev, 0, count * C * sizeof(T));
      if (!a.dx.accumulate) std::memset(dx + block * C, 0, count * C * sizeof(T));
      for (int q = 0; q < a.count; ++q) {
        if (R > 0 && a.dh.tensor.defined() && !a.dout[q].defined() && !a.dh.accumulate)
          for (int64_t row = block; row < block_end; ++row)
            std::memset(a.dh.tensor.data<T>() + row * QR + q * R, 0, R * sizeof(T));
        if (!a.dout[q].defined()) continue;
        const Operand<T> h{R > 0 ? a.h.data<T>() + block * QR + q * R : nullptr, QR, false};
        if (R > 0) gemm(count, C, R, h, Operand<T>{a.w2.data<T>() + q * R * C, C, false}, T(0), m, C);
        for (int64_t row = block; row < block_end; ++row) {
          const int64_t at = row - block;
          lerp_row_backward<T>(a.x.data<T>() + row * C,
                               previous_row<T>(a.x, a.carried, a.doc_start, row, seq_len, C),
                               a.mu[q].data<T>(), a.dout[q].data<T>() + row * C, m ? m + at * C : nullptr,
                               dx + row * C, dprev + at * C, dmu + q * C, C);
        }
        if (R == 0) continue;
        if (a.dw2.tensor.defined())
          gemm(R, C, count, Operand<T>{h.data, h.ld, true}, Operand<T>{m, C, false}, T(1), dw2 + q * R * C,
               C);
        if (a.dh.tensor.defined())
          gemm(count, R, C, Operand<T>{m, C, false}, Operand<T>{a.w2.data<T>() + q * R * C, C, true},
               a.dh.accumulate ? T(1) : T(0), a.dh.tensor.data<T>() + block * QR + q * R, QR);
      }
      for (int64_t row = block; row < block_end; ++row) {
        T* to = previous_target(row);
        if (row == begin) {
          std::memcpy(waiting, dprev, C * sizeof(T));
        } else if (to) {
          add_row<T>(dprev + (row - block) * C, to, C);
        }
      }
    }
  });
  for (int64_t part = 0; part < parts; ++part) {
    if (first_row[part] < 0) continue;
    if (T* to = previous_target(first_row[part]))
      add_row<T>(scratch + part * stride + (a.count + kShiftBlock) * C, to, C);
  }
  for (int q = 0; q < a.count; ++q) {
    if (!a.dmu[q].tensor.defined()) continue;
    T* out = a.dmu[q].tensor.data<T>();
    if (!a.dmu[q].accumulate) std::memset(out, 0, C * sizeof(T));
    for (int64_t part = 0; part < parts; ++part) add_row<T>(scratch + part * stride + q * C, out, C);
  }
  if (a.dw2.tensor.defined()) {
    T* out = a.dw2.tensor.data<T>();
    if (!a.dw2.accumulate) std::memset(out, 0, QR * C * sizeof(T));
    for (int64_t part = 0; part < parts; ++part)
      add_row<T>(scratch + part * stride + (a.count + 2 * kShiftBlock + 1) * C, out, QR * C);
  }
}

}  // namespace

void shift_forward(const ShiftArgs& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { forward<T>(a); });
}
void shift_backward(const ShiftGrad& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { backward<T>(a); });
}

}  // namespace rookery::RK_BACKEND
