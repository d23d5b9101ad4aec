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

template <class... P, class... A>
void launch(const Device&, void (*kernel)(P...), const Launch& shape, A&&... arguments) {
  struct Call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;
  } call{kernel, {static_cast<P>(arguments)...}};
  emulator::run_grid(
      {shape.grid, shape.block, shape.smem}, reinterpret_cast<const void*>(kernel),
      [](void* c) { std::apply(static_cast<Call*>(c)->kernel, static_cast<Call*>(c)->arguments); }, &call);
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
template <class T>
T shfl(T value, int lane, int width = 32, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return shuffle(emulator::ShuffleKind::kLane, value, lane, width, mask, site);
}
template <class T>
T shfl_up(T value, int distance, int width = 32, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return shuffle(emulator::ShuffleKind::kUp, value, distance, width, mask, site);
}
template <class T>
T shfl_down(T value, int distance, int width = 32, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return shuffle(emulator::ShuffleKind::kDown, value, distance, width, mask, site);
}
template <class T>
T shfl_xor(T value, int lane_mask, int width = 32, uint32_t mask = kAllLanes, Site site = Here::current()) {
  return shuffle(emulator::ShuffleKind::kXor, value, lane_mask, width, mask, site);
}
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
