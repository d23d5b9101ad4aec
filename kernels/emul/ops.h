// ops.h: what portable_host.h asks of the emulator. These functions are compiled without the race detector's
// hooks (hooks.cpp) and tell it themselves what they touch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/emul/words.h"

namespace rookery::emulator {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes;
};
// body(arguments) for each thread of the grid; `kernel` is the address that reports name.
void run_grid(const LaunchShape& shape, const void* kernel, void (*body)(void*), void* arguments);

// Shared memory (machine.h); both return its begin.
char* shared_memory(Site site);
char* carve_arrays(const size_t* offsets, const size_t* bytes, size_t count, Site site);

// Warps (warp.cpp).
enum class ShuffleKind : uint8_t { kLane, kUp, kDown, kXor };
enum class ReduceKind : uint8_t { kAdd, kMin, kMax };
void syncwarp(uint32_t mask, Site site);
// `argument`: the source lane, the distance, or the mask of kXor; within segments of `width` lanes.
uint64_t shuffle(ShuffleKind kind, uint64_t value, int argument, int width, uint32_t mask, Site site);
uint32_t ballot(bool predicate, uint32_t mask, Site site);
int64_t reduce(ReduceKind kind, int64_t value, uint32_t mask, Site site);

// Memory (memory.cpp).
void load16(void* to, const void* from, Site site);
void store16(void* to, const void* from, Site site);
float atomic_add(float* to, float value);
int atomic_add(int* to, int value);
unsigned atomic_add(unsigned* to, unsigned value);

}  // namespace rookery::emulator
