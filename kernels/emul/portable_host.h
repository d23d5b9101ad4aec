// portable_host.h: the host side of kernels/cuda/portable.h: the same names as portable_device.h, carried out
// by the emulator. Every barrier and warp operation knows its own source line.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "kernels/base/bf16.h"
#include "kernels/emul/ops.h"
#include "kernels/emul/words.h"
#include "kernels/tensor/device.h"

#define RK_SIDE host_side

namespace rookery::rk {
inline namespace RK_SIDE {

using emulator::Here;
using emulator::Site;
using ::rookery::bf16;

constexpr size_t kRedZoneBytes = 128;
constexpr uint32_t kAllLanes = 0xffffffffu;

struct Launch {
  dim3 grid, block;
  size_t smem = 0;
};

// Runs kernel(arguments...), or notes it with the arguments as they are now (Device::capture).
template <class... P, class... A>
void launch(const Device& device, void (*kernel)(P...), const Launch& shape, A&&... arguments) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  };
  device.submit([shape, call = Call{kernel, {static_cast<P>(arguments)...}}]() mutable {
    emulator::run_grid(
        {shape.grid, shape.block, shape.smem}, reinterpret_cast<const void*>(call.kernel),
        [](void* c) { std::apply(static_cast<Call*>(c)->kernel, static_cast<Call*>(c)->arguments); }, &call);
  });
}

inline char* dyn_smem(Site site = Here::current()) { return emulator::shared_memory(site); }

// --- warps ---
inline void syncwarp(uint32_t mask = kAllLanes, Site site = Here::current()) {
  emulator::syncwarp(mask, site);
}

template <class T>
T shuffle(emulator::ShuffleKind kind, T value, int argument, int width, uint32_t mask, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = emulator::shuffle(kind, word, argument, width, mask, site);
  std::memcpy(&value, &word, sizeof(T));
  return value;
}
#define RK_SHUFFLE(name, kind, argument)                                                                  \
  template <class T>                                                                                      \
  T name(T value, int argument, int width = 32, uint32_t mask = kAllLanes, Site site = Here::current()) { \
    return shuffle(emulator::ShuffleKind::kind, value, argument, width, mask, site);                      \
  }
RK_SHUFFLE(shfl, kLane, lane)
RK_SHUFFLE(shfl_up, kUp, distance)
RK_SHUFFLE(shfl_down, kDown, distance)
RK_SHUFFLE(shfl_xor, kXor, lane_mask)
#undef RK_SHUFFLE
inline uint32_t ballot(bool predicate, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return emulator::ballot(predicate, mask, site);
}
inline bool any(bool predicate, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return emulator::ballot(predicate, mask, site) != 0;
}
inline bool all(bool predicate, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return emulator::ballot(predicate, mask, site) == mask;
}
template <class T>
T reduce_add(T value, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return static_cast<T>(emulator::reduce(emulator::ReduceKind::kAdd, value, mask, site));
}
template <class T>
T reduce_min(T value, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return static_cast<T>(emulator::reduce(emulator::ReduceKind::kMin, value, mask, site));
}
template <class T>
T reduce_max(T value, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return static_cast<T>(emulator::reduce(emulator::ReduceKind::kMax, value, mask, site));
}

// --- barriers of a part of the block ---
inline void named_barrier_sync(int id, int threads, Site site = Here::current()) {
  emulator::named_barrier(id, threads, true, site);
}
inline void named_barrier_arrive(int id, int threads, Site site = Here::current()) {
  emulator::named_barrier(id, threads, false, site);
}

struct mbarrier {
  uint64_t state;
};
inline void mbarrier_init(mbarrier* barrier, uint32_t arrivals, Site site = Here::current()) {
  emulator::mbarrier_init(barrier, arrivals, site);
}
inline void mbarrier_arrive(mbarrier* barrier, Site site = Here::current()) {
  emulator::mbarrier_arrive(barrier, site);
}
inline void mbarrier_wait(mbarrier* barrier, uint32_t parity, Site site = Here::current()) {
  emulator::mbarrier_wait(barrier, parity, site);
}

// --- copies from global to shared memory that run on beside the thread ---
inline void cp_async16(void* to, const void* from, bool valid = true, Site site = Here::current()) {
  emulator::cp_async16(to, from, valid, site);
}
inline void cp_async_commit(Site site = Here::current()) { emulator::cp_async_commit(site); }
template <int n>
void cp_async_wait(Site site = Here::current()) {
  emulator::cp_async_wait(n, site);
}
inline void cp_async_mbarrier_arrive(mbarrier* barrier, Site site = Here::current()) {
  emulator::cp_async_mbarrier_arrive(barrier, site);
}

// --- matrices of a warp ---
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, Site site = Here::current()) {
  emulator::load_matrix(r, row, 4, false, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Site site = Here::current()) {
  emulator::load_matrix(r, row, 4, true, site);
}
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row, Site site = Here::current()) {
  emulator::load_matrix(r, row, 2, false, site);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row, Site site = Here::current()) {
  emulator::load_matrix(r, row, 2, true, site);
}
inline void stmatrix_x4(void* row, const uint32_t (&r)[4], Site site = Here::current()) {
  emulator::store_matrix(row, r, 4, false, site);
}
inline void stmatrix_x4_trans(void* row, const uint32_t (&r)[4], Site site = Here::current()) {
  emulator::store_matrix(row, r, 4, true, site);
}
inline void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                           Site site = Here::current()) {
  emulator::mma_bf16(d, a, b, c, site);
}
inline void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const float (&c)[4],
                          Site site = Here::current()) {
  emulator::mma_tf32(d, a, b, c, site);
}
// Rounded to nearest, ties away from zero.
inline uint32_t to_tf32(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

// --- 16 bytes at once ---
inline void load16_bytes(void* to, const void* from, Site site = Here::current()) {
  emulator::load16(to, from, site);
}
inline void store16_bytes(void* to, const void* from, Site site = Here::current()) {
  emulator::store16(to, from, site);
}

template <class T>
T atomic_add(T* to, T value) {
  return emulator::atomic_add(to, value);
}

// --- exact here, approximations on the device ---
inline float fast_exp2(float x) { return std::exp2(x); }
inline float fast_exp(float x) { return std::exp(x); }
inline float fast_div(float x, float y) { return x / y; }
inline float fast_rsqrt(float x) { return rsqrtf(x); }

}  // namespace RK_SIDE
}  // namespace rookery::rk
