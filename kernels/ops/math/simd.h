// simd.h: vectors as wide as the instruction set has them, in GCC's vector extension: +, * and scalar
// operands work on them. Included by *_cpu.cpp files only, like vmath.h.
#pragma once

#include <cstdint>

#ifndef RK_BACKEND
#error "simd.h belongs to sources that are compiled per instruction set (rookery_cpu_kernels)"
#endif

namespace rookery::RK_BACKEND {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Simd {
  static constexpr int kLanes = kVectorBytes / int(sizeof(T));
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  typedef T Unaligned __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
};

// From and to any address.
template <class T>
static inline __attribute__((always_inline)) typename Simd<T>::Vec load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::Unaligned*>(p);
}
template <class T>
static inline __attribute__((always_inline)) void store(T* p, typename Simd<T>::Vec v) {
  *reinterpret_cast<typename Simd<T>::Unaligned*>(p) = v;
}

// x in every lane.
template <class T>
static inline __attribute__((always_inline)) typename Simd<T>::Vec splat(T x) {
  return x - typename Simd<T>::Vec{};
}

}  // namespace rookery::RK_BACKEND
