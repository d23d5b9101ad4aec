// rope_cpu.cpp: one position at a time: its angles in double, then every head of every sequence.
#include "kernels/ops/rope/rope.h"

namespace rookery::RK_BACKEND {
namespace {

constexpr int64_t kGrain = 16;  // positions per thread below which waking it does not pay

template <class T, RopePairs pairs, bool add>
inline __attribute__((always_inline)) void turn(const T* __restrict x, T* __restrict y,
                                                const T* __restrict cosine, const T* __restrict sine,
                                                int64_t half) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const int64_t a = pairs == RopePairs::kHalves ? i : 2 * i,
                  b = pairs == RopePairs::kHalves ? i + half : 2 * i + 1;
    const T za = x[a] * cosine[i] - x[b] * sine[i], zb = x[b] * cosine[i] + x[a] * sine[i];
    y[a] = add ? y[a] + za : za;
    y[b] = add ? y[b] + zb : zb;
  }
}

template <class T, RopePairs pairs, bool add>
void rotate(const RopeArgs& a) {
  const int64_t B = a.x.dim(0), tokens = a.x.dim(1), H = a.x.dim(2), D = a.x.dim(3), half = D / 2;
  const T* x = a.x.data<T>();
  T *y = a.y.tensor.data<T>(), *scratch = a.scratch.data<T>();
  const double* frequencies = a.frequencies.data();
  parallel_parts(a.x.device().pool(), tokens, kGrain, [&](int64_t begin, int64_t end, int part) {
    T *cosine = scratch + part * D, *sine = cosine + half;
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(a.offset + t) * frequencies[i];
        cosine[i] = static_cast<T>(__builtin_cos(angle));
        sine[i] = static_cast<T>(a.back ? -__builtin_sin(angle) : __builtin_sin(angle));
      }
      for (int64_t b = 0; b < B; ++b)
        for (int64_t h = 0; h < H; ++h) {
          const int64_t at = ((b * tokens + t) * H + h) * D;
          turn<T, pairs, add>(x + at, y + at, cosine, sine, half);
        }
    }
  });
}

template <class T>
void rotate(const RopeArgs& a) {
  if (a.pairs == RopePairs::kHalves) {
    a.y.accumulate ? rotate<T, RopePairs::kHalves, true>(a) : rotate<T, RopePairs::kHalves, false>(a);
  } else {
    a.y.accumulate ? rotate<T, RopePairs::kAdjacent, true>(a) : rotate<T, RopePairs::kAdjacent, false>(a);
  }
}

}  // namespace

void rope_rotate(const RopeArgs& a) {
  dispatch_float(a.x.dtype(), [&]<class T>() { rotate<T>(a); });
}

}  // namespace rookery::RK_BACKEND
