// bf16.h: the 16-bit float with the exponent of a float. It only stores: arithmetic is done in float, and
// each conversion is written out.
#pragma once

#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#define RK_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RK_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace rookery {

// The upper half of x, rounded to nearest even; NaN stays NaN.
RK_HOST_DEVICE uint16_t bf16_bits(float x) {
#ifdef __CUDA_ARCH__
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  const uint32_t word = std::bit_cast<uint32_t>(x);
  const uint32_t nearest = (word + 0x7FFF + (word >> 16 & 1)) >> 16;
  const uint32_t quiet_nan = word >> 16 | 0x40;  // a NaN whose payload sits in the lower half alone
  return static_cast<uint16_t>((word & 0x7FFFFFFF) > 0x7F800000 ? quiet_nan : nearest);
#endif
}

struct bf16 {
  uint16_t bits;

  bf16() = default;
  RK_HOST_DEVICE explicit bf16(float x) : bits(bf16_bits(x)) {}
  RK_HOST_DEVICE explicit operator float() const {
#ifdef __CUDA_ARCH__
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
#else
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
#endif
  }
};
static_assert(sizeof(bf16) == 2);

}  // namespace rookery
