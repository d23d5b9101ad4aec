// lanes.h: sums over the lanes of vectors, rows of memory moved by vectors or fetched ahead. Included by
// *_cpu.cpp files only, like simd.h.
#pragma once

#include <utility>

#include "kernels/ops/math/simd.h"

namespace rookery::RK_BACKEND {

// Lane l of the result: x[l] + x[l+B] where bit B of l is clear, y[l-B] + y[l] where it is set.
template <int B, class Vec, int... l>
static inline __attribute__((always_inline)) Vec fold(Vec x, Vec y, std::integer_sequence<int, l...>) {
  constexpr int n = int(sizeof...(l));
  return __builtin_shufflevector(x, y, ((l & B) ? n + l - B : l)...) +
         __builtin_shufflevector(x, y, ((l & B) ? n + l : l + B)...);
}

// Lane q of the result is the sum of the lanes of v[q], for as many vectors as a vector has lanes. With B > 1
// the vectors are already folded by 1, .., B / 2, and there are lanes / B of them.
template <class T, int B = 1>
static inline __attribute__((always_inline)) typename Simd<T>::Vec lane_sums(const typename Simd<T>::Vec* v) {
  constexpr int n = Simd<T>::kLanes;
  if constexpr (B == n) {
    return *v;
  } else {
    typename Simd<T>::Vec half[n / B / 2];
#pragma GCC unroll 16
    for (int q = 0; q < n / B / 2; ++q) {
      half[q] = fold<B>(v[2 * q], v[2 * q + 1], std::make_integer_sequence<int, n>());
    }
    return lane_sums<T, 2 * B>(half);
  }
}

// n: a multiple of the lanes.
template <class T>
static inline __attribute__((always_inline)) void fill(T* to, int64_t n, T value) {
  constexpr int W = Simd<T>::kLanes;
  for (int64_t i = 0; i < n; i += W) store(to + i, splat(value));
}

template <class T>
static inline __attribute__((always_inline)) void copy_row(T* to, const T* from, int64_t n) {
  constexpr int W = Simd<T>::kLanes;
  int64_t i = 0;
  for (; i + W <= n; i += W) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

// n: a multiple of the lanes.
template <class T>
static inline __attribute__((always_inline)) void add_row(T* to, const T* from, int64_t n) {
  constexpr int W = Simd<T>::kLanes;
  for (int64_t i = 0; i < n; i += W) store(to + i, load(to + i) + load(from + i));
}

// Hands out consecutive pieces of a thread's scratch.
template <class T>
struct Scratch {
  T* next;
  T* take(int64_t n) {
    T* piece = next;
    next += n;
    return piece;
  }
};

// Pieces of tensors that are needed soon, fetched into the second-level cache a few lines at a time between
// multiply-adds: the processor stops where more lines are asked for than it can have under way.
template <class T>
struct Ahead {
  const T* from[8];
  int tensors;
  int64_t step;  // elements of each tensor
};
template <class T>
static inline __attribute__((always_inline)) void fetch(Ahead<T>& ahead) {
  for (int q = 0; q < ahead.tensors; ++q) {
    for (int64_t x = 0; x < ahead.step; x += 64 / int64_t(sizeof(T))) {
      __builtin_prefetch(ahead.from[q] + x, 0, 2);
    }
    ahead.from[q] += ahead.step;
  }
}

}  // namespace rookery::RK_BACKEND
