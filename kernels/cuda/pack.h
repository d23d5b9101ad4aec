// pack.h: eight neighbouring elements at a time, for kernels that are one pass over memory: 16 bytes of bf16,
// or twice that of f32. Values are float between load and store.
#pragma once

#include "kernels/cuda/portable.h"
#include "kernels/tensor/dtype.h"

namespace rookery::rk {
inline namespace RK_SIDE {

constexpr int kPack = 8;
constexpr unsigned kPackThreads = 256;  // of a block

// One thread for each pack of n elements.
inline Launch pack_launch(int64_t n) {
  constexpr int64_t kElements = int64_t{kPack} * kPackThreads;
  return {dim3(static_cast<unsigned>((n + kElements - 1) / kElements)), dim3(kPackThreads)};
}
RK_DEV int64_t first_of_pack() { return (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kPack; }

struct Pack {
  float values[kPack];
  RK_DEV float& operator[](int i) { return values[i]; }
  RK_DEV float operator[](int i) const { return values[i]; }
};

// Whole and aligned to 16 bytes: the fast way is open.
template <class T>
RK_DEV bool whole_pack(const T* data, int64_t i, int64_t n) {
  return i + kPack <= n && reinterpret_cast<uintptr_t>(data + i) % 16 == 0;
}

// Elements i to i + 7 of n; zero past the end.
template <class T>
RK_DEV Pack load_pack(const T* from, int64_t i, int64_t n) {
  Pack pack;
  if (whole_pack(from, i, n)) {
    constexpr int kSize = Vec16<T>::kSize;
#pragma unroll
    for (int part = 0; part < kPack; part += kSize) {
      const Vec16<T> v = load16(from + i + part);
#pragma unroll
      for (int j = 0; j < kSize; ++j) pack[part + j] = static_cast<float>(v[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j) pack[j] = i + j < n ? static_cast<float>(from[i + j]) : 0.f;
  }
  return pack;
}
template <class T>
RK_DEV void store_pack(T* to, int64_t i, int64_t n, const Pack& pack) {
  if (whole_pack(to, i, n)) {
    constexpr int kSize = Vec16<T>::kSize;
#pragma unroll
    for (int part = 0; part < kPack; part += kSize) {
      Vec16<T> v;
#pragma unroll
      for (int j = 0; j < kSize; ++j) v[j] = static_cast<T>(pack[part + j]);
      store16(to + i + part, v);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kPack; ++j)
      if (i + j < n) to[i + j] = static_cast<T>(pack[j]);
  }
}

}  // namespace RK_SIDE
}  // namespace rookery::rk
