// words.h: CUDA's plain words for the host: what kernel sources use without a wrapper. Read it through
// kernels/cuda/portable.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <source_location>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define RK_DEV inline
#define RK_CONST

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace rookery::emulator {

// The special registers of the fiber that runs.
struct SpecialRegisters {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern constinit thread_local SpecialRegisters special_registers;

// Where in a kernel a barrier or a warp operation stands: a last parameter `Site site = Here::current()`.
using Here = std::source_location;
struct Site {
  Here here;
  Site(Here h = Here()) : here(h) {}
  uint_least32_t line() const { return here.line(); }
  uint_least32_t column() const { return here.column(); }
  const char* file_name() const { return here.file_name(); }
};

enum class BarrierKind : uint8_t { kPlain, kCount, kAnd, kOr };
int block_barrier(BarrierKind kind, int predicate, Site site);  // the count of true predicates

}  // namespace rookery::emulator

#define threadIdx (::rookery::emulator::special_registers.thread)
#define blockIdx (::rookery::emulator::special_registers.block)
#define blockDim (::rookery::emulator::special_registers.block_size)
#define gridDim (::rookery::emulator::special_registers.grid_size)

inline void __syncthreads(rookery::emulator::Site site = rookery::emulator::Here::current()) {
  rookery::emulator::block_barrier(rookery::emulator::BarrierKind::kPlain, 0, site);
}
inline int __syncthreads_count(int predicate,
                               rookery::emulator::Site site = rookery::emulator::Here::current()) {
  return rookery::emulator::block_barrier(rookery::emulator::BarrierKind::kCount, predicate, site);
}
inline int __syncthreads_and(int predicate,
                             rookery::emulator::Site site = rookery::emulator::Here::current()) {
  return rookery::emulator::block_barrier(rookery::emulator::BarrierKind::kAnd, predicate, site);
}
inline int __syncthreads_or(int predicate,
                            rookery::emulator::Site site = rookery::emulator::Here::current()) {
  return rookery::emulator::block_barrier(rookery::emulator::BarrierKind::kOr, predicate, site);
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
